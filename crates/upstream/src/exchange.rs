//! One request and its answer: sent on a connection, the content read in the steps the control plane asks for.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::{Request, Response};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::connections::{Connection, Connections};
use crate::gate::{Gate, Sink, Source};
use crate::outcome::{Failure, FailureKind, Head};
use crate::request::{self, Content, RequestHead};

/// The content of an answer that has not been read to its end, and the connection it comes on.
struct Reading {
    body: Incoming,
    rest: Bytes,
    connection: Connection,
}

/// What is to be sent.
pub struct Sending {
    /// The head.
    pub head: RequestHead,
    /// Where the content lies; `None` if there is none.
    pub source: Option<Arc<dyn Source>>,
    /// First byte in the source.
    pub at: u64,
    /// Bytes of content.
    pub length: u64,
    /// Until the answer's head must be there.
    pub timeout: Duration,
    /// Content up to this length comes with the head.
    pub inline_max: u64,
}

/// One request and its answer.
pub struct Exchange {
    connections: Arc<Connections>,
    gate: Arc<Gate>,
    reading: tokio::sync::Mutex<Option<Reading>>,
    task: Mutex<Option<AbortHandle>>,
}

fn truncated(text: impl ToString) -> Failure {
    Failure::new(FailureKind::Truncated, text)
}

impl Exchange {
    pub(crate) fn new(connections: Arc<Connections>) -> Self {
        let gate = Arc::new(Gate::default());
        Self { connections, gate, reading: tokio::sync::Mutex::new(None), task: Mutex::new(None) }
    }

    pub(crate) fn runs_as(&self, task: AbortHandle) {
        *self.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
    }

    /// Stops whatever runs. When this returns, no buffer of the caller's is touched any more.
    pub fn cancel(&self) {
        self.gate.close();
        if let Some(task) = self.task.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
        if let Ok(mut reading) = self.reading.try_lock() {
            *reading = None;
        }
    }

    /// Sends the request and waits for the answer's head.
    pub(crate) async fn send(&self, sending: Sending) -> Result<Head, Failure> {
        let Sending { head, source, at, length, timeout: limit, inline_max } = sending;
        let request = request::build(&head, Content::new(source, Arc::clone(&self.gate), at, length))?;
        let late = |_| Failure::new(FailureKind::Broken, format!("no answer within {limit:?}"));
        let (response, connection) = timeout(limit, self.exchange(request)).await.map_err(late)??;
        let reused = connection.reused;
        let status = response.status().as_u16();
        let fields = fields_of(&response);
        let length = response.body().size_hint().exact();
        let reading = Reading { body: response.into_body(), rest: Bytes::new(), connection };
        let mut place = self.reading.lock().await;
        *place = Some(reading);
        let content = match length {
            Some(length) if length <= inline_max => Some(self.read_from(&mut place, length as usize).await?),
            _ => None,
        };
        Ok(Head { status, fields, length, content, reused })
    }

    /// Sends on an idle connection or a new one; what a closing connection did not take at all goes to the next.
    async fn exchange(&self, mut request: Request<Content>) -> Result<(Response<Incoming>, Connection), Failure> {
        loop {
            let mut connection = self.connections.acquire().await?;
            match connection.sender.try_send_request(request).await {
                Ok(response) => return Ok((response, connection)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) if connection.reused => request = unsent,
                    Some(_) => return Err(Failure::new(FailureKind::Unreachable, error.error())),
                    None => return Err(Failure::new(FailureKind::Broken, describe(error.error()))),
                },
            }
        }
    }

    /// Reads up to `limit` bytes of content to private memory; fewer only at the end.
    pub(crate) async fn read(&self, limit: usize) -> Result<Vec<u8>, Failure> {
        self.read_from(&mut *self.reading.lock().await, limit).await
    }

    async fn read_from(&self, place: &mut Option<Reading>, limit: usize) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::with_capacity(limit.min(1 << 20));
        self.transfer(place, limit as u64, |_, block| {
            bytes.extend_from_slice(block);
            Ok(())
        })
        .await?;
        Ok(bytes)
    }

    /// Places up to `length` bytes of content at `at` of the sink; fewer only at the end.
    pub(crate) async fn fill(&self, sink: &dyn Sink, at: u64, length: u64) -> Result<u64, Failure> {
        let mut place = self.reading.lock().await;
        self.transfer(&mut place, length, |done, block| self.gate.pass(|| sink.write(at + done, block))).await
    }

    async fn transfer(
        &self,
        place: &mut Option<Reading>,
        length: u64,
        mut put: impl FnMut(u64, &[u8]) -> std::io::Result<()>,
    ) -> Result<u64, Failure> {
        let Some(reading) = place.as_mut() else { return Ok(0) };
        let mut done = 0;
        while done < length {
            if reading.rest.is_empty() {
                match self.next_block(&mut reading.body).await? {
                    Some(block) => reading.rest = block,
                    None => break,
                }
            }
            let block = reading.rest.split_to(reading.rest.len().min((length - done) as usize));
            put(done, &block).map_err(|error| Failure::new(FailureKind::Local, error))?;
            done += block.len() as u64;
        }
        if reading.rest.is_empty() && reading.body.is_end_stream() {
            self.finish(place);
        }
        Ok(done)
    }

    async fn next_block(&self, body: &mut Incoming) -> Result<Option<Bytes>, Failure> {
        let limit = self.connections.stall_timeout;
        loop {
            let next = std::future::poll_fn(|context| std::pin::Pin::new(&mut *body).poll_frame(context));
            let late = |_| truncated(format!("no content for {limit:?}"));
            match timeout(limit, next).await.map_err(late)? {
                None => return Ok(None),
                Some(Err(error)) => return Err(truncated(describe(&error))),
                // A trailer is no content.
                Some(Ok(frame)) => {
                    if let Ok(block) = frame.into_data() {
                        return Ok(Some(block));
                    }
                }
            }
        }
    }

    /// The content has been read to its end: the connection is for the next request.
    fn finish(&self, place: &mut Option<Reading>) {
        if let Some(reading) = place.take() {
            let connections = Arc::clone(&self.connections);
            tokio::spawn(async move { connections.release(reading.connection).await });
        }
    }
}

fn fields_of(response: &Response<Incoming>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let fields = response.headers().iter();
    fields.map(|(name, value)| (name.as_str().as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}

/// Says an error with its cause, which hyper's own text leaves out.
fn describe(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
