//! RFC 9292 messages to and from Python. Text is ISO 8859-1: each character is one byte, so any bytes survive.

use std::borrow::Cow;
use std::fmt::Display;

use blobdev::bhttp::{self, EncodeError, Part};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PyBytes, PyString};

use crate::extents::with_bytes;

/// Header fields as Python gives them.
pub(crate) type FieldPairs = Vec<(PyBackedStr, PyBackedStr)>;

/// Header fields as Python gets them.
pub(crate) type DecodedFields<'py> = Vec<(Bound<'py, PyString>, Bound<'py, PyString>)>;

/// Turns bytes into text, one character each.
pub(crate) fn text<'py>(py: Python<'py>, bytes: &[u8]) -> Bound<'py, PyString> {
    match std::str::from_utf8(bytes) {
        Ok(ascii) if ascii.is_ascii() => PyString::new(py, ascii),
        _ => PyString::new(py, &bytes.iter().map(|&byte| char::from(byte)).collect::<String>()),
    }
}

/// Turns text into bytes, one each. ValueError: a character above U+00FF; `part` says where.
pub(crate) fn latin1(text: &str, part: impl Display) -> PyResult<Cow<'_, [u8]>> {
    if text.is_ascii() {
        return Ok(Cow::Borrowed(text.as_bytes()));
    }
    let byte = |(at, character): (usize, char)| {
        u8::try_from(character).map_err(|_| {
            let text = format!("{part}: {character:?} at character {at} is outside ISO 8859-1; percent-encode it");
            PyValueError::new_err(text)
        })
    };
    text.chars().enumerate().map(byte).collect::<PyResult<Vec<u8>>>().map(Cow::Owned)
}

pub(crate) fn decoded_fields<'py>(py: Python<'py>, fields: bhttp::Fields<'_>) -> DecodedFields<'py> {
    fields.map(|(name, value)| (text(py, name), text(py, value))).collect()
}

pub(crate) type Line<'a> = (Cow<'a, [u8]>, Cow<'a, [u8]>);

pub(crate) fn lines(fields: &FieldPairs) -> PyResult<Vec<Line<'_>>> {
    fields.iter().enumerate().map(|(index, (name, value))| line(Part::Field(index), name, value)).collect()
}

/// Turns one field into bytes as a message holds it.
pub(crate) fn line<'a>(part: Part, name: &'a str, value: &'a str) -> PyResult<Line<'a>> {
    let mut name = latin1(name, part)?;
    if name.iter().any(u8::is_ascii_uppercase) {
        name.to_mut().make_ascii_lowercase();
    }
    // Blanks around a value are no part of it (RFC 9110 §5.5): an HTTP connection would drop them too.
    Ok((name, latin1(value.trim_matches([' ', '\t']), part)?))
}

fn refused(error: EncodeError) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// Encodes a request and hands it to `write` if it fits `room`; returns its size either way.
pub(crate) fn encode_request_to(
    control: [&str; 4],
    fields: &FieldPairs,
    content: &[u8],
    room: usize,
    write: impl FnOnce(&[u8]),
) -> PyResult<usize> {
    let lines = lines(fields)?;
    let [method, scheme, authority, path] = control;
    let (method, scheme) = (latin1(method, Part::Method)?, latin1(scheme, Part::Scheme)?);
    let (authority, path) = (latin1(authority, Part::Authority)?, latin1(path, Part::Path)?);
    let control = [&*method, &*scheme, &*authority, &*path];
    let fields = || lines.iter().map(|(name, value)| (&**name, &**value));
    let mut small = [0; 2048];
    match bhttp::encode_request(&mut small[..room.min(2048)], control, fields(), content) {
        Ok(size) => {
            write(&small[..size]);
            Ok(size)
        }
        Err(EncodeError::Needs(size)) if size > room => Ok(size),
        Err(EncodeError::Needs(size)) => {
            let mut large = vec![0; size];
            let size = bhttp::encode_request(&mut large, control, fields(), content).map_err(refused)?;
            write(&large[..size]);
            Ok(size)
        }
        Err(error) => Err(refused(error)),
    }
}

#[pyfunction]
pub(crate) fn encode_request<'py>(
    py: Python<'py>,
    method: &str,
    scheme: &str,
    authority: &str,
    path: &str,
    fields: FieldPairs,
    content: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyBytes>> {
    let mut message = None;
    with_bytes(content, |content| {
        encode_request_to([method, scheme, authority, path], &fields, content, usize::MAX, |bytes| {
            message = Some(PyBytes::new(py, bytes));
        })
    })?;
    Ok(message.expect("every message fits usize::MAX bytes"))
}

type Request<'py> = (
    Bound<'py, PyString>,
    Bound<'py, PyString>,
    Bound<'py, PyString>,
    Bound<'py, PyString>,
    DecodedFields<'py>,
    Bound<'py, PyBytes>,
);

#[pyfunction]
pub(crate) fn decode_request<'py>(py: Python<'py>, message: &Bound<'py, PyAny>) -> PyResult<Request<'py>> {
    with_bytes(message, |message| {
        let head = bhttp::decode_request(message).map_err(|broken| PyValueError::new_err(broken.to_string()))?;
        let [method, scheme, authority, path] =
            [head.method, head.scheme, head.authority, head.path].map(|part| text(py, part));
        Ok((method, scheme, authority, path, decoded_fields(py, head.fields), PyBytes::new(py, head.content)))
    })
}

#[pyfunction]
pub(crate) fn encode_response<'py>(
    py: Python<'py>,
    status: u16,
    fields: FieldPairs,
    content: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyBytes>> {
    let lines = lines(&fields)?;
    let fields = || lines.iter().map(|(name, value)| (&**name, &**value));
    with_bytes(content, |content| {
        let mut small = [0; 2048];
        match bhttp::encode_response(&mut small, status, fields(), content) {
            Ok(size) => Ok(PyBytes::new(py, &small[..size])),
            Err(EncodeError::Needs(size)) => PyBytes::new_with(py, size, |message| {
                bhttp::encode_response(message, status, fields(), content).map_err(refused).map(|_| ())
            }),
            Err(error) => Err(refused(error)),
        }
    })
}

#[pyfunction]
pub(crate) fn decode_response<'py>(
    py: Python<'py>,
    message: &Bound<'py, PyAny>,
) -> PyResult<(u16, DecodedFields<'py>, Bound<'py, PyBytes>)> {
    with_bytes(message, |message| {
        let head = bhttp::decode_response(message).map_err(|broken| PyValueError::new_err(broken.to_string()))?;
        Ok((head.status, decoded_fields(py, head.fields), PyBytes::new(py, head.content)))
    })
}
