//! The runtime in the host's process, and operations as tasks on it.

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};

use crate::connections::Connections;
use crate::exchange::{Exchange, Sending};
use crate::gate::Sink;
use crate::outcome::{Failure, Outcome, Outcomes};

/// Runs operations; each ends as one entry of [`Outcomes`] under the caller's id, unless it is cancelled.
pub struct Client {
    runtime: Mutex<Option<Runtime>>,
    handle: Handle,
    outcomes: Arc<Outcomes>,
}

impl Client {
    /// Starts `threads` threads.
    pub fn start(threads: usize) -> io::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        let runtime =
            builder.worker_threads(threads.max(1)).thread_name("pvblob-upstream").enable_io().enable_time().build()?;
        let handle = runtime.handle().clone();
        Ok(Self { runtime: Mutex::new(Some(runtime)), handle, outcomes: Arc::new(Outcomes::new()?) })
    }

    /// The queue to the control plane.
    pub fn outcomes(&self) -> &Outcomes {
        &self.outcomes
    }

    /// Ends the threads and every connection. Idempotent; operations begun after it never end.
    pub fn stop(&self) {
        if let Some(runtime) = self.runtime.lock().unwrap_or_else(PoisonError::into_inner).take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }

    /// Sends a request; the outcome is a head.
    pub fn send(&self, id: u64, connections: &Arc<Connections>, sending: Sending) -> Arc<Exchange> {
        let exchange = Arc::new(Exchange::new(Arc::clone(connections)));
        let running = Arc::clone(&exchange);
        self.run(id, &exchange, async move { running.send(sending).await.map(Outcome::Head) });
        exchange
    }

    /// Reads content; the outcome is bytes.
    pub fn read(&self, id: u64, exchange: &Arc<Exchange>, limit: usize) {
        let running = Arc::clone(exchange);
        self.run(id, exchange, async move { running.read(limit).await.map(Outcome::Bytes) });
    }

    /// Places content in a sink; the outcome is a count.
    pub fn fill(&self, id: u64, exchange: &Arc<Exchange>, sink: Arc<dyn Sink>, at: u64, length: u64) {
        let running = Arc::clone(exchange);
        self.run(id, exchange, async move { running.fill(&*sink, at, length).await.map(Outcome::Count) });
    }

    /// Makes idle connections up to `count`; the outcome is how many were made.
    pub fn warm(&self, id: u64, connections: &Arc<Connections>, count: usize) {
        let (connections, outcomes) = (Arc::clone(connections), Arc::clone(&self.outcomes));
        self.handle.spawn(async move { outcomes.push(id, connections.warm(count).await.map(Outcome::Count)) });
    }

    fn run(
        &self,
        id: u64,
        exchange: &Exchange,
        operation: impl Future<Output = Result<Outcome, Failure>> + Send + 'static,
    ) {
        let outcomes = Arc::clone(&self.outcomes);
        let task = self.handle.spawn(async move { outcomes.push(id, operation.await) });
        exchange.runs_as(task.abort_handle());
    }
}
