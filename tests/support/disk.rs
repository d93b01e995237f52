//! Disks that fail: small ones, read-only ones, ones whose power is cut, and system calls that return errors.
//! Each says why where this machine doesn't permit it; the test is then skipped.

use super::daemon::Scene;
use std::ffi::CString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn c_text(text: &str) -> CString {
    CString::new(text).expect("no zero byte")
}

/// A disk of its own in a folder, kept in memory. Unmounted when it is dropped.
pub struct SmallDisk {
    dir: PathBuf,
}

impl SmallDisk {
    /// Mounts one of `kib` KiB; the reason where that isn't permitted.
    pub fn mount(dir: &Path, kib: u64) -> Result<SmallDisk, String> {
        std::fs::create_dir_all(dir).expect("a folder");
        mount_tmpfs(dir, kib, 0)?;
        Ok(SmallDisk { dir: dir.to_path_buf() })
    }

    /// Gives it another size.
    pub fn resize(&self, kib: u64) {
        mount_tmpfs(&self.dir, kib, libc::MS_REMOUNT).expect("a disk that was mounted here");
    }

    /// Fills it to the last block; what is left is less than a page.
    pub fn fill(&self) {
        let mut filler = std::fs::File::create(self.dir.join("filler")).expect("a file");
        while std::io::Write::write_all(&mut filler, &[0; 4096]).is_ok() {}
    }
}

fn mount_tmpfs(dir: &Path, kib: u64, flags: libc::c_ulong) -> Result<(), String> {
    let (dir, options) = (c_text(&dir.display().to_string()), c_text(&format!("size={kib}k")));
    // SAFETY: all pointers are to strings that live on.
    let done =
        unsafe { libc::mount(c"none".as_ptr(), dir.as_ptr(), c"tmpfs".as_ptr(), flags, options.as_ptr().cast()) };
    if done == 0 { Ok(()) } else { Err(format!("a small disk: {}", std::io::Error::last_os_error())) }
}

fn unmount(dir: &Path) {
    // SAFETY: a path that lives on.
    unsafe { libc::umount2(c_text(&dir.display().to_string()).as_ptr(), libc::MNT_DETACH) };
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        unmount(&self.dir);
    }
}

/// A daemon's command line behind another program's: `strace … millstream run …`. That program must become the
/// daemon (or run beside it), so that the process is the daemon's.
pub fn behind(scene: &Scene, program: &str, options: &[String]) -> Command {
    let daemon = scene.daemon_command(&[]);
    let mut command = Command::new(program);
    command.args(options).arg(daemon.get_program()).args(daemon.get_args());
    command.env_clear().env("HOME", scene.path("")).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null());
    // SAFETY: prctl is async-signal-safe and touches only the child.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    command
}

/// The program on the usual path that this machine has and permits; the reason where it doesn't.
pub fn usable(program: &str, trial: &[&str]) -> Result<String, String> {
    let found = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"].iter().map(|dir| format!("{dir}/{program}"));
    let path = found.into_iter().find(|p| Path::new(p).exists()).ok_or(format!("{program} is not installed"))?;
    let tried = Command::new(&path).args(trial).output().map_err(|e| format!("{program}: {e}"))?;
    if tried.status.success() {
        return Ok(path);
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&tried.stderr).trim()))
}

/// A file system of its own in a file, whose power can be cut. Unmounted when it is dropped.
pub struct PowerDisk {
    image: PathBuf,
    dir: PathBuf,
}

impl PowerDisk {
    /// Makes one of `mib` MiB and mounts it in `dir`; the reason where that isn't permitted.
    pub fn mount(image: &Path, dir: &Path, mib: u64) -> Result<PowerDisk, String> {
        std::fs::create_dir_all(dir).expect("a folder");
        let file = std::fs::File::create(image).expect("an image");
        file.set_len(mib << 20).expect("room for the image");
        let path = image.display().to_string();
        let made = Command::new("mkfs.ext4").args(["-q", "-F", &path]).output();
        let made = made.map_err(|e| format!("mkfs.ext4: {e}"))?;
        if !made.status.success() {
            return Err(format!("mkfs.ext4: {}", String::from_utf8_lossy(&made.stderr).trim()));
        }
        let disk = PowerDisk { image: image.to_path_buf(), dir: dir.to_path_buf() };
        disk.power_on()?;
        Ok(disk)
    }

    /// Mounts it (again): the file system replays its own journal.
    pub fn power_on(&self) -> Result<(), String> {
        let mounted = Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.dir).output();
        let mounted = mounted.map_err(|e| format!("mount: {e}"))?;
        if mounted.status.success() {
            return Ok(());
        }
        Err(format!("a loop mount: {}", String::from_utf8_lossy(&mounted.stderr).trim()))
    }

    /// The power fails: what was not synced is lost, the file system's own journal included, and every later
    /// call fails. With `flush_log`, what the file system's journal holds still reaches the disk.
    pub fn cut(&self, flush_log: bool) -> Result<(), String> {
        /// `EXT4_IOC_SHUTDOWN`: `_IOR('X', 125, __u32)`.
        const SHUTDOWN: libc::c_ulong = 0x8004_587d;
        let (log_flush, no_log_flush) = (1_u32, 2_u32);
        let how = if flush_log { log_flush } else { no_log_flush };
        let dir = std::fs::File::open(&self.dir).map_err(|e| format!("{}: {e}", self.dir.display()))?;
        // SAFETY: an open descriptor, and a pointer to a number that lives on.
        let done = unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&dir), SHUTDOWN, &raw const how) };
        if done == 0 { Ok(()) } else { Err(format!("the shutdown ioctl: {}", std::io::Error::last_os_error())) }
    }

    /// Takes it off; nothing may run on it any more.
    pub fn power_off(&self) {
        let done = Command::new("umount").arg(&self.dir).output().expect("umount");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

impl Drop for PowerDisk {
    fn drop(&mut self) {
        unmount(&self.dir);
    }
}
