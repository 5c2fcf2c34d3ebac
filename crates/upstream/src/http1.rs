//! HTTP/1.1 on one connection: a request's head written as it is, an answer's head and content read as they come.
//!
//! Nothing is normalised: targets and names keep every byte, which matters for signatures and for the case of metadata
//! names (docs/decisions: hyper lower-cases them). Heads are parsed by `httparse`. Source: RFC 9112.

use std::io;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt};

use crate::outcome::{Failure, FailureKind};

const FIELDS_MAX: usize = 256;
const HEAD_SIZE_MAX: usize = 128 * 1024;
const LINE_SIZE_MAX: usize = 8 * 1024;
/// Room made for a read: a TLS record is 16 KiB, a socket buffer holds several.
const READ_SIZE: usize = 64 * 1024;

/// Names and values, in order.
pub type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// The head of a request. `target` is the raw path and query.
pub struct RequestHead {
    /// Method, as sent.
    pub method: Vec<u8>,
    /// Path and query, as sent.
    pub target: Vec<u8>,
    /// Host and Content-Length included.
    pub fields: Fields,
}

impl RequestHead {
    /// Returns the bytes to send. What would break the framing, or be read as something else, is refused.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, Failure> {
        let unsendable = |what: &str| Failure::new(FailureKind::Unsendable, what);
        let token = |bytes: &[u8]| !bytes.is_empty() && bytes.iter().all(|&byte| is_token(byte));
        if !token(&self.method) {
            return Err(unsendable("the method is no token"));
        }
        if !self.target.starts_with(b"/")
            || self.target.iter().any(|&byte| byte <= b' ' || byte == 0x7F || byte == b'#')
        {
            return Err(unsendable("the target has a character no target may have"));
        }
        let mut head = Vec::with_capacity(1024);
        head.extend_from_slice(&[&self.method, &b" "[..], &self.target, b" HTTP/1.1\r\n"].concat());
        for (name, value) in &self.fields {
            if !token(name) {
                return Err(unsendable("a field's name is no token"));
            }
            if value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
                return Err(unsendable("a field's value would end its line"));
            }
            head.extend_from_slice(&[name, &b": "[..], value, b"\r\n"].concat());
        }
        head.extend_from_slice(b"\r\n");
        Ok(head)
    }
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// An answer's head.
pub(crate) struct AnswerHead {
    pub(crate) status: u16,
    pub(crate) fields: Fields,
    pub(crate) framing: Framing,
    /// Whether the connection may carry another request after this answer.
    pub(crate) keep_alive: bool,
}

/// Where the content ends. Source: RFC 9112 §6.3.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// After so many more bytes.
    Length(u64),
    /// After the last chunk; so many bytes of the current one are left, and whether a chunk has begun.
    Chunked { left: u64, begun: bool },
    /// With the connection.
    UntilClose,
}

impl Framing {
    /// How many bytes there will be, if the answer says so.
    pub(crate) fn length(&self) -> Option<u64> {
        match self {
            Self::Length(length) => Some(*length),
            _ => None,
        }
    }
}

fn broken(text: impl ToString) -> Failure {
    Failure::new(FailureKind::Broken, text)
}

fn truncated(text: impl ToString) -> Failure {
    Failure::new(FailureKind::Truncated, text)
}

async fn read_more(stream: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> io::Result<usize> {
    buffer.reserve(READ_SIZE);
    at_end(stream.read_buf(buffer).await, 0)
}

/// A peer that ends TLS without saying so has ended the connection all the same; lengths tell what is missing.
fn at_end<T>(result: io::Result<T>, nothing: T) -> io::Result<T> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(nothing),
        result => result,
    }
}

/// Reads the head of the final answer to a `method` request; interim answers are passed over.
pub(crate) async fn read_head(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    method: &[u8],
) -> Result<AnswerHead, Failure> {
    loop {
        if let Some((size, head)) = parse_head(buffer, method)? {
            buffer.advance(size);
            // 101 would hand over the connection; nobody has asked for it.
            if head.status >= 200 || head.status == 101 {
                return Ok(head);
            }
            continue;
        }
        if buffer.len() > HEAD_SIZE_MAX {
            return Err(broken("the answer's head is too large"));
        }
        match read_more(stream, buffer).await {
            Ok(0) if buffer.is_empty() => return Err(broken("the connection ended before the answer")),
            Ok(0) => return Err(broken("the connection ended within the answer's head")),
            Ok(_) => {}
            Err(error) => return Err(broken(error)),
        }
    }
}

