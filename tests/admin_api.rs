//! The admin API against a fake engine: every route, every kind of refusal, and every limit at, under
//! and over. Reads must be answered while the engine is busy, and no client may hold the server up.

use arc_swap::ArcSwap;
use millstream::admin::command::{Command, Refusal, Request};
use millstream::admin::status::{LaneState, LaneStatus, VersionStatus};
use millstream::admin::{AdminOptions, AdminServer, CtlAction, EngineHandle, ctl, serve};
use millstream::batch::Task;
use millstream::error::Class;
use millstream::metrics::{Health, LaneMetrics, LatencyStage, Progressive};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::sync::Arc;
use std::time::{Duration, Instant};

struct Fixture {
    dir: tempfile::TempDir,
    socket: PathBuf,
    server: AdminServer,
    lanes: Vec<Arc<LaneMetrics>>,
    health: Arc<Health>,
    requests: flume::Receiver<Request>,
}

fn start(options: impl FnOnce(&mut AdminOptions)) -> Fixture {
    let dir = tempfile::tempdir().expect("directory");
    let socket = dir.path().join("run/admin.sock");
    let mut settings = AdminOptions::new(&socket);
    options(&mut settings);
    let (sender, requests) = flume::bounded(8);
    let lanes: Vec<_> = (0..2).map(|n| Arc::new(LaneMetrics::new(n, vec!["age".into()], "3f9c2ab1"))).collect();
    let status = (0..2)
        .map(|lane| {
            let current = VersionStatus { version: "3f9c2ab1".into(), swap: 2, ..VersionStatus::default() };
            let status = LaneStatus {
                lane,
                state: LaneState::Running,
                seq: 100 + lane as u64,
                current,
                ..LaneStatus::default()
            };
            Arc::new(ArcSwap::from_pointee(status))
        })
        .collect();
    let health = Arc::new(Health::new(2));
    let engine = EngineHandle { requests: sender, lanes: lanes.clone(), status, health: Arc::clone(&health) };
    let server = serve(settings, engine).expect("the server starts");
    Fixture { dir, socket, server, lanes, health, requests }
}

/// Answers commands as an engine would: the kind of command, and how many bytes came.
fn fake_engine(requests: &flume::Receiver<Request>) {
    let requests = requests.clone();
    std::thread::spawn(move || {
        for Request { command, reply } in requests {
            let answer = match command {
                Command::Swap { bytes, .. } if bytes == b"unfit" => Err(Refusal {
                    status: 422,
                    error: "golden row 3 scores 0.5; 0.7 expected".into(),
                    hint: "train it again".into(),
                }),
                Command::Swap { bytes, origin } => Ok(json!({"bytes": bytes.len(), "origin": origin, "lanes": []})),
                Command::Checkpoint => {
                    Err(Refusal { status: 507, error: "no space left on device".into(), hint: "free some".into() })
                }
                other => Ok(json!({"did": format!("{other:?}"), "lanes": [{"lane": 0, "seq": 17}]})),
            };
            let _ = reply.send(answer);
        }
    });
}

/// Sends bytes as they are, and reads the status code and the body.
fn raw(stream: &mut (impl Read + Write), request: &[u8]) -> (u16, String) {
    stream.write_all(request).expect("send");
    answer(stream)
}

fn answer(stream: &mut impl Read) -> (u16, String) {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer in UTF-8");
    let status = text.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("no status: {text:?}"));
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    (status, body)
}

fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).expect("connect");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
    stream
}

fn get(socket: &Path, path: &str) -> (u16, String) {
    raw(&mut connect(socket), format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes())
}

fn post(socket: &Path, path: &str, body: &[u8]) -> (u16, Value) {
    let mut request = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
    request.extend_from_slice(body);
    let (status, text) = raw(&mut connect(socket), &request);
    (status, serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}")))
}

