//! Requests to the admin API: any bytes on its socket, against the real server with a fake engine behind it.

use super::input::Input;
use arc_swap::ArcSwap;
use millstream::admin::command::{Command, Request};
use millstream::admin::status::LaneStatus;
use millstream::admin::{AdminOptions, AdminServer, EngineHandle, serve};
use millstream::metrics::{Health, LaneMetrics};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Longest artifact that the server takes here (bytes).
const ARTIFACT_BYTES_MAX: usize = 4_096;

struct Scene {
    socket: PathBuf,
    _server: AdminServer,
    _dir: tempfile::TempDir,
}

/// One server for all inputs of a process.
fn scene() -> &'static Scene {
    static SCENE: OnceLock<Scene> = OnceLock::new();
    SCENE.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a folder");
        let socket = dir.path().join("admin.sock");
        let mut options = AdminOptions::new(&socket);
        options.artifact_bytes_max = ARTIFACT_BYTES_MAX;
        let (sender, requests) = flume::bounded(8);
        let engine = EngineHandle {
            requests: sender,
            lanes: vec![Arc::new(LaneMetrics::new(0, vec!["age".into()], "3f9c2ab1"))],
            status: vec![Arc::new(ArcSwap::from_pointee(LaneStatus::default()))],
            health: Arc::new(Health::new(1)),
        };
        std::thread::spawn(move || answer(&requests));
        let server = serve(options, engine).expect("a server");
        Scene { socket, _server: server, _dir: dir }
    })
}

/// Says what arrived.
fn answer(requests: &flume::Receiver<Request>) {
    for Request { command, reply } in requests.iter() {
        let answer = match command {
            Command::Swap { bytes, .. } => {
                assert!(!bytes.is_empty() && bytes.len() <= ARTIFACT_BYTES_MAX);
                json!({"swap": bytes.len()})
            }
            other => json!({ "did": format!("{other:?}") }),
        };
        let _ = reply.send(Ok(answer));
    }
}

/// Input: one byte (0 and 1: what follows is sent as it is; else a whole request is made of it: method, path,
/// headers and body, each ended by a zero byte).
///
/// Each request is answered by HTTP, or the connection is closed; errors are JSON with what to do; and the server
/// still answers afterwards.
pub fn admin_request(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let request = match input.byte() {
        0 | 1 => input.rest().to_vec(),
        choice => whole(choice, input),
    };
    let answer = send(&request);
    if !answer.is_empty() {
        check(&answer);
    }
    let health = send(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(health.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&health));
}

fn whole(choice: u8, mut input: Input<'_>) -> Vec<u8> {
    let (method, path, headers) = (input.until(0), input.until(0), input.until(0));
    let body = input.rest();
    let mut request = [method, b" ", path, b" HTTP/1.1\r\nhost: x\r\n", headers].concat();
    match choice % 3 {
        0 => request.extend(format!("content-length: {}\r\n\r\n", body.len()).bytes()),
        1 => {
            request.extend(format!("transfer-encoding: chunked\r\n\r\n{:x}\r\n", body.len()).bytes());
            request.extend_from_slice(body);
            return [&request[..], b"\r\n0\r\n\r\n"].concat();
        }
        _ => request.extend_from_slice(b"\r\n"),
    }
    request.extend_from_slice(body);
    request
}

/// All that comes back for some bytes.
fn send(request: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(&scene().socket).expect("the server listens");
    // Longer than any of the server's own limits for a request that stands still.
    stream.set_read_timeout(Some(Duration::from_secs(40))).expect("a time-out");
    // The server may answer and close before it has read everything.
    let _ = stream.write_all(request);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(e) => panic!("{e}: {}", String::from_utf8_lossy(request)),
    }
    answer
}

fn check(answer: &[u8]) {
    let text = std::str::from_utf8(answer).expect("an answer in UTF-8");
    // A client that expects to be told to go on is told so first.
    let text = text.strip_prefix("HTTP/1.1 100 Continue\r\n\r\n").unwrap_or(text);
    let status = text.strip_prefix("HTTP/1.1 ").or_else(|| text.strip_prefix("HTTP/1.0 "));
    let status: u16 = status.and_then(|t| t.get(..3)?.parse().ok()).unwrap_or_else(|| panic!("no status: {text}"));
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    assert!(status != 500, "{text}");
    // What HTTP itself refuses has no body, nor has what HEAD asks for.
    if status >= 400 && !body.is_empty() {
        let body: Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {text}"));
        let said = |key: &str| body[key].as_str().is_some_and(|word| !word.is_empty());
        let health = body["status"].is_string();
        assert!(health || (said("error") && body["hint"].is_string()), "{text}");
        assert!(head.contains("application/json"), "{text}");
    }
}
