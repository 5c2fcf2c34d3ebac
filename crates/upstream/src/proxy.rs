//! A way through an HTTP proxy: it is asked to CONNECT, and from then on the bytes are the endpoint's. RFC 9110 §9.3.6.

use std::io;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::http1;
use crate::outcome::{Failure, FailureKind};

/// Where the proxy is and what opens it.
#[derive(Clone)]
pub struct Proxy {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Value of `Proxy-Authorization`; no line breaks.
    pub authorization: Option<String>,
}

impl Proxy {
    /// Returns a connection that the proxy has made to `host` and `port`; nothing was sent there yet.
    pub(crate) async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, Failure> {
        let unreachable = |error: io::Error| self.failure(error);
        let mut tcp = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(unreachable)?;
        tcp.set_nodelay(true).map_err(unreachable)?;
        let name = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let credential =
            self.authorization.as_ref().map(|value| format!("Proxy-Authorization: {value}\r\n")).unwrap_or_default();
        let request = format!("CONNECT {name} HTTP/1.1\r\nHost: {name}\r\n{credential}\r\n");
        tcp.write_all(request.as_bytes()).await.map_err(unreachable)?;
        let mut received = BytesMut::new();
        let answer = http1::read_head(&mut tcp, &mut received, b"CONNECT").await;
        match answer.map_err(|failure| self.failure(failure.text))?.status {
            // The endpoint speaks second: what came along is not its.
            200..300 if received.is_empty() => Ok(tcp),
            200..300 => Err(self.failure("it said more than that it has connected")),
            407 => Err(self.failure("it answered 407: it wants another credential (proxy_credential_file)")),
            status => Err(self.failure(format!("it answered {status} to CONNECT {name}"))),
        }
    }

    fn failure(&self, reason: impl std::fmt::Display) -> Failure {
        Failure::new(FailureKind::Unreachable, format!("proxy {}:{}: {reason}", self.host, self.port))
    }
}
