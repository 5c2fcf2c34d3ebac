//! Which requests an entry may answer, and what they ask: everything is understood fully or goes to Python.
//!
//! The rules are those of the embedded service's own parsers, cut down to the values they and we read alike: one range
//! `bytes=FIRST-` or `bytes=FIRST-LAST`, one entity tag. Source: issue "Offload entries"; RFC 9110 §13, §14.

use super::counters::Ineligible;
use crate::bhttp::RequestHead;

/// Longest value that is echoed.
const ECHO_SIZE_MAX: usize = 1024;

/// What an eligible request asks. Slices are of the request's private copy.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked<'a> {
    /// HEAD: the head alone.
    pub head_only: bool,
    /// First byte, and last byte if there is one, of the range; HEAD has none.
    pub range: Option<(u64, Option<u64>)>,
    /// The opaque tag of If-Match, `*` for any.
    pub if_match: Option<&'a [u8]>,
    /// The opaque tag of If-None-Match, never `*`.
    pub if_none_match: Option<&'a [u8]>,
    /// x-ms-version.
    pub version: Option<&'a [u8]>,
    /// x-ms-client-request-id.
    pub client_request_id: Option<&'a [u8]>,
}

/// The fields that mean something; each may occur once.
#[derive(Default)]
struct Sent<'a> {
    ms_range: Option<&'a [u8]>,
    range: Option<&'a [u8]>,
    if_match: Option<&'a [u8]>,
    if_none_match: Option<&'a [u8]>,
    version: Option<&'a [u8]>,
    client_request_id: Option<&'a [u8]>,
}

impl<'a> Asked<'a> {
    /// Judges a request.
    pub fn of(head: &RequestHead<'a>) -> Result<Self, Ineligible> {
        let head_only = match head.method {
            b"GET" => false,
            b"HEAD" => true,
            _ => return Err(Ineligible::Method),
        };
        if !head.content.is_empty() {
            return Err(Ineligible::Content);
        }
        if head.path.contains(&b'?') {
            return Err(Ineligible::Query);
        }
        let sent = Sent::of(head)?;
        // A range on HEAD changes nothing, but what a range is must be clear all the same.
        let range = sent.ms_range.or(sent.range).map(range).transpose()?;
        Ok(Self {
            head_only,
            range: range.filter(|_| !head_only),
            if_match: sent.if_match.map(tag).transpose()?,
            if_none_match: sent.if_none_match.map(tag).transpose()?.map_or(Ok(None), |tag| match tag {
                b"*" => Err(Ineligible::Value),
                tag => Ok(Some(tag)),
            })?,
            version: sent.version.map(|text| echo(text, 1)).transpose()?,
            client_request_id: sent.client_request_id.map(|text| echo(text, 0)).transpose()?,
        })
    }
}

impl<'a> Sent<'a> {
    fn of(head: &RequestHead<'a>) -> Result<Self, Ineligible> {
        let mut sent = Self::default();
        for (name, value) in head.fields {
            let place = match name {
                b"x-ms-range" => &mut sent.ms_range,
                b"range" => &mut sent.range,
                b"if-match" => &mut sent.if_match,
                b"if-none-match" => &mut sent.if_none_match,
                b"x-ms-version" => &mut sent.version,
                b"x-ms-client-request-id" => &mut sent.client_request_id,
                b"x-ms-date"
                | b"date"
                | b"authorization"
                | b"user-agent"
                | b"accept"
                | b"accept-encoding"
                | b"accept-language"
                | b"connection"
                | b"host"
                | b"traceparent"
                | b"tracestate"
                | b"x-ms-return-client-request-id" => continue,
                _ => return Err(Ineligible::Field),
            };
            if place.replace(value).is_some() {
                return Err(Ineligible::Field);
            }
        }
        Ok(sent)
    }
}

/// `bytes=FIRST-` or `bytes=FIRST-LAST`.
fn range(text: &[u8]) -> Result<(u64, Option<u64>), Ineligible> {
    let span = text.strip_prefix(b"bytes=").ok_or(Ineligible::Value)?;
    let dash = span.iter().position(|&byte| byte == b'-').ok_or(Ineligible::Value)?;
    let first = number(&span[..dash])?;
    let last = match &span[dash + 1..] {
        [] => None,
        digits => Some(number(digits)?),
    };
    if last.is_some_and(|last| last < first) { Err(Ineligible::Value) } else { Ok((first, last)) }
}

/// Up to 18 digits, which fit.
fn number(digits: &[u8]) -> Result<u64, Ineligible> {
    if digits.is_empty() || digits.len() > 18 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Ineligible::Value);
    }
    Ok(digits.iter().fold(0, |value, digit| value * 10 + u64::from(digit - b'0')))
}

/// One entity tag, quoted or not, of letters and digits, or `*`.
fn tag(text: &[u8]) -> Result<&[u8], Ineligible> {
    if text == b"*" {
        return Ok(text);
    }
    let inner = match text {
        [b'"', inner @ .., b'"'] => inner,
        bare => bare,
    };
    if !inner.is_empty() && inner.iter().all(u8::is_ascii_alphanumeric) { Ok(inner) } else { Err(Ineligible::Value) }
}

/// A value that is answered as it came: visible ASCII and blanks, at least `size_min` bytes.
fn echo(text: &[u8], size_min: usize) -> Result<&[u8], Ineligible> {
    let is_plain = text.iter().all(|byte| (b' '..=b'~').contains(byte));
    if is_plain && (size_min..=ECHO_SIZE_MAX).contains(&text.len()) { Ok(text) } else { Err(Ineligible::Value) }
}
