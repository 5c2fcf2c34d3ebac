//! RFC 9292 Binary HTTP, known-length messages: what stands in the request and response buffers.
//!
//! Bounded and allocation-free: the decoder checks everything once and then gives slices of the message; the encoder
//! writes into the caller's buffer, or says how large it must be. Framing 0 (request) and 1 (response), no trailers, no
//! informational responses, field names in lower case only. A message is decoded from a slice of its exact length; what
//! follows the message in it must be zero (RFC 9292 §3.8).

use std::fmt;

/// Longest head: control data and fields.
pub const HEAD_SIZE_MAX: usize = 64 * 1024;
/// Most fields.
pub const FIELDS_MAX: usize = 256;
/// Longest field name.
pub const NAME_SIZE_MAX: usize = 256;
/// Longest field value.
pub const VALUE_SIZE_MAX: usize = 16 * 1024;
/// Longest message that is accepted as a request: a head and the small content it may carry.
pub const MESSAGE_SIZE_MAX: usize = HEAD_SIZE_MAX + 1024 * 1024;

/// A broken rule and the byte at which it was noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Which rule.
    pub rule: Rule,
    /// Byte offset in the message.
    pub at: usize,
}

/// The rules a message can break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The message ends inside an item.
    Truncated,
    /// Not the framing indicator that was expected.
    Framing,
    /// A length or status larger than a bound.
    TooLarge,
    /// More fields than allowed.
    TooManyFields,
    /// A character that a method, scheme, authority or path cannot have.
    ControlData,
    /// A field name that is empty, not lower case, or no token.
    Name,
    /// CR, LF or NUL in a field value.
    Value,
    /// A status outside 200..=599.
    Status,
    /// Trailer fields.
    Trailers,
    /// Bytes other than zero after the message.
    Padding,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = match self.rule {
            Rule::Truncated => "the message ends inside an item",
            Rule::Framing => "unexpected framing indicator",
            Rule::TooLarge => "a length beyond its bound",
            Rule::TooManyFields => "more than 256 fields",
            Rule::ControlData => "an illegal character in the control data",
            Rule::Name => "a field name that is no lower-case token",
            Rule::Value => "CR, LF or NUL in a field value",
            Rule::Status => "a status outside 200..599",
            Rule::Trailers => "trailer fields",
            Rule::Padding => "bytes other than zero after the message",
        };
        write!(f, "{rule} (byte {})", self.at)
    }
}

impl std::error::Error for Broken {}

/// A decoded request; every part is a slice of the message.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// Method, e.g. `GET`.
    pub method: &'a [u8],
    /// Scheme, e.g. `https`.
    pub scheme: &'a [u8],
    /// Host and port.
    pub authority: &'a [u8],
    /// Path and query.
    pub path: &'a [u8],
    /// The fields.
    pub fields: Fields<'a>,
    /// The content.
    pub content: &'a [u8],
}

/// A decoded response.
#[derive(Clone, Copy, Debug)]
pub struct ResponseHead<'a> {
    /// Status code, 200..=599.
    pub status: u16,
    /// The fields.
    pub fields: Fields<'a>,
    /// The content.
    pub content: &'a [u8],
}

/// The fields of a decoded message, as (name, value) in order.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    section: &'a [u8],
}

impl<'a> Iterator for Fields<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        if self.section.is_empty() {
            return None;
        }
        let mut reader = Reader { message: self.section, at: 0 };
        // The section was checked when the message was decoded.
        let line = (reader.vector(NAME_SIZE_MAX).ok()?, reader.vector(VALUE_SIZE_MAX).ok()?);
        self.section = &self.section[reader.at..];
        Some(line)
    }
}

struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn broken<T>(&self, rule: Rule) -> Result<T, Broken> {
        Err(Broken { rule, at: self.at })
    }

    fn is_at_end(&self) -> bool {
        self.at == self.message.len()
    }

    fn bytes(&mut self, length: usize) -> Result<&'a [u8], Broken> {
        let Some(bytes) = self.message[self.at..].get(..length) else { return self.broken(Rule::Truncated) };
        self.at += length;
        Ok(bytes)
    }

    /// A variable-length integer of RFC 9000 §16; any of its encodings.
    fn integer(&mut self) -> Result<u64, Broken> {
        let first = self.bytes(1)?[0];
        let mut value = u64::from(first & 0x3F);
        for &byte in self.bytes((1 << (first >> 6)) - 1)? {
            value = value << 8 | u64::from(byte);
        }
        Ok(value)
    }

    fn length(&mut self, limit: usize) -> Result<usize, Broken> {
        let begun_at = self.at;
        let value = self.integer()?;
        match usize::try_from(value) {
            Ok(value) if value <= limit => Ok(value),
            _ => Err(Broken { rule: Rule::TooLarge, at: begun_at }),
        }
    }

    fn vector(&mut self, limit: usize) -> Result<&'a [u8], Broken> {
        let length = self.length(limit)?;
        self.bytes(length)
    }

    fn framing(&mut self, expected: u64) -> Result<(), Broken> {
        if self.integer()? == expected { Ok(()) } else { Err(Broken { rule: Rule::Framing, at: 0 }) }
    }

    fn control(&mut self, is_legal: fn(u8) -> bool, may_be_empty: bool) -> Result<&'a [u8], Broken> {
        let begun_at = self.at;
        let part = self.vector(HEAD_SIZE_MAX)?;
        if part.iter().all(|&byte| is_legal(byte)) && (may_be_empty || !part.is_empty()) {
            Ok(part)
        } else {
            Err(Broken { rule: Rule::ControlData, at: begun_at })
        }
    }

    fn fields(&mut self) -> Result<Fields<'a>, Broken> {
        let section = self.vector(HEAD_SIZE_MAX)?;
        let base = self.at - section.len();
        let mut lines = Reader { message: section, at: 0 };
        for count in 0.. {
            if lines.is_at_end() {
                break;
            }
            let checked = if count == FIELDS_MAX { lines.broken(Rule::TooManyFields) } else { lines.line() };
            checked.map_err(|broken| Broken { at: base + broken.at, ..broken })?;
        }
        Ok(Fields { section })
    }

    fn line(&mut self) -> Result<(), Broken> {
        let begun_at = self.at;
        let name = self.vector(NAME_SIZE_MAX)?;
        if !is_name(name) {
            return Err(Broken { rule: Rule::Name, at: begun_at });
        }
        let begun_at = self.at;
        if is_value(self.vector(VALUE_SIZE_MAX)?) { Ok(()) } else { Err(Broken { rule: Rule::Value, at: begun_at }) }
    }

    /// Content, no trailers, padding. An empty rest may be left out altogether (RFC 9292 §3.8).
    fn rest(&mut self) -> Result<&'a [u8], Broken> {
        let content = if self.is_at_end() { &[] } else { self.vector(self.message.len())? };
        if !self.is_at_end() && self.integer()? != 0 {
            return self.broken(Rule::Trailers);
        }
        match self.message[self.at..].iter().position(|&byte| byte != 0) {
            None => Ok(content),
            Some(offset) => Err(Broken { rule: Rule::Padding, at: self.at + offset }),
        }
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn is_scheme(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)
}

fn is_visible(byte: u8) -> bool {
    byte > b' ' && byte != 0x7F
}

fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|&byte| is_token(byte) && !byte.is_ascii_uppercase())
}

fn is_value(value: &[u8]) -> bool {
    !value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0))
}

/// Decodes a request that fills `message`.
pub fn decode_request(message: &[u8]) -> Result<RequestHead<'_>, Broken> {
    let mut reader = Reader { message, at: 0 };
    reader.framing(0)?;
    let method = reader.control(is_token, false)?;
    let scheme = reader.control(is_scheme, false)?;
    let authority = reader.control(is_visible, true)?;
    let path = reader.control(is_visible, false)?;
    let fields = reader.fields()?;
    Ok(RequestHead { method, scheme, authority, path, fields, content: reader.rest()? })
}

/// Decodes a response that fills `message`.
pub fn decode_response(message: &[u8]) -> Result<ResponseHead<'_>, Broken> {
    let mut reader = Reader { message, at: 0 };
    reader.framing(1)?;
    let begun_at = reader.at;
    let status = match reader.integer()? {
        status @ 200..=599 => status as u16,
        _ => return Err(Broken { rule: Rule::Status, at: begun_at }),
    };
    let fields = reader.fields()?;
    Ok(ResponseHead { status, fields, content: reader.rest()? })
}

/// Why a message was not encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodeError {
    /// The buffer is too small: so many bytes are needed.
    Needs(usize),
    /// A part breaks a rule, the decoder's own.
    Illegal(Rule),
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Needs(size) => write!(f, "the message needs {size} bytes"),
            Self::Illegal(rule) => Broken { rule: *rule, at: 0 }.fmt(f),
        }
    }
}

impl std::error::Error for EncodeError {}

struct Writer<'a> {
    into: &'a mut [u8],
    at: usize,
}

