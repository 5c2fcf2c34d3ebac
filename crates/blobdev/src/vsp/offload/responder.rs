//! What one worker thread answers requests with: its buffers, its counters, and the table that all workers share.
//!
//! Nothing here is allocated per request and no lock is held while bytes are moved.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::asked::Asked;
use super::counters::{Counters, Ineligible};
use super::entry::Entry;
use super::parts::Taken;
use super::table::Table;
use super::template::{Filling, Template};
use crate::bhttp::RequestHead;
use crate::vsp::files::{File, Reader};
use crate::vsp::filler::Filler;

/// Bytes of the guest's buffers that an answer may fill.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// The data buffer.
    pub data: usize,
    /// The response buffer.
    pub response: usize,
}

/// An answer whose head is written: what is left is to place the bytes.
pub struct Plan {
    /// The entry; holds its bytes, or else `taken` does.
    pub entry: Arc<Entry>,
    /// Parts of the entry, in order; [`Responder::give_back`] wants the vector again.
    pub taken: Vec<Taken<Arc<File>>>,
    /// First byte to place.
    pub offset: u64,
    /// Bytes to place, perhaps none.
    pub length: u64,
    /// Where the response message begins in [`Responder::answer`].
    pub answer_at: usize,
}

/// What a look at a request found.
pub enum Verdict {
    /// An entry answers it.
    Ready(Plan),
    /// Python answers it; `wanted`: and an entry for it would be used.
    Python {
        /// Whether the target was missed twice.
        wanted: bool,
    },
}

/// One worker's means.
pub struct Responder {
    table: Arc<Table>,
    counters: Arc<Counters>,
    /// Reads files.
    pub reader: Arc<dyn Reader>,
    /// Reads what would wait.
    pub filler: Arc<Filler>,
    /// For packets.
    pub packet: Vec<u8>,
    /// For request messages.
    pub head: Vec<u8>,
    /// The response message last written.
    pub answer: Vec<u8>,
    key: Vec<u8>,
    /// Empty, but for its memory.
    spare: Vec<Taken<Arc<File>>>,
    date: DateText,
    ids: RequestIds,
}

impl Responder {
    /// Makes the means of one worker.
    pub fn new(table: Arc<Table>, counters: Arc<Counters>, reader: Arc<dyn Reader>, filler: Arc<Filler>) -> Self {
        let (packet, head, answer, key, spare) = Default::default();
        let (date, ids) = (DateText::new(), RequestIds::new());
        Self { table, counters, reader, filler, packet, head, answer, key, spare, date, ids }
    }

    /// Judges a request without content and, if an entry answers it, writes the response message.
    pub fn judge(&mut self, scope: u64, head: &RequestHead<'_>, room: Room) -> Verdict {
        if !self.table.is_on() {
            return Verdict::Python { wanted: false };
        }
        match self.plan(scope, head, room) {
            Ok(verdict) => verdict,
            Err(reason) => {
                self.counters.ineligible(reason);
                Verdict::Python { wanted: false }
            }
        }
    }

    /// Lets go of a plan's parts and keeps their vector for the next plan.
    pub fn give_back(&mut self, mut taken: Vec<Taken<Arc<File>>>) {
        taken.clear();
        self.spare = taken;
    }

    /// Counts a request with content, which no entry answers.
    pub fn refuse_content(&self) {
        if self.table.is_on() {
            self.counters.ineligible(Ineligible::Content);
        }
    }

    /// Counts an answer that was given from an entry.
    pub fn count_hit(&self, bytes: u64) {
        self.counters.hit(bytes);
    }

    /// Counts an answer whose bytes have to be waited for.
    pub fn count_cold(&self) {
        self.counters.cold();
    }

    fn plan(&mut self, scope: u64, head: &RequestHead<'_>, room: Room) -> Result<Verdict, Ineligible> {
        let asked = Asked::of(head)?;
        let hash = self.table.key(&mut self.key, scope, [head.scheme, head.authority, head.path]);
        let found = self.table.find(hash, &self.key).filter(|entry| entry.holds());
        let Some(entry) = found else {
            self.counters.miss();
            return Ok(Verdict::Python { wanted: self.table.missed(hash) });
        };
        let choice = choose(&entry, &asked)?;
        if choice.placed > room.data as u64 {
            return Err(Ineligible::Room);
        }
        let filling = Filling {
            length: choice.length,
            offset: choice.offset,
            total: entry.size(),
            placed: choice.placed,
            date: self.date.now(),
            request_id: self.ids.next(),
            version: asked.version.unwrap_or(&entry.content.version),
            client_request_id: asked.client_request_id,
        };
        let answer_at = choice.template.write(&mut self.answer, &filling);
        if self.answer.len() - answer_at > room.response {
            return Err(Ineligible::Room);
        }
        let (offset, length) = (choice.offset, choice.placed);
        let mut taken = std::mem::take(&mut self.spare);
        if length > 0 && !entry.take(offset, length, &mut taken) {
            self.spare = taken;
            self.counters.absent();
            return Ok(Verdict::Python { wanted: false });
        }
        Ok(Verdict::Ready(Plan { entry, taken, offset, length, answer_at }))
    }
}

