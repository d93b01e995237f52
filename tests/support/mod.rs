//! What several scenarios need: a real Kafka broker and a proxy before it, the daemon in a folder of its own, made-up events, a stream over Kafka.

#![allow(dead_code)]

pub mod broker;
pub mod daemon;
pub mod disk;
pub mod events;
pub mod library;
pub mod proxy;
pub mod s3;
pub mod secure_broker;
pub mod stage;
pub mod stream;
pub mod torture;
pub mod verdict;

use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

/// A port of 127.0.0.1 that was free a moment ago, and that this process never gives again. It lies below the ports
/// that the system takes for outgoing connections, so nobody gets it by chance while a server is away.
pub fn free_port() -> u16 {
    const PORTS: std::ops::Range<u32> = 12_000..30_000;
    const PROCESS: u32 = 64;
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id() * PROCESS;
    (0..PORTS.len())
        .map(|_| PORTS.start + (first + GIVEN.fetch_add(1, Ordering::Relaxed)) % PORTS.len() as u32)
        .map(|port| u16::try_from(port).expect("a port"))
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

/// Copies a folder and all that is in it.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let to = to.join(entry.file_name());
        match entry.file_type().expect("a type").is_dir() {
            true => copy_folder(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).expect("copied")),
        }
    }
}
