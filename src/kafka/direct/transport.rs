//! A stream to a broker, in the clear or through TLS. The socket never blocks: each wait is a `poll` with a bound.

use super::error::{Error, Result};
use super::settings::Tls;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A stream to a broker.
pub(super) enum Transport {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Transport {
    /// Connects to `host:port`, by each of its addresses in turn.
    pub(super) fn open(address: &str, tls: Option<&Arc<ClientConfig>>, deadline: Instant) -> Result<Transport> {
        let failed = |error| Error::io(format!("broker {address}"), error);
        let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
        for place in address.to_socket_addrs().map_err(failed)? {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(failed(ErrorKind::TimedOut.into()));
            }
            match TcpStream::connect_timeout(&place, left) {
                Ok(socket) => {
                    socket.set_nodelay(true).and_then(|()| socket.set_nonblocking(true)).map_err(failed)?;
                    return match tls {
                        None => Ok(Transport::Plain(socket)),
                        Some(config) => shake_hands(address, socket, config, deadline),
                    };
                }
                Err(error) => last = error,
            }
        }
        Err(failed(last))
    }

    /// Appends what has arrived, at most `most` bytes. `WouldBlock`: nothing has.
    #[inline]
    pub(super) fn read_some(&mut self, to: &mut Vec<u8>, most: usize) -> io::Result<usize> {
        let before = to.len();
        let read = match self {
            Transport::Plain(socket) => socket.take(most as u64).read_to_end(to),
            Transport::Tls(stream) => stream.as_mut().take(most as u64).read_to_end(to),
        };
        match (to.len() - before, read) {
            (0, Ok(_)) => Err(io::Error::new(ErrorKind::UnexpectedEof, "the broker closed the connection")),
            (0, Err(error)) => Err(error),
            (got, _) => Ok(got),
        }
    }

    /// Writes the parts from the byte `from` on, as far as the socket takes them; returns how many bytes.
    pub(super) fn write_some(&mut self, parts: &[&[u8]], mut from: usize) -> io::Result<usize> {
        let mut slices = Vec::with_capacity(parts.len());
        for part in parts {
            if from < part.len() {
                slices.push(IoSlice::new(&part[from..]));
            }
            from = from.saturating_sub(part.len());
        }
        match self {
            Transport::Plain(socket) => socket.write_vectored(&slices[..slices.len().min(1024)]),
            Transport::Tls(stream) => stream.write_vectored(&slices),
        }
    }

    /// Pushes out what TLS has sealed and the socket has not taken yet; true where nothing is left.
    pub(super) fn flush_some(&mut self) -> io::Result<bool> {
        match self {
            Transport::Plain(_) => Ok(true),
            Transport::Tls(stream) => {
                while stream.conn.wants_write() {
                    match stream.conn.write_tls(&mut stream.sock) {
                        Ok(_) => {}
                        Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                        Err(error) => return Err(error),
                    }
                }
                Ok(true)
            }
        }
    }

    /// Waits until the socket can be read (or written); false where the deadline came first.
    pub(super) fn wait(&self, write: bool, deadline: Instant) -> io::Result<bool> {
        wait_any(&[self.socket()], write, deadline)
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        match self {
            Transport::Plain(socket) => socket.as_fd(),
            Transport::Tls(stream) => stream.sock.as_fd(),
        }
    }
}

/// Waits until one of the sockets can be read (or written); false where the deadline came first.
pub(super) fn wait_any(sockets: &[BorrowedFd<'_>], write: bool, deadline: Instant) -> io::Result<bool> {
    let what = if write { PollFlags::OUT } else { PollFlags::IN };
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut watched: Vec<PollFd<'_>> = sockets.iter().map(|socket| PollFd::new(socket, what)).collect();
        let limit = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut watched, Some(&limit)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn shake_hands(address: &str, socket: TcpStream, config: &Arc<ClientConfig>, deadline: Instant) -> Result<Transport> {
    let failed = |error| Error::io(format!("broker {address}: TLS"), error);
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_string())
        .map_err(|_| Error::Config(format!("\"{host}\" is no name that a certificate could have")))?;
    let mut connection = ClientConnection::new(Arc::clone(config), name)
        .map_err(|error| Error::Config(format!("broker {address}: TLS: {error}")))?;
    let mut socket = socket;
    while connection.is_handshaking() {
        match connection.complete_io(&mut socket) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if !wait_any(&[socket.as_fd()], connection.wants_write(), deadline).map_err(failed)? {
                    return Err(failed(ErrorKind::TimedOut.into()));
                }
            }
            // A certificate that isn't trusted stays so.
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                return Err(Error::Config(format!("broker {address}: TLS: {error}")));
            }
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(Transport::Tls(Box::new(StreamOwned::new(connection, socket))))
}

/// What rustls needs.
///
/// # Errors
/// `Config`: a certificate or key that can't be read, or no authority at all.
pub(super) fn tls_config(tls: &Tls) -> Result<Arc<ClientConfig>> {
    let bad = |what: &str, error: &dyn std::fmt::Display| Error::Config(format!("TLS: {what}: {error}"));
    let mut roots = RootCertStore::empty();
    match &tls.authorities {
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let certificate = certificate.map_err(|error| bad("ssl.ca", &error))?;
                roots.add(certificate).map_err(|error| bad("ssl.ca", &error))?;
            }
        }
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    if roots.is_empty() {
        return Err(Error::Config("TLS: there is no authority to trust; name one by ssl.ca.location".into()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| bad("versions", &error))?;
    let builder = if tls.any_name {
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| bad("ssl.ca", &error))?;
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyName(inner)))
    } else {
        builder.with_root_certificates(roots)
    };
    let config = match &tls.identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let chain = CertificateDer::pem_slice_iter(chain.as_bytes())
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| bad("ssl.certificate", &error))?;
            // The parser's own words could hold what it read.
            let key = PrivateKeyDer::from_pem_slice(key.reveal().as_bytes())
                .map_err(|_| Error::Config("TLS: ssl.key: no private key in PEM (unencrypted)".into()))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| bad("ssl.certificate", &error))?
        }
    };
    Ok(Arc::new(config))
}

/// Trusts what the authorities vouch for, whatever the name.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use rustls::Error::InvalidCertificate;
        match self.0.verify_server_cert(certificate, chain, name, ocsp, now) {
            Err(InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Random bytes that nobody can guess.
pub(super) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let source = rustls::crypto::ring::default_provider().secure_random;
    source.fill(&mut bytes).map_err(|_| Error::Config("the system gives no random bytes".into()))?;
    Ok(bytes)
}

/// A wait of `base` of which up to a half is taken off at random, so that clients don't come back all at once.
pub(super) fn jittered(base: Duration) -> Duration {
    let part = random::<2>().map_or(0, u16::from_be_bytes);
    base.mul_f64(1.0 - 0.5 * f64::from(part) / 65_536.0)
}
