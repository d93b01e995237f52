//! A broker that wants to know who is there: TLS by a certificate authority made here, client certificates, SASL
//! PLAIN and SCRAM, and access lists. One process with a listener for each; the helpers of `Broker` speak on a
//! plain listener of their own, whose user may do everything.

use super::broker::Broker;
use super::free_port;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rdkafka_sys as sys;
use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// A user of SASL PLAIN who may do everything.
pub const ALICE: (&str, &str) = ("alice", "alice-s3cret-plain");
/// A user of both SCRAMs who may do everything.
pub const SCRAM: (&str, &str) = ("scarlet", "scarlet-s3cret-scram");
/// Name in the certificate of the client who may do everything.
pub const CLIENT: &str = "millstream-client";
/// How many users of SASL PLAIN there are who may do nothing until they are granted it: `limited-0`, …
const LIMITED: usize = 16;

/// The broker and its listeners.
pub struct SecureBroker {
    pub broker: &'static Broker,
    /// TLS, any client.
    pub tls: u16,
    /// TLS, clients with a certificate only.
    pub mutual: u16,
    /// TLS with a certificate for another host.
    pub other_host: u16,
    /// SASL over TLS: PLAIN, SCRAM-SHA-512.
    pub sasl_tls: u16,
    /// SASL without TLS: PLAIN, SCRAM-SHA-256.
    pub sasl_plain: u16,
    dir: PathBuf,
}

impl SecureBroker {
    /// The one of this test binary.
    pub fn shared() -> &'static SecureBroker {
        static SHARED: OnceLock<SecureBroker> = OnceLock::new();
        SHARED.get_or_init(SecureBroker::start)
    }

    fn start() -> SecureBroker {
        let ports: [u16; 5] = std::array::from_fn(|_| free_port());
        let mut folder = PathBuf::new();
        let (name, password) = SCRAM;
        let scram = ["256", "512"].map(|bits| format!("SCRAM-SHA-{bits}=[name={name},password={password}]"));
        let format: Vec<String> = scram.into_iter().flat_map(|user| ["--add-scram".to_string(), user]).collect();
        let broker = Broker::with(
            |dir, usual| {
                folder = dir.to_path_buf();
                make_certificates(dir);
                secure(dir, &usual, &ports)
            },
            &format,
        );
        let [tls, mutual, other_host, sasl_tls, sasl_plain] = ports;
        SecureBroker { broker: Box::leak(Box::new(broker)), tls, mutual, other_host, sasl_tls, sasl_plain, dir: folder }
    }

    /// A file made at the start: `ca.pem`, `stranger-ca.pem`, `client-cert.pem`, `client-key.pem`.
    pub fn file(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// A user of the plain SASL listener who may do nothing yet.
    pub fn limited(&self) -> Limited<'_> {
        static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        assert!(number < LIMITED, "more users are needed");
        Limited { secure: self, name: format!("limited-{number}") }
    }
}

/// A user who may do what was granted, and nothing else.
pub struct Limited<'s> {
    secure: &'s SecureBroker,
    pub name: String,
}

/// What a grant is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    Topic,
    Group,
    TransactionalId,
}

impl Limited<'_> {
    /// Lines of a config that log in as this user.
    pub fn config(&self) -> String {
        format!(
            "source.kafka.\"security.protocol\" = \"SASL_PLAINTEXT\"\nsource.kafka.\"sasl.mechanism\" = \"PLAIN\"\n\
             source.kafka.\"sasl.username\" = \"{}\"\nsource.kafka.\"sasl.password\" = \"pass-{}\"\n",
            self.name, self.name
        )
    }

    /// Grants an operation (`Read`, `Write`, …) on a resource; a name that ends with `*` is a prefix.
    pub fn grant(&self, resource: Resource, name: &str, operation: &str) {
        self.change(resource, name, operation, true);
    }

    /// Takes a grant back.
    pub fn revoke(&self, resource: Resource, name: &str, operation: &str) {
        self.change(resource, name, operation, false);
    }

    fn change(&self, resource: Resource, name: &str, operation: &str, grant: bool) {
        let kind = match resource {
            Resource::Topic => sys::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC,
            Resource::Group => sys::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_GROUP,
            Resource::TransactionalId => sys::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TRANSACTIONAL_ID,
        };
        use sys::rd_kafka_AclOperation_t as Op;
        let operation = match operation {
            "Read" => Op::RD_KAFKA_ACL_OPERATION_READ,
            "Write" => Op::RD_KAFKA_ACL_OPERATION_WRITE,
            "Create" => Op::RD_KAFKA_ACL_OPERATION_CREATE,
            "Delete" => Op::RD_KAFKA_ACL_OPERATION_DELETE,
            "Describe" => Op::RD_KAFKA_ACL_OPERATION_DESCRIBE,
            other => panic!("no operation {other}"),
        };
        use sys::rd_kafka_ResourcePatternType_t as Pattern;
        let (name, pattern) = match name.strip_suffix('*') {
            Some(prefix) => (prefix, Pattern::RD_KAFKA_RESOURCE_PATTERN_PREFIXED),
            None => (name, Pattern::RD_KAFKA_RESOURCE_PATTERN_LITERAL),
        };
        let text = |text: &str| CString::new(text).expect("no zero byte");
        let (name, principal, host) = (text(name), text(&format!("User:{}", self.name)), text("*"));
        let admin = self.secure.broker.admin();
        let client = admin.inner().native_ptr();
        let (mut words, permission) = ([0; 512], sys::rd_kafka_AclPermissionType_t::RD_KAFKA_ACL_PERMISSION_TYPE_ALLOW);
        // SAFETY: the client lives to the end; each object made here is destroyed once, after its last use; the
        // library copies texts.
        unsafe {
            let queue = sys::rd_kafka_queue_new(client);
            let (n, p, h) = (name.as_ptr(), principal.as_ptr(), host.as_ptr());
            let event = if grant {
                let mut acl = sys::rd_kafka_AclBinding_new(
                    kind,
                    n,
                    pattern,
                    p,
                    h,
                    operation,
                    permission,
                    words.as_mut_ptr(),
                    512,
                );
                assert!(!acl.is_null(), "{:?}", CStr::from_ptr(words.as_ptr()));
                sys::rd_kafka_CreateAcls(client, &mut acl, 1, std::ptr::null(), queue);
                let event = sys::rd_kafka_queue_poll(queue, 30_000);
                sys::rd_kafka_AclBinding_destroy(acl);
                event
            } else {
                let mut filter = sys::rd_kafka_AclBindingFilter_new(
                    kind,
                    n,
                    pattern,
                    p,
                    h,
                    operation,
                    permission,
                    words.as_mut_ptr(),
                    512,
                );
                assert!(!filter.is_null(), "{:?}", CStr::from_ptr(words.as_ptr()));
                sys::rd_kafka_DeleteAcls(client, &mut filter, 1, std::ptr::null(), queue);
                let event = sys::rd_kafka_queue_poll(queue, 30_000);
                sys::rd_kafka_AclBinding_destroy(filter);
                event
            };
            assert!(!event.is_null(), "the broker answers");
            let error = sys::rd_kafka_event_error(event);
            assert_eq!(error, sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR);
            sys::rd_kafka_event_destroy(event);
            sys::rd_kafka_queue_destroy(queue);
        }
    }
}

