//! RFC 9292 messages of a peer's making: bounded, and read as the crate `bhttp` reads them.
//!
//! Input: the message. What we accept the crate must accept and understand alike; what it accepts we may refuse, for our
//! bounds are narrower (no trailers, lower-case names, sizes).

use std::io::Cursor;

use bhttp::Message;
use blobdev::bhttp::{
    FIELDS_MAX, HEAD_SIZE_MAX, NAME_SIZE_MAX, VALUE_SIZE_MAX, decode_request, decode_response, encode_request,
    encode_response,
};

type Lines = Vec<(Vec<u8>, Vec<u8>)>;

fn by_crate(message: &[u8]) -> (Message, Lines) {
    let read = Message::read_bhttp(&mut Cursor::new(message)).expect("the crate refuses what we accept");
    assert!(read.trailer().is_empty() && read.informational().is_empty());
    let lines = read.header().fields().iter().map(|field| (field.name().to_vec(), field.value().to_vec())).collect();
    (read, lines)
}

fn check_lines<'a>(ours: impl Iterator<Item = (&'a [u8], &'a [u8])>, theirs: &Lines) {
    let ours: Vec<_> = ours.map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
    assert!(ours.len() <= FIELDS_MAX);
    assert!(ours.iter().all(|(name, value)| name.len() <= NAME_SIZE_MAX && value.len() <= VALUE_SIZE_MAX));
    assert_eq!(&ours, theirs);
}

fn check_request(message: &[u8]) {
    let Ok(head) = decode_request(message) else { return };
    let (read, lines) = by_crate(message);
    let control = read.control();
    let theirs = [control.method(), control.scheme(), control.authority(), control.path()];
    let ours = [head.method, head.scheme, head.authority, head.path];
    assert_eq!(theirs.map(Option::unwrap_or_default), ours);
    assert_eq!(read.content(), head.content);
    check_lines(head.fields, &lines);
    let mut again = vec![0; message.len() + HEAD_SIZE_MAX];
    let size = encode_request(&mut again, ours, head.fields, head.content).expect("what was decoded can be encoded");
    let twice = decode_request(&again[..size]).expect("and decoded again");
    assert_eq!([twice.method, twice.scheme, twice.authority, twice.path], ours);
    assert!(twice.fields.eq(head.fields) && twice.content == head.content);
}

fn check_response(message: &[u8]) {
    let Ok(head) = decode_response(message) else { return };
    let (read, lines) = by_crate(message);
    assert_eq!(read.control().status().expect("a response").code(), head.status);
    assert_eq!(read.content(), head.content);
    check_lines(head.fields, &lines);
    let mut again = vec![0; message.len() + HEAD_SIZE_MAX];
    let size = encode_response(&mut again, head.status, head.fields, head.content).expect("it can be encoded");
    let twice = decode_response(&again[..size]).expect("and decoded again");
    assert!(twice.status == head.status && twice.fields.eq(head.fields) && twice.content == head.content);
}

/// Decodes the bytes as either kind of message.
pub fn check(data: &[u8]) {
    check_request(data);
    check_response(data);
}
