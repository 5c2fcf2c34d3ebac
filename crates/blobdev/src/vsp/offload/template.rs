//! Response heads that are ready but for a few slots: fields in the control plane's order, encoded once.
//!
//! [`Template::write`] gives the bytes that [`encode_response`](crate::bhttp::encode_response) would give for the same
//! fields: integers as short as they go, no content, no trailers (RFC 9292). Bounds are judged when a template is made.

use crate::bhttp;

/// Most bytes of a template's fixed lines: far below the largest head, so that the slots always fit.
const LINES_SIZE_MAX: usize = 16 * 1024;
/// Most lines of a template.
const LINES_MAX: usize = 128;
/// Room in front of the fields for framing, status and the fields' length, each in its longest form.
const FRONT: usize = 24;

/// A value that differs from answer to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// Content-Length.
    Length,
    /// Date.
    Date,
    /// A fresh request id.
    RequestId,
    /// x-ms-version: the request's, else the entry's.
    Version,
    /// x-ms-client-request-id: the request's; without one there is no line.
    ClientRequestId,
    /// Content-Range.
    Range,
    /// The bytes placed in the data buffer; without any there is no line.
    Placed,
}

/// The value of a line.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// Always these bytes.
    Fixed(&'a [u8]),
    /// Filled in.
    Slot(Slot),
}

/// What fills the slots of one answer.
#[derive(Clone, Copy, Debug)]
pub struct Filling<'a> {
    /// Content-Length.
    pub length: u64,
    /// First byte of the range.
    pub offset: u64,
    /// Bytes of the whole.
    pub total: u64,
    /// Bytes placed in the data buffer.
    pub placed: u64,
    /// The date, as RFC 9110 §5.6.7 writes it.
    pub date: &'a [u8],
    /// The request id.
    pub request_id: &'a [u8],
    /// The version to answer.
    pub version: &'a [u8],
    /// The client's own id of the request, if it sent one.
    pub client_request_id: Option<&'a [u8]>,
}

/// A piece of the fields: fixed bytes, then perhaps a line to fill: its name with the length in front, and what goes in.
struct Piece {
    fixed: Vec<u8>,
    slot: Option<(Vec<u8>, Slot)>,
}

/// The head of one kind of answer.
pub struct Template {
    status: u16,
    pieces: Vec<Piece>,
}

impl Template {
    /// Makes a template; `None` when a line could not stand in a message, or they are too many or too long.
    pub fn new<'a>(status: u16, lines: impl Iterator<Item = (&'a [u8], Value<'a>)>) -> Option<Self> {
        if !(200..=599).contains(&status) {
            return None;
        }
        let mut pieces = vec![Piece { fixed: Vec::new(), slot: None }];
        let (mut size, mut count) = (0, 0);
        for (name, value) in lines {
            let fixed = if let Value::Fixed(bytes) = value { bytes } else { b"" };
            size += name.len() + fixed.len() + 16;
            count += 1;
            if !bhttp::is_field(name, fixed) || size > LINES_SIZE_MAX || count > LINES_MAX {
                return None;
            }
            let last = pieces.last_mut().expect("there is always a piece");
            match value {
                Value::Fixed(bytes) => {
                    push_vector(&mut last.fixed, name);
                    push_vector(&mut last.fixed, bytes);
                }
                Value::Slot(slot) => {
                    let mut prefix = Vec::new();
                    push_vector(&mut prefix, name);
                    last.slot = Some((prefix, slot));
                    pieces.push(Piece { fixed: Vec::new(), slot: None });
                }
            }
        }
        Some(Self { status, pieces })
    }

    /// Writes the whole message into `into`, which is cleared first; returns where in it the message begins.
    pub fn write(&self, into: &mut Vec<u8>, filling: &Filling<'_>) -> usize {
        into.clear();
        into.resize(FRONT, 0);
        for piece in &self.pieces {
            into.extend_from_slice(&piece.fixed);
            if let Some((name, slot)) = &piece.slot {
                write_line(into, name, *slot, filling);
            }
        }
        let section = into.len() - FRONT;
        into.extend_from_slice(&[0, 0]); // no content, no trailers
        let mut front = [0; FRONT];
        let mut at = 0;
        for value in [1, u64::from(self.status), section as u64] {
            let (bytes, size) = integer(value);
            front[at..at + size].copy_from_slice(&bytes[..size]);
            at += size;
        }
        into[FRONT - at..FRONT].copy_from_slice(&front[..at]);
        FRONT - at
    }
}

fn write_line(into: &mut Vec<u8>, name: &[u8], slot: Slot, filling: &Filling<'_>) {
    let mut digits = [0; 72];
    let value = match slot {
        Slot::Length => decimal(&mut digits, filling.length),
        Slot::Date => filling.date,
        Slot::RequestId => filling.request_id,
        Slot::Version => filling.version,
        Slot::ClientRequestId => match filling.client_request_id {
            Some(id) => id,
            None => return,
        },
        Slot::Range => range(&mut digits, filling),
        Slot::Placed if filling.placed == 0 => return,
        Slot::Placed => decimal(&mut digits, filling.placed),
    };
    into.extend_from_slice(name);
    push_vector(into, value);
}

/// `bytes first-last/total`, written from the end.
fn range<'d>(digits: &'d mut [u8; 72], filling: &Filling<'_>) -> &'d [u8] {
    let mut at = digits.len();
    let last = filling.offset + filling.length.saturating_sub(1);
    for (mark, number) in [(b'/', filling.total), (b'-', last), (b' ', filling.offset)] {
        at = push_decimal(digits, at, number) - 1;
        digits[at] = mark;
    }
    at -= 5;
    digits[at..at + 5].copy_from_slice(b"bytes");
    &digits[at..]
}

fn decimal(digits: &mut [u8; 72], number: u64) -> &[u8] {
    let at = push_decimal(digits, 72, number);
    &digits[at..]
}

/// Writes a number so that it ends before `at`; returns where it begins.
fn push_decimal(digits: &mut [u8; 72], mut at: usize, mut number: u64) -> usize {
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return at;
        }
    }
}

/// A variable-length integer (RFC 9000 §16) in its shortest encoding: the bytes and how many of them count.
fn integer(value: u64) -> ([u8; 4], usize) {
    match value {
        0..0x40 => ([value as u8, 0, 0, 0], 1),
        0x40..0x4000 => ([(value >> 8) as u8 | 0x40, value as u8, 0, 0], 2),
        _ => ((value as u32 | 0x8000_0000).to_be_bytes(), 4), // lengths here are bounded far below 2^30
    }
}

fn push_vector(into: &mut Vec<u8>, bytes: &[u8]) {
    let (length, size) = integer(bytes.len() as u64);
    into.extend_from_slice(&length[..size]);
    into.extend_from_slice(bytes);
}
