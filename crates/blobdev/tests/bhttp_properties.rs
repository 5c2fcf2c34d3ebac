//! Properties of the RFC 9292 codec over random messages, and its agreement with the crate `bhttp`.

mod seed;

use std::io::Cursor;

use ::bhttp::{Message, Mode, StatusCode};
use blobdev::bhttp::{Rule, decode_request, decode_response, encode_request, encode_response};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use seed::seeded;

type Bytes = Vec<u8>;
type Lines = Vec<(Bytes, Bytes)>;

#[derive(Clone, Debug)]
struct Request {
    control: [Bytes; 4],
    fields: Lines,
    content: Bytes,
}

#[derive(Clone, Debug)]
struct Response {
    status: u16,
    fields: Lines,
    content: Bytes,
}

fn pairs(fields: &Lines) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
    fields.iter().map(|(name, value)| (&name[..], &value[..]))
}

fn refs(control: &[Bytes; 4]) -> [&[u8]; 4] {
    control.each_ref().map(|part| &part[..])
}

impl Request {
    fn encode(&self) -> Bytes {
        let mut message = vec![0; 8192];
        let size = encode_request(&mut message, refs(&self.control), pairs(&self.fields), &self.content).unwrap();
        message.truncate(size);
        message
    }

    fn by_crate(&self) -> Message {
        let [method, scheme, authority, path] = self.control.clone();
        let mut message = Message::request(method, scheme, authority, path);
        self.fields.iter().for_each(|(name, value)| message.put_header(name.clone(), value.clone()));
        message.write_content(&self.content);
        message
    }
}

impl Response {
    fn encode(&self) -> Bytes {
        let mut message = vec![0; 8192];
        let size = encode_response(&mut message, self.status, pairs(&self.fields), &self.content).unwrap();
        message.truncate(size);
        message
    }

    fn by_crate(&self) -> Message {
        let mut message = Message::response(StatusCode::try_from(self.status).unwrap());
        self.fields.iter().for_each(|(name, value)| message.put_header(name.clone(), value.clone()));
        message.write_content(&self.content);
        message
    }
}

fn written(message: &Message) -> Bytes {
    let mut bytes = Vec::new();
    message.write_bhttp(Mode::KnownLength, &mut bytes).unwrap();
    bytes
}

fn crate_lines(message: &Message) -> Lines {
    message.header().fields().iter().map(|field| (field.name().to_vec(), field.value().to_vec())).collect()
}

fn of(alphabet: &'static [u8], size: std::ops::Range<usize>) -> impl Strategy<Value = Bytes> {
    vec(select(alphabet), size)
}

fn fields() -> impl Strategy<Value = Lines> {
    let value = vec(any::<u8>(), 0..90).prop_map(|bytes| {
        let legal: Bytes = bytes.into_iter().filter(|byte| !matches!(byte, b'\r' | b'\n' | 0)).collect();
        legal.trim_ascii().to_vec()
    });
    vec((of(b"abcxyz0189-_.!~", 1..80), value), 0..12)
}

fn requests() -> impl Strategy<Value = Request> {
    let control = (
        of(b"GETPUHADLpatch-", 1..9),
        select(&["http", "https", "a+b.c-1"][..]).prop_map(|scheme| scheme.as_bytes().to_vec()),
        of(b"abc.:0129[]", 0..40),
        vec(0x21..=0x7E_u8, 0..120).prop_map(|rest| [b"/".to_vec(), rest].concat()),
    );
    (control, fields(), vec(any::<u8>(), 0..200)).prop_map(|((method, scheme, authority, path), fields, content)| {
        Request { control: [method, scheme, authority, path], fields, content }
    })
}

fn responses() -> impl Strategy<Value = Response> {
    (200..=599_u16, fields(), vec(any::<u8>(), 0..200)).prop_map(|(status, fields, content)| Response {
        status,
        fields,
        content,
    })
}

/// Where a message may end: before the field section, the content, the trailer section, and at its end (§3.8).
fn section_starts(message: &[u8], fields: &Lines, content: &[u8]) -> [usize; 4] {
    let integer = |value: usize| if value < 64 { 1 } else { 2 };
    let section: usize = fields.iter().map(|(n, v)| integer(n.len()) + n.len() + integer(v.len()) + v.len()).sum();
    let trailer = message.len() - 1;
    let before_content = trailer - content.len() - integer(content.len());
    [before_content - section - integer(section), before_content, trailer, message.len()]
}

