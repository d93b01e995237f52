//! The listening socket, and the seats: how many connections there may be, in all and by address.

use super::connection::Stream;
use crate::error::{Fault, Result};
use socket2::{Domain, SockAddr, Socket, Type};
use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Connections that may wait to be accepted (the system may allow fewer). One more would be tried
/// again by its client's kernel only after a second.
const BACKLOG: i32 = 4096;

/// Where to listen.
#[derive(Debug)]
pub enum Listen {
    /// A TCP address; port 0 lets the system choose.
    Tcp(SocketAddr),
    /// A Unix socket at this path; a stale one (nobody listens) is replaced.
    Unix(PathBuf),
    /// A TCP listener that was handed over (socket activation).
    InheritedTcp(std::net::TcpListener),
    /// A Unix listener that was handed over (socket activation).
    InheritedUnix(std::os::unix::net::UnixListener),
}

/// A listener that never blocks.
pub(super) enum Listener {
    Tcp(mio::net::TcpListener),
    Unix(mio::net::UnixListener, Option<PathBuf>),
}

impl Listener {
    /// Binds, and says under which name: the address, or the path.
    pub fn bind(listen: Listen) -> Result<(Listener, String)> {
        match listen {
            Listen::Tcp(address) => {
                let socket = listen_tcp(address)
                    .map_err(|e| Fault::io(format!("source.listen = \"{address}\""), &e).hint("is the port taken?"))?;
                let name = name_of(socket.local_addr())?;
                Ok((Listener::Tcp(socket), name))
            }
            Listen::Unix(path) => {
                remove_stale(&path);
                let name = path.display().to_string();
                let socket = listen_unix(&path).map_err(|e| {
                    Fault::io(format!("source.listen = {name:?}"), &e).hint("does its directory exist?")
                })?;
                Ok((Listener::Unix(socket, Some(path)), name))
            }
            Listen::InheritedTcp(socket) => {
                socket.set_nonblocking(true).map_err(|e| Fault::io("the inherited socket", &e))?;
                let name = name_of(socket.local_addr())?;
                Ok((Listener::Tcp(mio::net::TcpListener::from_std(socket)), name))
            }
            Listen::InheritedUnix(socket) => {
                socket.set_nonblocking(true).map_err(|e| Fault::io("the inherited socket", &e))?;
                let address = socket.local_addr().map_err(|e| Fault::io("the inherited socket", &e))?;
                let name = address.as_pathname().map_or_else(|| "unix".to_string(), |p| p.display().to_string());
                Ok((Listener::Unix(mio::net::UnixListener::from_std(socket), None), name))
            }
        }
    }

    /// The next connection that waits, with its address (TCP).
    pub fn accept(&self) -> std::io::Result<(Stream, Option<IpAddr>)> {
        match self {
            Listener::Tcp(socket) => {
                let (stream, address) = socket.accept()?;
                // Answers are written whole, so waiting to fill a segment only adds latency.
                let _ = stream.set_nodelay(true);
                Ok((Stream::Tcp(stream), Some(address.ip())))
            }
            Listener::Unix(socket, _) => Ok((Stream::Unix(socket.accept()?.0), None)),
        }
    }

    pub fn source(&mut self) -> &mut dyn mio::event::Source {
        match self {
            Listener::Tcp(socket) => socket,
            Listener::Unix(socket, _) => socket,
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Listener::Unix(_, Some(path)) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn listen_tcp(address: SocketAddr) -> std::io::Result<mio::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(mio::net::TcpListener::from_std(socket.into()))
}

fn listen_unix(path: &Path) -> std::io::Result<mio::net::UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(mio::net::UnixListener::from_std(socket.into()))
}

fn name_of(address: std::io::Result<SocketAddr>) -> Result<String> {
    address.map(|a| a.to_string()).map_err(|e| Fault::io("source.listen", &e))
}

/// Removes a socket at which nobody listens.
fn remove_stale(path: &Path) {
    use std::os::unix::fs::FileTypeExt;
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    let refused = |e: &std::io::Error| e.kind() == ErrorKind::ConnectionRefused;
    if is_socket && std::os::unix::net::UnixStream::connect(path).as_ref().is_err_and(refused) {
        let _ = std::fs::remove_file(path);
    }
}

/// What the lanes of one listener share.
pub(super) struct Shared {
    /// The listener's name.
    pub name: String,
    /// Number of the next connection.
    pub next_number: AtomicU64,
    /// Lanes that have started; connections are accepted once all have.
    pub started: AtomicU32,
    /// Wakes lane 0, which accepts.
    pub door: OnceLock<Arc<mio::Waker>>,
    connections_max: usize,
    per_address_max: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

impl Shared {
    pub fn new(name: String, connections_max: usize, per_address_max: usize) -> Shared {
        let (next_number, started) = (AtomicU64::new(0), AtomicU32::new(0));
        let door = OnceLock::new();
        Shared { name, next_number, started, door, connections_max, per_address_max, taken: Mutex::default() }
    }

    /// Numbers of new connections are above those that the past knows.
    pub fn start_after(&self, names: impl Iterator<Item = String>) {
        for name in names {
            let number = name.strip_prefix(&self.name).and_then(|s| s.strip_prefix('#')).and_then(|s| s.parse().ok());
            if let Some(number) = number {
                self.next_number.fetch_max(u64::saturating_add(number, 1), Ordering::AcqRel);
            }
        }
        self.started.fetch_add(1, Ordering::AcqRel);
        if let Some(waker) = self.door.get() {
            let _ = waker.wake();
        }
    }

    /// Takes a seat for a connection, or says why there is none.
    pub fn seat(self: &Arc<Shared>, address: Option<IpAddr>) -> std::result::Result<Seat, String> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.all >= self.connections_max {
            return Err(format!("too many connections: connections_max is {}", self.connections_max));
        }
        if let Some(address) = address {
            let count = taken.by_address.entry(address).or_default();
            if *count >= self.per_address_max {
                let max = self.per_address_max;
                return Err(format!("too many connections from {address}: connections_per_address_max is {max}"));
            }
            *count += 1;
        }
        taken.all += 1;
        Ok(Seat { shared: Arc::clone(self), address })
    }
}

/// A connection's place among those allowed; given back when dropped.
pub(super) struct Seat {
    shared: Arc<Shared>,
    address: Option<IpAddr>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.shared.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        if let Some(address) = self.address
            && let Some(count) = taken.by_address.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                taken.by_address.remove(&address);
            }
        }
    }
}
