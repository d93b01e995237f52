//! The story: programs connect, send events and read answers.
//!
//! JSON, CSV and binary clients, over TCP and Unix sockets, one and many at a time: each gets its answers
//! in order on its own connection, an error in the place of a bad row, and the end after it half-closed.
//! A daemon that died says how many learned events that cost. Sockets can be handed over by a service
//! manager, and predictions can go to a file instead.

mod support;

use serde_json::{Value, json};
use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use support::daemon::{LIMIT, Scene, until};
use support::events::{self, SPEC};

const SOCKET: &str = "source.kind = \"socket\"\nsource.listen = \"127.0.0.1:0\"\n";

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(LIMIT)).expect("timeout");
    stream
}

/// Sends everything while reading, half-closes, reads to the end.
fn exchange(stream: TcpStream, bytes: Vec<u8>) -> Vec<Value> {
    let mut sender = stream.try_clone().expect("clone");
    let sending = std::thread::spawn(move || {
        sender.write_all(&bytes).expect("sent");
        sender.shutdown(Shutdown::Write).expect("shutdown");
    });
    let mut text = Vec::new();
    (&stream).read_to_end(&mut text).expect("answers");
    sending.join().expect("sender");
    events::lines(&text)
}

fn offset(answer: &Value) -> u64 {
    let place = if answer.get("error").is_some() { &answer["error"] } else { answer };
    place["offset"].as_u64().unwrap_or_else(|| panic!("{answer}"))
}

#[test]
fn json_csv_and_binary_clients_get_the_same_answers() {
    let spec = SPEC.replace("id = \"id\"\n", "").replace("id = \"category\"\n", "");
    // The same events in three formats: x1, x2, x3, y; the fifth is bad.
    let mut random = events::Random(5);
    let rows: Vec<[f64; 4]> = (0..100)
        .map(|_| {
            let (a, b, c) = (random.signed(), random.signed(), random.signed());
            [a, b, c, f64::from(a + b > c)]
        })
        .collect();
    let mut answers = Vec::new();
    for format in ["json", "csv", "binary"] {
        let mut bytes = if format == "csv" { b"x1,x2,x3,y\n".to_vec() } else { Vec::new() };
        for (i, [a, b, c, y]) in rows.iter().enumerate() {
            match (format, i) {
                ("json", 5) => bytes.extend_from_slice(b"{\"x1\":\n"),
                ("csv", 5) => bytes.extend_from_slice(b"1,2\n"),
                ("binary", 5) => {
                    bytes.extend_from_slice(&16u32.to_le_bytes());
                    bytes.extend_from_slice(&6u64.to_le_bytes());
                    bytes.extend_from_slice(&a.to_le_bytes());
                }
                ("json", _) => {
                    writeln!(bytes, "{{\"x1\":{a},\"x2\":{b},\"x3\":{c},\"y\":{}}}", *y == 1.0).expect("memory")
                }
                ("csv", _) => writeln!(bytes, "{a},{b},{c},{y}").expect("memory"),
                _ => {
                    bytes.extend_from_slice(&40u32.to_le_bytes());
                    bytes.extend_from_slice(&(i as u64 + 1).to_le_bytes());
                    [a, b, c, y].iter().for_each(|x| bytes.extend_from_slice(&x.to_le_bytes()));
                }
            }
        }
        let scene = Scene::new(&spec, &format!("{SOCKET}source.format = \"{format}\"\n"));
        let daemon = scene.start(&[]);
        let found = exchange(connect(&daemon.address()), bytes);
        daemon.stop();
        assert_eq!(found.len(), 100, "{format}");
        for (i, answer) in found.iter().enumerate() {
            assert_eq!((offset(answer), &answer["seq"]), (i as u64, &json!(i)), "{format}: {answer}");
            assert_eq!(answer.get("error").is_some(), i == 5, "{format}: {answer}");
            let sequence = if format == "binary" { json!(i + 1) } else { Value::Null };
            assert_eq!(answer["sequence"], sequence, "{format}: {answer}");
        }
        answers.push(found.iter().map(|a| json!([a["score"], a["class"]])).collect::<Vec<Value>>());
    }
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0], answers[2]);
}

#[test]
fn netcat_is_a_client() {
    let scene = Scene::new(SPEC, SOCKET);
    let daemon = scene.start(&[]);
    let address = daemon.address();
    let port = address.rsplit(':').next().expect("a port");
    let started =
        Command::new("nc").args(["-N", "127.0.0.1", port]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut nc) = started else {
        println!("skipped: there is no netcat here");
        return;
    };
    nc.stdin.take().expect("stdin").write_all(events::json(20, 1).as_bytes()).expect("sent");
    let output = nc.wait_with_output().expect("netcat ends");
    assert_eq!(events::lines(&output.stdout).len(), 20);
}

