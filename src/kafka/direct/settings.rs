//! What a client has to know to reach its brokers. Secrets never show in `Debug`.
//!
//! ```
//! use millstream::kafka::direct::Settings;
//!
//! let properties = [("sasl.password".to_string(), "hush".to_string())];
//! let settings = Settings::from_properties("kafka-1:9092,kafka-2:9092", &properties).unwrap();
//! assert_eq!(settings.brokers.len(), 2);
//! assert!(!format!("{settings:?}").contains("hush"));
//! ```

use super::compress::Compression;
use super::error::{Error, Result};
use std::fmt;
use std::time::Duration;

/// Text that is never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }
    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// How a login proves itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// The password as it is: only over TLS.
    Plain,
    /// SCRAM-SHA-256.
    Scram256,
    /// SCRAM-SHA-512.
    Scram512,
}

impl Mechanism {
    /// Its name in the protocol.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::Scram256 => "SCRAM-SHA-256",
            Mechanism::Scram512 => "SCRAM-SHA-512",
        }
    }
}

/// A login (SASL).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// How it proves itself.
    pub mechanism: Mechanism,
    /// User name.
    pub user: String,
    /// Password.
    pub password: Secret,
}

/// TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// PEM of the authorities that are trusted; none: those of the system.
    pub authorities: Option<String>,
    /// PEM of the client's own certificate chain and of its key.
    pub identity: Option<(String, Secret)>,
    /// Any name will do, as long as an authority vouches for the certificate.
    pub any_name: bool,
}

/// What a client has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `host:port` of the brokers to ask first; the cluster tells of the others.
    pub brokers: Vec<String>,
    /// Name of this client in the brokers' logs and quotas.
    pub client_id: String,
    /// TLS; none: in the clear.
    pub tls: Option<Tls>,
    /// Login; none: nobody in particular.
    pub login: Option<Login>,
    /// How long a connection may take to be made, login and all.
    pub connect_timeout: Duration,
    /// How long a broker may take to answer.
    pub call_timeout: Duration,
    /// First wait before a broker that failed is tried again; doubled each time, and up to a half is taken off
    /// at random.
    pub backoff_min: Duration,
    /// Longest such wait.
    pub backoff_max: Duration,
    /// Largest answer that is accepted, in bytes.
    pub answer_bytes_max: usize,
}

impl Settings {
    /// Settings for brokers, separated by commas, in the clear.
    pub fn new(brokers: &str) -> Settings {
        Settings {
            brokers: brokers.split(',').map(str::trim).filter(|b| !b.is_empty()).map(String::from).collect(),
            client_id: "millstream".into(),
            tls: None,
            login: None,
            connect_timeout: Duration::from_secs(10),
            call_timeout: Duration::from_secs(30),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
            answer_bytes_max: 256 << 20,
        }
    }

    /// Settings from properties as librdkafka names them: trust, time-outs and waits. Those that only tune what this
    /// client doesn't have are passed over.
    ///
    /// # Errors
    /// `Config`: a property that changes who is trusted or how, and that this client doesn't know (OAUTHBEARER,
    /// Kerberos, encrypted keys, trust switched off): librdkafka is the one for that. Also a file that can't be read.
    pub fn from_properties(brokers: &str, properties: &[(String, String)]) -> Result<Settings> {
        let get = |name: &str| properties.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let mut settings = Settings::new(brokers);
        if settings.brokers.is_empty() {
            return Err(Error::Config("no broker is named".into()));
        }
        if let Some(id) = get("client.id") {
            settings.client_id = id.into();
        }
        for (name, wait) in [
            ("socket.timeout.ms", &mut settings.call_timeout),
            ("socket.connection.setup.timeout.ms", &mut settings.connect_timeout),
            ("reconnect.backoff.ms", &mut settings.backoff_min),
            ("reconnect.backoff.max.ms", &mut settings.backoff_max),
        ] {
            let Some(text) = get(name) else { continue };
            let millis = text.parse().map_err(|_| Error::Config(format!("\"{name}\": \"{text}\" is no number")))?;
            *wait = Duration::from_millis(millis);
        }
        let protocol = get("security.protocol").unwrap_or("plaintext").to_lowercase();
        let (tls, login) = match protocol.as_str() {
            "plaintext" => (false, false),
            "ssl" => (true, false),
            "sasl_plaintext" => (false, true),
            "sasl_ssl" => (true, true),
            other => return Err(Error::Config(format!("\"{other}\" is no security.protocol"))),
        };
        if let Some(name) = UNKNOWN.iter().find(|name| get(name).is_some()) {
            return Err(unsupported(name));
        }
        if get("enable.ssl.certificate.verification").is_some_and(|value| value != "true") {
            return Err(unsupported("enable.ssl.certificate.verification"));
        }
        if tls {
            settings.tls = Some(tls_of(&get)?);
        }
        if login {
            settings.login = Some(login_of(&get)?);
        }
        Ok(settings)
    }
}

