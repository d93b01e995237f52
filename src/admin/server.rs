//! The admin server: a thread of its own with the listeners of the Unix socket and the TCP address.

use crate::admin::command::Request;
use crate::admin::peer::{self, Admitted};
use crate::admin::routes::{self, Shared};
use crate::admin::status::LaneStatus;
use crate::error::{Fault, Result};
use crate::metrics::{Health, LaneMetrics, Rates};
use arc_swap::ArcSwap;
use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// How often the counters are sampled for events a second.
const SAMPLE_EVERY: Duration = Duration::from_millis(500);
/// How long requests that are being answered may take when the server stops.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// Limits and addresses of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminOptions {
    /// Path of the Unix socket.
    pub socket: PathBuf,
    /// The read-only TCP address, if any.
    pub http: Option<SocketAddr>,
    /// How long a command may take until it is answered with 503.
    pub swap_timeout_ms: u64,
    /// Longest artifact that a swap takes (bytes).
    pub artifact_bytes_max: usize,
    /// Connections served at once, of each listener; further ones wait.
    pub connections_max: usize,
    /// How long a client may take to send a request's head.
    pub header_timeout_ms: u64,
    /// How long a body may stand still.
    pub body_idle_timeout_ms: u64,
    /// A lane inside one piece of work for longer than this is stuck (`healthz`).
    pub stuck_after_ms: u64,
}

impl AdminOptions {
    /// The defaults, for a socket's path.
    pub fn new(socket: impl Into<PathBuf>) -> AdminOptions {
        AdminOptions {
            socket: socket.into(),
            http: None,
            swap_timeout_ms: 30_000,
            artifact_bytes_max: 1 << 30,
            connections_max: 64,
            header_timeout_ms: 5_000,
            body_idle_timeout_ms: 10_000,
            stuck_after_ms: 30_000,
        }
    }
}

/// What the admin room knows of the engine.
#[derive(Debug, Clone)]
pub struct EngineHandle {
    /// Where commands go. The engine answers each, in any order.
    pub requests: flume::Sender<Request>,
    /// The lanes' numbers.
    pub lanes: Vec<Arc<LaneMetrics>>,
    /// Where the lanes stand, as they publish it; as many as `lanes`.
    pub status: Vec<Arc<ArcSwap<LaneStatus>>>,
    /// The lanes' heartbeats.
    pub health: Arc<Health>,
}

/// The running server. Dropped, it stops and removes its socket.
#[derive(Debug)]
pub struct AdminServer {
    stop: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
    http: Option<SocketAddr>,
    socket: PathBuf,
    /// Device and inode of the socket's file: another process may have put its own there since.
    file: Option<(u64, u64)>,
}