#[test]
fn many_connections_each_in_its_order() {
    for lanes in [1, 3] {
        let scene = Scene::new(SPEC, &format!("{SOCKET}lanes = {lanes}\n"));
        let daemon = scene.start(&[]);
        let address = daemon.address();
        let clients: Vec<_> = (0..12u64)
            .map(|i| {
                let stream = connect(&address);
                std::thread::spawn(move || exchange(stream, events::json(300, i).into_bytes()))
            })
            .collect();
        let mut seqs = vec![Vec::new(); lanes];
        for client in clients {
            let answers = client.join().expect("client");
            assert!(answers.iter().enumerate().all(|(i, a)| offset(a) == i as u64) && answers.len() == 300);
            let inputs: Vec<&Value> = answers.iter().filter_map(|a| a.get("input")).collect();
            assert!(inputs.windows(2).all(|w| w[0] == w[1]));
            let lane = answers.iter().find_map(|a| a.get("lane")).map_or(0, |l| l.as_u64().expect("lane") as usize);
            let connection: usize =
                inputs[0].as_str().and_then(|i| i.rsplit('#').next()?.parse().ok()).expect("a connection");
            assert_eq!(lane, connection % lanes);
            seqs[lane].extend(answers.iter().map(|a| a["seq"].as_u64().expect("seq")));
        }
        for mut seqs in seqs {
            seqs.sort_unstable();
            assert!(seqs.iter().copied().eq(0..seqs.len() as u64), "a lane numbers its events without a gap");
        }
        daemon.stop();
    }
}

/// Their blocks are large enough to be decoded while the ones before are scored, and a connection's number is given
/// out again soon after its end, or after it has vanished with answers under way: an answer must find its own
/// connection all the same.
#[test]
fn connections_with_much_to_say_come_and_go() {
    const EVENTS: u64 = 3_000;
    const TURNS: u64 = 10;
    let scene = Scene::new(SPEC, &format!("{SOCKET}engine.threads = 4\n"));
    let daemon = scene.start(&[]);
    let address = daemon.address();
    let clients: Vec<_> = (0..4u64)
        .map(|client| {
            let address = address.clone();
            std::thread::spawn(move || {
                let mut seqs = Vec::new();
                for turn in 0..TURNS {
                    let mark = format!("\"id\":\"c{client}t{turn}");
                    let bytes = events::json(EVENTS, client).replace("\"id\":\"", &mark).into_bytes();
                    assert!(bytes.len() > 200_000, "several reads a connection");
                    let answers = exchange(connect(&address), bytes);
                    assert_eq!(answers.len() as u64, EVENTS);
                    for (i, answer) in answers.iter().enumerate() {
                        let id = answer["id"].as_str();
                        assert!(offset(answer) == i as u64, "{answer}");
                        assert!(id.is_none_or(|id| *id == format!("c{client}t{turn}e{i}")), "{answer}");
                        seqs.push(answer["seq"].as_u64().expect("seq"));
                    }
                }
                seqs
            })
        })
        .collect();
    let done = AtomicBool::new(false);
    let seqs: Vec<u64> = std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let bytes = events::json(900, 77).into_bytes();
                while !done.load(Relaxed) {
                    let mut stream = connect(&address);
                    stream.write_all(&bytes).expect("sent");
                    // Gone with most of its answers under way.
                    stream.read_exact(&mut [0]).expect("an answer");
                }
            });
        }
        let ended: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        done.store(true, Relaxed);
        ended.into_iter().flat_map(|client| client.expect("a client that was answered")).collect()
    });
    assert_eq!(seqs.iter().collect::<HashSet<_>>().len() as u64, 4 * TURNS * EVENTS, "no number twice");
    daemon.stop();
}

#[test]
fn a_death_costs_what_was_learned_since_the_checkpoint_and_says_so() {
    let scene =
        Scene::new(SPEC, &format!("{SOCKET}checkpoint.interval_ms = 600_000\ndelivery.commit_interval_ms = 5\n"));
    let daemon = scene.start(&[]);
    exchange(connect(&daemon.address()), events::json(400, 1).into_bytes());
    scene.ctl(&["checkpoint"]).good();
    let learned = |d: &support::daemon::Daemon| d.status()["lanes"][0]["learned"].as_u64().expect("learned");
    let before = learned(&daemon);
    exchange(connect(&daemon.address()), events::json(100, 2).into_bytes());
    until("a commit", || (daemon.status()["lanes"][0]["committed_seq"] == 500).then_some(()));
    let lost = learned(&daemon) - before;
    assert!(lost > 50);
    let version = daemon.status()["lanes"][0]["version"].clone();
    daemon.kill();
    let daemon = scene.start(&[]);
    let said = daemon.said();
    assert!(said.contains(&format!("{lost} learned events since the last checkpoint are lost")), "{said}");
    let answers = exchange(connect(&daemon.address()), events::json(10, 3).into_bytes());
    assert_eq!(answers[0]["seq"], 500, "the numbers go on");
    assert!(answers.iter().filter_map(|a| a.get("version")).all(|v| *v == version));
    daemon.stop();
    // After an orderly end nothing is lost.
    let daemon = scene.start(&[]);
    assert!(!daemon.said().contains("are lost"), "{}", daemon.said());
    daemon.stop();
}

