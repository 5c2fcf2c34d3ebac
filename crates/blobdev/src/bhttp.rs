//! RFC 9292 Binary HTTP, known-length messages: what stands in the request and response buffers.
//!
//! Bounded and allocation-free: the decoder checks everything once and then gives slices of the message; the encoder
//! writes into the caller's buffer, or says how large it must be. Framing 0 (request) and 1 (response), no trailers, no
//! informational responses, field names in lower case and no pseudo-fields. Both directions hold the same rules.
//!
//! A message is decoded from a slice of its exact length. Header section, content and trailer section may be left out
//! from the end when they are empty, which is the same as zero bytes in their place, and bytes after the message must be
//! zero (RFC 9292 §3.8). The encoder writes every section. So a message cut before the length of its content reads as
//! one without content: whoever carries messages must carry their length.

mod decode;
mod encode;
mod shape;
mod template;

use std::fmt;

pub use decode::{Fields, RequestHead, ResponseHead, decode_request, decode_response};
pub use encode::{EncodeError, Part, encode_request, encode_response};
pub use shape::AnswerShape;
pub use template::RequestTemplate;

/// Longest head in bytes: everything before the content's length.
pub const HEAD_SIZE_MAX: usize = 64 * 1024;
/// Most fields.
pub const FIELDS_MAX: usize = 256;
/// Longest field name in bytes.
pub const NAME_SIZE_MAX: usize = 256;
/// Longest field value in bytes.
pub const VALUE_SIZE_MAX: usize = 16 * 1024;
/// Longest message in bytes that a host should copy and decode as a request: a head and the small content it may carry.
pub const MESSAGE_SIZE_MAX: usize = HEAD_SIZE_MAX + 1024 * 1024;

/// A broken rule and the byte of the message at which the item that breaks it begins.
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
    /// An item that the message's end cuts short.
    Truncated,
    /// Another framing indicator than the expected one.
    Framing,
    /// A head, name or value longer than its bound.
    TooLarge,
    /// More fields than [`FIELDS_MAX`].
    TooManyFields,
    /// A method, scheme, authority or path that is empty (authority may be) or has an illegal byte.
    ControlData,
    /// A field name that is no lower-case token (RFC 9110 §5.1, RFC 9113 §8.2.1).
    Name,
    /// CR, LF or NUL in a field value, or a blank or tab at one of its ends (RFC 9113 §8.2.1).
    Value,
    /// A status outside 200..=599.
    Status,
    /// Trailer fields.
    Trailers,
    /// A byte other than zero after the message.
    Padding,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => write!(f, "an item cut short by the message's end"),
            Self::Framing => write!(f, "an unexpected framing indicator"),
            Self::TooLarge => write!(
                f,
                "a length beyond its bound (head {HEAD_SIZE_MAX}, name {NAME_SIZE_MAX}, value {VALUE_SIZE_MAX} bytes)"
            ),
            Self::TooManyFields => write!(f, "more than {FIELDS_MAX} fields"),
            Self::ControlData => write!(f, "an illegal byte in the control data, or an empty part of it"),
            Self::Name => write!(f, "a field name that is no lower-case token"),
            Self::Value => write!(f, "CR, LF or NUL in a field value, or a blank at one of its ends"),
            Self::Status => write!(f, "a status outside 200..=599"),
            Self::Trailers => write!(f, "trailer fields"),
            Self::Padding => write!(f, "a byte other than zero after the message"),
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (byte {})", self.rule, self.at)
    }
}

impl std::error::Error for Broken {}

const TOKEN: u8 = 1;
const UPPER_CASE: u8 = 2;
const SCHEME: u8 = 4;
const VISIBLE: u8 = 8;

/// Which sets each byte belongs to; a table, for every byte of every name passes here.
const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut index = 0;
    while index < 256 {
        let byte = index as u8;
        let mark = matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~');
        let is_scheme = byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
        classes[index] = if byte.is_ascii_alphanumeric() || mark { TOKEN } else { 0 }
            | if byte.is_ascii_uppercase() { UPPER_CASE } else { 0 }
            | if is_scheme { SCHEME } else { 0 }
            | if byte > b' ' && byte != 0x7F { VISIBLE } else { 0 };
        index += 1;
    }
    classes
};

fn all(bytes: &[u8], class: u8) -> bool {
    bytes.iter().all(|&byte| CLASSES[usize::from(byte)] & class != 0)
}

fn is_method(method: &[u8]) -> bool {
    !method.is_empty() && all(method, TOKEN)
}

fn is_scheme(scheme: &[u8]) -> bool {
    scheme.first().is_some_and(u8::is_ascii_alphabetic) && all(scheme, SCHEME)
}

fn is_authority(authority: &[u8]) -> bool {
    all(authority, VISIBLE)
}

fn is_path(path: &[u8]) -> bool {
    !path.is_empty() && all(path, VISIBLE)
}

fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|&byte| CLASSES[usize::from(byte)] & (TOKEN | UPPER_CASE) == TOKEN)
}

/// Tells whether a field of this name and value may stand in a message.
pub fn is_field(name: &[u8], value: &[u8]) -> bool {
    name.len() <= NAME_SIZE_MAX && value.len() <= VALUE_SIZE_MAX && is_name(name) && is_value(value)
}

fn is_value(value: &[u8]) -> bool {
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    // Without an early exit, so that the compiler looks at many bytes at once.
    let broken = value.iter().fold(false, |broken, &byte| broken | (byte == b'\r') | (byte == b'\n') | (byte == 0));
    !broken && !is_blank(value.first()) && !is_blank(value.last())
}
