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

use std::path::Path;

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