impl Writer<'_> {
    fn bytes(&mut self, bytes: &[u8]) {
        self.into[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    fn integer(&mut self, value: usize) {
        let bytes = (value as u64).to_be_bytes();
        match integer_size(value) {
            1 => self.bytes(&bytes[7..]),
            2 => self.bytes(&[bytes[6] | 0x40, bytes[7]]),
            4 => self.bytes(&[bytes[4] | 0x80, bytes[5], bytes[6], bytes[7]]),
            _ => {
                self.bytes(&[bytes[0] | 0xC0]);
                self.bytes(&bytes[1..]);
            }
        }
    }

    fn vector(&mut self, bytes: &[u8]) {
        self.integer(bytes.len());
        self.bytes(bytes);
    }
}

fn integer_size(value: usize) -> usize {
    match value {
        0..0x40 => 1,
        0x40..0x4000 => 2,
        0x4000..0x4000_0000 => 4,
        _ => 8,
    }
}

fn vector_size(bytes: &[u8]) -> usize {
    integer_size(bytes.len()) + bytes.len()
}

/// Returns the size of the field section, having checked every line.
fn section_size<'f>(fields: impl Iterator<Item = (&'f [u8], &'f [u8])>) -> Result<usize, EncodeError> {
    let mut size = 0;
    for (count, (name, value)) in fields.enumerate() {
        let broken = match () {
            () if count == FIELDS_MAX => Some(Rule::TooManyFields),
            () if name.len() > NAME_SIZE_MAX || value.len() > VALUE_SIZE_MAX => Some(Rule::TooLarge),
            () if !is_name(name) => Some(Rule::Name),
            () if !is_value(value) => Some(Rule::Value),
            () => None,
        };
        if let Some(rule) = broken {
            return Err(EncodeError::Illegal(rule));
        }
        size += vector_size(name) + vector_size(value);
    }
    if size > HEAD_SIZE_MAX { Err(EncodeError::Illegal(Rule::TooLarge)) } else { Ok(size) }
}

fn write_rest<'f>(
    mut writer: Writer<'_>,
    section: usize,
    fields: impl Iterator<Item = (&'f [u8], &'f [u8])>,
    content: &[u8],
) -> usize {
    writer.integer(section);
    for (name, value) in fields {
        writer.vector(name);
        writer.vector(value);
    }
    writer.vector(content);
    writer.integer(0);
    writer.at
}

/// Encodes a request into the beginning of `into`; returns its size. `control`: method, scheme, authority, path.
pub fn encode_request<'f>(
    into: &mut [u8],
    control: [&[u8]; 4],
    fields: impl Iterator<Item = (&'f [u8], &'f [u8])> + Clone,
    content: &[u8],
) -> Result<usize, EncodeError> {
    let legal: [(fn(u8) -> bool, bool); 4] =
        [(is_token, false), (is_scheme, false), (is_visible, true), (is_visible, false)];
    for (part, (is_legal, may_be_empty)) in control.iter().zip(legal) {
        if !part.iter().all(|&byte| is_legal(byte)) || (part.is_empty() && !may_be_empty) {
            return Err(EncodeError::Illegal(Rule::ControlData));
        }
        if part.len() > HEAD_SIZE_MAX {
            return Err(EncodeError::Illegal(Rule::TooLarge));
        }
    }
    let section = section_size(fields.clone())?;
    let control_size: usize = control.iter().map(|part| vector_size(part)).sum();
    let size = 1 + control_size + integer_size(section) + section + vector_size(content) + 1;
    if size > into.len() {
        return Err(EncodeError::Needs(size));
    }
    let mut writer = Writer { into, at: 0 };
    writer.integer(0);
    control.iter().for_each(|part| writer.vector(part));
    Ok(write_rest(writer, section, fields, content))
}

/// Encodes a response into the beginning of `into`; returns its size.
pub fn encode_response<'f>(
    into: &mut [u8],
    status: u16,
    fields: impl Iterator<Item = (&'f [u8], &'f [u8])> + Clone,
    content: &[u8],
) -> Result<usize, EncodeError> {
    if !(200..=599).contains(&status) {
        return Err(EncodeError::Illegal(Rule::Status));
    }
    let section = section_size(fields.clone())?;
    let size = 3 + integer_size(section) + section + vector_size(content) + 1;
    if size > into.len() {
        return Err(EncodeError::Needs(size));
    }
    let mut writer = Writer { into, at: 0 };
    writer.integer(1);
    writer.integer(usize::from(status));
    Ok(write_rest(writer, section, fields, content))
}
