//! The built daemon in a folder of its own: started, asked, killed, told to stop; ended with the test.

use millstream::admin::{CtlAction, ctl};
use millstream::error::Fault;
use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long anything may take before a test gives up.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Waits until `done` gives something.
pub fn until<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The binary under test: the one that was built with the tests, or a copy of it.
static BINARY: OnceLock<PathBuf> = OnceLock::new();

fn binary() -> &'static Path {
    BINARY.get_or_init(|| PathBuf::from(env!("CARGO_BIN_EXE_millstream")))
}

/// Copies the binary to a folder from where it is run from now on: a build that goes on beside a long test must
/// not change it half-way.
pub fn run_a_copy(folder: &Path) {
    let copy = folder.join("millstream");
    std::fs::copy(env!("CARGO_BIN_EXE_millstream"), &copy).expect("a copy of the binary");
    BINARY.set(copy).expect("before the first daemon");
}

/// A folder with a spec (`pipeline.toml`) and a config (`millstream.toml`).
pub struct Scene {
    dir: TempDir,
    starts: AtomicU32,
}

impl Scene {
    /// A scene whose config has `lines` (dotted keys; `DIR` stands for the folder) beside the paths of
    /// pipeline, state and admin socket.
    pub fn new(spec: &str, lines: &str) -> Scene {
        let dir = tempfile::tempdir().expect("a folder");
        let scene = Scene { dir, starts: AtomicU32::new(0) };
        scene.write("pipeline.toml", spec);
        scene.configure(lines);
        scene
    }

    /// Writes the config anew.
    pub fn configure(&self, lines: &str) {
        let own = if lines.contains("pipeline = ") { "" } else { "pipeline = \"DIR/pipeline.toml\"\n" };
        let state = if lines.contains("state_dir = ") { "" } else { "state_dir = \"DIR/state\"\n" };
        let text = format!("{own}{state}admin.socket = \"DIR/admin.sock\"\n{lines}\n");
        self.write("millstream.toml", text.replace("DIR", &self.dir.path().display().to_string()));
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The same as text.
    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Writes a file of the folder.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).expect("written");
    }

    /// Reads a file of the folder; empty where there is none.
    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_default()
    }

    /// The length of a file of the folder; 0 where there is none.
    pub fn length(&self, name: &str) -> u64 {
        std::fs::metadata(self.path(name)).map_or(0, |m| m.len())
    }

    /// The binary with arguments, away from the environment of whoever runs the tests. Ends with the
    /// thread that starts it.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(arguments).env_clear().env("HOME", self.dir.path()).stdin(Stdio::null());
        command.current_dir(env!("CARGO_MANIFEST_DIR"));
        // SAFETY: prctl is async-signal-safe and touches only the child.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        command
    }

    /// The outcome of a command.
    pub fn call(&self, arguments: &[&str]) -> Called {
        Called::from(self.command(arguments).output().expect("the binary starts"))
    }

    /// `millstream COMMAND -c millstream.toml …`
    pub fn call_with_config(&self, command: &str, more: &[&str]) -> Called {
        let config = self.text("millstream.toml");
        self.call(&[&[command, "-c", &config], more].concat())
    }

    /// `millstream ctl --socket … …`
    pub fn ctl(&self, more: &[&str]) -> Called {
        let socket = self.text("admin.sock");
        self.call(&[&["ctl", "--socket", &socket], more].concat())
    }

    /// The running daemon's metrics, by its admin socket.
    pub fn metrics(&self) -> String {
        let mut socket = UnixStream::connect(self.path("admin.sock")).expect("the admin socket");
        socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("asked");
        let mut text = String::new();
        socket.read_to_string(&mut text).expect("answered");
        text
    }

    /// The daemon's command line.
    pub fn daemon_command(&self, more: &[&str]) -> Command {
        let config = self.text("millstream.toml");
        self.command(&[&["run", "-c", &config], more].concat())
    }

    /// Starts the daemon, and returns at once.
    pub fn spawn(&self, more: &[&str]) -> Daemon {
        self.spawn_as(self.daemon_command(more))
    }

    /// Starts a daemon by a command of one's own.
    pub fn spawn_as(&self, mut command: Command) -> Daemon {
        let number = self.starts.fetch_add(1, Ordering::Relaxed);
        let said = self.path(&format!("stderr-{number}"));
        let log = std::fs::File::create(&said).expect("a log");
        let child = command.stdout(Stdio::null()).stderr(log).spawn().expect("the binary starts");
        Daemon { child, said, socket: self.path("admin.sock") }
    }

    /// Starts the daemon, and waits until it is ready.
    pub fn start(&self, more: &[&str]) -> Daemon {
        let mut daemon = self.spawn(more);
        daemon.ready();
        daemon
    }

    /// Runs the daemon until its source ends; it must succeed. Returns what it said.
    pub fn run_to_end(&self, more: &[&str]) -> String {
        let (code, said) = self.spawn(more).wait();
        assert_eq!(code, Some(0), "{said}");
        said
    }

    /// Lets a file grow to these rows in equal parts, with a run to the end of each: a checkpoint stands behind every
    /// part, however fast the machine is.
    pub fn run_in_parts(&self, input: &str, rows: &str, parts: usize) {
        let ends: Vec<usize> = rows.match_indices('\n').map(|(at, _)| at + 1).collect();
        for part in 1..=parts {
            self.write(input, &rows[..ends[ends.len() * part / parts - 1]]);
            self.run_to_end(&[]);
        }
    }

    /// Paths of a lane's checkpoints, oldest first.
    pub fn checkpoints(&self, lane: u32) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.path(&format!("state/lane-{lane}"))).expect("a lane's folder");
        let mut paths: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
        let name = |p: &Path| p.file_name().expect("a name").to_string_lossy().into_owned();
        paths.retain(|p| name(p).starts_with("checkpoint-"));
        paths.sort();
        paths
    }

    /// The manifest and the tensors of a lane's newest checkpoint.
    pub fn newest_checkpoint(&self, lane: u32) -> (Value, millstream::state::State) {
        let path = self.checkpoints(lane).pop().expect("a checkpoint");
        millstream::artifact::decode(&std::fs::read(path).expect("readable")).expect("a checkpoint")
    }

    /// The chained digest that a lane's newest checkpoint holds, and the number of its next event.
    pub fn digest(&self, lane: u32) -> (String, u64) {
        let (manifest, _) = self.newest_checkpoint(lane);
        let position = &manifest["position"];
        (position["digest"].as_str().expect("digest").to_string(), position["seq"].as_u64().expect("seq"))
    }
}

