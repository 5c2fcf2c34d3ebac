//! The shape of an answer to a ranged read: an answer seen before, compared with the next one without decoding it.
//!
//! Answers to reads of one version of a blob differ in a few fields only: in lengths, which are judged by what they say,
//! and in those the caller calls volatile, which are skipped unread. Everything else must be the same bytes, and these
//! passed the decoder when they were learnt. So an answer of the shape means what the learnt one meant.

use super::decode::Reader;
use super::{HEAD_SIZE_MAX, VALUE_SIZE_MAX, decode_response};

/// Content of the answer in bytes (RFC 9110 §8.6).
const CONTENT_LENGTH: &[u8] = b"content-length";
/// Which bytes of the blob these are (RFC 9110 §14.4).
const CONTENT_RANGE: &[u8] = b"content-range";
/// Bytes of content that lie in the data buffer (design §3).
const DATA_LENGTH: &[u8] = b"pvblob-data-length";

/// Framing 1 (a known-length response) and status 206, an integer of two bytes.
const PARTIAL_CONTENT: [u8; 3] = [1, 0x40, 206];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hole {
    /// The length of the field section.
    Section,
    /// A value that says nothing.
    Volatile,
    /// Content-Length or pvblob-data-length: the number of bytes placed.
    Length,
    /// Content-Range.
    Range,
}

/// A learnt answer: runs of fixed bytes, each with the hole behind it.
#[derive(Clone, Debug)]
pub struct AnswerShape {
    parts: Vec<(Box<[u8]>, Hole)>,
    end: Box<[u8]>,
    /// Size of the whole blob in bytes.
    total: u64,
}

impl AnswerShape {
    /// Learns from the answer to a read that placed all its content, `None` if it is no such answer.
    ///
    /// `volatile`: names of the fields whose values do not matter to anybody.
    pub fn learn(message: &[u8], is_volatile: impl Fn(&[u8]) -> bool) -> Option<Self> {
        let head = decode_response(message).ok()?;
        // Framing and status in their shortest encodings, as every encoder writes them; the section follows.
        if !message.starts_with(&PARTIAL_CONTENT) || !head.content.is_empty() {
            return None;
        }
        let mut cut = Cut { message, parts: Vec::new(), at: 0 };
        cut.hole(&message[PARTIAL_CONTENT.len()..], Hole::Section)?;
        let (mut total, mut placed) = (None, None);
        for (name, value) in head.fields {
            match name {
                CONTENT_RANGE => total = Some(range(value)?.2),
                DATA_LENGTH => placed = Some(number(value)?),
                _ => {}
            }
            let hole = match name {
                CONTENT_RANGE => Hole::Range,
                DATA_LENGTH | CONTENT_LENGTH => Hole::Length,
                name if is_volatile(name) => Hole::Volatile,
                _ => continue,
            };
            cut.hole_at_value(value, hole)?;
        }
        let end = cut.end(head.fields.size())?;
        let shape = Self { parts: cut.parts, end, total: total? };
        // What is learnt must fit itself, or it would never fit anything.
        let (first, last, _) =
            head.fields.into_iter().find(|(name, _)| *name == CONTENT_RANGE).and_then(|f| range(f.1))?;
        (shape.placed(message, first, last - first + 1) == placed && placed.is_some()).then_some(shape)
    }

    /// Compares an answer to a read of `asked` (> 0) bytes from `offset`; returns how many bytes it placed, all there are.
    ///
    /// `None`: it is another answer, to be decoded by the rules.
    pub fn placed(&self, message: &[u8], offset: u64, asked: u64) -> Option<u64> {
        let placed = asked.min(self.total.checked_sub(offset)?);
        let mut reader = Reader { message, at: 0 };
        let mut section = (0, 0);
        for (fixed, hole) in &self.parts {
            if reader.bytes(fixed.len()).ok()? != &**fixed {
                return None;
            }
            if *hole == Hole::Section {
                let length = reader.length(HEAD_SIZE_MAX).ok()?;
                section = (reader.at, length);
                continue;
            }
            let value = reader.vector(VALUE_SIZE_MAX).ok()?;
            let is_right = match hole {
                Hole::Length => number(value) == Some(placed),
                Hole::Range => range(value) == Some((offset, offset + placed - 1, self.total)),
                Hole::Volatile | Hole::Section => true,
            };
            if !is_right {
                return None;
            }
        }
        if reader.bytes(self.end.len()).ok()? != &*self.end || reader.at != section.0 + section.1 {
            return None;
        }
        // No content, no trailers, no bytes behind them.
        message[reader.at..].iter().all(|&byte| byte == 0).then_some(placed)
    }
}

