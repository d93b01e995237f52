//! A prefix of an S3 bucket: `s3://bucket/prefix`. An object is there whole or not at all, as the protocol says.
//!
//! Endpoint, region and credentials come from the usual variables `AWS_*`. Every call is bounded: the store's
//! callers go on without it, and nobody waits for a server that is away.

use super::Store;
use crate::error::{Fault, Result};
use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStore as _, ObjectStoreExt, PutMode, PutPayload, RetryConfig};
use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;

/// How a store of this kind begins.
pub const SCHEME: &str = "s3://";

/// How long a server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one request may take, its body included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// A call that failed is tried again so often at most,
const RETRIES_MAX: usize = 3;
/// and not after this time.
const RETRY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a whole call may take, whatever happens.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// What the folders of a bucket share.
struct Bucket {
    name: String,
    client: AmazonS3,
    /// `None` only while this is dropped.
    runtime: Option<Runtime>,
}

impl Drop for Bucket {
    fn drop(&mut self) {
        // Whoever holds the last folder may stand inside another runtime, where this one must not be waited for.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A folder in a bucket.
#[derive(Clone)]
pub struct ObjectStore {
    bucket: Arc<Bucket>,
    prefix: Path,
}

impl ObjectStore {
    /// The store at `s3://bucket/prefix`. Asks the server nothing yet.
    ///
    /// # Errors
    /// Misuse, where the location or a variable `AWS_*` can't be read.
    pub fn open(location: &str) -> Result<ObjectStore> {
        ObjectStore::with(location, AmazonS3Builder::from_env())
    }

    fn with(location: &str, settings: AmazonS3Builder) -> Result<ObjectStore> {
        let (name, prefix) = split(location)?;
        let client = settings
            .with_bucket_name(name)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_retry(RetryConfig {
                max_retries: RETRIES_MAX,
                retry_timeout: RETRY_TIMEOUT,
                backoff: BackoffConfig { max_backoff: Duration::from_secs(2), ..BackoffConfig::default() },
            })
            .with_client_options(
                ClientOptions::new()
                    .with_connect_timeout(CONNECT_TIMEOUT)
                    .with_timeout(REQUEST_TIMEOUT)
                    // Only an endpoint that itself says http:// is spoken to without encryption.
                    .with_allow_http(true),
            )
            .build()
            .map_err(|e| {
                Fault::misuse(format!("checkpoint.store {location:?}: {}", in_words(&e)))
                    .hint("look at AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
            })?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| Fault::io("start the object store's client", &e))?;
        let bucket = Arc::new(Bucket { name: name.to_string(), client, runtime: Some(runtime) });
        let prefix = Path::parse(prefix).map_err(|e| Fault::misuse(format!("checkpoint.store {location:?}: {e}")))?;
        Ok(ObjectStore { bucket, prefix })
    }

    fn path(&self, name: &str) -> Path {
        self.prefix.clone().join(name)
    }

    /// Carries out a call, for a bounded time. `None`: there is no such object, or (of a conditional put) there is.
    fn call<T>(&self, name: &str, work: impl Future<Output = object_store::Result<T>>) -> Result<Option<T>> {
        use object_store::Error::{AlreadyExists, NotFound, Precondition};
        let runtime = self.bucket.runtime.as_ref().expect("taken only by drop");
        let failed = |what: &dyn Display| {
            Fault::environment(format!("{}: {what}", self.place(name)))
                .hint("look at the object store of checkpoint.store, its bucket and the variables AWS_*")
        };
        match runtime.block_on(async { tokio::time::timeout(CALL_TIMEOUT, work).await }) {
            Ok(Ok(value)) => Ok(Some(value)),
            // A bucket that is missing is no missing object.
            Ok(Err(NotFound { source, .. })) if source.to_string().contains("NoSuchBucket") => {
                Err(failed(&format!("there is no bucket {:?}", self.bucket.name)))
            }
            Ok(Err(NotFound { .. } | AlreadyExists { .. } | Precondition { .. })) => Ok(None),
            Ok(Err(error)) => Err(failed(&in_words(&error))),
            Err(_) => Err(failed(&format!("no answer within {} s", CALL_TIMEOUT.as_secs()))),
        }
    }
}

impl Store for ObjectStore {
    fn place(&self, name: &str) -> String {
        format!("{SCHEME}{}/{}", self.bucket.name, self.path(name))
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let payload = PutPayload::from(bytes.to_vec());
        match self.call(name, self.bucket.client.put(&self.path(name), payload))? {
            Some(_) => Ok(()),
            None => Err(Fault::environment(format!("{}: can't be written to", self.place(name)))),
        }
    }

    fn put_if_absent(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        let payload = PutPayload::from(bytes.to_vec());
        let path = self.path(name);
        let put = self.bucket.client.put_opts(&path, payload, PutMode::Create.into());
        Ok(self.call(name, put)?.is_some())
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.path(name);
        self.call(name, async { Ok(self.bucket.client.get(&path).await?.bytes().await?.to_vec()) })
    }

    fn names(&self) -> Result<Vec<String>> {
        let listed = self.call("", self.bucket.client.list_with_delimiter(Some(&self.prefix)))?;
        let objects = listed.map_or(Vec::new(), |listed| listed.objects);
        Ok(objects.iter().filter_map(|o| o.location.filename().map(str::to_string)).collect())
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.call(name, self.bucket.client.delete(&self.path(name))).map(|_| ())
    }

    fn folder(&self, name: &str) -> Result<Arc<dyn Store>> {
        Ok(Arc::new(ObjectStore { bucket: self.bucket.clone(), prefix: self.path(name) }))
    }
}

/// Bucket and prefix of `s3://bucket/prefix`.
fn split(location: &str) -> Result<(&str, &str)> {
    let rest = location.strip_prefix(SCHEME).unwrap_or_default();
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    match bucket.is_empty() {
        true => Err(Fault::misuse(format!("checkpoint.store {location:?} names no bucket")).hint("s3://bucket/prefix")),
        false => Ok((bucket, prefix.trim_matches('/'))),
    }
}

/// An error with its causes, on one line.
fn in_words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !words.contains(&text) {
            words = format!("{words}: {text}");
        }
        next = cause.source();
    }
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_a_bucket_and_a_prefix() {
        assert_eq!(split("s3://b").expect("a bucket"), ("b", ""));
        assert_eq!(split("s3://b/a/c/").expect("a bucket"), ("b", "a/c"));
        for bad in ["s3://", "s3:///a"] {
            assert!(split(bad).expect_err(bad).message.contains("names no bucket"));
        }
    }

    #[test]
    fn a_server_that_is_away_is_a_fault_that_names_the_object_and_comes_soon() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
        let settings = AmazonS3Builder::new()
            .with_endpoint(format!("http://{nobody}"))
            .with_access_key_id("key")
            .with_secret_access_key("secret");
        let store = ObjectStore::with("s3://bucket/prefix", settings).expect("a store");
        let began = std::time::Instant::now();
        let fault = store.folder("lane-0").expect("folder").put("x", b"1").expect_err("nobody listens");
        assert_eq!(fault.class, crate::error::Class::Environment);
        assert!(fault.message.starts_with("s3://bucket/prefix/lane-0/x: "), "{fault}");
        assert!(began.elapsed() < RETRY_TIMEOUT + CONNECT_TIMEOUT, "{:?}", began.elapsed());
    }
}
