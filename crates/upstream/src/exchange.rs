//! One request and its answer: sent on a connection, the content read in the steps the control plane asks for.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::connections::{Connection, Connections};
use crate::gate::{Gate, Sink, Source};
use crate::http1::{self, AnswerHead, Framing, RequestHead};
use crate::outcome::{Failure, FailureKind, Head};

/// Content copied at a time: eight TLS records, small enough to stay in a core's cache until it is encrypted.
const BLOCK_SIZE: u64 = 128 * 1024;

/// How long a peer that does not take the rest of a request may still answer why.
const LAST_WORD: Duration = Duration::from_secs(1);

/// What is left of an answer's content.
enum Place {
    /// Nothing: it has been read to its end, or there was none.
    Done,
    /// More, on its connection.
    Open(Reading),
    /// Nothing will come: what the next operation says.
    Failed(Failure),
}

/// The content of an answer that has not been read to its end, and the connection it comes on.
struct Reading {
    connection: Connection,
    framing: Framing,
    keep_alive: bool,
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
    gate: Gate,
    reading: tokio::sync::Mutex<Place>,
    task: Mutex<Option<AbortHandle>>,
}

impl Exchange {
    pub(crate) fn new(connections: Arc<Connections>) -> Self {
        let (gate, task) = (Gate::default(), Mutex::default());
        Self { connections, gate, reading: tokio::sync::Mutex::new(Place::Done), task }
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
            *reading = Place::Done;
        }
    }

    /// Sends the request and waits for the answer's head.
    pub(crate) async fn send(&self, sending: Sending) -> Result<Head, Failure> {
        let limit = sending.timeout;
        let late = |_| Failure::new(FailureKind::Broken, format!("no answer within {limit:?}"));
        let (answer, connection, sent) = timeout(limit, self.exchange(&sending)).await.map_err(late)??;
        let AnswerHead { status, fields, framing, keep_alive } = answer;
        let (reused, length) = (connection.reused, framing.length());
        let mut place = self.reading.lock().await;
        *place = Place::Open(Reading { connection, framing, keep_alive: keep_alive && sent });
        let content = match length {
            Some(length) if length <= sending.inline_max => Some(self.read_from(&mut place, length as usize).await?),
            _ => None,
        };
        match &mut *place {
            Place::Failed(failure) if content.is_some() => Err(failure.take()),
            _ => Ok(Head { status, fields, length, content, reused }),
        }
    }

    /// Sends on an idle connection or a new one; tells whether all of it went out.
    async fn exchange(&self, sending: &Sending) -> Result<(AnswerHead, Connection, bool), Failure> {
        let head = sending.head.encode()?;
        loop {
            let mut connection = self.connections.acquire().await?;
            // A kept connection may have ended meanwhile. One that takes no byte has not carried the request.
            match connection.stream.write(&head).await {
                Ok(written) if written > 0 => {
                    let (answer, sent) = self.converse(&mut connection, &head[written..], sending).await?;
                    return Ok((answer, connection, sent));
                }
                _ if connection.reused => {}
                Ok(_) => return Err(Failure::new(FailureKind::Unreachable, "the connection takes nothing")),
                Err(error) => return Err(Failure::new(FailureKind::Unreachable, error)),
            }
        }
    }

    /// Writes the rest of the request while waiting for the answer, which may come before all is written.
    async fn converse(
        &self,
        connection: &mut Connection,
        rest: &[u8],
        sending: &Sending,
    ) -> Result<(AnswerHead, bool), Failure> {
        let (mut reader, writer) = tokio::io::split(&mut connection.stream);
        let answer = http1::read_head(&mut reader, &mut connection.buffer, &sending.head.method);
        let write = self.write(writer, rest, sending);
        tokio::pin!(answer, write);
        tokio::select! {
            answer = &mut answer => Ok((answer?, false)),
            written = &mut write => match written {
                Ok(()) => Ok((answer.await?, true)),
                Err(error) => match timeout(LAST_WORD, answer).await {
                    Ok(Ok(answer)) => Ok((answer, false)),
                    _ => Err(Failure::new(FailureKind::Broken, format!("sending: {error}"))),
                },
            },
        }
    }

    async fn write(&self, mut writer: impl AsyncWrite + Unpin, rest: &[u8], sending: &Sending) -> io::Result<()> {
        writer.write_all(rest).await?;
        if let Some(source) = &sending.source {
            let mut block = vec![0; BLOCK_SIZE.min(sending.length) as usize];
            let (mut at, end) = (sending.at, sending.at + sending.length);
            while at < end {
                let part = &mut block[..BLOCK_SIZE.min(end - at) as usize];
                self.gate.pass(|| source.read(at, part))?;
                writer.write_all(part).await?;
                at += part.len() as u64;
            }
        }
        writer.flush().await
    }

    /// Reads up to `limit` bytes of content to private memory; fewer at the end, or before a failure that comes next.
    pub(crate) async fn read(&self, limit: usize) -> Result<Vec<u8>, Failure> {
        self.read_from(&mut *self.reading.lock().await, limit).await
    }

    async fn read_from(&self, place: &mut Place, limit: usize) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::with_capacity(limit.min(1 << 20));
        self.transfer(place, limit as u64, |_, block| {
            bytes.extend_from_slice(block);
            Ok(())
        })
        .await?;
        Ok(bytes)
    }

    /// Places up to `length` bytes of content at `at` of the sink; fewer at the end, or before a failure that comes next.
    pub(crate) async fn fill(&self, sink: &dyn Sink, at: u64, length: u64) -> Result<u64, Failure> {
        let mut place = self.reading.lock().await;
        self.transfer(&mut place, length, |done, block| self.gate.pass(|| sink.write(at + done, block))).await
    }

    async fn transfer(
        &self,
        place: &mut Place,
        length: u64,
        mut put: impl FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> Result<u64, Failure> {
        let mut done = 0;
        while done < length {
            let reading = match place {
                Place::Done => break,
                Place::Open(reading) => reading,
                Place::Failed(_) if done > 0 => break,
                Place::Failed(failure) => return Err(failure.take()),
            };
            let moved = match self.next_block(reading, length - done, |block| put(done, block)).await {
                Ok(Some((size, placed))) => placed.map(|()| size),
                Ok(None) => Ok(0),
                Err(failure) => {
                    *place = Place::Failed(failure);
                    continue;
                }
            };
            let moved = moved.map_err(|error| Failure::new(FailureKind::Local, error))?;
            done += moved;
            if moved == 0 {
                break;
            }
        }
        if matches!(place, Place::Open(reading) if reading.framing == Framing::Length(0)) {
            self.finish(place);
        }
        Ok(done)
    }

    async fn next_block(
        &self,
        reading: &mut Reading,
        limit: u64,
        take: impl FnOnce(&[u8]) -> io::Result<()>,
    ) -> Result<Option<(u64, io::Result<()>)>, Failure> {
        let stall = self.connections.stall_timeout;
        let Connection { stream, buffer, .. } = &mut reading.connection;
        let next = http1::read_content(stream, buffer, &mut reading.framing, limit, take);
        let late = |_| Failure::new(FailureKind::Truncated, format!("no content for {stall:?}"));
        timeout(stall, next).await.map_err(late)?
    }

    /// The content has been read to its end: the connection is for the next request, if it can carry one.
    fn finish(&self, place: &mut Place) {
        if let Place::Open(reading) = std::mem::replace(place, Place::Done)
            && reading.keep_alive
        {
            self.connections.release(reading.connection);
        }
    }
}
