//! What can go wrong between this client and its brokers, sorted by what helps.
//!
//! ```
//! use millstream::kafka::direct::{Error, code};
//!
//! let error = Error::Broker { what: "produce to events/0".into(), code: code::NOT_LEADER_OR_FOLLOWER };
//! assert!(error.may_pass() && !error.lasts()); // the leader has moved: asked again, it may go well
//! ```

use std::fmt;
use std::io;

/// Shorthand for results whose error is an [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the client.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A broker can't be reached, or the connection to it broke. Another attempt may help.
    Io {
        /// Which broker, and at what.
        what: String,
        /// The cause.
        source: io::Error,
    },
    /// No answer within the deadline.
    Timeout(String),
    /// A broker answered with an error code; see [`code`].
    Broker {
        /// What was asked for.
        what: String,
        /// The protocol's error code.
        code: i16,
    },
    /// Bytes that don't follow the protocol: cut off, a length that can't be, a checksum that differs.
    Damaged(String),
    /// Nothing a retry would mend: a setting, a refused login, a broker that is too old.
    Config(String),
    /// This client isn't allowed to, until somebody grants it.
    Denied {
        /// What kind of thing.
        on: Resource,
        /// Its name.
        name: String,
    },
    /// An offset that the partition doesn't hold.
    OutOfRange {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The offset asked for.
        offset: i64,
    },
}

/// What a client may be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// A topic.
    Topic,
    /// A consumer group.
    Group,
    /// The name of a transactional producer.
    TransactionalId,
}

impl Error {
    /// The same with a name, where it says that this kind of thing isn't allowed.
    pub(super) fn on(self, resource: Resource, name: &str) -> Error {
        let refused = match resource {
            Resource::Topic => code::TOPIC_AUTHORIZATION_FAILED,
            Resource::Group => code::GROUP_AUTHORIZATION_FAILED,
            Resource::TransactionalId => code::TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        };
        if self.code() == Some(refused) { Error::Denied { on: resource, name: name.to_string() } } else { self }
    }

    /// True where nothing but somebody's act will help: a grant, or another limit of a topic.
    pub fn lasts(&self) -> bool {
        match self {
            Error::Denied { .. } => true,
            Error::Broker { code, .. } => matches!(*code, code::MESSAGE_TOO_LARGE | code::RECORD_LIST_TOO_LARGE),
            _ => false,
        }
    }

