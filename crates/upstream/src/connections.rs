//! The connections of one endpoint: idle ones are used again, last in first out, so that few stay warm.
//!
//! How many there may be at once is the control plane's to decide: it admits requests.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncRead, ReadBuf};

use crate::endpoint::{Dialer, Duplex, EndpointSettings};
use crate::outcome::Failure;
use crate::proxy::Proxy;

/// A connection in use.
pub(crate) struct Connection {
    pub(crate) stream: Box<dyn Duplex>,
    /// Received and not yet used.
    pub(crate) buffer: BytesMut,
    born: Instant,
    pub(crate) reused: bool,
    _open: Open,
}

impl Connection {
    /// Tells whether an idle connection is still silent: whatever comes now, its end included, answers nothing of ours.
    fn is_silent(&mut self) -> bool {
        let mut byte = [0];
        let mut context = Context::from_waker(Waker::noop());
        let read = Pin::new(&mut self.stream).poll_read(&mut context, &mut ReadBuf::new(&mut byte));
        self.buffer.is_empty() && read.is_pending()
    }
}

/// Counts a connection as open as long as it lives.
struct Open(Arc<AtomicU64>);

impl Open {
    fn new(count: &Arc<AtomicU64>) -> Self {
        // Relaxed, here and below: counters for people.
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The connections of one endpoint.
pub struct Connections {
    dialer: Dialer,
    idle: Mutex<Vec<(Connection, Instant)>>,
    idle_timeout: Duration,
    age_max: Duration,
    idle_max: usize,
    pub(crate) stall_timeout: Duration,
    open: Arc<AtomicU64>,
    dialed: AtomicU64,
}

impl Connections {
    /// Makes none yet. Fails when the settings cannot be used: no host name, no certificate.
    pub fn new(settings: &EndpointSettings) -> io::Result<Self> {
        Ok(Self {
            dialer: Dialer::new(settings)?,
            idle: Mutex::default(),
            idle_timeout: settings.idle_timeout,
            age_max: settings.age_max,
            idle_max: settings.idle_max,
            stall_timeout: settings.stall_timeout,
            open: Arc::default(),
            dialed: AtomicU64::new(0),
        })
    }

    /// Has connections from now on go to `addresses` instead of where the host's name leads; empty: as its name says.
    pub fn resolve_to(&self, addresses: Vec<IpAddr>) {
        self.dialer.resolve_to(addresses);
    }

    /// Has connections from now on go through `proxy`.
    pub fn go_through(&self, proxy: Proxy) {
        self.dialer.go_through(proxy);
    }

    /// Connections that are open now.
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Connections that wait for a request now.
    pub fn idle(&self) -> u64 {
        self.lock().len() as u64
    }

    /// Connections made so far.
    pub fn dialed(&self) -> u64 {
        self.dialed.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Connection, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an idle connection that the peer has not closed as far as we know, or makes one.
    pub(crate) async fn acquire(&self) -> Result<Connection, Failure> {
        let idle = {
            let mut idle = self.lock();
            idle.retain_mut(|(connection, since)| self.is_usable(connection, *since));
            idle.pop()
        };
        match idle {
            Some((connection, _)) => Ok(Connection { reused: true, ..connection }),
            None => self.dial().await,
        }
    }

    /// Makes a connection.
    pub(crate) async fn dial(&self) -> Result<Connection, Failure> {
        let stream = self.dialer.dial().await?;
        self.dialed.fetch_add(1, Ordering::Relaxed);
        Ok(Connection {
            stream,
            buffer: BytesMut::new(),
            born: Instant::now(),
            reused: false,
            _open: Open::new(&self.open),
        })
    }

    fn is_usable(&self, connection: &mut Connection, idle_since: Instant) -> bool {
        connection.is_silent() && idle_since.elapsed() < self.idle_timeout && connection.born.elapsed() < self.age_max
    }

    /// Keeps a connection for the next request.
    pub(crate) fn release(&self, connection: Connection) {
        let mut idle = self.lock();
        if idle.len() >= self.idle_max {
            idle.remove(0);
        }
        idle.push((connection, Instant::now()));
    }

    /// Drops what is too old and makes idle connections up to `count`; returns how many were made.
    pub(crate) async fn warm(&self, count: usize) -> Result<u64, Failure> {
        let mut made = 0;
        loop {
            let idle = {
                let mut idle = self.lock();
                idle.retain_mut(|(connection, since)| self.is_usable(connection, *since));
                idle.len()
            };
            if idle >= count.min(self.idle_max) {
                return Ok(made);
            }
            let connection = self.dial().await?;
            self.release(connection);
            made += 1;
        }
    }

    /// Drops every idle connection.
    pub fn drop_idle(&self) {
        self.lock().clear();
    }
}
