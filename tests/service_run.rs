//! The story: the daemon is a service. Its manager hears when it is ready, that it lives, how it does and
//! that it stops; `systemctl reload` (SIGHUP) puts in force what may change, and names what may not.

mod support;

use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};
use support::daemon::{Daemon, LIMIT, Scene, until};
use support::events::{self, SPEC};

const SOCKET: &str = "source.kind = \"socket\"\nsource.listen = \"127.0.0.1:0\"\ndelivery.commit_interval_ms = 5\n";
const RATE: &str = "source.kind = \"rate\"\nsource.rate = 5_000\nsink.kind = \"file\"\nsink.path = \"DIR/out.ndjson\"\n\
                    checkpoint.keep_journal = true\n";

/// The service manager's end: a socket that takes notifications.
struct Manager {
    socket: UnixDatagram,
}

impl Manager {
    fn new(scene: &Scene) -> Manager {
        let socket = UnixDatagram::bind(scene.path("notify.sock")).expect("bind");
        socket.set_read_timeout(Some(LIMIT)).expect("timeout");
        Manager { socket }
    }

    /// The next notification.
    fn hear(&self) -> String {
        let mut bytes = [0; 4096];
        let length = self.socket.recv(&mut bytes).expect("a notification");
        String::from_utf8(bytes[..length].to_vec()).expect("UTF-8")
    }

    /// The first notification that has this line.
    fn hear_of(&self, line: &str) -> String {
        let deadline = Instant::now() + LIMIT;
        loop {
            let text = self.hear();
            if text.lines().any(|l| l.starts_with(line)) {
                return text;
            }
            assert!(Instant::now() < deadline, "never heard of {line}");
        }
    }

    fn start(&self, scene: &Scene, watchdog: Option<Duration>) -> Daemon {
        let mut command = scene.daemon_command(&[]);
        command.env("NOTIFY_SOCKET", scene.path("notify.sock"));
        if let Some(interval) = watchdog {
            command.env("WATCHDOG_USEC", interval.as_micros().to_string());
        }
        scene.spawn_as(command)
    }
}