    /// An I/O error with its place.
    pub fn io(what: impl Into<String>, source: io::Error) -> Error {
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::Timeout(what.into()),
            _ => Error::Io { what: what.into(), source },
        }
    }

    /// A broker's code with what was asked.
    pub fn broker(what: impl Into<String>, code: i16) -> Error {
        Error::Broker { what: what.into(), code }
    }

    /// True where the same call may succeed later, on another connection or broker.
    pub fn may_pass(&self) -> bool {
        match self {
            Error::Io { .. } | Error::Timeout(_) => true,
            Error::Broker { code, .. } => code::may_pass(*code),
            Error::Damaged(_) | Error::Config(_) | Error::Denied { .. } | Error::OutOfRange { .. } => false,
        }
    }

    /// True where the connection is of no more use.
    pub fn breaks_connection(&self) -> bool {
        matches!(self, Error::Io { .. } | Error::Timeout(_) | Error::Damaged(_))
    }

    /// The broker's code, where there is one.
    pub fn code(&self) -> Option<i16> {
        match self {
            Error::Broker { code, .. } => Some(*code),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { what, source } => write!(f, "{what}: {source}"),
            Error::Timeout(what) => write!(f, "{what}: no answer in time"),
            Error::Broker { what, code } => write!(f, "{what}: {}", code::Named(*code)),
            Error::Damaged(what) | Error::Config(what) => f.write_str(what),
            Error::Denied { on, name } => {
                let kind = match on {
                    Resource::Topic => "topic",
                    Resource::Group => "group",
                    Resource::TransactionalId => "transactional id",
                };
                write!(f, "not allowed on the {kind} \"{name}\"")
            }
            Error::OutOfRange { topic, partition, offset } => {
                write!(f, "{topic}/{partition} doesn't hold offset {offset}")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// The protocol's error codes that this client knows, and their names.
pub mod code {
    use std::fmt;

    macro_rules! codes {
        ($($name:ident = $value:literal, $words:literal;)*) => {
            $(#[doc = $words] pub const $name: i16 = $value;)*

            /// The words of a code.
            fn words(code: i16) -> Option<&'static str> {
                match code {
                    $($value => Some(concat!($words, " (", stringify!($name), ")")),)*
                    _ => None,
                }
            }
        };
    }

    codes! {
        NONE = 0, "no error";
        OFFSET_OUT_OF_RANGE = 1, "the offset isn't there";
        CORRUPT_MESSAGE = 2, "the batch was damaged on its way";
        UNKNOWN_TOPIC_OR_PARTITION = 3, "no such topic or partition";
        LEADER_NOT_AVAILABLE = 5, "the partition has no leader at the moment";
        NOT_LEADER_OR_FOLLOWER = 6, "the broker doesn't lead the partition";
        REQUEST_TIMED_OUT = 7, "the broker gave up waiting";
        REPLICA_NOT_AVAILABLE = 9, "the replica isn't there";
        MESSAGE_TOO_LARGE = 10, "the message is larger than the topic allows";
        NETWORK_EXCEPTION = 13, "the broker lost a connection";
        COORDINATOR_LOAD_IN_PROGRESS = 14, "the coordinator is loading";
        COORDINATOR_NOT_AVAILABLE = 15, "the coordinator isn't there yet";
        NOT_COORDINATOR = 16, "the broker isn't the coordinator";
        INVALID_TOPIC = 17, "that can't be a topic's name";
        RECORD_LIST_TOO_LARGE = 18, "the batch is larger than a segment";
        NOT_ENOUGH_REPLICAS = 19, "too few replicas are in sync";
        NOT_ENOUGH_REPLICAS_AFTER_APPEND = 20, "too few replicas took the batch";
        ILLEGAL_GENERATION = 22, "the group has moved on to another generation";
        UNKNOWN_MEMBER_ID = 25, "the group doesn't know this member";
        REBALANCE_IN_PROGRESS = 27, "the group is rebalancing";
        TOPIC_AUTHORIZATION_FAILED = 29, "not allowed on the topic";
        GROUP_AUTHORIZATION_FAILED = 30, "not allowed on the group";
        CLUSTER_AUTHORIZATION_FAILED = 31, "not allowed on the cluster";
        UNSUPPORTED_SASL_MECHANISM = 33, "the broker doesn't offer the SASL mechanism";
        UNSUPPORTED_VERSION = 35, "the broker doesn't know the request's version";
        INVALID_REQUEST = 42, "the broker calls the request invalid";
        OUT_OF_ORDER_SEQUENCE_NUMBER = 45, "a batch before this one is missing";
        DUPLICATE_SEQUENCE_NUMBER = 46, "the batch was taken before";
        INVALID_PRODUCER_EPOCH = 47, "the producer's epoch is old";
        INVALID_TXN_STATE = 48, "the transaction is in another state";
        INVALID_PRODUCER_ID_MAPPING = 49, "the transactional id belongs to another producer";
        INVALID_TRANSACTION_TIMEOUT = 50, "transaction.timeout.ms is more than the broker allows";
        CONCURRENT_TRANSACTIONS = 51, "the last transaction is still being ended";
        TRANSACTION_COORDINATOR_FENCED = 52, "the coordinator is an old one";
        TRANSACTIONAL_ID_AUTHORIZATION_FAILED = 53, "not allowed with the transactional id";
        OPERATION_NOT_ATTEMPTED = 55, "not tried, for another partition failed";
        KAFKA_STORAGE_ERROR = 56, "the broker's disk failed";
        SASL_AUTHENTICATION_FAILED = 58, "the login was refused";
        UNKNOWN_PRODUCER_ID = 59, "the broker no longer knows the producer";
        FENCED_LEADER_EPOCH = 74, "the leader's epoch is old";
        UNKNOWN_LEADER_EPOCH = 75, "the broker doesn't know the leader's epoch yet";
        OFFSET_NOT_AVAILABLE = 78, "the offset isn't known yet";
        INVALID_RECORD = 87, "the broker takes no such message";
        FENCED_INSTANCE_ID = 82, "another member has the instance's name";
        UNSTABLE_OFFSET_COMMIT = 88, "a transaction with the offsets is open";
        THROTTLING_QUOTA_EXCEEDED = 89, "the quota is used up";
        PRODUCER_FENCED = 90, "a newer producer has taken over";
        UNKNOWN_TOPIC_ID = 100, "no topic of that id";
        FETCH_SESSION_ID_NOT_FOUND = 70, "no such fetch session";
        TRANSACTION_ABORTABLE = 120, "the transaction has to be aborted";
    }

    /// A code with its name.
    #[derive(Debug, Clone, Copy)]
    pub struct Named(pub i16);

    impl fmt::Display for Named {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            match words(self.0) {
                Some(words) => f.write_str(words),
                None => write!(f, "error {} of the broker", self.0),
            }
        }
    }

    /// True where the call may succeed later as it is, maybe at another broker.
    pub fn may_pass(code: i16) -> bool {
        matches!(
            code,
            CORRUPT_MESSAGE
                | UNKNOWN_TOPIC_OR_PARTITION
                | LEADER_NOT_AVAILABLE
                | NOT_LEADER_OR_FOLLOWER
                | REQUEST_TIMED_OUT
                | REPLICA_NOT_AVAILABLE
                | NETWORK_EXCEPTION
                | COORDINATOR_LOAD_IN_PROGRESS
                | COORDINATOR_NOT_AVAILABLE
                | NOT_COORDINATOR
                | NOT_ENOUGH_REPLICAS
                | NOT_ENOUGH_REPLICAS_AFTER_APPEND
                | CONCURRENT_TRANSACTIONS
                | KAFKA_STORAGE_ERROR
                | FENCED_LEADER_EPOCH
                | UNKNOWN_LEADER_EPOCH
                | OFFSET_NOT_AVAILABLE
                | UNSTABLE_OFFSET_COMMIT
                | THROTTLING_QUOTA_EXCEEDED
                | UNKNOWN_TOPIC_ID
        )
    }

    /// True where the partition's leader has to be looked up again.
    pub fn is_stale_leader(code: i16) -> bool {
        matches!(
            code,
            UNKNOWN_TOPIC_OR_PARTITION
                | LEADER_NOT_AVAILABLE
                | NOT_LEADER_OR_FOLLOWER
                | REPLICA_NOT_AVAILABLE
                | KAFKA_STORAGE_ERROR
                | FENCED_LEADER_EPOCH
                | UNKNOWN_LEADER_EPOCH
                | UNKNOWN_TOPIC_ID
        )
    }

    /// True where the coordinator of a transactional id says that another producer has taken over. Those before 2.7
    /// have one code for that and for a stale epoch.
    pub fn is_fence(code: i16) -> bool {
        matches!(code, PRODUCER_FENCED | INVALID_PRODUCER_EPOCH)
    }

    /// True where the coordinator has to be looked up again.
    pub fn is_stale_coordinator(code: i16) -> bool {
        matches!(code, COORDINATOR_NOT_AVAILABLE | NOT_COORDINATOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_helps() {
        assert!(Error::broker("fetch", code::NOT_LEADER_OR_FOLLOWER).may_pass());
        assert!(!Error::broker("produce", code::PRODUCER_FENCED).may_pass());
        let denied =
            Error::broker("t/0", code::TOPIC_AUTHORIZATION_FAILED).on(Resource::Group, "g").on(Resource::Topic, "t");
        assert!(matches!(&denied, Error::Denied { on: Resource::Topic, name } if name == "t") && denied.lasts());
        assert!(Error::Timeout("x".into()).breaks_connection());
        assert!(matches!(Error::io("x", io::ErrorKind::WouldBlock.into()), Error::Timeout(_)));
        let said = Error::broker("end", code::PRODUCER_FENCED).to_string();
        assert_eq!(said, "end: a newer producer has taken over (PRODUCER_FENCED)");
        assert_eq!(code::Named(999).to_string(), "error 999 of the broker");
    }
}