#[test]
fn a_unix_socket_listens_at_its_path() {
    let scene = Scene::new(SPEC, "source.kind = \"socket\"\nsource.listen = \"DIR/events.sock\"\n");
    let daemon = scene.start(&[]);
    let mut stream = UnixStream::connect(scene.path("events.sock")).expect("connect");
    stream.write_all(events::json(30, 1).as_bytes()).expect("sent");
    stream.shutdown(Shutdown::Write).expect("shutdown");
    let mut text = Vec::new();
    stream.read_to_end(&mut text).expect("answers");
    let answers = events::lines(&text);
    assert_eq!(answers.len(), 30);
    let scored = answers.iter().find(|a| a.get("score").is_some()).expect("a score");
    assert_eq!(scored["input"], format!("{}#0", scene.text("events.sock")));
    // A kill leaves the path behind; the next start takes it over.
    daemon.kill();
    let daemon = scene.start(&[]);
    UnixStream::connect(scene.path("events.sock")).expect("connect");
    daemon.stop();
    assert!(!scene.path("events.sock").exists());
}

#[test]
fn predictions_may_go_to_a_file() {
    let lines = "sink.kind = \"file\"\nsink.path = \"DIR/out.ndjson\"\nsink.dead_letters = \"DIR/dead.ndjson\"\n";
    let scene = Scene::new(SPEC, &format!("{SOCKET}{lines}"));
    let daemon = scene.start(&[]);
    for seed in 0..2 {
        let answers = exchange(connect(&daemon.address()), events::json(200, seed).into_bytes());
        assert_eq!(answers, [] as [Value; 0], "nothing comes back");
    }
    until("a commit", || (daemon.status()["lanes"][0]["committed_seq"] == 400).then_some(()));
    daemon.kill();
    let daemon = scene.start(&[]);
    exchange(connect(&daemon.address()), events::json(100, 7).into_bytes());
    daemon.stop();
    let (out, dead) = (events::lines(&scene.read("out.ndjson")), events::lines(&scene.read("dead.ndjson")));
    assert_eq!(out.len() + dead.len(), 500);
    assert!(out.iter().map(|o| o["seq"].as_u64().expect("seq")).is_sorted());
    assert!(out.last().expect("a line")["seq"].as_u64() > Some(400));
}

#[test]
fn a_socket_may_be_handed_over_by_the_service_manager() {
    let scene = Scene::new(SPEC, SOCKET);
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    // A client that came before the daemon.
    let mut early = connect(&address.to_string());
    early.write_all(events::json(5, 1).as_bytes()).expect("sent");
    // The variables name the process that they are for, so that the shell that sets them becomes it.
    let mut command = scene.command(&[]);
    let binary = command.get_program().to_owned();
    command = Command::new("/bin/sh");
    command.args(["-c", "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" run -c \"$1\""]);
    command.arg(binary).arg(scene.text("millstream.toml")).stdin(Stdio::null());
    let fd = listener.as_raw_fd();
    // SAFETY: dup2 and prctl are async-signal-safe and touch only the child.
    unsafe {
        command.pre_exec(move || {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            // Where it has that number already, dup2 would leave it to be closed.
            let done = if fd == 3 { libc::fcntl(3, libc::F_SETFD, 0) } else { libc::dup2(fd, 3) };
            if done < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
        });
    }
    let mut daemon = scene.spawn_as(command);
    daemon.ready();
    let mut reader = BufReader::new(early);
    for i in 0..5 {
        let mut line = String::new();
        reader.read_line(&mut line).expect("answer");
        assert_eq!(offset(&serde_json::from_str(&line).expect("JSON")), i);
    }
    assert_eq!(exchange(connect(&address.to_string()), events::json(20, 2).into_bytes()).len(), 20);
    daemon.stop();
}

#[test]
fn a_port_that_is_taken_is_the_environments_fault() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address").to_string();
    let scene = Scene::new(SPEC, &format!("source.kind = \"socket\"\nsource.listen = \"{address}\"\n"));
    scene.call_with_config("run", &[]).refused(4, &[&address]);
}
