//! A request as it is written to the socket: the head checked, the content read from its source block by block.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Request, Uri};

use crate::gate::{Gate, Source};
use crate::outcome::{Failure, FailureKind};

/// Content copied at a time: eight TLS records, small enough to stay in a core's cache until it is encrypted.
const BLOCK_SIZE: u64 = 128 * 1024;

/// The head of a request. `target` is the raw path and query.
pub struct RequestHead {
    /// Method, as sent.
    pub method: String,
    /// Path and query, as sent.
    pub target: String,
    /// Names and values in order; Host and Content-Length included.
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Content of a known length behind a gate.
pub struct Content {
    source: Option<Arc<dyn Source>>,
    gate: Arc<Gate>,
    at: u64,
    end: u64,
}

impl Content {
    pub(crate) fn new(source: Option<Arc<dyn Source>>, gate: Arc<Gate>, at: u64, length: u64) -> Self {
        Self { source, gate, at, end: at + length }
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = &mut *self;
        let (Some(source), true) = (&this.source, this.at < this.end) else { return Poll::Ready(None) };
        let mut block = BytesMut::zeroed(BLOCK_SIZE.min(this.end - this.at) as usize);
        let read = this.gate.pass(|| source.read(this.at, &mut block));
        this.at += block.len() as u64;
        Poll::Ready(Some(read.map(|()| Frame::data(block.freeze()))))
    }

    fn is_end_stream(&self) -> bool {
        self.at >= self.end
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.end - self.at)
    }
}

/// Makes hyper's request of a head. What HTTP/1.1 cannot carry unchanged is refused, so that no byte is altered silently.
pub(crate) fn build(head: &RequestHead, content: Content) -> Result<Request<Content>, Failure> {
    let unsendable = |what: &str| Failure::new(FailureKind::Unsendable, what);
    let uri =
        Uri::try_from(head.target.as_str()).map_err(|_| unsendable("the target has a character no URI may have"))?;
    let same = head.target.is_ascii()
        && uri.path_and_query().is_some_and(|kept| kept.as_str() == head.target)
        && uri.authority().is_none();
    if !same {
        return Err(unsendable("the target would be changed on the way"));
    }
    let mut request = Request::new(content);
    *request.method_mut() =
        Method::from_bytes(head.method.as_bytes()).map_err(|_| unsendable("the method is no token"))?;
    *request.uri_mut() = uri;
    for (name, value) in &head.fields {
        let name = HeaderName::from_bytes(name).map_err(|_| unsendable("a field's name is no token"))?;
        let value =
            HeaderValue::from_bytes(value).map_err(|_| unsendable("a field's value has a control character"))?;
        request.headers_mut().append(name, value);
    }
    Ok(request)
}
