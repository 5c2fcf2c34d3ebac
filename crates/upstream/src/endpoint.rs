//! One endpoint: its address, who it must prove to be, and how a connection to it is made.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncBufRead, AsyncWrite, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::outcome::{Failure, FailureKind};
use crate::proxy::Proxy;

/// Received bytes that a connection takes from the kernel at once.
const RECEIVED_SIZE: usize = 64 * 1024;

/// What the control plane says about an endpoint.
pub struct EndpointSettings {
    /// Name or address to connect to; looked up anew for every connection, so that a change of DNS is followed.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Certificates that may vouch for it, PEM; `None` speaks plain HTTP.
    pub authorities: Option<Vec<u8>>,
    /// For one connection, lookup and handshake included.
    pub connect_timeout: Duration,
    /// For content that stops coming.
    pub stall_timeout: Duration,
    /// An idle connection is not used again after this.
    pub idle_timeout: Duration,
    /// No connection is used again after this.
    pub age_max: Duration,
    /// Idle connections kept.
    pub idle_max: usize,
}

/// What dials.
pub(crate) struct Dialer {
    host: String,
    port: u16,
    /// Where to connect to instead of looking the name up; empty: look it up.
    addresses: Mutex<Vec<IpAddr>>,
    /// Who connects in our place; `None`: nobody.
    proxy: Mutex<Option<Proxy>>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    connect_timeout: Duration,
}

/// A connection's bytes, encrypted or not.
pub(crate) trait Duplex: AsyncBufRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncBufRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl Dialer {
    /// Fails when the host is no name, or when no certificate is in `authorities`.
    pub(crate) fn new(settings: &EndpointSettings) -> io::Result<Self> {
        let tls = match &settings.authorities {
            Some(pem) => {
                let name = ServerName::try_from(settings.host.clone()).map_err(io::Error::other)?;
                Some((connector(pem)?, name))
            }
            None => None,
        };
        Ok(Self {
            host: settings.host.clone(),
            port: settings.port,
            addresses: Mutex::default(),
            proxy: Mutex::default(),
            tls,
            connect_timeout: settings.connect_timeout,
        })
    }

    /// Has connections from now on go to `addresses`; who answers there must prove to be the same host.
    pub(crate) fn resolve_to(&self, addresses: Vec<IpAddr>) {
        *self.addresses.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    /// Has connections from now on go through `proxy`, which looks the name up.
    pub(crate) fn go_through(&self, proxy: Proxy) {
        *self.proxy.lock().unwrap_or_else(PoisonError::into_inner) = Some(proxy);
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        let addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        addresses.iter().map(|&address| SocketAddr::new(address, self.port)).collect()
    }

    /// Makes a connection.
    pub(crate) async fn dial(&self) -> Result<Box<dyn Duplex>, Failure> {
        let late =
            |_| Failure::new(FailureKind::Unreachable, format!("no connection within {:?}", self.connect_timeout));
        timeout(self.connect_timeout, self.connect()).await.map_err(late)?
    }

    async fn connect(&self) -> Result<Box<dyn Duplex>, Failure> {
        let tcp = self.reach().await?;
        // rustls asks for 4 KiB at a time, a quarter of a record; each would be a system call.
        let received = BufReader::with_capacity(RECEIVED_SIZE, tcp);
        let Some((connector, name)) = &self.tls else { return Ok(Box::new(received)) };
        let stream = connector.connect(name.clone(), received).await.map_err(|error| {
            // rustls speaks through an inner error; what else can fail here is the network.
            let untrusted = error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
            Failure::new(if untrusted { FailureKind::Untrusted } else { FailureKind::Unreachable }, error)
        })?;
        Ok(Box::new(stream))
    }

    async fn reach(&self) -> Result<TcpStream, Failure> {
        let proxy = self.proxy.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(proxy) = proxy {
            return proxy.connect(&self.host, self.port).await;
        }
        let unreachable = |error: io::Error| Failure::new(FailureKind::Unreachable, error);
        // All addresses in turn, as the resolver orders them.
        let addresses = self.addresses();
        let connected = match &addresses[..] {
            [] => TcpStream::connect((self.host.as_str(), self.port)).await,
            addresses => TcpStream::connect(addresses).await,
        };
        let tcp = connected.map_err(unreachable)?;
        tcp.set_nodelay(true).map_err(unreachable)?;
        Ok(tcp)
    }
}

fn connector(pem: &[u8]) -> io::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        // A bundle of the system's may hold certificates that webpki cannot read; the others serve.
        let _ = certificate.map(|certificate| roots.add(certificate));
    }
    if roots.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no certificate of an authority in the PEM text"));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = builder.map_err(io::Error::other)?.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}
