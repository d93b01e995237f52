//! The client of the admin API: `millstream ctl`.

use crate::admin::command::Refusal;
use crate::admin::ctl_text;
use crate::error::{Class, Fault, Result};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// How long a daemon that reads are asked of may be silent.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a daemon that a change is asked of may be silent; its own limit is `swap_timeout_ms`.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(600);

/// What to ask of the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CtlAction {
    /// Where every lane stands.
    Status,
    /// The versions in force.
    Versions,
    /// Swap in the artifact in this file; its bytes are sent.
    Swap(PathBuf),
    /// Bring back the version before.
    Rollback,
    /// Write a checkpoint now.
    Checkpoint,
    /// Stop taking events.
    Pause,
    /// Go on.
    Resume,
    /// Finish what was read, and exit.
    Drain,
}

impl CtlAction {
    /// The public name.
    pub fn name(&self) -> &'static str {
        match self {
            CtlAction::Status => "status",
            CtlAction::Versions => "versions",
            CtlAction::Swap(_) => "swap",
            CtlAction::Rollback => "rollback",
            CtlAction::Checkpoint => "checkpoint",
            CtlAction::Pause => "pause",
            CtlAction::Resume => "resume",
            CtlAction::Drain => "drain",
        }
    }
    fn reads(&self) -> bool {
        matches!(self, CtlAction::Status | CtlAction::Versions)
    }
}

/// Asks the daemon at `socket` and prints its answer to standard output: a table, or with `json` the
/// answer as it came.
///
/// # Errors
/// Environment: no daemon at the socket, no answer, a full disk. Misuse: the daemon refused, or the
/// artifact's file cannot be read.
pub fn ctl(socket: &Path, action: CtlAction, json: bool) -> Result<()> {
    let answer = ask(socket, &action)?;
    let mut text = if json { answer.to_string() } else { ctl_text::text(&action, &answer) };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Fault::io("standard output", &e)),
        _ => Ok(()),
    }
}

/// Asks the daemon at `socket`, and returns its answer.
///
/// # Errors
/// As [`ctl`].
pub fn ask(socket: &Path, action: &CtlAction) -> Result<Value> {
    let body = match action {
        CtlAction::Swap(file) => std::fs::read(file)
            .map_err(|e| Fault::misuse(format!("{}: {e}", file.display())).hint("name an artifact's file"))?,
        _ => Vec::new(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Fault::io("starting the client", &e))?;
    let limit = if action.reads() { READ_TIMEOUT } else { CHANGE_TIMEOUT };
    let exchange = async { timeout(limit, exchange(socket, action, body)).await };
    let (status, bytes) = runtime.block_on(exchange).map_err(|_| {
        Fault::environment(format!("no answer from the daemon at {} within {limit:?}", socket.display()))
            .hint("see its log; it may be stuck")
    })??;
    if status == 200 {
        return serde_json::from_slice(&bytes)
            .map_err(|e| Fault::internal(format!("the daemon's answer is not JSON: {e}")));
    }
    Err(refused(action, status, &bytes))
}

fn refused(action: &CtlAction, status: u16, bytes: &[u8]) -> Fault {
    let class = match status {
        500 => Class::Internal,
        408 | 501..=599 => Class::Environment,
        _ => Class::Misuse,
    };
    let told: Refusal = serde_json::from_slice(bytes).unwrap_or_else(|_| Refusal {
        status,
        error: format!("the daemon answered {status}: {}", String::from_utf8_lossy(bytes).trim()),
        hint: String::new(),
    });
    Fault::new(class, told.error).hint(told.hint).at(action.name())
}

async fn exchange(socket: &Path, action: &CtlAction, body: Vec<u8>) -> Result<(u16, Bytes)> {
    let broken = |what: &str, e: &dyn std::fmt::Display| {
        Fault::environment(format!("the daemon at {} {what}: {e}", socket.display())).hint("see its log")
    };
    let stream = UnixStream::connect(socket).await.map_err(|e| no_daemon(socket, &e))?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|e| broken("does not speak HTTP", &e))?;
    // The daemon may refuse a body before it has read it all: the answer counts, not how sending ended.
    let driver = tokio::spawn(connection);
    let request = hyper::Request::builder()
        .method(if action.reads() { "GET" } else { "POST" })
        .uri(format!("/v1/{}", action.name()))
        .header("host", "millstream")
        .header("content-type", "application/octet-stream")
        .body(Full::new(Bytes::from(body)))
        .map_err(|e| Fault::internal(format!("the request cannot be written: {e}")))?;
    let answer = sender.send_request(request).await.map_err(|e| broken("broke off", &e))?;
    let status = answer.status().as_u16();
    let bytes = answer.into_body().collect().await.map_err(|e| broken("broke off", &e))?.to_bytes();
    driver.abort();
    Ok((status, bytes))
}

fn no_daemon(socket: &Path, error: &std::io::Error) -> Fault {
    use std::io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
    let fault = Fault::environment(format!("no daemon at the socket {}: {error}", socket.display()));
    fault.hint(match error.kind() {
        NotFound | ConnectionRefused => "is it running? --socket names another one",
        PermissionDenied => "be the daemon's user, root, or a member of the socket's group",
        _ => "--socket names another one",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_daemon_is_the_environments_fault_and_names_the_socket() {
        let dir = tempfile::tempdir().expect("dir");
        let socket = dir.path().join("none.sock");
        let fault = ctl(&socket, CtlAction::Status, false).expect_err("no daemon");
        assert_eq!(fault.class, Class::Environment);
        assert!(fault.message.contains("none.sock"), "{fault}");
    }

    #[test]
    fn the_class_follows_the_status() {
        let class = |status| refused(&CtlAction::Rollback, status, br#"{"error":"e","hint":"h"}"#).class;
        for status in [400, 403, 404, 405, 409, 413, 422] {
            assert_eq!(class(status), Class::Misuse, "{status}");
        }
        for status in [408, 503, 504, 507] {
            assert_eq!(class(status), Class::Environment, "{status}");
        }
        assert_eq!(class(500), Class::Internal);
        let fault = refused(&CtlAction::Pause, 503, b"<html>");
        assert!(fault.message.starts_with("pause: ") && fault.message.contains("<html>"), "{fault}");
    }

    #[test]
    fn an_artifact_that_cannot_be_read_is_misuse() {
        let fault = ask(Path::new("/nowhere"), &CtlAction::Swap("/no/such/file".into())).expect_err("no file");
        assert_eq!(fault.class, Class::Misuse);
    }
}
