//! Kafka's protocol spoken directly: a data plane that reads and writes record batches without a library between.
//!
//! ```text
//! wire.rs         numbers, varints, strings, arrays
//! error.rs        errors, and the protocol's codes
//! settings.rs     brokers, TLS, login; secrets that never show
//! calls.rs        the control calls; txn_calls.rs those of a transaction
//! batch.rs        record batches, checked and read in place; build.rs writes them; compress.rs
//! transport.rs    a socket, in the clear or through TLS; sasl.rs logins
//! connection.rs   requests and answers, several on their way, a deadline on each
//! cluster.rs      who leads what, and a connection to each
//! fetched.rs      the fetch call and a walk over what it brings; pour.rs hands it over as a whole; fetcher.rs keeps
//!                 one on its way
//! produce_call.rs the produce call; slot.rs a partition's batches; producer.rs keeps them on their way;
//!                 transaction.rs commits them together
//! ```
//!
//! It stands on its own: it knows nothing of lanes, starts no thread and needs no runtime. A fetcher and a producer
//! each live on one thread; every wait has a bound. Brokers from 2.8 to 4 are spoken to.
//!
//! Membership in groups and the making of topics are not here: librdkafka does those.

pub mod batch;
pub mod build;
pub mod calls;
mod cluster;
pub mod compress;
pub mod connection;
mod error;
mod fetched;
mod fetcher;
mod pour;
pub mod produce_call;
mod producer;
mod sasl;
mod settings;
mod slot;
mod transaction;
mod transport;
pub mod txn_calls;
pub mod wire;

pub use cluster::Cluster;
pub use compress::Compression;
pub use error::{Error, Resource, Result, code};
pub use fetched::{Fetched, Message};
pub use fetcher::{FetchSettings, Fetcher};
pub use pour::Poured;
pub use producer::{Producer, TopicNumber};
pub use settings::{Login, Mechanism, ProduceSettings, Secret, Settings, Tls};
pub use transaction::Broken;
pub use txn_calls::{Identity, Membership};
