//! What can go wrong, in four classes, and the exit code of each.
//!
//! A bad event is never a `Fault`: it becomes a row status and a dead letter (`batch::Reject`).

use std::fmt;

/// Shorthand for results whose error is a [`Fault`].
pub type Result<T, E = Fault> = std::result::Result<T, E>;

/// The class of a fault: who can mend it, and therefore which exit code it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Wrong use, or a candidate that is not fit: config, arguments, an artifact that doesn't fit. Exit 2.
    Misuse,
    /// Something that is ours is damaged: no usable checkpoint, a digest that differs. Exit 3.
    Corruption,
    /// The world outside: broker, disk, port, no daemon at the socket. Exit 4.
    Environment,
    /// Anything else. Exit 1.
    Internal,
}

impl Class {
    /// The process exit code of the class.
    pub fn exit_code(self) -> u8 {
        match self {
            Class::Misuse => 2,
            Class::Corruption => 3,
            Class::Environment => 4,
            Class::Internal => 1,
        }
    }
}

/// An error that stops what was asked: what was wrong and where, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Who can mend it.
    pub class: Class,
    /// What was wrong, and where.
    pub message: String,
    /// What to do. Empty where the message says it all.
    pub hint: String,
    /// True where waiting alone won't mend it: somebody must grant, make or raise something.
    pub lasting: bool,
}

impl Fault {
    /// A fault of any class.
    pub fn new(class: Class, message: impl Into<String>) -> Fault {
        Fault { class, message: message.into(), hint: String::new(), lasting: false }
    }
    /// Wrong use, or a refused candidate (exit 2).
    pub fn misuse(message: impl Into<String>) -> Fault {
        Fault::new(Class::Misuse, message)
    }
    /// Damage in what is ours (exit 3).
    pub fn corruption(message: impl Into<String>) -> Fault {
        Fault::new(Class::Corruption, message)
    }
    /// Trouble with broker, disk, port and the like (exit 4).
    pub fn environment(message: impl Into<String>) -> Fault {
        Fault::new(Class::Environment, message)
    }
    /// A fault of our own (exit 1).
    pub fn internal(message: impl Into<String>) -> Fault {
        Fault::new(Class::Internal, message)
    }
    /// An I/O error at a named place, with the advice that its kind gives.
    pub fn io(what: impl fmt::Display, error: &std::io::Error) -> Fault {
        Fault::environment(format!("{what}: {error}")).hint(advice(error))
    }
    /// The same fault with advice.
    pub fn hint(mut self, hint: impl Into<String>) -> Fault {
        self.hint = hint.into();
        self
    }
    /// The same fault, as one that lasts until somebody acts.
    pub fn lasting(mut self) -> Fault {
        self.lasting = true;
        self
    }
    /// The same fault, its message prefixed with where it happened.
    pub fn at(mut self, place: impl fmt::Display) -> Fault {
        self.message = format!("{place}: {}", self.message);
        self
    }
}

/// What to do about an I/O error, where its kind alone says so.
fn advice(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free space on that disk, then start again",
        ErrorKind::ReadOnlyFilesystem => "mount that disk for writing, then start again",
        ErrorKind::PermissionDenied => "give the user that the daemon runs as the right to it",
        _ if error.raw_os_error() == Some(EIO) => {
            "the disk failed: look at the kernel's log, mend it, then start again"
        }
        _ => "",
    }
}

/// The error number of a device that failed: the standard library has no kind for it.
const EIO: i32 = 5;

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if !self.hint.is_empty() {
            write!(f, " ({})", self.hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}
