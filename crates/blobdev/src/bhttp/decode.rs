//! Bytes to messages: everything is checked once, then handed out as slices of the message.

use super::{
    Broken, FIELDS_MAX, HEAD_SIZE_MAX, NAME_SIZE_MAX, Rule, VALUE_SIZE_MAX, is_authority, is_method, is_name, is_path,
    is_scheme, is_value,
};

/// A decoded request; every part is a slice of the message.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// Method, e.g. `GET`.
    pub method: &'a [u8],
    /// Scheme, e.g. `https`.
    pub scheme: &'a [u8],
    /// Host and port; may be empty.
    pub authority: &'a [u8],
    /// Path and query.
    pub path: &'a [u8],
    /// The fields.
    pub fields: Fields<'a>,
    /// The content.
    pub content: &'a [u8],
}

/// A decoded response; every part is a slice of the message.
#[derive(Clone, Copy, Debug)]
pub struct ResponseHead<'a> {
    /// Status code, 200..=599.
    pub status: u16,
    /// The fields.
    pub fields: Fields<'a>,
    /// The content.
    pub content: &'a [u8],
}

/// The fields of a decoded message: an iterator over (name, value) in order.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    section: &'a [u8],
}

impl Fields<'_> {
    /// Returns the length in bytes of the lines that are left.
    pub(super) fn size(&self) -> usize {
        self.section.len()
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        if self.section.is_empty() {
            return None;
        }
        let mut reader = Reader { message: self.section, at: 0 };
        // The section was checked when the message was decoded: neither can fail.
        let line = (reader.vector(NAME_SIZE_MAX).ok()?, reader.vector(VALUE_SIZE_MAX).ok()?);
        self.section = &self.section[reader.at..];
        Some(line)
    }
}

/// Decodes a request that fills `message`, padding included.
pub fn decode_request(message: &[u8]) -> Result<RequestHead<'_>, Broken> {
    let mut reader = Reader { message, at: 0 };
    reader.framing(0)?;
    let method = reader.control(is_method)?;
    let scheme = reader.control(is_scheme)?;
    let authority = reader.control(is_authority)?;
    let path = reader.control(is_path)?;
    let fields = reader.fields()?;
    Ok(RequestHead { method, scheme, authority, path, fields, content: reader.rest()? })
}

/// Decodes a response that fills `message`, padding included.
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

pub(super) struct Reader<'a> {
    pub message: &'a [u8],
    pub at: usize,
}

impl<'a> Reader<'a> {
    fn is_at_end(&self) -> bool {
        self.at == self.message.len()
    }

    pub fn bytes(&mut self, length: usize) -> Result<&'a [u8], Broken> {
        let cut_short = Broken { rule: Rule::Truncated, at: self.at };
        let bytes = self.message[self.at..].get(..length).ok_or(cut_short)?;
        self.at += length;
        Ok(bytes)
    }

    /// A variable-length integer (RFC 9000 §16) in any of its encodings.
    fn integer(&mut self) -> Result<u64, Broken> {
        let first = self.bytes(1)?[0];
        let mut value = u64::from(first & 0x3F);
        for &byte in self.bytes((1 << (first >> 6)) - 1)? {
            value = value << 8 | u64::from(byte);
        }
        Ok(value)
    }

    pub fn length(&mut self, limit: usize) -> Result<usize, Broken> {
        let begun_at = self.at;
        match usize::try_from(self.integer()?) {
            Ok(length) if length <= limit => Ok(length),
            _ => Err(Broken { rule: Rule::TooLarge, at: begun_at }),
        }
    }

    pub fn vector(&mut self, limit: usize) -> Result<&'a [u8], Broken> {
        let length = self.length(limit)?;
        self.bytes(length)
    }

    fn framing(&mut self, expected: u64) -> Result<(), Broken> {
        if self.integer()? == expected { Ok(()) } else { Err(Broken { rule: Rule::Framing, at: 0 }) }
    }

    fn control(&mut self, is_legal: fn(&[u8]) -> bool) -> Result<&'a [u8], Broken> {
        let begun_at = self.at;
        let part = self.vector(HEAD_SIZE_MAX)?;
        if is_legal(part) { Ok(part) } else { Err(Broken { rule: Rule::ControlData, at: begun_at }) }
    }

    fn fields(&mut self) -> Result<Fields<'a>, Broken> {
        let begun_at = self.at;
        let length = if self.is_at_end() { 0 } else { self.length(HEAD_SIZE_MAX)? };
        if self.at + length > HEAD_SIZE_MAX {
            return Err(Broken { rule: Rule::TooLarge, at: begun_at });
        }
        let base = self.at;
        let section = self.bytes(length)?;
        let mut lines = Reader { message: section, at: 0 };
        let mut count = 0;
        while !lines.is_at_end() {
            let too_many = Broken { rule: Rule::TooManyFields, at: lines.at };
            let checked = if count == FIELDS_MAX { Err(too_many) } else { lines.line() };
            checked.map_err(|broken| Broken { at: base + broken.at, ..broken })?;
            count += 1;
        }
        Ok(Fields { section })
    }

    fn line(&mut self) -> Result<(), Broken> {
        let begun_at = self.at;
        if !is_name(self.vector(NAME_SIZE_MAX)?) {
            return Err(Broken { rule: Rule::Name, at: begun_at });
        }
        let begun_at = self.at;
        if is_value(self.vector(VALUE_SIZE_MAX)?) { Ok(()) } else { Err(Broken { rule: Rule::Value, at: begun_at }) }
    }

    /// Content, no trailers, padding.
    fn rest(&mut self) -> Result<&'a [u8], Broken> {
        let content = if self.is_at_end() { &[] } else { self.vector(usize::MAX)? };
        let begun_at = self.at;
        if !self.is_at_end() && self.integer()? != 0 {
            return Err(Broken { rule: Rule::Trailers, at: begun_at });
        }
        match self.message[self.at..].iter().position(|&byte| byte != 0) {
            None => Ok(content),
            Some(offset) => Err(Broken { rule: Rule::Padding, at: self.at + offset }),
        }
    }
}