#[test]
fn every_read_is_answered_at_once_while_the_engine_is_busy() {
    // Nobody takes the requests: as if every lane were inside a long batch.
    let f = start(|_| {});
    f.lanes[1].batch(64);
    f.lanes[1].latency(LatencyStage::Total, 2_000_000, 64);
    let mut quality = Progressive::new(Task::Binary, 10);
    quality.observe(&[0.8], 1.0);
    f.lanes[1].set_quality(quality.report());
    let started = Instant::now();
    let (code, text) = get(&f.socket, "/v1/status");
    assert_eq!(code, 200);
    let status: Value = serde_json::from_str(&text).expect("json");
    let lane = &status["lanes"][1];
    assert_eq!((&lane["lane"], &lane["seq"], &lane["state"]), (&json!(1), &json!(101), &json!("running")));
    assert_eq!((&lane["events"], &lane["version"]), (&json!(64), &json!("3f9c2ab1")));
    assert_eq!(lane["quality"]["metrics"]["accuracy"], json!(1.0));
    assert!((2.0..2.1).contains(&lane["latency_ms"]["p99"].as_f64().expect("p99")), "{lane}");
    let (code, text) = get(&f.socket, "/v1/versions");
    assert_eq!(code, 200);
    let versions: Value = serde_json::from_str(&text).expect("json");
    assert_eq!(versions["lanes"][0]["current"]["swap"], 2);
    let (code, text) = get(&f.socket, "/metrics");
    assert_eq!(code, 200);
    assert!(text.contains("millstream_events_total{lane=\"1\"} 64"), "{text}");
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

#[test]
fn health_and_readiness_follow_the_lanes() {
    let f = start(|o| o.stuck_after_ms = 100);
    assert_eq!(get(&f.socket, "/healthz").0, 200);
    let (code, text) = get(&f.socket, "/readyz");
    assert_eq!((code, text.contains("starting")), (503, true));
    f.health.set_ready();
    assert_eq!(get(&f.socket, "/readyz").0, 200);
    f.health.lane(1).busy();
    std::thread::sleep(Duration::from_millis(250));
    let (code, text) = get(&f.socket, "/healthz");
    assert_eq!((code, text.contains("\"stuck\":[1]")), (503, true), "{text}");
    f.health.lane(1).idle();
    assert_eq!(get(&f.socket, "/healthz").0, 200);
    f.health.set_draining();
    let (code, text) = get(&f.socket, "/readyz");
    assert_eq!((code, text.contains("draining")), (503, true));
    assert_eq!(get(&f.socket, "/healthz").0, 200);
    f.health.lane(0).fail();
    assert_eq!(get(&f.socket, "/healthz").0, 503);
}

#[test]
fn every_change_reaches_the_engine_and_refusals_come_back_as_they_are() {
    let f = start(|_| {});
    fake_engine(&f.requests);
    for (path, did) in [("rollback", "Rollback"), ("pause", "Pause"), ("resume", "Resume"), ("drain", "Drain")] {
        let (code, body) = post(&f.socket, &format!("/v1/{path}"), b"");
        assert_eq!((code, body["did"].as_str()), (200, Some(did)), "{body}");
    }
    let (code, body) = post(&f.socket, "/v1/checkpoint", b"");
    assert_eq!((code, body), (507, json!({"error": "no space left on device", "hint": "free some"})));
    let (code, body) = post(&f.socket, "/v1/swap", b"unfit");
    assert_eq!((code, body["hint"].as_str()), (422, Some("train it again")));
    let (code, body) = post(&f.socket, "/v1/swap", b"an artifact");
    assert_eq!((code, body["bytes"].as_u64()), (200, Some(11)));
}

#[test]
fn a_swap_by_path_is_read_by_the_daemon() {
    let f = start(|o| o.artifact_bytes_max = 100);
    fake_engine(&f.requests);
    let file = f.dir.path().join("model.safetensors");
    let body = json!({"artifact": file}).to_string();
    assert_eq!(post(&f.socket, "/v1/swap", body.as_bytes()).0, 422, "no such file");
    std::fs::write(&file, [7; 100]).expect("file");
    let (code, answer) = post(&f.socket, "/v1/swap", body.as_bytes());
    assert_eq!((code, answer["bytes"].as_u64()), (200, Some(100)));
    assert_eq!(answer["origin"].as_str(), file.to_str());
    std::fs::write(&file, [7; 101]).expect("file");
    assert_eq!(post(&f.socket, "/v1/swap", body.as_bytes()).0, 413, "over the limit");
    for path in ["relative.safetensors", "/dev/zero", "/tmp"] {
        assert_eq!(post(&f.socket, "/v1/swap", json!({"artifact": path}).to_string().as_bytes()).0, 422, "{path}");
    }
    // A file that says it is empty, and is not.
    assert_eq!(post(&f.socket, "/v1/swap", b"{\"artifact\":\"/proc/self/smaps\"}").0, 413);
    assert_eq!(post(&f.socket, "/v1/swap", b"").0, 400);
    assert_eq!(post(&f.socket, "/v1/swap", b"{\"artefact\":\"/tmp/x\"}").0, 400);
}

#[test]
fn a_body_under_and_at_the_limit_is_taken_and_one_over_is_not() {
    const LIMIT: usize = 300_000;
    let f = start(|o| o.artifact_bytes_max = LIMIT);
    fake_engine(&f.requests);
    for size in [LIMIT - 1, LIMIT] {
        let (code, answer) = post(&f.socket, "/v1/swap", &vec![7; size]);
        assert_eq!((code, answer["bytes"].as_u64()), (200, Some(size as u64)));
    }
    for size in [LIMIT + 1, 30 * LIMIT] {
        let (code, answer) = post(&f.socket, "/v1/swap", &vec![7; size]);
        assert_eq!(code, 413);
        assert!(answer["error"].as_str().is_some_and(|e| e.contains("300000 bytes")), "{answer}");
    }
    // Without an announced length, the count decides.
    for (size, expected) in [(LIMIT, 200), (LIMIT + 1, 413)] {
        let mut request = b"POST /v1/swap HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        request.extend_from_slice(format!("{size:x}\r\n").as_bytes());
        request.extend_from_slice(&vec![7; size]);
        request.extend_from_slice(b"\r\n0\r\n\r\n");
        assert_eq!(raw(&mut connect(&f.socket), &request).0, expected, "{size} bytes in chunks");
    }
    // A length that is only announced takes no memory and no time beyond the body's own limit.
    let (code, _) = {
        let mut stream = connect(&f.socket);
        let head = b"POST /v1/swap HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999\r\n\r\n";
        stream.write_all(head).expect("send");
        stream.shutdown(std::net::Shutdown::Write).expect("half-close");
        answer(&mut stream)
    };
    assert_eq!(code, 413);
}

#[test]
fn what_takes_too_long_is_answered_at_the_deadline_and_says_so() {
    let f = start(|o| o.swap_timeout_ms = 300);
    let started = Instant::now();
    let (code, body) = post(&f.socket, "/v1/swap", b"an artifact");
    let took = started.elapsed();
    assert_eq!(code, 503);
    assert!(body["error"].as_str().is_some_and(|e| e.contains("300 ms")), "{body}");
    assert!((Duration::from_millis(300)..Duration::from_millis(1_500)).contains(&took), "{took:?}");
}

#[test]
fn a_second_swap_waits_for_nothing() {
    let f = start(|o| o.swap_timeout_ms = 2_000);
    let mut first = connect(&f.socket);
    first.write_all(b"POST /v1/swap HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc").expect("send");
    let request = f.requests.recv_timeout(Duration::from_secs(5)).expect("the first reaches the engine");
    assert_eq!(post(&f.socket, "/v1/swap", b"def").0, 409);
    request.reply.send(Ok(json!({"lanes": []}))).expect("reply");
    assert_eq!(answer(&mut first).0, 200);
    fake_engine(&f.requests);
    assert_eq!(post(&f.socket, "/v1/swap", b"def").0, 200);
}

#[test]
fn a_client_that_has_closed_its_sending_half_is_answered() {
    let f = start(|_| {});
    // Whether the end of its bytes arrives with the request or behind it, is chance.
    for _ in 0..50 {
        let mut stream = connect(&f.socket);
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").expect("send");
        stream.shutdown(std::net::Shutdown::Write).expect("no more to say");
        assert_eq!(answer(&mut stream).0, 200);
    }
}

#[test]
fn an_engine_that_has_ended_is_told() {
    let Fixture { socket, requests, server, dir, .. } = start(|_| {});
    drop(requests);
    let (code, body) = post(&socket, "/v1/pause", b"");
    assert_eq!(code, 503);
    assert!(body["error"].as_str().is_some_and(|e| e.contains("ended")), "{body}");
    drop((server, dir));
}

#[test]
fn unknown_routes_and_methods_are_refused_in_json() {
    let f = start(|_| {});
    let (code, text) = get(&f.socket, "/v2/status");
    assert_eq!((code, text.contains("\"error\"") && text.contains("\"hint\"")), (404, true), "{text}");
    assert_eq!(get(&f.socket, "/v1/swap").0, 405);
    assert_eq!(post(&f.socket, "/v1/status", b"").0, 405);
    assert_eq!(raw(&mut connect(&f.socket), b"\x16\x03\x01\r\n\r\n").0, 400, "not HTTP");
}

#[test]
fn the_tcp_address_only_reads() {
    let f = start(|o| o.http = Some("127.0.0.1:0".parse().expect("address")));
    fake_engine(&f.requests);
    let address = f.server.http().expect("address");
    let ask = |request: &str| {
        let mut stream = std::net::TcpStream::connect(address).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
        raw(&mut stream, request.as_bytes())
    };
    for path in ["/v1/status", "/v1/versions", "/metrics", "/healthz"] {
        assert_eq!(ask(&format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).0, 200, "{path}");
    }
    for path in ["swap", "rollback", "checkpoint", "pause", "resume", "drain", "status"] {
        let (code, text) = ask(&format!("POST /v1/{path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"));
        assert_eq!((code, text.contains("read-only")), (405, true), "{path}: {text}");
    }
    assert_eq!(f.requests.len(), 0);
    let taken = start_at(address).expect_err("the port is taken");
    assert_eq!(taken.class, Class::Environment);
}

fn start_at(address: std::net::SocketAddr) -> millstream::error::Result<AdminServer> {
    let dir = tempfile::tempdir().expect("directory");
    let mut options = AdminOptions::new(dir.path().join("other.sock"));
    options.http = Some(address);
    let (requests, _) = flume::bounded(1);
    serve(options, EngineHandle { requests, lanes: vec![], status: vec![], health: Arc::new(Health::new(0)) })
}

#[test]
fn slow_and_many_clients_do_not_keep_others_out() {
    let f = start(|o| {
        o.connections_max = 4;
        o.header_timeout_ms = 300;
        o.body_idle_timeout_ms = 300;
    });
    // As many as there are places, each sending nothing or half a head: their time runs out.
    let mut slow: Vec<_> = (0..4).map(|_| connect(&f.socket)).collect();
    slow[1].write_all(b"GET /v1/sta").expect("send");
    let started = Instant::now();
    assert_eq!(get(&f.socket, "/healthz").0, 200);
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    let mut stuck = connect(&f.socket);
    let (code, _) = raw(&mut stuck, b"POST /v1/swap HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc");
    assert_eq!(code, 408, "a body that stands still");
}

#[test]
fn the_socket_is_0660_taken_over_when_stale_and_removed_at_the_end() {
    let f = start(|_| {});
    assert_eq!(std::fs::metadata(&f.socket).expect("socket").mode() & 0o777, 0o660);
    let (requests, _) = flume::bounded(1);
    let engine = EngineHandle { requests, lanes: vec![], status: vec![], health: Arc::new(Health::new(0)) };
    let taken = serve(AdminOptions::new(&f.socket), engine.clone()).expect_err("somebody listens");
    assert_eq!(taken.class, Class::Environment);
    f.server.stop();
    assert!(!f.socket.exists(), "removed at the end");
    // What a killed daemon leaves behind:
    drop(std::os::unix::net::UnixListener::bind(&f.socket).expect("bind"));
    assert!(f.socket.exists());
    let second = serve(AdminOptions::new(&f.socket), engine).expect("a stale socket is replaced");
    assert_eq!(get(&f.socket, "/healthz").0, 200);
    // A socket that somebody else has put there since is not ours to remove.
    std::fs::remove_file(&f.socket).expect("remove");
    let _other = std::os::unix::net::UnixListener::bind(&f.socket).expect("bind");
    second.stop();
    assert!(f.socket.exists());
}

#[test]
fn a_strange_user_is_refused_even_where_the_mode_lets_it_in() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: only root can run a client as another user");
    }
    let Some(curl) = curl() else { return eprintln!("skipped: there is no curl") };
    let f = start(|_| {});
    std::fs::set_permissions(&f.socket, PermissionsExt::from_mode(0o666)).expect("mode");
    for directory in [f.dir.path(), f.socket.parent().expect("parent")] {
        std::fs::set_permissions(directory, PermissionsExt::from_mode(0o755)).expect("mode");
    }
    let code_as = |uid: u32, gid: u32| {
        let mut process = Process::new(&curl);
        process.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket"]).arg(&f.socket);
        let output = process.arg("http://x/v1/status").uid(uid).gid(gid).output().expect("curl");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(code_as(65_534, 65_534), "403");
    let group = std::fs::metadata(&f.socket).expect("socket").gid();
    assert_eq!(code_as(65_534, group), "200");
    assert_eq!(code_as(0, 0), "200");
}

