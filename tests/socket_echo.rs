//! Real clients on real sockets: each event is answered in order on its own connection, by a loop
//! that reads and answers on one thread, as a lane does. Limits, slow and vanishing clients included.

use millstream::batch::{Block, OutRecord, Outbox, RecordKind, Span};
use millstream::source::socket::{Listen, SocketCounts, SocketOptions, SocketSource, open};
use millstream::source::{Framing, Past, Polled, Position, ReadOptions, Source};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(20);

fn options() -> SocketOptions {
    SocketOptions {
        listen: Listen::Tcp("127.0.0.1:0".parse().expect("address")),
        connections_max: 2_000,
        connections_per_address_max: 2_000,
        idle_timeout_ms: 0,
        write_buffer_bytes_max: 64 * 1024,
        read: ReadOptions { framing: Framing::Lines, event_bytes_max: 100, block_bytes: 4096 },
        answer: true,
    }
}

/// Answers each event by `name offset event`, an overlong one by `name offset overlong length`.
fn echo(source: &SocketSource, block: &Block, outbox: &mut Outbox, pad: usize) {
    for record in &block.records {
        let start = outbox.bytes.len();
        let name = source.input_name(record.input);
        assert!(!name.is_empty());
        let mut rows = 0;
        let mut answer = |text: &str| {
            writeln!(outbox.bytes, "{name} {} {text}{}", record.offset + rows, " ".repeat(pad)).expect("memory");
            rows += 1;
        };
        let bytes = record.span.of(&block.bytes);
        match record.kind {
            RecordKind::Header => continue,
            RecordKind::Overlong => answer(&format!("overlong {}", bytes.len())),
            _ => {
                for line in bytes.split(|b| *b == b'\n').filter(|l| !l.trim_ascii().is_empty()) {
                    answer(&String::from_utf8_lossy(line));
                }
            }
        }
        let span = Span::new(start, outbox.bytes.len());
        outbox.records.push(OutRecord { span, input: record.input, key: None, rows: rows as u32 });
    }
}

/// Lanes that echo until they are told to stop.
struct Server {
    stop: Arc<AtomicBool>,
    wakers: Vec<Arc<mio::Waker>>,
    threads: Vec<JoinHandle<SocketCounts>>,
    unsent_max: Arc<AtomicUsize>,
    name: String,
}

impl Server {
    fn start(options: SocketOptions, lanes: u32, pad: usize) -> Server {
        let sources = open(options, lanes).expect("open");
        let (stop, unsent_max) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let name = sources[0].listener_name().to_string();
        let wakers = sources.iter().map(SocketSource::waker).collect();
        let threads = sources.into_iter().map(|mut source| {
            let (stop, unsent_max) = (Arc::clone(&stop), Arc::clone(&unsent_max));
            std::thread::spawn(move || {
                let (mut block, mut outbox) = (Block::default(), Outbox::default());
                source.start(&[]).expect("start");
                while !stop.load(Ordering::Acquire) {
                    let polled = source.poll(&mut block, Duration::from_secs(5)).expect("poll");
                    assert_eq!(polled == Polled::Filled, !block.records.is_empty());
                    echo(&source, &block, &mut outbox, pad);
                    source.answer(&outbox);
                    unsent_max.fetch_max(source.unsent_bytes(), Ordering::AcqRel);
                    block.clear();
                    outbox.clear();
                }
                source.counts()
            })
        });
        let threads = threads.collect();
        Server { stop, wakers, threads, unsent_max, name }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.name).expect("connect");
        stream.set_read_timeout(Some(LIMIT)).expect("timeout");
        stream
    }

    fn stop(self) -> SocketCounts {
        self.stop.store(true, Ordering::Release);
        self.wakers.iter().for_each(|w| w.wake().expect("wake"));
        let counts = self.threads.into_iter().map(|t| t.join().expect("lane"));
        counts.fold(SocketCounts::default(), |a, b| SocketCounts {
            accepted: a.accepted + b.accepted,
            refused: a.refused + b.refused,
            idle_closed: a.idle_closed + b.idle_closed,
            answers_dropped: a.answers_dropped + b.answers_dropped,
        })
    }
}

