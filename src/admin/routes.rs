//! The routes of the admin API.
//!
//! | route | answer |
//! |---|---|
//! | `GET /v1/status` | where every lane stands: [`status::StatusReport`] |
//! | `GET /v1/versions` | versions in force, and what a rollback brings back: [`status::VersionsReport`] |
//! | `GET /metrics` | Prometheus text |
//! | `GET /healthz` | 200 while every lane moves or is healthy and idle, else 503 |
//! | `GET /readyz` | 200 once all lanes are recovered and their inputs open, until drain, else 503 |
//! | `POST /v1/swap` | swaps in the artifact in the body, or `{"artifact":PATH}` |
//! | `POST /v1/rollback` | brings back the version before |
//! | `POST /v1/checkpoint` | writes a checkpoint now |
//! | `POST /v1/pause`, `/v1/resume`, `/v1/drain` | stop taking events, go on, finish and exit |
//!
//! Errors are a status code and `{"error":…,"hint":…}`. Only `GET` exists on the TCP address.

use crate::admin::command::{Command, Refusal, Request};
use crate::admin::server::{AdminOptions, EngineHandle};
use crate::admin::status::{self, LaneVersions, StatusReport, VersionsReport};
use crate::metrics::{Rates, registry};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, Request as HttpRequest, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http_body_util::BodyExt;
use serde::Serialize;
use serde_json::json;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Longest body that can be `{"artifact":PATH}` (bytes).
const PATH_BODY_BYTES_MAX: usize = 64 * 1024;

/// How long the rest of a body that is too long is read on.
const DISCARD_WITHIN: Duration = Duration::from_secs(5);

/// What the routes share.
pub(crate) struct Shared {
    pub options: AdminOptions,
    pub engine: EngineHandle,
    pub rates: Mutex<Rates>,
    /// One body of an artifact at a time, so that memory is bounded by one.
    pub swapping: Semaphore,
}

type Answer = Result<Response, Refusal>;

/// Every route: for the Unix socket.
pub(crate) fn all(shared: Arc<Shared>) -> Router {
    reads()
        .route("/v1/swap", post(swap))
        .route("/v1/rollback", post(|s| command(s, Command::Rollback)))
        .route("/v1/checkpoint", post(|s| command(s, Command::Checkpoint)))
        .route("/v1/pause", post(|s| command(s, Command::Pause)))
        .route("/v1/resume", post(|s| command(s, Command::Resume)))
        .route("/v1/drain", post(|s| command(s, Command::Drain)))
        .fallback(no_such_route)
        .method_not_allowed_fallback(wrong_method)
        .with_state(shared)
}

/// The reading routes: for the TCP address.
pub(crate) fn read_only(shared: Arc<Shared>) -> Router {
    reads().fallback(read_only_fallback).method_not_allowed_fallback(read_only_fallback).with_state(shared)
}

/// What a peer gets that isn't admitted.
pub(crate) fn forbidden() -> Router {
    Router::new().fallback(|| async {
        refusal(403, "this user may not talk to the daemon", "be its user, root, or a member of the socket's group")
    })
}

fn reads() -> Router<Arc<Shared>> {
    Router::new()
        .route("/v1/status", get(get_status))
        .route("/v1/versions", get(get_versions))
        .route("/metrics", get(get_metrics))
        .route("/healthz", get(get_health))
        .route("/readyz", get(get_ready))
}

fn refusal(status: u16, error: impl Into<String>, hint: impl Into<String>) -> Refusal {
    Refusal { status, error: error.into(), hint: hint.into() }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        json_response(status, &self)
    }
}

fn json_response(status: StatusCode, value: &impl Serialize) -> Response {
    let mut bytes = match serde_json::to_vec(value) {
        Ok(bytes) => bytes,
        Err(e) => {
            let text = format!("{{\"error\":\"the answer cannot be written: {e}\",\"hint\":\"\"}}");
            return (StatusCode::INTERNAL_SERVER_ERROR, text).into_response();
        }
    };
    bytes.push(b'\n');
    (status, [(header::CONTENT_TYPE, "application/json")], bytes).into_response()
}

async fn get_status(State(shared): State<Arc<Shared>>) -> Response {
    let engine = &shared.engine;
    let rates = shared.rates.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let lanes = engine.lanes.iter().zip(&engine.status).enumerate();
    let lanes = lanes.map(|(n, (metrics, published))| status::lane_report(&published.load(), metrics, &rates, n));
    let lanes: Vec<_> = lanes.collect();
    let report = StatusReport {
        millstream: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_seconds: engine.health.uptime().as_secs_f64(),
        ready: engine.health.ready(),
        stuck: engine.health.stuck(Duration::from_millis(shared.options.stuck_after_ms)),
        events_per_second: lanes.iter().map(|l| l.events_per_second).sum(),
        lanes,
    };
    json_response(StatusCode::OK, &report)
}

