//! A request with one hole: encoded once, sent many times with another value in the hole.

use super::encode::{EncodeError, Part, Writer, encode_request, integer_size, vector_size};
use super::{HEAD_SIZE_MAX, Rule, decode_request};

/// An encoded request without content, cut at the value of one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestTemplate {
    /// Framing and control data: everything before the length of the field section.
    control: Box<[u8]>,
    /// The field section up to the length of the value.
    before: Box<[u8]>,
    /// The field section behind the value.
    after: Box<[u8]>,
}

impl RequestTemplate {
    /// Encodes a request; `control`: method, scheme, authority, path; `hole`: the position in `fields` of the field whose
    /// value is left open.
    pub fn new(control: [&[u8]; 4], fields: &[(&[u8], &[u8])], hole: usize) -> Result<Self, EncodeError> {
        let mut emptied = fields.to_vec();
        emptied.get_mut(hole).ok_or(EncodeError::Illegal(Rule::Name, Part::Field(hole)))?.1 = &[];
        let mut message = vec![0; HEAD_SIZE_MAX + 16];
        let size = encode_request(&mut message, control, emptied.iter().copied(), &[])?;
        message.truncate(size);
        let before: usize = emptied[..hole].iter().map(|(name, value)| vector_size(name) + vector_size(value)).sum();
        let before = before + vector_size(emptied[hole].0);
        let section: usize = emptied.iter().map(|(name, value)| vector_size(name) + vector_size(value)).sum();
        let control = 1 + control.iter().map(|part| vector_size(part)).sum::<usize>();
        let fields = control + integer_size(section);
        Ok(Self {
            control: message[..control].into(),
            before: message[fields..fields + before].into(),
            // Behind the empty value, whose length is one byte of zero.
            after: message[fields + before + 1..fields + section].into(),
        })
    }

    /// Encodes the request with `value` in the hole into the beginning of `into`; returns its size, or the room needed.
    ///
    /// The value must be legal in a field (RFC 9110 §5.5); whoever makes it knows.
    pub fn encode(&self, value: &[u8], into: &mut [u8]) -> Result<usize, EncodeError> {
        let section = self.before.len() + vector_size(value) + self.after.len();
        let size = self.control.len() + integer_size(section) + section + 2;
        if size > into.len() {
            return Err(EncodeError::Needs(size));
        }
        let mut writer = Writer { into, at: 0 };
        writer.bytes(&self.control);
        writer.integer(section);
        writer.bytes(&self.before);
        writer.vector(value);
        writer.bytes(&self.after);
        writer.integer(0); // no content
        writer.integer(0); // no trailers
        debug_assert!(decode_request(&writer.into[..size]).is_ok());
        Ok(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filled_template_is_the_request_encoded_anew() {
        let control: [&[u8]; 4] = [b"GET", b"https", b"account.blob.core.windows.net", b"/container/blob"];
        let long = vec![b'x'; 300];
        let fields: [(&[u8], &[u8]); 4] =
            [(b"x-ms-version", b"2026-06-06"), (b"x-ms-range", b""), (b"if-match", b"\"0x8\""), (b"long", &long)];
        for hole in 0..fields.len() {
            let template = RequestTemplate::new(control, &fields, hole).unwrap();
            for value in [&b"bytes=0-1"[..], b"bytes=18446744073709551614-18446744073709551615", &[b'v'; 200]] {
                let mut expected_fields = fields;
                expected_fields[hole].1 = value;
                let (mut expected, mut filled) = ([0; 2048], [0; 2048]);
                let size = encode_request(&mut expected, control, expected_fields.into_iter(), &[]).unwrap();
                assert_eq!(template.encode(value, &mut filled), Ok(size));
                assert_eq!(filled, expected, "hole {hole}");
                assert_eq!(template.encode(value, &mut filled[..size - 1]), Err(EncodeError::Needs(size)));
            }
        }
    }

    #[test]
    fn a_hole_that_is_no_field_and_an_illegal_field_are_refused() {
        let control: [&[u8]; 4] = [b"GET", b"https", b"", b"/b"];
        assert!(RequestTemplate::new(control, &[], 0).is_err());
        assert!(RequestTemplate::new(control, &[(b"a", b"\r\n"), (b"b", b"")], 1).is_err());
    }
}
