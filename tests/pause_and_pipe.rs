//! The story: an operator holds a daemon still for a moment; a shell user puts one in a pipe.
//!
//! `ctl pause` stops the intake and `ctl resume` goes on with the next event, nothing lost and nothing
//! asked twice. With `-` as the path and the console as the sink, the daemon is a filter.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;
use support::daemon::{Scene, until};
use support::events::{self, SPEC};

#[test]
fn paused_nothing_is_taken_and_resumed_nothing_is_missing() {
    let scene = Scene::new(
        include_str!("../models/hyperplane.toml"),
        "source.kind = \"rate\"\nsource.rate = 20_000\nsink.kind = \"file\"\nsink.path = \"DIR/out.ndjson\"\n",
    );
    let daemon = scene.start(&[]);
    let events = || daemon.status()["lanes"][0]["events"].as_u64().expect("events");
    until("events", || (events() > 100).then_some(()));
    scene.ctl(&["pause"]).good();
    assert_eq!(daemon.status()["lanes"][0]["state"], "paused");
    // Blocks that were on their way are still taken; then it stands still.
    until("a standstill", || {
        let before = events();
        std::thread::sleep(Duration::from_millis(150));
        (events() == before).then_some(())
    });
    let still = events();
    scene.ctl(&["resume"]).good();
    assert_eq!(daemon.status()["lanes"][0]["state"], "running");
    until("more events", || (events() > still + 100).then_some(()));
    daemon.stop();
    let answers = events::lines(&scene.read("out.ndjson"));
    assert!(answers.len() as u64 > still);
    assert!(answers.iter().enumerate().all(|(i, a)| a["seq"] == i && a["offset"] == i));
}

#[test]
fn a_paused_socket_answers_when_it_is_resumed() {
    let scene = Scene::new(SPEC, "source.kind = \"socket\"\nsource.listen = \"127.0.0.1:0\"\n");
    let daemon = scene.start(&[]);
    let mut stream = TcpStream::connect(daemon.address()).expect("connect");
    scene.ctl(&["pause"]).good();
    stream.write_all(events::json(3, 1).as_bytes()).expect("sent");
    stream.set_read_timeout(Some(Duration::from_millis(300))).expect("timeout");
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    assert!(reader.read_line(&mut line).is_err(), "answered while paused: {line}");
    // It is alive all the same.
    scene.ctl(&["status"]).good();
    scene.ctl(&["resume"]).good();
    reader.get_ref().set_read_timeout(Some(support::daemon::LIMIT)).expect("timeout");
    for _ in 0..3 {
        line.clear();
        reader.read_line(&mut line).expect("an answer");
        assert!(line.ends_with("}\n"), "{line}");
    }
    drop(reader);
    // A paused daemon drains as well.
    scene.ctl(&["pause"]).good();
    daemon.stop();
}

#[test]
fn the_daemon_is_a_filter() {
    let scene = Scene::new(SPEC, "source.kind = \"file\"\nsource.paths = [\"-\"]\nsink.kind = \"console\"\n");
    let mut command = scene.daemon_command(&[]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let mut stdin = child.stdin.take().expect("stdin");
    let writer = std::thread::spawn(move || stdin.write_all(events::json(2_000, 1).as_bytes()).expect("sent"));
    let output = child.wait_with_output().expect("it ends with its input");
    writer.join().expect("writer");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let answers = events::lines(&output.stdout);
    assert!(answers.len() > 1_900 && said.contains("millstream: 2000 events"), "{} {said}", answers.len());
    assert!(answers.iter().all(|a| a["input"] == "-"));
}