/// What a command did.
#[derive(Debug)]
pub struct Called {
    /// Its exit code.
    pub code: Option<i32>,
    /// What it printed.
    pub out: String,
    /// What it said.
    pub said: String,
}

impl From<Output> for Called {
    fn from(output: Output) -> Called {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Called { code: output.status.code(), out: text(output.stdout), said: text(output.stderr) }
    }
}

impl Called {
    /// It must have succeeded; what it printed.
    pub fn good(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.said);
        self.out
    }

    /// The same, as JSON.
    pub fn json(self) -> Value {
        serde_json::from_str(&self.good()).expect("JSON")
    }

    /// It must have ended with this code, and named each of these; what it said.
    #[track_caller]
    pub fn refused(self, code: i32, named: &[&str]) -> String {
        assert_eq!(self.code, Some(code), "{}", self.said);
        for name in named {
            assert!(self.said.contains(name), "{name:?} is not in: {}", self.said);
        }
        self.said
    }
}

/// A running daemon. Killed when it is dropped.
pub struct Daemon {
    child: Child,
    said: PathBuf,
    socket: PathBuf,
}

impl Daemon {
    /// What it said on standard error so far.
    pub fn said(&self) -> String {
        let mut text = String::new();
        std::fs::File::open(&self.said).expect("the log").read_to_string(&mut text).expect("UTF-8");
        text
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it through its admin socket.
    pub fn ask(&self, action: &CtlAction) -> Result<Value, Fault> {
        ctl::ask(&self.socket, action)
    }

    /// `status`, of a daemon that runs.
    pub fn status(&self) -> Value {
        self.ask(&CtlAction::Status).unwrap_or_else(|fault| panic!("{fault}\n{}", self.said()))
    }

    /// Waits until it says that it is ready.
    pub fn ready(&mut self) {
        until("a ready daemon", || {
            if let Some(status) = self.child.try_wait().expect("a child") {
                panic!("the daemon ended with {status}: {}", self.said());
            }
            let status = self.ask(&CtlAction::Status).ok()?;
            (status["pid"] == self.child.id() && status["ready"] == true).then_some(())
        });
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().expect("a child")
    }

    /// True while it runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: the child was not waited for, so the number is its own.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0, "a running daemon");
    }

    /// kill -9. Returns what it had said.
    pub fn kill(mut self) -> String {
        self.child.kill().expect("a running daemon");
        self.child.wait().expect("a child");
        self.said()
    }

    /// SIGTERM. Returns the exit code and what it said.
    pub fn terminate(self) -> (Option<i32>, String) {
        self.signal(libc::SIGTERM);
        self.wait()
    }

    /// SIGTERM; it must end with 0. Returns what it said.
    pub fn stop(self) -> String {
        let (code, said) = self.terminate();
        assert_eq!(code, Some(0), "{said}");
        said
    }

    /// Waits for its end. Returns the exit code and what it said.
    pub fn wait(mut self) -> (Option<i32>, String) {
        let status = until("the daemon's end", || self.child.try_wait().expect("a child"));
        (status.code(), self.said())
    }

    /// Its address, where it listens at port 0 of 127.0.0.1 (from the log).
    pub fn address(&self) -> String {
        until("the listening address in the log", || {
            let said = self.said();
            let at = said.find("127.0.0.1:")?;
            let rest = &said[at..];
            let end = rest.find(|c: char| c != '.' && c != ':' && !c.is_ascii_digit()).unwrap_or(rest.len());
            Some(rest[..end].to_string())
        })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// True for a line of the log that tells of a fault: one that somebody should look at, or one that a lane got over.
pub fn is_fault(line: &str) -> bool {
    line.contains("ERROR") || line.contains("a setback")
}