/// A message being cut into fixed runs and holes.
struct Cut<'a> {
    message: &'a [u8],
    parts: Vec<(Box<[u8]>, Hole)>,
    at: usize,
}

impl Cut<'_> {
    /// The place of a part of the message: both are slices of the same bytes.
    fn position(&self, part: &[u8]) -> usize {
        part.as_ptr().addr() - self.message.as_ptr().addr()
    }

    /// Cuts a hole where an integer or a vector begins.
    fn hole(&mut self, from: &[u8], hole: Hole) -> Option<()> {
        let begins_at = self.position(from);
        let mut reader = Reader { message: self.message, at: begins_at };
        match hole {
            Hole::Section => _ = reader.length(HEAD_SIZE_MAX).ok()?,
            _ => _ = reader.vector(VALUE_SIZE_MAX).ok()?,
        }
        self.parts.push((self.message.get(self.at..begins_at)?.into(), hole));
        self.at = reader.at;
        Some(())
    }

    /// The same at a field's value, whose length stands before it in one byte, or in as many as the encoder chose.
    fn hole_at_value(&mut self, value: &[u8], hole: Hole) -> Option<()> {
        let value_at = self.position(value);
        let begins_at = [1, 2, 4, 8].into_iter().filter_map(|width| value_at.checked_sub(width)).find(|&at| {
            let mut reader = Reader { message: self.message, at };
            reader.length(VALUE_SIZE_MAX) == Ok(value.len()) && reader.at == value_at
        })?;
        self.hole(self.message.get(begins_at..)?, hole)
    }

    /// The fixed bytes behind the last hole, to the end of the section of `size` bytes.
    fn end(&self, size: usize) -> Option<Box<[u8]>> {
        let mut reader = Reader { message: self.message, at: PARTIAL_CONTENT.len() };
        reader.length(HEAD_SIZE_MAX).ok()?;
        Some(self.message.get(self.at..reader.at + size)?.into())
    }
}

fn number(text: &[u8]) -> Option<u64> {
    let digit = |value: u64, &byte: &u8| {
        byte.is_ascii_digit().then(|| value.checked_mul(10)?.checked_add(u64::from(byte - b'0')))?
    };
    // Twenty digits hold every number of bytes.
    (1..=20).contains(&text.len()).then(|| text.iter().try_fold(0, digit))?
}

