//! The Unix socket: made with mode 0660, taken over only where nobody listens, open to a few peers.

use crate::error::{Fault, Result};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Mode of the socket: its owner and its group.
const SOCKET_MODE: u32 = 0o660;
/// Longest path that the kernel takes for a Unix socket (bytes).
const PATH_BYTES_MAX: usize = 107;

/// Listens on `path`. The parent directory is made if missing (mode 0750). A socket file that a dead
/// process left behind is replaced; one that somebody listens on, or any other file, is not.
///
/// # Errors
/// Misuse for a path that is too long or names something else than a socket; Environment otherwise.
pub fn listen(path: &Path) -> Result<UnixListener> {
    let place = || format!("admin socket {}", path.display());
    if path.as_os_str().len() > PATH_BYTES_MAX {
        let fault = Fault::misuse(format!("{}: the path is longer than {PATH_BYTES_MAX} bytes", place()));
        return Err(fault.hint("set admin.socket to a shorter path"));
    }
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o750).create(parent);
        made.map_err(|e| Fault::io(place(), &e).hint("the directory must exist, or be possible to make"))?;
    }
    remove_stale(path)?;
    bind(path).map_err(|e| Fault::io(place(), &e).hint("is the directory writable?"))
}

/// Binds, sets the mode, and only then listens: nobody can connect before the mode is set.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    socket.bind(&socket2::SockAddr::unix(path)?)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE))?;
    socket.listen(64)?;
    socket.set_nonblocking(true)?;
    Ok(UnixListener::from(std::os::fd::OwnedFd::from(socket)))
}

fn remove_stale(path: &Path) -> Result<()> {
    let place = || format!("admin socket {}", path.display());
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Fault::io(place(), &e)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(Fault::misuse(format!("{}: there is a file that is no socket", place()))
                .hint("move it away, or set admin.socket to another path"));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(Fault::environment(format!("{}: another process listens there", place()))
            .hint("stop it, or give this daemon a state_dir and an admin.socket of its own")),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|e| Fault::io(place(), &e))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Fault::io(place(), &e)),
    }
}

/// Who may talk to the daemon: its own user, root, and members of the socket's group.
#[derive(Debug, Clone, Copy)]
pub struct Admitted {
    uid: u32,
    gid: u32,
}

impl Admitted {
    /// By the daemon's user and the socket file's group.
    ///
    /// # Errors
    /// Environment, where the socket's file cannot be examined.
    pub fn for_socket(path: &Path) -> Result<Admitted> {
        let found = std::fs::metadata(path).map_err(|e| Fault::io(format!("admin socket {}", path.display()), &e))?;
        Ok(Admitted { uid: rustix::process::geteuid().as_raw(), gid: found.gid() })
    }
    /// True where a peer of these credentials may talk to the daemon.
    pub fn admits(&self, uid: u32, gid: u32, groups: &[u32]) -> bool {
        uid == 0 || uid == self.uid || gid == self.gid || groups.contains(&self.gid)
    }
}

/// The supplementary groups of a connected peer, as of when it connected; none where the kernel cannot tell.
pub fn groups(stream: BorrowedFd<'_>) -> Vec<u32> {
    let mut groups = vec![0 as libc::gid_t; 64];
    loop {
        let mut bytes = std::mem::size_of_val(&groups[..]) as libc::socklen_t;
        // SAFETY: the descriptor is open, and the kernel writes at most `bytes` bytes of gid_t.
        let result = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &mut bytes,
            )
        };
        let count = bytes as usize / size_of::<libc::gid_t>();
        if result == 0 {
            groups.truncate(count);
            return groups;
        }
        let too_short = io::Error::last_os_error().raw_os_error() == Some(libc::ERANGE);
        if !too_short || count <= groups.len() {
            return Vec::new();
        }
        groups.resize(count, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;
    use std::os::fd::AsFd;

    #[test]
    fn the_socket_has_its_mode_and_its_directory_is_made() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("a/b/admin.sock");
        let _listener = listen(&path).expect("listen");
        assert_eq!(std::fs::metadata(&path).expect("socket").mode() & 0o777, SOCKET_MODE);
        assert_eq!(std::fs::metadata(dir.path().join("a/b")).expect("dir").mode() & 0o777, 0o750);
    }

    #[test]
    fn only_a_dead_socket_is_replaced() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("admin.sock");
        let listener = listen(&path).expect("listen");
        let fault = listen(&path).expect_err("somebody listens");
        assert_eq!(fault.class, Class::Environment);
        assert!(fault.message.contains("another process listens"), "{fault}");
        drop(listener);
        assert!(path.exists(), "dropped as by a crash: the file stays");
        drop(listen(&path).expect("the dead one is replaced"));
        std::fs::remove_file(&path).expect("remove");
        std::fs::write(&path, "precious").expect("write");
        assert_eq!(listen(&path).expect_err("a file").class, Class::Misuse);
        assert_eq!(std::fs::read(&path).expect("file"), b"precious");
    }

    #[test]
    fn a_path_at_the_limit_is_fine_and_one_over_is_refused() {
        let dir = tempfile::tempdir_in("/tmp").expect("dir");
        let room = PATH_BYTES_MAX - dir.path().as_os_str().len() - 1;
        let at = dir.path().join("s".repeat(room));
        listen(&at).expect("at the limit");
        let over = dir.path().join("s".repeat(room + 1));
        assert_eq!(listen(&over).expect_err("over").class, Class::Misuse);
    }

    #[test]
    fn owner_root_and_group_are_admitted_and_nobody_else() {
        let admitted = Admitted { uid: 500, gid: 600 };
        assert!(admitted.admits(500, 1, &[]));
        assert!(admitted.admits(0, 1, &[]));
        assert!(admitted.admits(7, 600, &[]));
        assert!(admitted.admits(7, 1, &[5, 600]));
        assert!(!admitted.admits(7, 1, &[5]));
        assert!(!admitted.admits(7, 500, &[]));
    }

    #[test]
    fn a_peers_groups_are_those_of_the_process() {
        let (a, _b) = UnixStream::pair().expect("pair");
        let mut ours: Vec<u32> = rustix::process::getgroups().expect("groups").iter().map(|g| g.as_raw()).collect();
        let mut found = groups(a.as_fd());
        ours.sort();
        found.sort();
        assert_eq!(found, ours);
    }
}