/// Like netcat: sends, half-closes, reads to the end.
fn ask(mut stream: impl Read + Write, half_close: impl Fn(), text: &[u8]) -> String {
    stream.write_all(text).expect("send");
    half_close();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answer");
    answer
}

fn ask_tcp(server: &Server, text: &[u8]) -> String {
    let stream = server.connect();
    let other = stream.try_clone().expect("clone");
    ask(stream, || other.shutdown(Shutdown::Write).expect("shutdown"), text)
}

#[test]
fn a_half_closed_client_gets_all_answers_then_the_end() {
    let server = Server::start(options(), 1, 0);
    let n = &server.name;
    let answer = ask_tcp(&server, b"a\n\n  \r\nb\nlast without end");
    assert_eq!(answer, format!("{n}#0 0 a\n{n}#0 1 b\n{n}#0 2 last without end\n"));
    assert_eq!(ask_tcp(&server, b""), "");
    assert_eq!(ask_tcp(&server, b"c\n"), format!("{n}#2 0 c\n"));
    let at = "x".repeat(100);
    let text = format!("{}\n{at}\n{at}x\n{}\ngood\n{}", &at[1..], "y".repeat(100_000), "z".repeat(101));
    let answer: Vec<String> =
        ask_tcp(&server, text.as_bytes()).lines().map(|l| l.replace(&format!("{n}#3 "), "")).collect();
    let expected = [format!("0 {}", &at[1..]), format!("1 {at}"), "2 overlong 100".into(), "3 overlong 100".into()];
    assert_eq!(answer[..4], expected);
    assert_eq!(answer[4..], ["4 good", "5 overlong 100"]);
    let counts = server.stop();
    assert_eq!((counts.accepted, counts.answers_dropped), (4, 0));
}

#[test]
fn events_may_arrive_byte_by_byte() {
    let mut options = options();
    options.read.event_bytes_max = 100_000;
    let server = Server::start(options, 1, 0);
    let mut stream = server.connect();
    stream.set_nodelay(true).expect("nodelay");
    for byte in b"one\ntw" {
        stream.write_all(&[*byte]).expect("send");
        std::thread::sleep(Duration::from_millis(2));
    }
    for _ in 0..40 {
        stream.write_all(&[b'o'; 2_000]).expect("send");
        std::thread::sleep(Duration::from_millis(1));
    }
    stream.write_all(b"\n").expect("send");
    let mut lines = BufReader::new(stream).lines();
    assert_eq!(lines.next().expect("line").expect("line"), format!("{}#0 0 one", server.name));
    let long = lines.next().expect("line").expect("line");
    assert_eq!(long, format!("{}#0 1 tw{}", server.name, "o".repeat(80_000)));
    server.stop();
}

#[test]
fn a_unix_socket_and_a_header_a_connection() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("s");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a stale socket"));
    let mut options = options();
    options.listen = Listen::Unix(path.clone());
    options.read.framing = Framing::Csv { header: true };
    let server = Server::start(options, 1, 0);
    for i in 0..3 {
        let stream = std::os::unix::net::UnixStream::connect(&path).expect("connect");
        let other = stream.try_clone().expect("clone");
        let answer = ask(stream, || other.shutdown(Shutdown::Write).expect("shutdown"), b"h1,h2\r\n1,2\n3,4\n");
        let n = path.display();
        assert_eq!(answer, format!("{n}#{i} 0 1,2\n{n}#{i} 1 3,4\n"));
    }
    let stream = std::os::unix::net::UnixStream::connect(&path).expect("connect");
    let answer = ask(&stream, || (), &[b'h'; 200]);
    assert!(answer.contains("header line is longer"), "{answer}");
    server.stop();
    assert!(!path.exists());
}

#[test]
fn a_thousand_connections_over_three_lanes() {
    let server = Server::start(options(), 3, 0);
    let mut streams: Vec<TcpStream> = (0..1_000).map(|_| server.connect()).collect();
    for round in 0..3 {
        for (i, stream) in streams.iter_mut().enumerate() {
            writeln!(stream, "event {i}.{round}").expect("send");
        }
        for (i, stream) in streams.iter_mut().enumerate() {
            let expected = format!("{}#{i} {round} event {i}.{round}\n", server.name);
            let mut answer = vec![0; expected.len()];
            stream.read_exact(&mut answer).expect("answer");
            assert_eq!(String::from_utf8_lossy(&answer), expected);
        }
    }
    drop(streams);
    assert_eq!(server.stop().accepted, 1_000);
}