fn parse_head(buffer: &[u8], method: &[u8]) -> Result<Option<(usize, AnswerHead)>, Failure> {
    let mut headers = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut answer = httparse::Response::new(&mut headers);
    let size = match answer.parse(buffer) {
        Ok(httparse::Status::Complete(size)) => size,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(broken(format!("the answer is no HTTP: {error}"))),
    };
    let (status, version) = (answer.code.unwrap_or(0), answer.version.unwrap_or(0));
    let fields: Fields =
        answer.headers.iter().map(|header| (header.name.as_bytes().to_vec(), header.value.to_vec())).collect();
    let framing = framing_of(status, method, &fields)?;
    let keep_alive = version == 1 && !has_item(&fields, "connection", b"close") && framing != Framing::UntilClose;
    Ok(Some((size, AnswerHead { status, fields, framing, keep_alive })))
}

fn values<'a>(fields: &'a Fields, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let named = fields.iter().filter(move |(other, _)| other.eq_ignore_ascii_case(name.as_bytes()));
    named.map(|(_, value)| value.as_slice())
}

fn has_item(fields: &Fields, name: &str, item: &[u8]) -> bool {
    let items = values(fields, name).flat_map(|value| value.split(|&byte| byte == b','));
    items.into_iter().any(|found| found.trim_ascii().eq_ignore_ascii_case(item))
}

fn framing_of(status: u16, method: &[u8], fields: &Fields) -> Result<Framing, Failure> {
    let opens_tunnel = method == b"CONNECT" && (200..300).contains(&status);
    if opens_tunnel || method == b"HEAD" || status < 200 || status == 204 || status == 304 {
        return Ok(Framing::Length(0));
    }
    if values(fields, "transfer-encoding").next().is_some() {
        if !has_item(fields, "transfer-encoding", b"chunked") {
            return Err(broken("the answer's transfer coding is unknown"));
        }
        return Ok(Framing::Chunked { left: 0, begun: false });
    }
    let mut lengths = values(fields, "content-length");
    let Some(first) = lengths.next() else { return Ok(Framing::UntilClose) };
    if lengths.any(|other| other != first) {
        return Err(broken("the answer has two lengths"));
    }
    let digits = std::str::from_utf8(first).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let length = digits.and_then(|text| text.parse().ok()).ok_or_else(|| broken("the answer's length is no number"))?;
    Ok(Framing::Length(length))
}

/// Hands the next bytes of content to `take`, at most `limit` (> 0) and whatever is there: where the connection holds
/// them, so that they are copied once. Returns their number and what `take` made of them; `None` at the end.
pub(crate) async fn read_content<T>(
    stream: &mut (impl AsyncBufRead + Unpin),
    buffer: &mut BytesMut,
    framing: &mut Framing,
    limit: u64,
    take: impl FnOnce(&[u8]) -> T,
) -> Result<Option<(u64, T)>, Failure> {
    if let Framing::Chunked { .. } = framing {
        begin_chunk(stream, buffer, framing).await?;
    }
    let left = match framing {
        Framing::Length(0) => return Ok(None),
        Framing::Length(left) | Framing::Chunked { left, .. } => left,
        Framing::UntilClose => &mut u64::MAX.clone(),
    };
    let limit = limit.min(*left);
    if !buffer.is_empty() {
        let size = limit.min(buffer.len() as u64);
        *left -= size;
        return Ok(Some((size, take(&buffer.split_to(size as usize)))));
    }
    let there = at_end(stream.fill_buf().await, &[][..]).map_err(truncated)?;
    if there.is_empty() {
        if *framing == Framing::UntilClose {
            *framing = Framing::Length(0);
            return Ok(None);
        }
        return Err(truncated("the connection ended before the content"));
    }
    let size = limit.min(there.len() as u64);
    *left -= size;
    let taken = take(&there[..size as usize]);
    stream.consume(size as usize);
    Ok(Some((size, taken)))
}

