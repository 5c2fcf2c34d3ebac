//! Messages to bytes: the size first, then the parts straight into the caller's buffer, integers as short as they go.

use std::fmt;

use super::{
    FIELDS_MAX, HEAD_SIZE_MAX, NAME_SIZE_MAX, Rule, VALUE_SIZE_MAX, is_authority, is_method, is_name, is_path,
    is_scheme, is_value,
};

/// Why a message was not encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodeError {
    /// The buffer is too small: so many bytes are needed. Nothing was written.
    Needs(usize),
    /// A part breaks one of the decoder's rules. Nothing was written.
    Illegal(Rule, Part),
}

/// A part of a message to be encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The request's method.
    Method,
    /// The request's scheme.
    Scheme,
    /// The request's authority.
    Authority,
    /// The request's path.
    Path,
    /// The response's status.
    Status,
    /// A field, by its position from 0.
    Field(usize),
    /// The head as a whole.
    Head,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Method => f.write_str("method"),
            Self::Scheme => f.write_str("scheme"),
            Self::Authority => f.write_str("authority"),
            Self::Path => f.write_str("path"),
            Self::Status => f.write_str("status"),
            Self::Field(index) => write!(f, "fields[{index}]"),
            Self::Head => f.write_str("head"),
        }
    }
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Needs(size) => write!(f, "a message of {size} bytes for a smaller buffer"),
            Self::Illegal(rule, part) => write!(f, "{part}: {rule}"),
        }
    }
}

impl std::error::Error for EncodeError {}

/// Encodes a request into the beginning of `into`; returns its size. `control`: method, scheme, authority, path.
pub fn encode_request<'f>(
    into: &mut [u8],
    control: [&[u8]; 4],
    fields: impl Iterator<Item = (&'f [u8], &'f [u8])> + Clone,
    content: &[u8],
) -> Result<usize, EncodeError> {
    let [method, scheme, authority, path] = control;
    let judged = [
        (Part::Method, is_method(method)),
        (Part::Scheme, is_scheme(scheme)),
        (Part::Authority, is_authority(authority)),
        (Part::Path, is_path(path)),
    ];
    if let Some((part, _)) = judged.into_iter().find(|(_, is_legal)| !is_legal) {
        return Err(EncodeError::Illegal(Rule::ControlData, part));
    }
    let start: usize = 1 + control.iter().map(|part| vector_size(part)).sum::<usize>();
    let (mut writer, section) = begin(into, start, fields.clone(), content)?;
    writer.integer(0);
    control.iter().for_each(|part| writer.vector(part));
    Ok(writer.rest(section, fields, content))
}

/// Encodes a response into the beginning of `into`; returns its size.
pub fn encode_response<'f>(
    into: &mut [u8],
    status: u16,
    fields: impl Iterator<Item = (&'f [u8], &'f [u8])> + Clone,
    content: &[u8],
) -> Result<usize, EncodeError> {
    if !(200..=599).contains(&status) {
        return Err(EncodeError::Illegal(Rule::Status, Part::Status));
    }
    let start = 1 + integer_size(usize::from(status));
    let (mut writer, section) = begin(into, start, fields.clone(), content)?;
    writer.integer(1);
    writer.integer(usize::from(status));
    Ok(writer.rest(section, fields, content))
}

/// Checks the fields and the bounds; returns a writer that has room for the whole message, and the section's size.
///
/// `start`: bytes before the field section's length.
fn begin<'a, 'f>(
    into: &'a mut [u8],
    start: usize,
    fields: impl Iterator<Item = (&'f [u8], &'f [u8])>,
    content: &[u8],
) -> Result<(Writer<'a>, usize), EncodeError> {
    let section = section_size(fields)?;
    let head = start + integer_size(section) + section;
    if head > HEAD_SIZE_MAX {
        return Err(EncodeError::Illegal(Rule::TooLarge, Part::Head));
    }
    let size = head + vector_size(content) + 1;
    if size > into.len() {
        return Err(EncodeError::Needs(size));
    }
    Ok((Writer { into, at: 0 }, section))
}

fn section_size<'f>(fields: impl Iterator<Item = (&'f [u8], &'f [u8])>) -> Result<usize, EncodeError> {
    let mut size = 0;
    for (index, (name, value)) in fields.enumerate() {
        let broken = match () {
            () if index == FIELDS_MAX => Rule::TooManyFields,
            () if name.len() > NAME_SIZE_MAX || value.len() > VALUE_SIZE_MAX => Rule::TooLarge,
            () if !is_name(name) => Rule::Name,
            () if !is_value(value) => Rule::Value,
            () => {
                size += vector_size(name) + vector_size(value);
                continue;
            }
        };
        return Err(EncodeError::Illegal(broken, Part::Field(index)));
    }
    Ok(size)
}

pub(super) fn integer_size(value: usize) -> usize {
    match value {
        0..0x40 => 1,
        0x40..0x4000 => 2,
        0x4000..0x4000_0000 => 4,
        _ => 8,
    }
}

pub(super) fn vector_size(bytes: &[u8]) -> usize {
    integer_size(bytes.len()) + bytes.len()
}

pub(super) struct Writer<'a> {
    pub into: &'a mut [u8],
    pub at: usize,
}

impl Writer<'_> {
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.into[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    /// A variable-length integer (RFC 9000 §16) in its shortest encoding.
    pub fn integer(&mut self, value: usize) {
        let bytes = (value as u64).to_be_bytes();
        match integer_size(value) {
            1 => self.bytes(&[bytes[7]]),
            2 => self.bytes(&[bytes[6] | 0x40, bytes[7]]),
            4 => self.bytes(&[bytes[4] | 0x80, bytes[5], bytes[6], bytes[7]]),
            _ => {
                self.bytes(&[bytes[0] | 0xC0]);
                self.bytes(&bytes[1..]);
            }
        }
    }

    pub fn vector(&mut self, bytes: &[u8]) {
        self.integer(bytes.len());
        self.bytes(bytes);
    }

    /// Fields, content, an empty trailer section; returns the size of the message.
    fn rest<'f>(mut self, section: usize, fields: impl Iterator<Item = (&'f [u8], &'f [u8])>, content: &[u8]) -> usize {
        self.integer(section);
        for (name, value) in fields {
            self.vector(name);
            self.vector(value);
        }
        self.vector(content);
        self.integer(0);
        self.at
    }
}