fn curl() -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|d| d.join("curl")).find(|p| p.is_file())
}

#[test]
fn curl_is_a_client() {
    let Some(curl) = curl() else { return eprintln!("skipped: there is no curl") };
    let f = start(|_| {});
    fake_engine(&f.requests);
    let file = f.dir.path().join("model.safetensors");
    std::fs::write(&file, vec![9u8; 2_000_000]).expect("file");
    let at = format!("@{}", file.display());
    let by_path = json!({"artifact": file}).to_string();
    let run = |arguments: &[&str]| {
        let output = Process::new(&curl).args(["-sS", "--unix-socket"]).arg(&f.socket).args(arguments).output();
        let output = output.expect("curl");
        serde_json::from_slice::<Value>(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
    };
    assert_eq!(run(&["http://x/v1/status"])["lanes"][0]["state"], "running");
    assert_eq!(run(&["-X", "POST", "http://x/v1/pause"])["did"], "Pause");
    assert_eq!(run(&["--data-binary", &at, "http://x/v1/swap"])["bytes"], 2_000_000);
    assert_eq!(run(&["-d", &by_path, "http://x/v1/swap"])["bytes"], 2_000_000);
}

#[test]
fn ctl_speaks_to_the_daemon_and_its_faults_have_the_right_class() {
    let f = start(|_| {});
    fake_engine(&f.requests);
    for action in [CtlAction::Status, CtlAction::Versions, CtlAction::Pause, CtlAction::Resume, CtlAction::Rollback] {
        for json in [false, true] {
            ctl(&f.socket, action.clone(), json).unwrap_or_else(|e| panic!("{}: {e}", action.name()));
        }
    }
    let file = f.dir.path().join("candidate");
    let swap = || millstream::admin::ctl::ask(&f.socket, &CtlAction::Swap(file.clone()));
    std::fs::write(&file, vec![1u8; 3_000_000]).expect("file");
    assert_eq!(swap().expect("swap")["bytes"], 3_000_000);
    std::fs::write(&file, "unfit").expect("file");
    let fault = swap().expect_err("unfit");
    assert_eq!(fault.class.exit_code(), 2);
    assert!(fault.message.contains("golden row 3") && fault.hint == "train it again", "{fault}");
    let fault = ctl(&f.socket, CtlAction::Checkpoint, false).expect_err("disk full");
    assert_eq!(fault.class.exit_code(), 4);
    f.server.stop();
    let fault = ctl(&f.socket, CtlAction::Status, true).expect_err("no daemon");
    assert_eq!(fault.class.exit_code(), 4);
    assert!(fault.message.contains("admin.sock"), "{fault}");
}

#[test]
fn an_answer_under_way_is_finished_when_the_server_stops() {
    let f = start(|_| {});
    let mut client = connect(&f.socket);
    client.write_all(b"POST /v1/drain HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n").expect("send");
    let request = f.requests.recv_timeout(Duration::from_secs(5)).expect("request");
    let stopping = std::thread::spawn(move || f.server.stop());
    std::thread::sleep(Duration::from_millis(100));
    request.reply.send(Ok(json!({"drained": true}))).expect("reply");
    let (code, text) = answer(&mut client);
    assert_eq!((code, text.contains("drained")), (200, true));
    stopping.join().expect("stopped");
}
