//! A daemon as the demo's child: this very executable, with a config of its own, that dies with the demo.

use crate::admin::CtlAction;
use crate::admin::ctl::ask;
use crate::admin::status::StatusReport;
use crate::error::{Fault, Result};
use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// Variables that would change what a child does.
const FOREIGN: &[&str] =
    &["RUST_LOG", "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "JOURNAL_STREAM"];

/// A path as a TOML string.
pub(super) fn quoted(path: &Path) -> String {
    toml::Value::String(path.display().to_string()).to_string()
}

/// A running daemon. It is killed when this is dropped, and when the demo dies.
pub(super) struct Daemon {
    child: Child,
    log: PathBuf,
    socket: PathBuf,
    ended: Option<ExitStatus>,
}

impl Daemon {
    /// Starts a daemon on `config`, whose admin socket is `dir/admin.sock`; its log goes to `dir/name.log`.
    /// Call it from the thread that lives as long as the demo: the child dies with that thread.
    ///
    /// # Errors
    /// Environment, where the process or its log can't be made.
    pub fn start(dir: &Path, config: &Path, name: &str) -> Result<Daemon> {
        let own = std::env::current_exe().map_err(|e| Fault::io("this executable", &e))?;
        let log = dir.join(format!("{name}.log"));
        let file = File::create(&log).map_err(|e| Fault::io(log.display(), &e))?;
        let mut command = Command::new(own);
        command.arg("run").arg("-c").arg(config);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        // Ctrl-C in a terminal is for the demo, which then ends its children in its own order.
        command.process_group(0);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("MILLSTREAM_") || FOREIGN.contains(&text.as_ref()) {
                command.env_remove(&name);
            }
        }
        let parent = std::process::id();
        // SAFETY: between fork and exec only these two system calls are made, which are safe there.
        unsafe {
            command.pre_exec(move || {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                // The parent may have died before the line above.
                match libc::getppid() as u32 == parent {
                    true => Ok(()),
                    false => Err(std::io::Error::from_raw_os_error(libc::ESRCH)),
                }
            });
        }
        let child = command.spawn().map_err(|e| Fault::io("start the daemon", &e))?;
        Ok(Daemon { child, log, socket: dir.join("admin.sock"), ended: None })
    }

    /// Where it stands, once it answers.
    pub fn status(&self) -> Option<StatusReport> {
        status(&self.socket)
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// Environment, where the system doesn't tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().map_err(|e| Fault::io("wait for the daemon", &e))?;
        }
        Ok(self.ended)
    }

    /// Kills it as `kill -9` does, and waits until it is gone.
    ///
    /// # Errors
    /// Environment, where it can't be killed.
    pub fn kill(&mut self) -> Result<()> {
        if self.ended()?.is_none() {
            self.child.kill().map_err(|e| Fault::io("kill the daemon", &e))?;
            self.ended = Some(self.child.wait().map_err(|e| Fault::io("wait for the daemon", &e))?);
        }
        Ok(())
    }

    /// Asks it to drain, as a service manager does.
    ///
    /// # Errors
    /// Environment, where it can't be told.
    pub fn terminate(&mut self) -> Result<()> {
        if self.ended()?.is_none() {
            let process = rustix::process::Pid::from_child(&self.child);
            rustix::process::kill_process(process, rustix::process::Signal::TERM)
                .map_err(|e| Fault::io("stop the daemon", &e.into()))?;
        }
        Ok(())
    }

    /// What it wrote to its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The fault of a daemon that ended when it shouldn't have.
    pub fn unexpected_end(&self, status: ExitStatus) -> Fault {
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("with exit code {code}"),
            (None, Some(signal)) => format!("by signal {signal}"),
            _ => "unexpectedly".to_string(),
        };
        let log = self.log();
        let last: Vec<&str> = log.lines().rev().take(3).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        Fault::internal(format!("the demo's daemon ended {how}")).hint(last.join("; "))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // One that can't be killed dies with this process.
        let _ = self.kill();
    }
}

/// What the daemon at a socket says of itself.
pub(super) fn status(socket: &Path) -> Option<StatusReport> {
    serde_json::from_value(ask(socket, &CtlAction::Status).ok()?).ok()
}