proptest! {
    #![proptest_config(seeded(512))]

    #[test]
    fn a_request_survives_the_round_trip(request in requests()) {
        let message = request.encode();
        let head = decode_request(&message).unwrap();
        prop_assert_eq!([head.method, head.scheme, head.authority, head.path], refs(&request.control));
        prop_assert!(head.fields.eq(pairs(&request.fields)));
        prop_assert_eq!(head.content, &request.content[..]);
    }

    #[test]
    fn a_response_survives_the_round_trip(response in responses()) {
        let message = response.encode();
        let head = decode_response(&message).unwrap();
        prop_assert_eq!(head.status, response.status);
        prop_assert!(head.fields.eq(pairs(&response.fields)));
        prop_assert_eq!(head.content, &response.content[..]);
    }

    #[test]
    fn the_crate_bhttp_writes_the_same_bytes_for_a_request_and_reads_ours(request in requests()) {
        let ours = request.encode();
        prop_assert_eq!(&written(&request.by_crate()), &ours);
        let read = Message::read_bhttp(&mut Cursor::new(&ours[..])).unwrap();
        let control = read.control();
        let parts = [control.method(), control.scheme(), control.authority(), control.path()];
        // The crate gives None for an empty authority.
        prop_assert_eq!(parts.map(Option::unwrap_or_default), refs(&request.control));
        prop_assert_eq!(crate_lines(&read), request.fields);
        prop_assert_eq!(read.content(), &request.content[..]);
    }

    #[test]
    fn the_crate_bhttp_writes_the_same_bytes_for_a_response_and_reads_ours(response in responses()) {
        let ours = response.encode();
        prop_assert_eq!(&written(&response.by_crate()), &ours);
        let read = Message::read_bhttp(&mut Cursor::new(&ours[..])).unwrap();
        prop_assert_eq!(read.control().status().unwrap().code(), response.status);
        prop_assert_eq!(crate_lines(&read), response.fields);
        prop_assert_eq!(read.content(), &response.content[..]);
    }

    /// RFC 9292 §3.8, §4: cut at every byte, a message is refused unless only whole sections are gone.
    #[test]
    fn a_request_cut_anywhere_but_before_a_section_is_refused(request in requests()) {
        let message = request.encode();
        let starts = section_starts(&message, &request.fields, &request.content);
        for cut in 0..=message.len() {
            match decode_request(&message[..cut]) {
                Ok(head) => {
                    prop_assert!(starts.contains(&cut), "cut at {cut}");
                    prop_assert_eq!(head.fields.count(), if cut == starts[0] { 0 } else { request.fields.len() });
                    prop_assert_eq!(head.content, if cut < starts[2] { &[][..] } else { &request.content[..] });
                }
                Err(broken) => {
                    prop_assert!(!starts.contains(&cut), "cut at {cut}: {broken}");
                    prop_assert_eq!(broken.rule, Rule::Truncated);
                    prop_assert!(broken.at <= cut);
                }
            }
        }
    }

    #[test]
    fn a_response_cut_anywhere_but_before_a_section_is_refused(response in responses()) {
        let message = response.encode();
        let starts = section_starts(&message, &response.fields, &response.content);
        for cut in 0..=message.len() {
            match decode_response(&message[..cut]) {
                Ok(_) => prop_assert!(starts.contains(&cut), "cut at {cut}"),
                Err(broken) => {
                    prop_assert!(!starts.contains(&cut), "cut at {cut}: {broken}");
                    prop_assert_eq!(broken.rule, Rule::Truncated);
                }
            }
        }
    }

    /// Design rule 1: peer data never trips an assertion. And what we accept means the same to another decoder.
    #[test]
    fn a_damaged_request_never_panics_and_if_accepted_reads_alike_elsewhere(
        request in requests(), damage in vec((any::<Index>(), any::<u8>()), 1..6), padding in 0..4_usize,
    ) {
        let mut message = request.encode();
        message.extend(vec![0; padding]);
        damage.iter().for_each(|(at, byte)| *at.get_mut(&mut message) = *byte);
        let _ = decode_response(&message);
        if let Ok(head) = decode_request(&message) {
            let read = Message::read_bhttp(&mut Cursor::new(&message[..])).unwrap();
            prop_assert_eq!(read.control().path().unwrap(), head.path);
            prop_assert!(head.fields.eq(pairs(&crate_lines(&read))));
            prop_assert_eq!(read.content(), head.content);
            prop_assert!(read.trailer().is_empty());
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        let _ = decode_request(&bytes);
        let _ = decode_response(&bytes);
        let _ = decode_request(&[&[0][..], &bytes].concat());
        let _ = decode_response(&[&[1, 0x40, 0xC8][..], &bytes].concat());
    }
}
