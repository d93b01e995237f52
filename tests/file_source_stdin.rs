//! Standard input as a source: events come as they arrive, the end of the pipe is the end.
//! The test starts itself as a child whose standard input is a pipe.

use millstream::batch::{Block, RecordKind};
use millstream::source::file::{FileOptions, FileSource};
use millstream::source::{Framing, Past, Polled, Position, ReadOptions, Source};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

const CHILD: &str = "MILLSTREAM_TEST_READS_STDIN";

/// The child's part: prints what it reads, line by line.
#[test]
fn child() {
    let Ok(follow) = std::env::var(CHILD) else { return };
    let read = ReadOptions { framing: Framing::Csv { header: true }, event_bytes_max: 100, block_bytes: 1000 };
    let options = FileOptions { paths: vec!["-".into()], follow: follow == "follow", lane: 0, lanes: 1, read };
    let mut source = FileSource::new(options).expect("source");
    assert!(!source.replayable());
    assert!(source.read_run("-", Position::default(), 1, &mut Block::default()).is_err());
    source.start(&[("-".into(), Position { offset: 7, byte: 99 })]).expect("start");
    let mut block = Block::default();
    loop {
        match source.poll(&mut block, Duration::from_millis(30)).expect("poll") {
            Polled::End => break,
            Polled::Idle => eprintln!("@idle"),
            Polled::Filled => {
                for r in block.records.iter().filter(|r| r.kind == RecordKind::Stream) {
                    let text = String::from_utf8_lossy(r.span.of(&block.bytes)).replace('\n', "/");
                    eprintln!("@{} {} {text}", source.input_name(r.input), r.offset);
                }
                block.clear();
            }
        }
    }
    eprintln!("@end");
}

#[test]
fn events_come_as_they_arrive() {
    for follow in ["follow", "once"] {
        let mut child = Command::new(std::env::current_exe().expect("test"))
            .args(["--exact", "child", "--nocapture"])
            .env(CHILD, follow)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("child");
        let mut pipe = child.stdin.take().expect("pipe");
        let mut lines = BufReader::new(child.stderr.take().expect("stderr")).lines().map(|l| l.expect("line"));
        let mut next = || lines.by_ref().find(|l| l.starts_with('@') && l != "@idle").expect("a line");
        pipe.write_all(b"h\n1\n2").expect("send");
        assert_eq!(next(), "@- 7 1/");
        pipe.write_all(b"2\n").expect("send");
        assert_eq!(next(), "@- 8 22/");
        std::thread::sleep(Duration::from_millis(80));
        pipe.write_all(b"3").expect("send");
        drop(pipe);
        assert_eq!(next(), "@- 9 3");
        assert_eq!(next(), "@end");
        assert!(child.wait().expect("child").success());
    }
}