async fn get_versions(State(shared): State<Arc<Shared>>) -> Response {
    let of_lane = |published: &Arc<arc_swap::ArcSwap<status::LaneStatus>>| {
        let lane = published.load();
        LaneVersions { lane: lane.lane, current: lane.current.clone(), previous: lane.previous.clone() }
    };
    json_response(StatusCode::OK, &VersionsReport { lanes: shared.engine.status.iter().map(of_lane).collect() })
}

async fn get_metrics(State(shared): State<Arc<Shared>>) -> Response {
    ([(header::CONTENT_TYPE, registry::CONTENT_TYPE)], registry::render(&shared.engine.lanes)).into_response()
}

async fn get_health(State(shared): State<Arc<Shared>>) -> Response {
    let health = &shared.engine.health;
    let stuck = health.stuck(Duration::from_millis(shared.options.stuck_after_ms));
    let failed = health.failed();
    if stuck.is_empty() && failed.is_empty() {
        return json_response(StatusCode::OK, &json!({"status": "ok"}));
    }
    let body = json!({"status": "unhealthy", "stuck": stuck, "failed": failed});
    json_response(StatusCode::SERVICE_UNAVAILABLE, &body)
}

async fn get_ready(State(shared): State<Arc<Shared>>) -> Response {
    let health = &shared.engine.health;
    let (code, word) = match (health.ready(), health.draining(), health.failed().is_empty()) {
        (true, ..) => (StatusCode::OK, "ready"),
        (false, true, _) => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        (false, false, false) => (StatusCode::SERVICE_UNAVAILABLE, "failed"),
        (false, false, true) => (StatusCode::SERVICE_UNAVAILABLE, "starting"),
    };
    json_response(code, &json!({"status": word}))
}

/// Sends a command to the engine and waits for its answer, at most `swap_timeout_ms`.
async fn ask(shared: &Shared, command: Command) -> Answer {
    let ended = || refusal(503, "the engine has ended", "the daemon is shutting down: see its log");
    let (reply, answer) = flume::bounded(1);
    shared.engine.requests.try_send(Request { command, reply }).map_err(|e| match e {
        flume::TrySendError::Full(_) => refusal(503, "too many commands are waiting", "try again"),
        flume::TrySendError::Disconnected(_) => ended(),
    })?;
    let limit = shared.options.swap_timeout_ms;
    match timeout(Duration::from_millis(limit), answer.recv_async()).await {
        Ok(Ok(Ok(value))) => Ok(json_response(StatusCode::OK, &value)),
        Ok(Ok(Err(refused))) => Err(refused),
        Ok(Err(_)) => Err(ended()),
        Err(_) => Err(refusal(
            503,
            format!("no answer from the lanes within {limit} ms"),
            "it may still take effect: look at status before you try again",
        )),
    }
}

async fn command(State(shared): State<Arc<Shared>>, command: Command) -> Answer {
    let name = format!("{command:?}").to_lowercase();
    let answer = ask(&shared, command).await;
    log(&name, &answer);
    answer
}

async fn swap(State(shared): State<Arc<Shared>>, request: HttpRequest<Body>) -> Answer {
    let Ok(_permit) = shared.swapping.try_acquire() else {
        return Err(refusal(409, "another swap is on its way", "wait until it is done"));
    };
    let answer = async {
        let json = is_json(request.headers());
        let body = read_body(request, &shared.options).await?;
        let (bytes, origin) = match artifact_path(&body, json)? {
            None => (body, "the body of a request".to_owned()),
            Some(path) => (read_artifact(path.clone(), &shared.options).await?, path.display().to_string()),
        };
        ask(&shared, Command::Swap { bytes, origin }).await
    }
    .await;
    log("swap", &answer);
    answer
}

fn log(command: &str, answer: &Answer) {
    match answer {
        Ok(_) => tracing::info!("admin: {command}: done"),
        Err(refused) => tracing::warn!("admin: {command}: {} {}", refused.status, refused.error),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    kind.split(';').next().is_some_and(|k| k.trim().eq_ignore_ascii_case("application/json"))
}

/// Takes the body as it arrives: memory grows with what came, never by a length that was announced.
async fn read_body(request: HttpRequest<Body>, options: &AdminOptions) -> Result<Vec<u8>, Refusal> {
    let limit = options.artifact_bytes_max;
    let too_large = || {
        let hint = "raise limits.artifact_bytes_max, or name a file of the daemon's: {\"artifact\":PATH}";
        refusal(413, format!("the body is longer than {limit} bytes"), hint)
    };
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok());
    let announced_over = announced.and_then(|v| v.parse::<u64>().ok()).is_some_and(|n| n > limit as u64);
    let mut body = request.into_body();
    if announced_over {
        discard(body).await;
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    let wait = Duration::from_millis(options.body_idle_timeout_ms);
    loop {
        match timeout(wait, body.frame()).await {
            Err(_) => {
                let error = format!("nothing more of the body arrived within {} ms", wait.as_millis());
                return Err(refusal(408, error, "send it in one go"));
            }
            Ok(Some(Err(e))) => return Err(refusal(400, format!("the body broke off: {e}"), "send it again")),
            Ok(None) => return Ok(bytes),
            Ok(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    if data.len() > limit - bytes.len() {
                        discard(body).await;
                        return Err(too_large());
                    }
                    bytes.extend_from_slice(data);
                }
            }
        }
    }
}