/// Moves to a chunk that has bytes left; after the last one the framing is `Length(0)`. Source: RFC 9112 §7.1.
async fn begin_chunk(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    framing: &mut Framing,
) -> Result<(), Failure> {
    let Framing::Chunked { left: 0, begun } = *framing else { return Ok(()) };
    if begun && !read_line(stream, buffer).await?.is_empty() {
        return Err(truncated("a chunk does not end where it should"));
    }
    let line = read_line(stream, buffer).await?;
    let digits = line[..].split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
    let text = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let size = text.and_then(|text| u64::from_str_radix(text, 16).ok());
    let size = size.ok_or_else(|| truncated("a chunk's size is no number"))?;
    *framing = Framing::Chunked { left: size, begun: true };
    if size == 0 {
        // Trailers are no content.
        while !read_line(stream, buffer).await?.is_empty() {}
        *framing = Framing::Length(0);
    }
    Ok(())
}

async fn read_line(stream: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> Result<BytesMut, Failure> {
    loop {
        if let Some(end) = buffer.iter().position(|&byte| byte == b'\n') {
            let mut line = buffer.split_to(end + 1);
            line.truncate(end - usize::from(end > 0 && line[end - 1] == b'\r'));
            return Ok(line);
        }
        if buffer.len() > LINE_SIZE_MAX {
            return Err(truncated("a chunk's line is too long"));
        }
        if read_more(stream, buffer).await.map_err(truncated)? == 0 {
            return Err(truncated("the connection ended within a chunked content"));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::BufReader;

    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
    }

    /// Reads a whole answer that comes in pieces of `step` bytes.
    fn answer(text: &[u8], method: &[u8], step: usize) -> Result<(AnswerHead, Vec<u8>), Failure> {
        run(async {
            let mut stream = BufReader::new(tokio_test_stream(text, step));
            let mut buffer = BytesMut::new();
            let mut head = read_head(&mut stream, &mut buffer, method).await?;
            let mut content = Vec::new();
            let mut more = Some((0, ()));
            while more.is_some() {
                let take = |block: &[u8]| content.extend_from_slice(block);
                more = read_content(&mut stream, &mut buffer, &mut head.framing, 3, take).await?;
            }
            Ok((head, content))
        })
    }

    struct Steps<'a>(&'a [u8], usize);

    fn tokio_test_stream(text: &[u8], step: usize) -> Steps<'_> {
        Steps(text, step)
    }

    impl AsyncRead for Steps<'_> {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            _context: &mut std::task::Context<'_>,
            into: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            let (part, rest) = self.0.split_at(self.1.min(self.0.len()));
            into.put_slice(part);
            self.0 = rest;
            std::task::Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn every_framing_gives_its_content_whatever_the_pieces() {
        let texts: [&[u8]; 4] = [
            b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\nx-ms-meta-CamelCase: v\r\n\r\nhello world",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nt: v\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\nhello world",
            b"HTTP/1.0 200 OK\r\ncontent-length:11\r\n\r\nhello world",
        ];
        for text in texts {
            for step in [1, 2, 7, 4096] {
                let (head, content) = answer(text, b"GET", step).expect("an answer");
                assert_eq!((head.status, content.as_slice()), (200, &b"hello world"[..]));
            }
        }
    }

    #[test]
    fn answers_without_content_end_with_their_head() {
        for (status, method) in [("204 x", "GET"), ("304 x", "GET"), ("200 OK", "HEAD")] {
            let text = format!("HTTP/1.1 {status}\r\nContent-Length: 9\r\n\r\n");
            let (head, content) = answer(text.as_bytes(), method.as_bytes(), 4096).expect("an answer");
            assert!(content.is_empty() && head.keep_alive);
        }
    }

    #[test]
    fn what_breaks_off_is_never_taken_for_whole() {
        let texts: [&[u8]; 6] = [
            b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello worl",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nhello",
            b"HTTP/1.1 200",
        ];
        for text in texts {
            assert!(answer(text, b"GET", 4096).is_err(), "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn a_head_keeps_every_byte_and_cannot_be_split() {
        let head = |target: &str, value: &[u8]| RequestHead {
            method: b"PUT".to_vec(),
            target: target.into(),
            fields: vec![(b"x-ms-meta-CamelCase".to_vec(), value.to_vec())],
        };
        let encoded = head("/a%20b?x=\"{}|", b"\xE9").encode().expect("a head");
        assert_eq!(encoded, b"PUT /a%20b?x=\"{}| HTTP/1.1\r\nx-ms-meta-CamelCase: \xE9\r\n\r\n");
        for (target, value) in [("/a b", &b"v"[..]), ("/a\r\nb", b"v"), ("a", b"v"), ("/", b"v\r\nx: y"), ("/#", b"v")]
        {
            assert!(head(target, value).encode().is_err());
        }
    }
}