impl AdminServer {
    /// The TCP address that it listens on (its port is known even where 0 was asked for).
    pub fn http(&self) -> Option<SocketAddr> {
        self.http
    }
    /// Takes no more connections, finishes what is being answered (at most two seconds), removes the socket.
    pub fn stop(mut self) {
        self.end();
    }
    fn end(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
            if self.file.is_some() && identity(&self.socket) == self.file {
                let _ = std::fs::remove_file(&self.socket);
            }
        }
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        self.end();
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

/// Listens, and serves on a thread of its own.
///
/// # Errors
/// Where the socket or the address cannot be listened on: see [`peer::listen`].
pub fn serve(options: AdminOptions, engine: EngineHandle) -> Result<AdminServer> {
    assert_eq!(engine.lanes.len(), engine.status.len(), "a status a lane");
    let tcp = options.http.map(listen_tcp).transpose()?;
    let unix = peer::listen(&options.socket)?;
    let admitted = Admitted::for_socket(&options.socket)?;
    let http = tcp.as_ref().and_then(|l| l.local_addr().ok());
    if let Some(address) = http.filter(|a| !a.ip().is_loopback()) {
        tracing::warn!("admin: http = {address} is reachable from other machines: anyone there can read the status");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Fault::io("admin: starting its thread", &e))?;
    let (stop, stopped) = watch::channel(false);
    let (socket, file) = (options.socket.clone(), identity(&options.socket));
    let shared = Arc::new(Shared {
        options,
        engine,
        rates: Mutex::new(Rates::new(Duration::from_secs(3))),
        swapping: Semaphore::new(1),
    });
    let body = move || {
        runtime.block_on(run(shared, unix, admitted, tcp, stopped));
        // A read of a file that hangs may not hold up the end of the process.
        runtime.shutdown_background();
    };
    let thread = std::thread::Builder::new().name("admin".into()).spawn(body);
    let thread = thread.map_err(|e| Fault::io("admin: starting its thread", &e))?;
    Ok(AdminServer { stop, thread: Some(thread), http, socket, file })
}

fn listen_tcp(address: SocketAddr) -> Result<std::net::TcpListener> {
    let listen = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    listen().map_err(|e| Fault::io(format!("admin.http = {address}"), &e).hint("is another process using the port?"))
}

async fn run(
    shared: Arc<Shared>,
    unix: std::os::unix::net::UnixListener,
    admitted: Admitted,
    tcp: Option<std::net::TcpListener>,
    stopped: watch::Receiver<bool>,
) {
    let mut tasks = JoinSet::new();
    tasks.spawn(sample(Arc::clone(&shared), stopped.clone()));
    match tokio::net::UnixListener::from_std(unix) {
        Ok(listener) => drop(tasks.spawn(accept_unix(Arc::clone(&shared), listener, admitted, stopped.clone()))),
        Err(e) => tracing::error!("admin: the Unix socket cannot be served: {e}"),
    }
    match tcp.map(tokio::net::TcpListener::from_std).transpose() {
        Ok(Some(listener)) => drop(tasks.spawn(accept_tcp(shared, listener, stopped))),
        Ok(None) => {}
        Err(e) => tracing::error!("admin: the TCP address cannot be served: {e}"),
    }
    tasks.join_all().await;
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // An error means that the server's handle is gone, which also ends it.
    let _ = stopped.wait_for(|s| *s).await;
}

async fn sample(shared: Arc<Shared>, stopped: watch::Receiver<bool>) {
    let sampling = async {
        loop {
            let counters = shared.engine.lanes.iter().map(|l| l.events.load(Relaxed)).collect();
            shared.rates.lock().unwrap_or_else(|p| p.into_inner()).sample(Instant::now(), counters);
            sleep(SAMPLE_EVERY).await;
        }
    };
    tokio::select! { () = until(stopped) => {}, () = sampling => {} }
}

async fn accept_unix(
    shared: Arc<Shared>,
    listener: tokio::net::UnixListener,
    admitted: Admitted,
    stopped: watch::Receiver<bool>,
) {
    let (all, forbidden) = (routes::all(Arc::clone(&shared)), routes::forbidden());
    let door = Door::new(&shared.options);
    let accepting = async {
        loop {
            let permit = door.permit().await;
            match listener.accept().await {
                Err(e) => refused_accept(&e).await,
                Ok((stream, _)) => {
                    let groups = peer::groups(stream.as_fd());
                    let peer = stream.peer_cred();
                    let ok = peer.as_ref().is_ok_and(|p| admitted.admits(p.uid(), p.gid(), &groups));
                    if !ok {
                        tracing::warn!("admin: refused a peer: {peer:?}");
                    }
                    door.serve(stream, if ok { all.clone() } else { forbidden.clone() }, permit);
                }
            }
        }
    };
    tokio::select! { () = until(stopped) => {}, () = accepting => {} }
    door.close().await;
}

async fn accept_tcp(shared: Arc<Shared>, listener: tokio::net::TcpListener, stopped: watch::Receiver<bool>) {
    let routes = routes::read_only(Arc::clone(&shared));
    let door = Door::new(&shared.options);
    let accepting = async {
        loop {
            let permit = door.permit().await;
            match listener.accept().await {
                Err(e) => refused_accept(&e).await,
                Ok((stream, _)) => door.serve(stream, routes.clone(), permit),
            }
        }
    };
    tokio::select! { () = until(stopped) => {}, () = accepting => {} }
    door.close().await;
}

async fn refused_accept(error: &std::io::Error) {
    tracing::warn!("admin: a connection could not be taken: {error}");
    // Out of descriptors, mostly: to try again at once would only burn the processor.
    sleep(Duration::from_millis(100)).await;
}

/// The connections of one listener: bounded in number, and each in time.
struct Door {
    places: Arc<Semaphore>,
    connections: Mutex<JoinSet<()>>,
    header_timeout: Duration,
    connection_timeout: Duration,
}

impl Door {
    fn new(options: &AdminOptions) -> Door {
        // The longest that an honest client needs: head, a large body, the command, the answer.
        let ms = options.header_timeout_ms + options.swap_timeout_ms + 300_000;
        Door {
            places: Arc::new(Semaphore::new(options.connections_max.max(1))),
            connections: Mutex::new(JoinSet::new()),
            header_timeout: Duration::from_millis(options.header_timeout_ms),
            connection_timeout: Duration::from_millis(ms),
        }
    }

    async fn permit(&self) -> Option<tokio::sync::OwnedSemaphorePermit> {
        Arc::clone(&self.places).acquire_owned().await.ok()
    }

    /// One request a connection: nobody holds a place by doing nothing.
    fn serve<S>(&self, stream: S, routes: Router, permit: Option<tokio::sync::OwnedSemaphorePermit>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(self.header_timeout)
            .keep_alive(false)
            // A client that has closed its sending half still reads: it is answered like others.
            .half_close(true)
            .max_buf_size(64 * 1024);
        let serving = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
        let limit = self.connection_timeout;
        let mut connections = self.connections.lock().unwrap_or_else(|p| p.into_inner());
        while connections.try_join_next().is_some() {}
        connections.spawn(async move {
            let _permit = permit;
            match timeout(limit, serving).await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => tracing::debug!("admin: a connection ended: {e}"),
                Err(_) => tracing::warn!("admin: a connection took longer than {limit:?} and was closed"),
            }
        });
    }

    async fn close(self) {
        let mut connections = self.connections.into_inner().unwrap_or_else(|p| p.into_inner());
        let finish = async { while connections.join_next().await.is_some() {} };
        if timeout(STOP_WITHIN, finish).await.is_err() {
            tracing::warn!("admin: stopped with requests unanswered");
        }
    }
}