/// How a producer writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProduceSettings {
    /// How batches are compressed.
    pub compression: Compression,
    /// A batch is sent at the latest when it has this many bytes, before compression.
    pub batch_bytes: usize,
    /// Longest message that is taken, in bytes.
    pub message_bytes_max: usize,
    /// Requests on their way to one broker; at most 5, for that is how many batches a broker remembers.
    pub on_their_way_max: usize,
    /// How long a batch is tried.
    pub delivery_timeout: Duration,
    /// The transactional id; none: messages are seen one by one.
    pub transactional: Option<String>,
    /// How long a transaction may stay open before the broker aborts it.
    pub transaction_timeout: Duration,
}

impl Default for ProduceSettings {
    fn default() -> ProduceSettings {
        ProduceSettings {
            compression: Compression::None,
            batch_bytes: 256 << 10,
            message_bytes_max: 1_000_000,
            on_their_way_max: 5,
            delivery_timeout: Duration::from_secs(60),
            transactional: None,
            transaction_timeout: Duration::from_secs(60),
        }
    }
}

/// Properties of trust that only librdkafka knows.
const UNKNOWN: [&str; 8] = [
    "ssl.key.password",
    "ssl.keystore.location",
    "ssl.engine.location",
    "ssl.crl.location",
    "ssl.providers",
    "ssl.certificate.verify_cb",
    "ssl.cipher.suites",
    "ssl.sigalgs.list",
];

fn unsupported(name: &str) -> Error {
    Error::Config(format!("\"{name}\" is not for the direct client: set source.client = \"librdkafka\""))
}

fn tls_of<'p>(get: &impl Fn(&str) -> Option<&'p str>) -> Result<Tls> {
    let file = |path: &str| {
        std::fs::read_to_string(path).map_err(|error| Error::Config(format!("{path} can't be read: {error}")))
    };
    let pem = |place: &str, text: &str| match (get(text), get(place)) {
        (Some(text), _) => Ok(Some(text.to_string())),
        (None, Some(path)) => file(path).map(Some),
        (None, None) => Ok(None),
    };
    let identity =
        match (pem("ssl.certificate.location", "ssl.certificate.pem")?, pem("ssl.key.location", "ssl.key.pem")?) {
            (Some(chain), Some(key)) => Some((chain, Secret::new(key))),
            (None, None) => None,
            _ => return Err(Error::Config("a client certificate and its key go together".into())),
        };
    let any_name = match get("ssl.endpoint.identification.algorithm") {
        None | Some("https") => false,
        Some("none" | "") => true,
        Some(other) => return Err(Error::Config(format!("ssl.endpoint.identification.algorithm is \"{other}\""))),
    };
    Ok(Tls { authorities: pem("ssl.ca.location", "ssl.ca.pem")?, identity, any_name })
}

fn login_of<'p>(get: &impl Fn(&str) -> Option<&'p str>) -> Result<Login> {
    let mechanism = match get("sasl.mechanism").or(get("sasl.mechanisms")).unwrap_or("GSSAPI") {
        "PLAIN" => Mechanism::Plain,
        "SCRAM-SHA-256" => Mechanism::Scram256,
        "SCRAM-SHA-512" => Mechanism::Scram512,
        other => return Err(unsupported(&format!("sasl.mechanism = {other}"))),
    };
    let (Some(user), Some(password)) = (get("sasl.username"), get("sasl.password")) else {
        return Err(Error::Config("sasl.username and sasl.password are missing".into()));
    };
    Ok(Login { mechanism, user: user.into(), password: Secret::new(password) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(properties: &[(&str, &str)]) -> Result<Settings> {
        let owned: Vec<_> = properties.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Settings::from_properties("a:1, b:2", &owned)
    }

    #[test]
    fn properties_of_trust_are_taken_or_refused_by_name() {
        let login = [("sasl.username", "u"), ("sasl.password", "p"), ("security.protocol", "SASL_SSL")];
        let made = settings(&[&login[..], &[("sasl.mechanism", "SCRAM-SHA-512")]].concat()).unwrap();
        assert_eq!(made.login.unwrap().mechanism, Mechanism::Scram512);
        assert!(made.tls.is_some());
        for refused in [("sasl.mechanism", "OAUTHBEARER"), ("ssl.key.password", "x")] {
            let error = settings(&[&login[..], &[refused]].concat()).unwrap_err().to_string();
            assert!(error.contains("librdkafka") && error.contains(refused.0), "{error}");
        }
        assert!(settings(&[("enable.ssl.certificate.verification", "false")]).is_err());
        assert!(settings(&[("fetch.wait.max.ms", "5")]).is_ok());
        let patient = settings(&[("socket.timeout.ms", "600")]).unwrap();
        assert_eq!((patient.call_timeout, patient.backoff_max), (Duration::from_millis(600), Duration::from_secs(1)));
        assert!(settings(&[("socket.timeout.ms", "soon")]).unwrap_err().to_string().contains("socket.timeout.ms"));
    }

    #[test]
    fn a_secret_is_never_shown() {
        let login = Login { mechanism: Mechanism::Plain, user: "u".into(), password: Secret::new("hush") };
        let tls = Tls { identity: Some(("chain".into(), Secret::new("hush"))), ..Tls::default() };
        let settings = Settings { login: Some(login), tls: Some(tls), ..Settings::new("a:1") };
        assert!(!format!("{settings:?} {settings:#?}").contains("hush"));
    }
}