#[test]
fn ready_comes_after_recovery_and_stopping_with_sigterm() {
    let scene = Scene::new(
        include_str!("../models/hyperplane.toml"),
        "source.kind = \"rate\"\nsource.rate = 50_000\nsink.kind = \"none\"\ncheckpoint.interval_ms = 600_000\n",
    );
    let manager = Manager::new(&scene);
    let daemon = manager.start(&scene, None);
    manager.hear_of("READY=1");
    until("events to recover", || (daemon.status()["lanes"][0]["committed_seq"].as_u64()? > 20_000).then_some(()));
    daemon.kill();
    let daemon = manager.start(&scene, None);
    let first = manager.hear();
    assert!(first.lines().any(|l| l == "READY=1") && first.contains("STATUS="), "{first}");
    let said = daemon.said();
    assert!(said.contains("goes on where it stopped"), "ready before it was recovered: {said}");
    assert_eq!(daemon.status()["ready"], true);
    daemon.signal(libc::SIGTERM);
    let stopping = manager.hear_of("STOPPING=1");
    assert!(stopping.contains("EXTEND_TIMEOUT_USEC="), "{stopping}");
    let (code, said) = daemon.wait();
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn a_daemon_that_cannot_start_never_says_ready() {
    let scene = Scene::new(SPEC, &format!("{SOCKET}lanes = 2\n"));
    let manager = Manager::new(&scene);
    let daemon = manager.start(&scene, None);
    manager.hear_of("READY=1");
    daemon.stop();
    manager.hear_of("STOPPING=1");
    scene.configure(SOCKET);
    let (code, _) = manager.start(&scene, None).wait();
    assert_eq!(code, Some(2));
    manager.socket.set_nonblocking(true).expect("nonblocking");
    let mut bytes = [0; 512];
    assert!(manager.socket.recv(&mut bytes).is_err(), "{}", String::from_utf8_lossy(&bytes));
}

#[test]
fn the_watchdog_is_fed_while_idle() {
    let scene = Scene::new(SPEC, SOCKET);
    let manager = Manager::new(&scene);
    let daemon = manager.start(&scene, Some(Duration::from_millis(200)));
    manager.hear_of("READY=1");
    let began = Instant::now();
    for _ in 0..6 {
        let fed = Instant::now();
        manager.hear_of("WATCHDOG=1");
        assert!(fed.elapsed() < Duration::from_millis(1_000), "{:?}", fed.elapsed());
    }
    assert!(began.elapsed() >= Duration::from_millis(400), "fed at half the interval, not without a pause");
    daemon.stop();
}

fn ask(stream: &mut BufReader<TcpStream>, line: &str) -> Value {
    stream.get_mut().write_all(line.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_line(&mut answer).expect("answer");
    serde_json::from_str(&answer).expect("JSON")
}

fn reload(manager: &Manager, daemon: &Daemon) {
    daemon.signal(libc::SIGHUP);
    let reloading = manager.hear_of("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    manager.hear_of("READY=1");
}

#[test]
fn reload_freezes_and_thaws_the_model() {
    let scene = Scene::new(SPEC, SOCKET);
    let manager = Manager::new(&scene);
    let daemon = manager.start(&scene, None);
    manager.hear_of("READY=1");
    let mut client = BufReader::new(TcpStream::connect(daemon.address()).expect("connect"));
    let event = "{\"id\":\"a\",\"x1\":1,\"x2\":2,\"x3\":3,\"y\":true}\n{\"id\":\"b\",\"x1\":-1,\"x2\":1,\"x3\":2,\"y\":false}\n";
    let mut score = || {
        let first = ask(&mut client, event);
        ask(&mut client, "");
        first["score"].as_f64().expect("score")
    };
    score();
    assert_ne!(score(), score(), "it learns");
    scene.configure(&format!("{SOCKET}learn.enabled = false\n"));
    reload(&manager, &daemon);
    // The order reaches the lane between two blocks.
    until("a frozen model", || (score() == score()).then_some(()));
    let frozen = score();
    assert_eq!([score(), score(), score()], [frozen; 3]);
    scene.configure(SOCKET);
    reload(&manager, &daemon);
    until("a model that learns", || (score() != frozen).then_some(()));
    assert!(daemon.said().contains("reloaded: learn.enabled"), "{}", daemon.said());
    drop(client);
    daemon.stop();
}

#[test]
fn what_was_frozen_is_in_the_journal() {
    let scene = Scene::new(include_str!("../models/hyperplane.toml"), RATE);
    let manager = Manager::new(&scene);
    let daemon = manager.start(&scene, None);
    manager.hear_of("READY=1");
    let more = |events: u64| {
        let now = daemon.status()["lanes"][0]["events"].as_u64().expect("events");
        until("more events", || (daemon.status()["lanes"][0]["events"].as_u64()? > now + events).then_some(()));
    };
    for line in ["learn.enabled = false\n", "", "learn.enabled = false\n", ""] {
        more(500);
        scene.configure(&format!("{RATE}{line}"));
        reload(&manager, &daemon);
    }
    more(500);
    let lane = daemon.status()["lanes"][0].clone();
    let (events, learned) = (lane["events"].as_u64().expect("events"), lane["learned"].as_u64().expect("learned"));
    assert!(learned < events && learned > events / 4, "{learned} of {events}");
    daemon.kill();
    let report = scene.call_with_config("replay", &["--json"]).json();
    assert_eq!((&report["digest"], &report["from"]), (&Value::from("equal"), &Value::from(0)), "{report}");
    let daemon = scene.start(&[]);
    daemon.stop();
}

#[test]
fn what_needs_a_restart_is_named_and_nothing_is_changed() {
    let scene = Scene::new(SPEC, SOCKET);
    let manager = Manager::new(&scene);
    let mut daemon = manager.start(&scene, None);
    manager.hear_of("READY=1");
    scene.configure(&format!("{SOCKET}engine.batch_events_max = 7\nlearn.enabled = false\n"));
    reload(&manager, &daemon);
    let said = daemon.said();
    assert!(
        said.contains("not reloaded: engine.batch_events_max changed from 1_024 to 7")
            || said.contains("not reloaded: engine.batch_events_max changed from 1024 to 7"),
        "{said}"
    );
    assert!(!said.contains("reloaded: learn.enabled"), "{said}");
    scene.write("millstream.toml", "rubbish");
    reload(&manager, &daemon);
    assert_eq!(daemon.said().matches("not reloaded: ").count(), 2, "{}", daemon.said());
    assert!(daemon.runs());
    daemon.stop();
}

#[test]
fn the_level_of_the_log_and_the_count_of_checkpoints_follow_a_reload() {
    let scene = Scene::new(SPEC, SOCKET);
    let manager = Manager::new(&scene);
    let daemon = manager.start(&scene, None);
    manager.hear_of("READY=1");
    let checkpoints = |seed: u64| {
        for i in 0..6 {
            let mut stream = TcpStream::connect(daemon.address()).expect("connect");
            stream.write_all(events::json(3, seed + i).as_bytes()).expect("sent");
            stream.shutdown(std::net::Shutdown::Write).expect("shutdown");
            std::io::copy(&mut stream, &mut std::io::sink()).expect("answers");
            scene.ctl(&["checkpoint"]).good();
        }
        scene.checkpoints(0).len()
    };
    assert_eq!(checkpoints(1), 3);
    let lines = daemon.said().matches("admin: checkpoint: done").count();
    assert_eq!(lines, 6);
    scene.configure(&format!("{SOCKET}checkpoint.keep = 5\nlog.level = \"error\"\n"));
    reload(&manager, &daemon);
    assert_eq!(checkpoints(20), 5);
    assert_eq!(daemon.said().matches("admin: checkpoint: done").count(), lines, "{}", daemon.said());
    daemon.stop();
}
