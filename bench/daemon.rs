//! The real daemon: the `millstream` binary beside this one, as a child with a folder of its own.

use crate::machine::{self, Cores};
use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a start or an end may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// A folder with a config and a state, removed with this value.
pub struct Place {
    dir: tempfile::TempDir,
    config: String,
}

impl Place {
    /// A folder for a daemon with this pipeline (a spec's text, or an artifact) and these sections of its config.
    pub fn new(pipeline: impl AsRef<[u8]>, config: &str) -> Result<Place, String> {
        let dir = tempfile::Builder::new().prefix("millstream-bench-").tempdir().map_err(|e| e.to_string())?;
        fs::write(dir.path().join("pipeline.toml"), pipeline).map_err(|e| e.to_string())?;
        Ok(Place { dir, config: config.to_string() })
    }
    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    /// The rest of the config, from the next start on.
    pub fn set_config(&mut self, config: &str) {
        self.config = config.to_string();
    }
    /// Forgets what a daemon learned here.
    pub fn forget(&self) -> Result<(), String> {
        match fs::remove_dir_all(self.path("state")) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.to_string()),
            _ => Ok(()),
        }
    }
    fn write_config(&self) -> Result<PathBuf, String> {
        let dir = self.dir.path().display();
        let head = format!(
            "pipeline = \"{dir}/pipeline.toml\"\nstate_dir = \"{dir}/state\"\n{}\n[admin]\nsocket = \"{dir}/admin\"\n",
            self.config
        );
        let path = self.path("config.toml");
        fs::write(&path, head).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(path)
    }
}

/// A running daemon; it is killed with this value.
pub struct Daemon {
    child: Child,
    /// When it was started.
    pub started: Instant,
    notices: UnixDatagram,
    log: PathBuf,
}

/// How a daemon ended.
pub struct Ended {
    /// CPU seconds, user and system.
    pub cpu_seconds: f64,
    /// From its start to its end.
    pub wall: Duration,
}

impl Daemon {
    /// Starts one; where `cores` are given, on the daemon's.
    pub fn start(place: &Place, cores: Option<&Cores>) -> Result<Daemon, String> {
        let config = place.write_config()?;
        let (notify, log) = (place.path("notify"), place.path("log"));
        let _ = fs::remove_file(&notify);
        let notices = UnixDatagram::bind(&notify).map_err(|e| format!("{}: {e}", notify.display()))?;
        let stderr = fs::File::create(&log).map_err(|e| format!("{}: {e}", log.display()))?;
        let mut command = Command::new(binary()?);
        command.arg("run").arg("-c").arg(&config).env("NOTIFY_SOCKET", &notify).env_remove("WATCHDOG_USEC");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        // A child runs where the thread that starts it runs.
        cores.inspect(|c| c.as_daemon());
        let started = Instant::now();
        let child = command.spawn().map_err(|e| format!("start the daemon: {e}"));
        cores.inspect(|c| c.anywhere());
        Ok(Daemon { child: child?, started, notices, log })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it says READY=1; how long after its start that was.
    pub fn wait_ready(&mut self) -> Result<Duration, String> {
        let mut notice = [0_u8; 4096];
        self.notices.set_read_timeout(Some(Duration::from_millis(100))).map_err(|e| e.to_string())?;
        while self.started.elapsed() < PATIENCE {
            if let Ok(n) = self.notices.recv(&mut notice)
                && notice[..n].split(|b| *b == b'\n').any(|l| l == b"READY=1")
            {
                return Ok(self.started.elapsed());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("the daemon ended before it was ready ({status}):\n{}", self.log()));
            }
        }
        Err(format!("the daemon was not ready within {} s:\n{}", PATIENCE.as_secs(), self.log()))
    }

    /// What it wrote on standard error.
    pub fn log(&self) -> String {
        let mut text = String::new();
        if let Ok(mut file) = fs::File::open(&self.log) {
            // A log that can't be read is an empty one.
            let _ = file.read_to_string(&mut text);
        }
        text
    }

    /// Waits until it ends by itself, which it must do well.
    pub fn wait(mut self) -> Result<Ended, String> {
        let pid = self.pid();
        machine::wait_ended(pid);
        let wall = self.started.elapsed();
        let cpu_seconds = machine::process_cpu_seconds(pid);
        let status = self.child.wait().map_err(|e| e.to_string())?;
        if !status.success() {
            return Err(format!("the daemon ended with {status}:\n{}", self.log()));
        }
        Ok(Ended { cpu_seconds, wall })
    }

    /// SIGTERM: drains and ends.
    pub fn stop(self) -> Result<Ended, String> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).map_err(|e| e.to_string())?;
        self.wait()
    }

    /// SIGKILL.
    pub fn kill(mut self) -> Result<(), String> {
        self.child.kill().map_err(|e| e.to_string())?;
        self.child.wait().map(|_| ()).map_err(|e| e.to_string())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The daemon's binary, beside this one.
fn binary() -> Result<PathBuf, String> {
    let here = std::env::current_exe().map_err(|e| e.to_string())?;
    let path = here.parent().unwrap_or(Path::new(".")).join("millstream");
    if !path.exists() {
        return Err(format!("{}: not there; build it first (cargo build --release)", path.display()));
    }
    Ok(path)
}

/// An address on loopback that was free a moment ago.
pub fn free_address() -> Result<String, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    Ok(listener.local_addr().map_err(|e| e.to_string())?.to_string())
}

/// A config of a socket lane that answers.
pub fn socket_config(address: &str) -> String {
    format!("[source]\nkind = \"socket\"\nformat = \"json\"\nlisten = \"{address}\"\n[log]\nlevel = \"warn\"\n")
}
