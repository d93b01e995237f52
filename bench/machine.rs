//! The machine: its name, its cores, and the kernel's accounting of CPU time and memory.

use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use std::fs;

/// CPU model, cores and kernel, as one line.
pub fn describe() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let of = |key: &str| info.lines().find(|l| l.starts_with(key)).and_then(|l| l.split(": ").nth(1));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let (model, number) = (of("model name").unwrap_or("unknown CPU"), of("model\t").unwrap_or("?"));
    let family = of("cpu family").unwrap_or("?");
    format!("{model} (family {family}, model {number}), {cores} cores, Linux {}", kernel.trim())
}

/// Which cores the daemon and the generator get: apart where there are two, else all for both.
#[derive(Debug, Clone, Copy)]
pub struct Cores {
    all: CpuSet,
    daemon: CpuSet,
    generator: CpuSet,
}

impl Cores {
    /// The first core that this process may use is the daemon's; the rest are the generator's.
    pub fn split() -> Cores {
        let all = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
        let usable: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|c| all.is_set(*c)).collect();
        let mut cores = Cores { all, daemon: all, generator: all };
        if usable.len() > 1 {
            (cores.daemon, cores.generator) = (CpuSet::new(), CpuSet::new());
            cores.daemon.set(usable[0]);
            usable[1..].iter().for_each(|c| cores.generator.set(*c));
        }
        cores
    }
    /// The same cores, all for both.
    pub fn shared(&self) -> Cores {
        Cores { all: self.all, daemon: self.all, generator: self.all }
    }
    /// True where the daemon has a core of its own.
    pub fn apart(&self) -> bool {
        self.daemon != self.generator
    }
    /// This thread, and those it starts from now on, run where the daemon runs.
    pub fn as_daemon(&self) {
        pin(&self.daemon);
    }
    /// This thread, and those it starts from now on, run where the generator runs.
    pub fn as_generator(&self) {
        pin(&self.generator);
    }
    /// This thread runs anywhere again.
    pub fn anywhere(&self) {
        pin(&self.all);
    }
}

fn pin(set: &CpuSet) {
    // A machine that forbids it is measured without.
    let _ = sched_setaffinity(None, set);
}

fn clock_ns(id: ClockId) -> u64 {
    let t = clock_gettime(id);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// The monotonic clock.
pub fn now_ns() -> u64 {
    clock_ns(ClockId::Monotonic)
}

/// CPU time of the calling thread, user and system.
pub fn thread_cpu_ns() -> u64 {
    clock_ns(ClockId::ThreadCPUTime)
}

/// CPU time of this process, user and system: ended threads included, children not.
pub fn own_cpu_ns() -> u64 {
    clock_ns(ClockId::ProcessCPUTime)
}

/// CPU time (user and system) of all threads that a process and its children have now.
pub fn process_cpu_ns(pid: u32) -> u64 {
    let own = threads_cpu_ns(pid);
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    own + children.split_whitespace().filter_map(|c| c.parse().ok()).map(process_cpu_ns).sum::<u64>()
}

fn threads_cpu_ns(pid: u32) -> u64 {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    let ran = |path: std::path::PathBuf| -> u64 {
        let text = fs::read_to_string(path.join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0)
    };
    threads.flatten().map(|t| ran(t.path())).sum()
}

/// CPU seconds (user and system) that a process has used, ended threads included; also of one that has
/// ended and was not yet waited for. In ticks of 10 ms.
pub fn process_cpu_seconds(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in parentheses, may hold anything.
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / rustix::param::clock_ticks_per_second() as f64
}

/// A line of `/proc/PID/status` in KiB (`VmRSS`, `VmHWM`), as MiB.
pub fn memory_mib(pid: u32, line: &str) -> f64 {
    kib_of(&format!("/proc/{pid}/status"), line) as f64 / 1024.0
}

/// Bytes of memory that can be had without swapping.
pub fn available_bytes() -> usize {
    kib_of("/proc/meminfo", "MemAvailable") * 1024
}

/// A line of a file of the kernel's that counts in KiB; 0 where there is none.
fn kib_of(path: &str, line: &str) -> usize {
    let text = fs::read_to_string(path).unwrap_or_default();
    let found = text.lines().find(|l| l.starts_with(line));
    found.and_then(|l| l.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
}

/// Takes that many bytes of memory, writes to each page and gives them back.
pub fn touch_memory(bytes: usize) {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
    // SAFETY: a mapping of our own at an address of the kernel's choice; nobody else knows it, and it is gone at the
    // end.
    unsafe {
        let Ok(start) = mmap_anonymous(std::ptr::null_mut(), bytes, ProtFlags::WRITE, MapFlags::PRIVATE) else {
            return;
        };
        (0..bytes).step_by(rustix::param::page_size()).for_each(|at| start.cast::<u8>().add(at).write_volatile(1));
        let _ = munmap(start, bytes);
    }
}

/// Waits until a process has ended, leaving what the kernel knows of it in place.
pub fn wait_ended(pid: u32) {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    if let Some(pid) = Pid::from_raw(pid as i32) {
        let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
    }
}
