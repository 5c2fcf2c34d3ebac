//! The golden RFC 9292 messages of `tests/vectors/bhttp.json`, and the bounds of design §3.

mod vectors;

use blobdev::bhttp::{
    self, EncodeError, FIELDS_MAX, HEAD_SIZE_MAX, NAME_SIZE_MAX, Part, Rule, VALUE_SIZE_MAX, decode_request,
    decode_response, encode_request, encode_response,
};
use vectors::Json;

type Lines = Vec<(Vec<u8>, Vec<u8>)>;

fn lines(fields: &Json) -> Lines {
    fields.list().iter().map(|line| (line.list()[0].latin1(), line.list()[1].latin1())).collect()
}

fn pairs(lines: &Lines) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
    lines.iter().map(|(name, value)| (&name[..], &value[..]))
}

fn owned(fields: bhttp::Fields<'_>) -> Lines {
    fields.map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
}

const CONTROL: [&[u8]; 4] = [b"GET", b"https", b"example.com", b"/"];

fn encoded(fields: &Lines) -> Result<Vec<u8>, EncodeError> {
    let mut message = vec![0; 2 * HEAD_SIZE_MAX];
    let size = encode_request(&mut message, CONTROL, pairs(fields), b"")?;
    message.truncate(size);
    Ok(message)
}

#[test]
fn every_golden_request_decodes_to_what_it_says_and_the_canonical_ones_encode_to_it() {
    for case in vectors::read("bhttp.json").get("requests").list() {
        let name = case.get("name").text();
        let message = case.get("hex").hex();
        let head = decode_request(&message).unwrap_or_else(|broken| panic!("{name}: {broken}"));
        let control = ["method", "scheme", "authority", "path"].map(|part| case.get(part).latin1());
        assert_eq!([head.method, head.scheme, head.authority, head.path], control.each_ref().map(|part| &part[..]));
        let fields = lines(case.get("fields"));
        assert_eq!(owned(head.fields), fields, "{name}");
        assert_eq!(head.content, case.get("content").hex(), "{name}");
        let mut again = vec![0xEE; message.len() + 64];
        let size = encode_request(&mut again, control.each_ref().map(|part| &part[..]), pairs(&fields), head.content);
        assert_eq!(again[..size.unwrap()] == message[..], case.get("canonical").flag(), "{name}");
    }
}

#[test]
fn every_golden_response_decodes_to_what_it_says_and_the_canonical_ones_encode_to_it() {
    for case in vectors::read("bhttp.json").get("responses").list() {
        let name = case.get("name").text();
        let message = case.get("hex").hex();
        let head = decode_response(&message).unwrap_or_else(|broken| panic!("{name}: {broken}"));
        assert_eq!(i64::from(head.status), case.get("status").number(), "{name}");
        let fields = lines(case.get("fields"));
        assert_eq!(owned(head.fields), fields, "{name}");
        assert_eq!(head.content, case.get("content").hex(), "{name}");
        let mut again = vec![0xEE; message.len() + 64];
        let size = encode_response(&mut again, head.status, pairs(&fields), head.content).unwrap();
        assert_eq!(again[..size] == message[..], case.get("canonical").flag(), "{name}");
    }
}

#[test]
fn every_refused_message_names_the_broken_rule_and_its_byte() {
    for case in vectors::read("bhttp.json").get("refused").list() {
        let name = case.get("name").text();
        let message = case.get("hex").hex();
        let broken = match case.get("message").text() {
            "request" => decode_request(&message).expect_err(name),
            _ => decode_response(&message).expect_err(name),
        };
        let rule = format!("{:?}", broken.rule);
        assert_eq!((&rule[..], broken.at as i64), (case.get("rule").text(), case.get("at").number()), "{name}");
        assert!(broken.to_string().ends_with(&format!(" (byte {})", broken.at)), "{broken}");
    }
}

/// Design §3: field count and size caps, in both directions, each at its bound and one past it.
#[test]
fn each_bound_admits_its_value_and_refuses_one_more() {
    let field = |name: usize, value: usize| (vec![b'n'; name], vec![b'v'; value]);
    let illegal = |rule, index| Err(EncodeError::Illegal(rule, Part::Field(index)));
    assert!(decode_request(&encoded(&vec![field(NAME_SIZE_MAX, VALUE_SIZE_MAX)]).unwrap()).is_ok());
    assert_eq!(encoded(&vec![field(1, 0), field(NAME_SIZE_MAX + 1, 0)]), illegal(Rule::TooLarge, 1));
    assert_eq!(encoded(&vec![field(1, VALUE_SIZE_MAX + 1)]), illegal(Rule::TooLarge, 0));
    let most = encoded(&vec![field(1, 1); FIELDS_MAX]).unwrap();
    assert_eq!(decode_request(&most).unwrap().fields.count(), FIELDS_MAX);
    assert_eq!(encoded(&vec![field(1, 1); FIELDS_MAX + 1]), illegal(Rule::TooManyFields, FIELDS_MAX));
}

