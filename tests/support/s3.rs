//! A real S3 server on loopback (moto's), and a gate in front of it that can be shut: what S3's clients see of an
//! outage.
//!
//! The server comes through pip, once, into `target/s3-server` or `$MILLSTREAM_S3_SERVER`. It dies with the test
//! process, however that ends.

use super::broker::{spawn_bound, target_dir};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// A server with one bucket, stopped with this value.
pub struct S3 {
    server: Child,
    gate: Gate,
}

impl S3 {
    /// A server with an empty bucket `millstream`.
    pub fn new() -> S3 {
        let port = super::free_port();
        let log = File::create(target_dir().join("s3-server.log")).expect("a log");
        let mut command = Command::new(installed().join("bin/moto_server"));
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        let server = spawn_bound(command);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let deadline = Instant::now() + PATIENCE;
        let request = "PUT /millstream HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        loop {
            let mut answer = String::new();
            if let Ok(mut stream) = TcpStream::connect(address)
                && stream.write_all(request.as_bytes()).is_ok()
                && stream.read_to_string(&mut answer).is_ok()
                && answer.starts_with("HTTP/1.1 200")
            {
                break;
            }
            assert!(Instant::now() < deadline, "no bucket: {answer:?}; see target/s3-server.log");
            std::thread::sleep(Duration::from_millis(50));
        }
        S3 { server, gate: Gate::new(address) }
    }

    /// The variables by which a client finds it.
    pub fn environment(&self) -> Vec<(String, String)> {
        let endpoint = format!("http://{}", self.gate.address);
        [
            ("AWS_ENDPOINT_URL", endpoint.as_str()),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "key"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
        ]
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .to_vec()
    }

    /// From now on nobody gets through: connections are cut, and new ones end at once.
    pub fn shut(&self) {
        self.gate.shut.store(true, SeqCst);
        for stream in self.gate.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Lets everybody through again.
    pub fn open(&self) {
        self.gate.shut.store(false, SeqCst);
    }

    /// Stops the server's process in its tracks (true): it accepts, and never answers. Or lets it go on.
    pub fn freeze(&self, frozen: bool) {
        let signal = if frozen { libc::SIGSTOP } else { libc::SIGCONT };
        // SAFETY: the child was not waited for, so the number is its own.
        assert_eq!(unsafe { libc::kill(self.server.id() as i32, signal) }, 0);
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        self.gate.ended.store(true, SeqCst);
        let _ = TcpStream::connect(self.gate.address);
    }
}

/// Hands connections through to another address.
struct Gate {
    address: SocketAddr,
    shut: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Gate {
    fn new(to: SocketAddr) -> Gate {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let gate = Gate {
            address: listener.local_addr().expect("an address"),
            shut: Arc::default(),
            ended: Arc::default(),
            streams: Arc::default(),
        };
        let (shut, ended, streams) = (gate.shut.clone(), gate.ended.clone(), gate.streams.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if ended.load(SeqCst) {
                    return;
                }
                if shut.load(SeqCst) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(to) else { continue };
                let clone = |stream: &TcpStream| stream.try_clone().expect("a descriptor");
                streams.lock().unwrap().extend([clone(&client), clone(&server)]);
                for (mut from, mut into) in [(clone(&client), clone(&server)), (server, client)] {
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut into);
                        let _ = into.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        gate
    }
}

/// The folder of the installed server.
fn installed() -> PathBuf {
    if let Some(dir) = std::env::var_os("MILLSTREAM_S3_SERVER") {
        return PathBuf::from(dir);
    }
    let dir = target_dir().join("s3-server");
    fs::create_dir_all(&dir).expect("a folder for the server");
    let lock = File::create(dir.join(".lock")).expect("the server's lock");
    lock.lock().expect("the server's lock");
    if !dir.join(".complete").exists() {
        let run = |command: &mut Command| {
            let done = command.output().expect("python3 runs (scripts/setup test installs it)");
            assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
        };
        run(Command::new("python3").args(["-m", "venv"]).arg(&dir));
        run(Command::new(dir.join("bin/pip")).args(["install", "-q", "moto[s3,server]==5.2.*"]));
        File::create(dir.join(".complete")).expect("the server's mark");
    }
    dir
}