/// The authority, and what it signs: the broker's certificate for 127.0.0.1, one for another host, and a client's.
fn make_certificates(dir: &Path) {
    let authority = authority("The tests' authority");
    let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).expect("written");
    write("ca.pem", &authority.pem());
    write("stranger-ca.pem", &self::authority("Another authority").pem());
    for (file, host) in [("broker.pem", "127.0.0.1"), ("elsewhere.pem", "elsewhere.example")] {
        let (certificate, key) = signed(&authority, host, host, ExtendedKeyUsagePurpose::ServerAuth);
        write(file, &format!("{key}{certificate}"));
    }
    let (certificate, key) = signed(&authority, CLIENT, CLIENT, ExtendedKeyUsagePurpose::ClientAuth);
    write("client-cert.pem", &certificate);
    write("client-key.pem", &key);
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::<String>::new()).expect("params");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority")
}

fn signed(
    authority: &CertifiedIssuer<'static, KeyPair>,
    name: &str,
    host: &str,
    purpose: ExtendedKeyUsagePurpose,
) -> (String, String) {
    let mut params = CertificateParams::new(vec![host.to_string()]).expect("params");
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages.push(purpose);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, authority).expect("signed");
    (certificate.pem(), key.serialize_pem())
}

/// The usual properties with the listeners added, their stores and users, and access lists.
fn secure(dir: &Path, usual: &str, ports: &[u16; 5]) -> String {
    let names = ["TLS", "MUTUAL", "ELSEWHERE", "SASLTLS", "SASLPLAIN"];
    let added: String = names.iter().zip(ports).map(|(name, port)| format!(",{name}://127.0.0.1:{port}")).collect();
    let mut text = String::new();
    for line in usual.lines() {
        let listens = line.starts_with("listeners=") || line.starts_with("advertised.listeners=");
        text.push_str(&format!("{line}{}\n", if listens { added.as_str() } else { "" }));
    }
    let jaas = |module: &str| format!("org.apache.kafka.common.security.{module} required");
    let users = (0..LIMITED).map(|n| format!("user_limited-{n}=\"pass-limited-{n}\" ")).collect::<String>();
    let plain = format!("{} user_{}=\"{}\" {users};", jaas("plain.PlainLoginModule"), ALICE.0, ALICE.1);
    let scram = format!("{};", jaas("scram.ScramLoginModule"));
    let dir = dir.display();
    text.push_str(&format!(
        "listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,TLS:SSL,MUTUAL:SSL,ELSEWHERE:SSL,SASLTLS:SASL_SSL,SASLPLAIN:SASL_PLAINTEXT\n\
         inter.broker.listener.name=PLAINTEXT\n\
         ssl.keystore.type=PEM\nssl.keystore.location={dir}/broker.pem\n\
         ssl.truststore.type=PEM\nssl.truststore.location={dir}/ca.pem\n\
         listener.name.mutual.ssl.client.auth=required\n\
         listener.name.elsewhere.ssl.keystore.type=PEM\nlistener.name.elsewhere.ssl.keystore.location={dir}/elsewhere.pem\n\
         sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n\
         authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
         super.users=User:ANONYMOUS;User:{};User:{};User:CN={CLIENT}\n",
        ALICE.0, SCRAM.0
    ));
    for listener in ["sasltls", "saslplain"] {
        text.push_str(&format!("listener.name.{listener}.plain.sasl.jaas.config={plain}\n"));
        for bits in ["256", "512"] {
            text.push_str(&format!("listener.name.{listener}.scram-sha-{bits}.sasl.jaas.config={scram}\n"));
        }
    }
    text
}