#[test]
fn connections_over_a_limit_are_refused_with_a_line() {
    for (all, address, name) in [(2, 9, "connections_max"), (9, 2, "connections_per_address_max")] {
        let options = SocketOptions { connections_max: all, connections_per_address_max: address, ..options() };
        let server = Server::start(options, 1, 0);
        let mut seated = vec![server.connect(), server.connect()];
        for (i, stream) in seated.iter_mut().enumerate() {
            stream.write_all(b"x\n").expect("send");
            let mut line = String::new();
            BufReader::new(&*stream).read_line(&mut line).expect("answer");
            assert_eq!(line, format!("{}#{i} 0 x\n", server.name), "at the limit");
        }
        let mut refusal = String::new();
        server.connect().read_to_string(&mut refusal).expect("refusal");
        assert!(refusal.contains(name) && refusal.starts_with("{\"error\":") && refusal.ends_with("\n"), "{refusal}");
        drop(seated.pop());
        // The seat is free as soon as the lane has seen the close.
        let until = Instant::now() + LIMIT;
        loop {
            let mut stream = server.connect();
            let _ = stream.write_all(b"y\n");
            let mut line = String::new();
            let _ = BufReader::new(&stream).read_line(&mut line);
            if line.ends_with("0 y\n") {
                break;
            }
            assert!(Instant::now() < until, "{line}");
        }
        let counts = server.stop();
        assert!(counts.refused >= 1 && counts.accepted == 3, "{counts:?}");
    }
}

#[test]
fn a_slow_reader_is_held_back_while_others_go_on() {
    let server = Server::start(options(), 1, 2_000);
    let slow = server.connect();
    let mut sender = slow.try_clone().expect("clone");
    let count = 20_000;
    let sending = std::thread::spawn(move || {
        for i in 0..count {
            writeln!(sender, "{i} {}", "s".repeat(80)).expect("send");
        }
        sender.shutdown(Shutdown::Write).expect("shutdown");
    });
    // 40 MB of answers that nobody reads; the others are answered all the same.
    for _ in 0..50 {
        assert!(ask_tcp(&server, b"quick\n").contains("0 quick"));
        std::thread::sleep(Duration::from_millis(2));
    }
    let mut lines = 0;
    for line in BufReader::new(slow).lines() {
        let line = line.expect("line");
        assert!(line.starts_with(&format!("{}#0 {lines} {lines} s", server.name)), "{line:.80}");
        lines += 1;
    }
    assert_eq!(lines, count);
    sending.join().expect("sender");
    // The limit, and what one block (4 KiB and a read of at most 64 KiB) may bring on top.
    let bound = 64 * 1024 + (68 * 1024 / 80 + 2) * 2_100;
    let unsent_max = server.unsent_max.load(Ordering::Acquire);
    assert!(unsent_max > 64 * 1024 && unsent_max < bound, "{unsent_max} of {bound}");
    assert_eq!(server.stop().answers_dropped, 0);
}

#[test]
fn idle_connections_are_closed_and_busy_ones_stay() {
    let server = Server::start(SocketOptions { idle_timeout_ms: 300, ..options() }, 1, 0);
    let (mut idle, mut busy) = (server.connect(), server.connect());
    let began = Instant::now();
    let closer = std::thread::spawn(move || {
        let mut text = String::new();
        idle.read_to_string(&mut text).expect("closed");
        (text, began.elapsed())
    });
    for _ in 0..12 {
        busy.write_all(b"x\n").expect("send");
        busy.read_exact(&mut [0; 8]).expect("answer");
        std::thread::sleep(Duration::from_millis(60));
    }
    let (text, after) = closer.join().expect("closer");
    assert!(text.contains("idle_timeout_ms") && after >= Duration::from_millis(250), "{text} {after:?}");
    busy.write_all(b"y\n").expect("still open");
    assert_eq!(server.stop().idle_closed, 1);
}