/// Which answer it is: the head, what Content-Length says, and the bytes to place.
struct Choice<'e> {
    template: &'e Template,
    offset: u64,
    length: u64,
    placed: u64,
}

/// Judges conditions, then the range, in the order of the embedded service (RFC 9110 §13.2.2).
fn choose<'e>(entry: &'e Entry, asked: &Asked<'_>) -> Result<Choice<'e>, Ineligible> {
    let (heads, size) = (&entry.content.heads, entry.size());
    let is_ours = |tag: &[u8]| tag == entry.etag();
    if asked.if_match.is_some_and(|tag| tag != b"*" && !is_ours(tag)) {
        return Err(Ineligible::Condition);
    }
    if asked.if_none_match.is_some_and(is_ours) {
        let template = heads.not_modified.as_ref().ok_or(Ineligible::Condition)?;
        return Ok(Choice { template, offset: 0, length: 0, placed: 0 });
    }
    if asked.head_only {
        return Ok(Choice { template: &heads.head, offset: 0, length: size, placed: 0 });
    }
    match asked.range {
        None => Ok(Choice { template: &heads.whole, offset: 0, length: size, placed: size }),
        Some((first, _)) if first >= size => Err(Ineligible::Range),
        Some((first, last)) => {
            let length = last.map_or(size - 1, |last| last.min(size - 1)) - first + 1;
            Ok(Choice { template: &heads.part, offset: first, length, placed: length })
        }
    }
}

/// The date of a response, formatted once a second (RFC 9110 §5.6.7, IMF-fixdate).
struct DateText {
    second: u64,
    text: [u8; 29],
}

impl DateText {
    fn new() -> Self {
        Self { second: u64::MAX, text: [0; 29] }
    }

    fn now(&mut self) -> &[u8] {
        // A clock before 1970 is answered as 1970.
        let second = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if second != self.second {
            self.text = format_date(second);
            self.second = second;
        }
        &self.text
    }
}

/// Formats seconds since 1970. Civil dates from days: Howard Hinnant's algorithm, years beginning in March.
fn format_date(seconds: u64) -> [u8; 29] {
    const DAYS: &[u8; 21] = b"ThuFriSatSunMonTueWed";
    const MONTHS: &[u8; 36] = b"MarAprMayJunJulAugSepOctNovDecJanFeb";
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year_of_era + u64::from(month >= 10);
    let mut text = *b"Thu, 01 Jan 1970 00:00:00 GMT";
    let weekday = (days % 7) as usize * 3;
    text[..3].copy_from_slice(&DAYS[weekday..weekday + 3]);
    text[8..11].copy_from_slice(&MONTHS[month as usize * 3..month as usize * 3 + 3]);
    let numbers = [(5, day), (12, year / 100), (14, year % 100), (17, of_day / 3600)];
    for (at, number) in numbers.into_iter().chain([(20, of_day / 60 % 60), (23, of_day % 60)]) {
        text[at] = b'0' + (number / 10 % 10) as u8;
        text[at + 1] = b'0' + (number % 10) as u8;
    }
    text
}

/// Request ids, shaped like UUIDs as Azure's are; unique by a random beginning per worker and a count.
struct RequestIds {
    text: [u8; 36],
    count: u64,
}

impl RequestIds {
    fn new() -> Self {
        let state = RandomState::new();
        let (high, low) = (state.hash_one(1), state.hash_one(2));
        let digits = format!("{high:016x}{low:016x}");
        let text =
            format!("{}-{}-4{}-a{}-{}", &digits[..8], &digits[8..12], &digits[12..15], &digits[15..18], "0".repeat(12));
        Self { text: text.into_bytes().try_into().expect("36 digits and hyphens"), count: 0 }
    }

    fn next(&mut self) -> &[u8] {
        self.count += 1;
        let mut rest = self.count;
        for digit in self.text[24..].iter_mut().rev() {
            *digit = b"0123456789abcdef"[(rest & 15) as usize];
            rest >>= 4;
        }
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_rfc_9110() {
        let known = [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_399, "Mon, 28 Feb 2000 23:59:59 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (1_740_787_200, "Sat, 01 Mar 2025 00:00:00 GMT"),
            (4_107_542_399, "Sun, 28 Feb 2100 23:59:59 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
        ];
        for (second, text) in known {
            assert_eq!(std::str::from_utf8(&format_date(second)), Ok(text));
        }
    }

    #[test]
    fn request_ids_are_shaped_like_uuids_and_differ() {
        let (mut one, mut other) = (RequestIds::new(), RequestIds::new());
        let first = one.next().to_vec();
        assert_eq!(first.len(), 36);
        assert!([8, 13, 18, 23].iter().all(|&at| first[at] == b'-'));
        assert_ne!(one.next(), &first[..]);
        assert_ne!(other.next(), &first[..]);
    }
}