/// `bytes first-last/total` as three numbers with first ≤ last < total.
fn range(text: &[u8]) -> Option<(u64, u64, u64)> {
    let text = text.strip_prefix(b"bytes ")?;
    let dash = text.iter().position(|&byte| byte == b'-')?;
    let slash = text.iter().position(|&byte| byte == b'/').filter(|&slash| slash > dash)?;
    let (first, last, total) = (number(&text[..dash])?, number(&text[dash + 1..slash])?, number(&text[slash + 1..])?);
    (first <= last && last < total).then_some((first, last, total))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bhttp::encode_response;

    type Line<'a> = (&'a [u8], &'a [u8]);

    fn answer(status: u16, lines: &[Line<'_>], content: &[u8]) -> Vec<u8> {
        let mut message = vec![0; 4096];
        let size = encode_response(&mut message, status, lines.iter().copied(), content).unwrap();
        message.truncate(size);
        message
    }

    fn read_of(first: u64, placed: u64, total: u64, etag: &str, date: &str) -> Vec<u8> {
        let (length, last) = (placed.to_string(), first + placed.max(1) - 1);
        let range = format!("bytes {first}-{last}/{total}");
        let lines: [Line<'_>; 6] = [
            (b"etag", etag.as_bytes()),
            (b"date", date.as_bytes()),
            (b"content-range", range.as_bytes()),
            (b"content-length", length.as_bytes()),
            (b"x-ms-meta-a", b"b"),
            (b"pvblob-data-length", length.as_bytes()),
        ];
        answer(206, &lines, b"")
    }

    fn learnt(message: &[u8]) -> Option<AnswerShape> {
        AnswerShape::learn(message, |name| name == b"date")
    }

    #[test]
    fn an_answer_of_the_same_version_fits_whatever_its_range_and_date() {
        let shape = learnt(&read_of(0, 10, 100_000, "\"v1\"", "Tue")).unwrap();
        for (first, asked, placed) in [(0, 10, 10), (5, 70_000, 70_000), (99_999, 1, 1), (99_000, 4096, 1000)] {
            let long_date = "Wednesday".repeat(20);
            let other = read_of(first, placed, 100_000, "\"v1\"", &long_date);
            assert_eq!(shape.placed(&other, first, asked), Some(placed));
            let padded = [&other[..], &[0; 9]].concat();
            assert_eq!(shape.placed(&padded, first, asked), Some(placed));
        }
    }

    #[test]
    fn every_other_answer_is_left_to_the_decoder() {
        let shape = learnt(&read_of(0, 10, 100, "\"v1\"", "Tue")).unwrap();
        let good = read_of(20, 10, 100, "\"v1\"", "Tue");
        assert_eq!(shape.placed(&good, 20, 10), Some(10));
        assert_eq!(shape.placed(&good, 21, 10), None, "another range than asked for");
        assert_eq!(shape.placed(&good, 20, 11), None, "fewer bytes than there are");
        assert_eq!(shape.placed(&good, 101, 10), None);
        assert_eq!(shape.placed(&read_of(20, 10, 100, "\"v2\"", "Tue"), 20, 10), None, "another version");
        assert_eq!(shape.placed(&read_of(20, 10, 101, "\"v1\"", "Tue"), 20, 10), None, "another size");
        for cut in 0..good.len() - 2 {
            assert_eq!(shape.placed(&good[..cut], 20, 10), None, "cut at {cut}");
        }
        assert_eq!(shape.placed(&[&good[..], &[1]].concat(), 20, 10), None, "a byte behind the message");
    }

    #[test]
    fn no_changed_byte_outside_of_a_volatile_value_passes() {
        let message = read_of(20, 10, 100, "\"v1\"", "Tue");
        let shape = learnt(&message).unwrap();
        let date = message.windows(3).position(|window| window == b"Tue").unwrap();
        for at in 0..message.len() {
            for flip in [1, 0x40, 0x80] {
                let mut changed = message.clone();
                changed[at] ^= flip;
                let passed = shape.placed(&changed, 20, 10).is_some();
                assert_eq!(passed, (date..date + 3).contains(&at), "byte {at} changed by {flip:#x}");
            }
        }
    }

    #[test]
    fn only_a_whole_partial_answer_is_learnt() {
        let whole = (b"content-range".as_slice(), b"bytes 0-9/100".as_slice());
        let length = (b"content-length".as_slice(), b"10".as_slice());
        let data = (b"pvblob-data-length".as_slice(), b"10".as_slice());
        assert!(learnt(&answer(206, &[whole, length, data], b"")).is_some());
        for (status, lines, content) in [
            (200, vec![whole, length, data], &b""[..]),
            (206, vec![whole, length], b""),
            (206, vec![length, data], b""),
            (206, vec![whole, length, (b"pvblob-data-length", b"9")], b""),
            (206, vec![whole, length, data], b"content"),
            (206, vec![(b"content-range", b"bytes 0-9/*"), length, data], b""),
            (206, vec![(b"content-range", b"bytes 9-0/100"), length, data], b""),
            (404, vec![whole, length, data], b""),
        ] {
            assert!(learnt(&answer(status, &lines, content)).is_none(), "{status} {lines:?}");
        }
        assert!(learnt(b"no message").is_none());
    }
}