/// Design §3: the decoder holds the bounds by itself, whatever encoder the peer uses.
#[test]
fn the_decoder_refuses_one_field_too_many_and_one_byte_of_value_too_many() {
    let mut message = encoded(&Vec::new()).unwrap();
    message.truncate(message.len() - 3);
    let start = message.len();
    let many = [&message[..], &[0x44, 0x04], &b"\x01n\x01v".repeat(FIELDS_MAX + 1), &[0, 0]].concat();
    let broken = decode_request(&many).unwrap_err();
    assert_eq!((broken.rule, broken.at), (Rule::TooManyFields, start + 2 + 4 * FIELDS_MAX));
    let long = [&message[..], &[0x80, 0, 0x40, 7, 1, b'n', 0x80, 0, 0x40, 1], &vec![b'v'; VALUE_SIZE_MAX + 1]].concat();
    let broken = decode_request(&long).unwrap_err();
    assert_eq!((broken.rule, broken.at), (Rule::TooLarge, start + 4 + 2));
}

/// Design §3: the head as a whole is bounded, not only its parts.
#[test]
fn a_head_of_64_kib_is_the_largest() {
    let filled = |last: usize| {
        let mut fields = vec![(b"n".to_vec(), vec![b'v'; VALUE_SIZE_MAX]); 3];
        fields.push((b"n".to_vec(), vec![b'v'; last]));
        encoded(&fields)
    };
    let room = (0..VALUE_SIZE_MAX).rev().find(|&last| filled(last).is_ok()).unwrap();
    let largest = filled(room).unwrap();
    assert_eq!(largest.len(), HEAD_SIZE_MAX + 2, "the head, then an empty content and an empty trailer section");
    assert!(decode_request(&largest).is_ok());
    assert_eq!(filled(room + 1), Err(EncodeError::Illegal(Rule::TooLarge, Part::Head)));
    // The same head with its first length written in 8 bytes is 7 bytes too long.
    let long = [&[0, 0xC0, 0, 0, 0, 0, 0, 0, 3], &largest[2..]].concat();
    assert_eq!(decode_request(&long).unwrap_err().rule, Rule::TooLarge);
}

#[test]
fn a_buffer_that_is_too_small_is_told_the_size_and_left_alone() {
    let fields = vec![(b"a".to_vec(), b"b".to_vec())];
    let mut message = [0xEE; 64];
    let size = encode_request(&mut message, CONTROL, pairs(&fields), b"content").unwrap();
    for room in 0..size {
        let mut into = vec![0xEE; room];
        let refused = encode_request(&mut into, CONTROL, pairs(&fields), b"content");
        assert_eq!(refused, Err(EncodeError::Needs(size)));
        assert!(into.iter().all(|&byte| byte == 0xEE));
    }
}

/// What the decoder refuses the encoder refuses too: nobody can smuggle a line break through us.
#[test]
fn the_encoder_refuses_what_the_decoder_would() {
    let field =
        |name: &[u8], value: &[u8]| encoded(&vec![(b"a".to_vec(), Vec::new()), (name.to_vec(), value.to_vec())]);
    for name in [&b""[..], b"Host", b":path", b"a b", b"a\r", b"a\n", b"a\0", b"\xe9"] {
        assert_eq!(field(name, b"v"), Err(EncodeError::Illegal(Rule::Name, Part::Field(1))), "{name:?}");
    }
    for value in [&b"\r"[..], b"a\nb", b"a\0", b" a", b"a ", b"\ta", b"a\t", b" "] {
        assert_eq!(field(b"n", value), Err(EncodeError::Illegal(Rule::Value, Part::Field(1))), "{value:?}");
    }
    let mut into = [0; 64];
    let parts = [Part::Method, Part::Scheme, Part::Authority, Part::Path];
    for (index, part) in parts.into_iter().enumerate() {
        let mut control = CONTROL;
        control[index] = b"a\r\nb";
        let refused = encode_request(&mut into, control, std::iter::empty(), b"");
        assert_eq!(refused, Err(EncodeError::Illegal(Rule::ControlData, part)));
    }
    for status in [0, 100, 199, 600, u16::MAX] {
        let refused = encode_response(&mut into, status, std::iter::empty(), b"");
        assert_eq!(refused, Err(EncodeError::Illegal(Rule::Status, Part::Status)));
    }
}

#[test]
fn an_encode_error_says_which_part_breaks_which_rule() {
    let refused = encoded(&vec![(b"Host".to_vec(), Vec::new())]).unwrap_err();
    assert_eq!(refused.to_string(), "fields[0]: a field name that is no lower-case token");
}