/// Reads on for a while what is too much, keeping nothing: a client that is still sending would see a
/// broken connection instead of the answer.
async fn discard(mut body: Body) {
    let reading = async { while matches!(body.frame().await, Some(Ok(_))) {} };
    let _ = timeout(DISCARD_WITHIN, reading).await;
}

/// The path in a body `{"artifact":PATH}`; `None` where the body is an artifact itself.
fn artifact_path(body: &[u8], json: bool) -> Result<Option<PathBuf>, Refusal> {
    if body.is_empty() {
        return Err(refusal(400, "the body is empty", "send the artifact's bytes, or {\"artifact\":PATH}"));
    }
    // No artifact and no spec parses as a JSON object, so the body tells by itself what it is.
    let parsed = if body.len() <= PATH_BODY_BYTES_MAX { serde_json::from_slice(body).ok() } else { None };
    match parsed {
        Some(serde_json::Value::Object(map)) => match map.get("artifact") {
            Some(serde_json::Value::String(path)) if map.len() == 1 => Ok(Some(PathBuf::from(path))),
            _ => Err(refusal(400, "the body is JSON, but not {\"artifact\":PATH}", "one key, a string")),
        },
        _ if json => Err(refusal(400, "the body is not the JSON that its type announces", "{\"artifact\":PATH}")),
        _ => Ok(None),
    }
}

async fn read_artifact(path: PathBuf, options: &AdminOptions) -> Result<Vec<u8>, Refusal> {
    let limit = options.artifact_bytes_max as u64;
    let read = tokio::task::spawn_blocking(move || read_file(&path, limit)).await;
    read.unwrap_or_else(|e| Err(refusal(500, format!("reading the artifact: {e}"), "")))
}

fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>, Refusal> {
    let fault = |e: std::io::Error| {
        let hint = "the daemon must be able to read it; `millstream ctl swap FILE` sends the bytes instead";
        refusal(422, format!("{}: {e}", path.display()), hint)
    };
    // A FIFO or a device could hold the thread for ever: only a regular file is opened.
    let found = std::fs::metadata(path).map_err(fault)?;
    if !found.is_file() || !path.is_absolute() {
        return Err(refusal(422, format!("{}: not a file by its absolute path", path.display()), "name one"));
    }
    let too_long = |length: String| {
        let error = format!("{}: {length} bytes; at most {limit}", path.display());
        refusal(413, error, "raise limits.artifact_bytes_max")
    };
    if found.len() > limit {
        return Err(too_long(found.len().to_string()));
    }
    // Not every file tells its length (those in /proc say 0), and one may grow while it is read.
    let mut bytes = Vec::new();
    std::fs::File::open(path).and_then(|f| f.take(limit + 1).read_to_end(&mut bytes)).map_err(fault)?;
    if bytes.len() as u64 > limit {
        return Err(too_long(format!("over {limit}")));
    }
    Ok(bytes)
}

async fn no_such_route(method: Method, uri: Uri) -> Refusal {
    let hint = "GET /v1/status /v1/versions /metrics /healthz /readyz; \
                POST /v1/swap /v1/rollback /v1/checkpoint /v1/pause /v1/resume /v1/drain";
    refusal(404, format!("{method} {}: no such route", uri.path()), hint)
}

async fn wrong_method(method: Method, uri: Uri) -> Refusal {
    let hint = "what reads takes GET, what changes something takes POST";
    refusal(405, format!("{method} {}: not by this method", uri.path()), hint)
}

async fn read_only_fallback(method: Method, uri: Uri) -> Refusal {
    if method == Method::GET || method == Method::HEAD {
        return refusal(404, format!("no such route here: {}", uri.path()), "GET /v1/status /metrics /healthz /readyz");
    }
    refusal(405, "this address is read-only", "what changes something goes to the Unix socket (admin.socket)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_says_what_it_is() {
        let path = artifact_path(br#" {"artifact":"/a/b"} "#, false).expect("path");
        assert_eq!(path, Some(PathBuf::from("/a/b")));
        assert_eq!(artifact_path(b"{\0\0\0\0\0\0\0{}", false).expect("artifact"), None);
        assert_eq!(artifact_path(b"name = 'spec'", false).expect("spec"), None);
        for (body, json) in [(&b""[..], false), (b"{}", false), (b"name = 'spec'", true), (b"[1]", true)] {
            assert_eq!(artifact_path(body, json).expect_err("refused").status, 400);
        }
        let with_more = br#"{"artifact":"/a","to":1}"#;
        assert_eq!(artifact_path(with_more, true).expect_err("refused").status, 400);
    }
}
