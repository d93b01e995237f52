//! What the config takes from its surroundings: environment variables and the machine's name. A value,
//! so that nothing else in this room asks the process.

use crate::error::{Fault, Result};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Environment variables and the machine's name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    machine: String,
}

impl Environment {
    /// The process's own. Variables that are not UTF-8 are left out.
    pub fn of_process() -> Environment {
        let variables =
            std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect();
        let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Environment { variables, machine }
    }

    /// Given variables, and a given name of the machine.
    pub fn of(machine: &str, variables: &[(&str, &str)]) -> Environment {
        let variables = variables.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Environment { variables, machine: machine.into() }
    }

    pub(super) fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        self.variables.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// The machine's name; `millstream` where it has none.
    pub fn machine(&self) -> &str {
        if self.machine.is_empty() { "millstream" } else { &self.machine }
    }

    /// A variable that is set to something.
    fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The first of the folders in a variable of systemd (several are separated by colons).
    fn folder(&self, name: &str) -> Option<PathBuf> {
        self.get(name)?.split(':').next().map(PathBuf::from)
    }

    /// Where the state lives if the config says nothing.
    ///
    /// # Errors
    /// Misuse, where no variable says where a user's state belongs.
    pub fn state_dir(&self) -> Result<PathBuf> {
        self.folder("STATE_DIRECTORY")
            .or_else(|| Some(PathBuf::from(self.get("XDG_STATE_HOME")?).join("millstream")))
            .or_else(|| Some(PathBuf::from(self.get("HOME")?).join(".local/state/millstream")))
            .ok_or_else(|| {
                Fault::misuse("state_dir is not set, and neither is $STATE_DIRECTORY, $XDG_STATE_HOME or $HOME")
                    .hint("set state_dir to a folder that this user may write to")
            })
    }

    /// Where the admin socket is if the config says nothing. `state_dir` as the config has it, if it does.
    ///
    /// # Errors
    /// As for [`Environment::state_dir`], where it comes to that.
    pub fn admin_socket(&self, state_dir: Option<PathBuf>) -> Result<PathBuf> {
        if let Some(folder) = self.folder("RUNTIME_DIRECTORY") {
            return Ok(folder.join("admin.sock"));
        }
        if let Some(folder) = self.get("XDG_RUNTIME_DIR") {
            return Ok(PathBuf::from(folder).join("millstream/admin.sock"));
        }
        Ok(state_dir.map_or_else(|| self.state_dir(), Ok)?.join("admin.sock"))
    }

    /// Where a client that was not told looks for a daemon's admin socket, the likeliest first: where a
    /// daemon of this user has it, then where the system's has it.
    pub fn admin_socket_candidates(&self) -> Vec<PathBuf> {
        let mut candidates: Vec<PathBuf> = self.admin_socket(None).into_iter().collect();
        candidates.extend(self.state_dir().map(|folder| folder.join("admin.sock")));
        candidates.push("/run/millstream/admin.sock".into());
        candidates.dedup();
        candidates
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_comes_before_xdg_and_that_before_home() {
        let all = [("STATE_DIRECTORY", "/var/lib/a:/var/lib/b"), ("XDG_STATE_HOME", "/x"), ("HOME", "/home/u")];
        let state_dir = |from: usize| Environment::of("m", &all[from..]).state_dir().expect("set");
        assert_eq!(state_dir(0), PathBuf::from("/var/lib/a"));
        assert_eq!(state_dir(1), PathBuf::from("/x/millstream"));
        assert_eq!(state_dir(2), PathBuf::from("/home/u/.local/state/millstream"));
        assert!(Environment::of("m", &[]).state_dir().is_err());
    }

    #[test]
    fn the_admin_socket_falls_back_to_the_state_dir() {
        let socket = |variables: &[(&str, &str)]| Environment::of("m", variables).admin_socket(Some("/s".into()));
        assert_eq!(
            socket(&[("RUNTIME_DIRECTORY", "/run/m"), ("XDG_RUNTIME_DIR", "/r")]),
            Ok("/run/m/admin.sock".into())
        );
        assert_eq!(socket(&[("XDG_RUNTIME_DIR", "/r")]), Ok("/r/millstream/admin.sock".into()));
        assert_eq!(socket(&[("XDG_RUNTIME_DIR", "")]), Ok("/s/admin.sock".into()));
    }

    #[test]
    fn a_client_looks_at_home_first_and_then_at_the_systems_daemon() {
        let candidates = |variables: &[(&str, &str)]| Environment::of("m", variables).admin_socket_candidates();
        let home = PathBuf::from("/u/.local/state/millstream/admin.sock");
        let system = PathBuf::from("/run/millstream/admin.sock");
        let user = PathBuf::from("/r/millstream/admin.sock");
        assert_eq!(candidates(&[("HOME", "/u")]), [home.clone(), system.clone()]);
        assert_eq!(candidates(&[]).as_slice(), std::slice::from_ref(&system));
        assert_eq!(candidates(&[("HOME", "/u"), ("XDG_RUNTIME_DIR", "/r")]), [user, home, system]);
    }
}