#[test]
fn answers_to_a_vanished_client_are_counted() {
    let mut source = open(options(), 1).expect("open").remove(0);
    let name = format!("{}#5", source.listener_name());
    source.start(&[(name, Position { offset: 9, byte: 0 })]).expect("start");
    let mut stream = TcpStream::connect(source.listener_name()).expect("connect");
    stream.write_all(b"a\nb\n").expect("send");
    let (mut block, mut outbox) = (Block::default(), Outbox::default());
    while block.records.is_empty() {
        source.poll(&mut block, Duration::from_millis(50)).expect("poll");
    }
    echo(&source, &block, &mut outbox, 0);
    assert!(source.input_name(block.records[0].input).ends_with("#6"), "numbers go on over restarts");
    stream.write_all(b"unread").expect("send");
    drop(stream);
    let until = Instant::now() + LIMIT;
    while source.connections() > 0 && Instant::now() < until {
        block.clear();
        source.poll(&mut block, Duration::from_millis(10)).expect("poll");
        source.answer(&outbox);
    }
    source.answer(&outbox);
    assert!(source.counts().answers_dropped >= 2);
    assert!(source.read_run("x", Position::default(), 1, &mut block).is_err());
    assert!(!source.replayable());
}

/// A lane of its own, polled by the test: no thread, no answers but those it makes.
fn polled(source: &mut SocketSource, block: &mut Block, records: usize) {
    let until = Instant::now() + LIMIT;
    while block.records.len() < records {
        assert!(Instant::now() < until, "{} of {records} records", block.records.len());
        source.poll(block, Duration::from_millis(10)).expect("poll");
    }
}

#[test]
fn frames_in_pieces_and_one_that_is_too_long() {
    let mut options = options();
    options.read.framing = Framing::Binary;
    let mut source = open(options, 1).expect("open").remove(0);
    source.start(&[]).expect("start");
    let frame = |n: u32| [&n.to_le_bytes()[..], &vec![n as u8; n as usize]].concat();
    let mut stream = TcpStream::connect(source.listener_name()).expect("connect");
    let mut block = Block::default();
    let whole = frame(9);
    stream.write_all(&whole[..6]).expect("send");
    assert_eq!(source.poll(&mut block, Duration::from_millis(30)), Ok(Polled::Idle));
    stream.write_all(&[&whole[6..], &frame(100), &frame(101), &frame(3)].concat()).expect("send");
    polled(&mut source, &mut block, 3);
    let found: Vec<_> = block.records.iter().map(|r| (r.kind, r.offset, r.span.len())).collect();
    use RecordKind::{Overlong, Stream};
    assert_eq!(found, [(Stream, 0, 13 + 104), (Overlong, 2, 100), (Stream, 3, 7)]);
    assert_eq!(&block.bytes[..13], whole);
    stream.write_all(&u32::MAX.to_le_bytes()).expect("send");
    source.poll(&mut block, Duration::from_millis(30)).expect("poll");
    assert!(block.bytes.capacity() < 1 << 20, "an announced length allocates nothing");
}

#[test]
fn a_drain_sends_what_waits_and_a_pause_reads_nothing() {
    let mut source = open(options(), 1).expect("open").remove(0);
    source.start(&[]).expect("start");
    let mut stream = TcpStream::connect(source.listener_name()).expect("connect");
    stream.write_all(b"a\n").expect("send");
    let mut block = Block::default();
    source.pause(true);
    for _ in 0..3 {
        assert_eq!(source.poll(&mut block, Duration::from_millis(20)), Ok(Polled::Idle));
    }
    source.pause(false);
    polled(&mut source, &mut block, 1);
    let answer = vec![b'x'; 8 << 20];
    let record = OutRecord { span: Span::new(0, answer.len()), input: block.records[0].input, key: None, rows: 1 };
    source.answer(&Outbox { bytes: answer.clone(), records: vec![record], ..Outbox::default() });
    assert!(source.send_all(Duration::from_millis(20)).expect("drain") > 0, "nobody reads");
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        stream.shutdown(Shutdown::Write).expect("shutdown");
        stream.read_to_end(&mut text).expect("answer");
        text
    });
    assert_eq!(source.send_all(LIMIT), Ok(0));
    block.clear();
    while source.connections() > 0 {
        source.poll(&mut block, Duration::from_millis(20)).expect("poll");
    }
    assert!(reader.join().expect("reader") == answer);
    assert_eq!(source.counts().answers_dropped, 0);
}
