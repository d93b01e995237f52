//! Vowpal Wabbit beside Millstream, where its Python module is installed.

use crate::machine::{self, Cores};
use crate::peers;
use rustix::process::{Pid, Signal};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The peer: a Python that can import `vowpalwabbit`.
pub struct Vw {
    python: String,
    /// Its version.
    pub version: String,
}

/// One run of the peer over a file.
pub struct VwRun {
    /// Wall seconds, the interpreter's start included.
    pub seconds: f64,
    /// CPU seconds, user and system.
    pub cpu_seconds: f64,
}

impl Vw {
    /// The peer, if the Python of the peers has it.
    pub fn find() -> Option<Vw> {
        let version = peers::version("vowpalwabbit")?;
        Some(Vw { python: peers::python(), version })
    }

    fn command(&self, options: &str) -> Command {
        let script = "import sys, vowpalwabbit; vowpalwabbit.Workspace(sys.argv[1]).run_parser()";
        let mut command = Command::new(&self.python);
        command.args(["-c", script, options]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Learns a file once; with `predictions`, writes each row's.
    pub fn learn(&self, rows: &Path, predictions: Option<&Path>) -> Result<VwRun, String> {
        let mut options = format!("-d {} --loss_function logistic --link logistic --quiet --no_stdin", rows.display());
        if let Some(path) = predictions {
            options += &format!(" -p {}", path.display());
        }
        let began = Instant::now();
        let mut child = self.command(&options).spawn().map_err(|e| format!("{}: {e}", self.python))?;
        machine::wait_ended(child.id());
        let seconds = began.elapsed().as_secs_f64();
        let cpu_seconds = machine::process_cpu_seconds(child.id());
        let status = child.wait().map_err(|e| e.to_string())?;
        if !status.success() {
            return Err(format!("vw ended with {status}"));
        }
        Ok(VwRun { seconds, cpu_seconds })
    }

    /// Its daemon, listening at a port.
    pub fn daemon(&self, address: &str, cores: &Cores) -> Result<VwDaemon, String> {
        let port = address.rsplit(':').next().unwrap_or("0");
        let options = format!(
            "--daemon --foreground --num_children 1 --port {port} --loss_function logistic --link logistic --quiet"
        );
        cores.as_daemon();
        // It forks: a group of its own, so that its children end with it.
        let child = self.command(&options).process_group(0).spawn();
        cores.anywhere();
        let daemon = VwDaemon(child.map_err(|e| format!("{}: {e}", self.python))?);
        let began = Instant::now();
        while std::net::TcpStream::connect(address).is_err() {
            if began.elapsed() > Duration::from_secs(20) {
                return Err("vw --daemon does not listen".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(daemon)
    }
}

/// A running daemon of the peer; it is killed with this value.
pub struct VwDaemon(Child);

impl VwDaemon {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for VwDaemon {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = rustix::process::kill_process_group(Pid::from_child(&self.0), Signal::KILL);
        let _ = self.0.wait();
    }
}
