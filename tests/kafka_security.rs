//! The story: the broker wants to know who is there. The daemon comes over TLS with an authority of its own, with
//! a certificate, with PLAIN and with SCRAM, all by `[source.kafka]` alone, and works exactly once; with a wrong
//! authority, host name, password or none at all it says what is wrong and what to do, and ends with 4. Access
//! lists refuse it one thing after another, at the start and while it runs, and the list of the handbook is
//! enough. No secret is ever shown.

mod support;

use support::broker::Broker;
use support::daemon::{Called, Scene, until};
use support::events::{self, SPEC};
use support::secure_broker::{ALICE, Resource, SCRAM, SecureBroker};
use support::stream::{Stream, by_partition, json, oracle, replay_is_equal};

/// Properties of the client, as lines of a config.
fn kafka(properties: &[(&str, &str)]) -> String {
    properties.iter().map(|(key, value)| format!("source.kafka.\"{key}\" = \"{value}\"\n")).collect()
}

/// A scene whose daemon reaches the broker at one port with such properties.
fn scene(stream: &Stream, port: u16, more: &str) -> Scene {
    let config = stream.config(more).replace(&stream.broker.address(), &format!("127.0.0.1:{port}"));
    Scene::new(SPEC, &config)
}

/// Everything that was sent so far is answered exactly as the oracle does.
#[track_caller]
fn is_exact(stream: &Stream, sent: u64) {
    let made = oracle(stream, None, &json(), &[SPEC]);
    assert_eq!(made.seq, sent);
    assert!(by_partition(&stream.output("out")) == made.predictions, "predictions");
    assert!(by_partition(&stream.output("dead")) == made.dead, "dead letters");
}

/// The daemon works exactly once over a listener; none of the secrets is said.
fn works(secure: &SecureBroker, name: &str, port: u16, properties: &[(&str, &str)]) {
    let stream = Stream::new(secure.broker, name);
    let scene = scene(&stream, port, &(kafka(properties) + "log.level = \"debug\"\n"));
    let daemon = scene.start(&[]);
    stream.send(&events::json(400, 1), 0);
    until("events under way", || (daemon.status()["lanes"][0]["committed_seq"].as_u64() > Some(0)).then_some(()));
    let mut said = daemon.kill();
    let mut daemon = scene.start(&[]);
    stream.send(&events::json(200, 2), 400);
    stream.committed(&mut daemon, 600);
    said += &daemon.status().to_string();
    said += &daemon.stop();
    is_exact(&stream, 600);
    replay_is_equal(&scene);
    said += &scene.call_with_config("validate", &[]).good();
    shows_no_secret(&said, properties);
}

#[track_caller]
fn shows_no_secret(said: &str, properties: &[(&str, &str)]) {
    for (key, value) in properties.iter().filter(|(key, _)| key.contains("password")) {
        assert!(!said.contains(value), "{key} is shown: {said}");
    }
    assert!(!said.contains("PRIVATE KEY"), "{said}");
}

/// The daemon can't come in: it ends with 4 after the start's time-out, and says this.
fn fails(secure: &SecureBroker, name: &str, port: u16, properties: &[(&str, &str)], named: &[&str]) {
    let stream = Stream { broker: secure.broker, name: name.into() };
    let scene = scene(&stream, port, &(kafka(properties) + "limits.start_timeout_ms = 2_500\nlog.level = \"debug\"\n"));
    let (code, said) = scene.spawn(&[]).wait();
    let last = said.rfind("\nmillstream: ").map_or("", |at| &said[at..]);
    eprintln!("{name}: {last}");
    shows_no_secret(&said, properties);
    Called { code, out: String::new(), said: last.to_string() }.refused(4, named);
}

#[test]
fn tls_with_an_authority_of_its_own_and_what_goes_wrong_with_it() {
    let secure = SecureBroker::shared();
    let (ca, stranger) = (secure.file("ca.pem"), secure.file("stranger-ca.pem"));
    let tls = |ca| [("security.protocol", "SSL"), ("ssl.ca.location", ca)];
    works(secure, "tls", secure.tls, &tls(&ca));
    fails(secure, "stranger", secure.tls, &tls(&stranger), &["certificate verify failed", "ssl.ca.location"]);
    fails(secure, "elsewhere", secure.other_host, &tls(&ca), &["certificate verify failed", "name the broker"]);
    fails(secure, "bare", secure.mutual, &tls(&ca), &["certificate", "ssl.certificate.location", "ssl.key.location"]);
    fails(secure, "no-tls", secure.tls, &[], &["security.protocol", "SSL"]);
    fails(secure, "plain-port", broker_port(secure.broker), &tls(&ca), &["speaks no TLS"]);
}

fn broker_port(broker: &Broker) -> u16 {
    broker.address().rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port")
}

#[test]
fn tls_with_a_certificate_of_the_client() {
    let secure = SecureBroker::shared();
    let [ca, certificate, key] = ["ca.pem", "client-cert.pem", "client-key.pem"].map(|name| secure.file(name));
    let text = std::fs::read_to_string(&key).expect("the key").replace('\n', "\\n");
    let by_path = [
        ("security.protocol", "SSL"),
        ("ssl.ca.location", ca.as_str()),
        ("ssl.certificate.location", &certificate),
        ("ssl.key.location", &key),
    ];
    works(secure, "mutual", secure.mutual, &by_path);
    let in_place = [by_path[0], by_path[1], by_path[2], ("ssl.key.pem", text.as_str())];
    works(secure, "pem", secure.mutual, &in_place);
}

#[test]
fn passwords_over_tls_and_without() {
    let secure = SecureBroker::shared();
    let ca = secure.file("ca.pem");
    let sasl = |protocol, mechanism, (user, password)| {
        vec![
            ("security.protocol", protocol),
            ("sasl.mechanism", mechanism),
            ("sasl.username", user),
            ("sasl.password", password),
        ]
    };
    let over_tls =
        |mechanism, user| [sasl("SASL_SSL", mechanism, user), vec![("ssl.ca.location", ca.as_str())]].concat();
    works(secure, "plain", secure.sasl_tls, &over_tls("PLAIN", ALICE));
    works(secure, "scram", secure.sasl_tls, &over_tls("SCRAM-SHA-512", SCRAM));
    works(secure, "clear", secure.sasl_plain, &sasl("SASL_PLAINTEXT", "SCRAM-SHA-256", SCRAM));
    let wrong = |(user, _)| (user, "not-the-passw0rd");
    let named = ["uthentication", "refuses the log-in", "sasl.password"];
    fails(secure, "wrong-plain", secure.sasl_tls, &over_tls("PLAIN", wrong(ALICE)), &named);
    fails(secure, "wrong-scram", secure.sasl_tls, &over_tls("SCRAM-SHA-512", wrong(SCRAM)), &named);
    fails(secure, "no-user", secure.sasl_plain, &[], &["security.protocol"]);
}

/// A line of the handbook's list of permissions, for a stream: on what, its name, which operations.
fn handbook(stream: &Stream) -> Vec<(Resource, String, Vec<String>)> {
    let text = std::fs::read_to_string("docs/operations.md").expect("the handbook");
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix("$ACL "));
    let mut all = Vec::new();
    for line in lines {
        let (mut words, mut operations, mut what, mut suffix) = (line.split_whitespace(), Vec::new(), None, "");
        while let (Some(option), Some(value)) = (words.next(), words.next()) {
            match option {
                "--operation" => operations.push(value.to_string()),
                "--topic" => what = Some((Resource::Topic, value)),
                "--group" => what = Some((Resource::Group, value)),
                "--transactional-id" => what = Some((Resource::TransactionalId, value)),
                "--resource-pattern-type" => suffix = "*",
                other => panic!("{other} in: {line}"),
            }
        }
        let (resource, name) = what.expect("a resource");
        let name = name.replace("GROUP", &stream.name).replace("INPUT", &stream.topic("in"));
        let name = name.replace("PREDICTIONS", &stream.topic("out")).replace("DEAD-LETTERS", &stream.topic("dead"));
        all.push((resource, name + suffix, operations));
    }
    all
}

#[test]
fn each_permission_that_lacks_is_named_and_the_list_of_the_handbook_is_enough() {
    let secure = SecureBroker::shared();
    let stream = Stream::new(secure.broker, "granted");
    let user = secure.limited();
    let more = user.config() + "limits.start_timeout_ms = 1_500\n";
    let scene = scene(&stream, secure.sasl_plain, &more);
    let mut list = handbook(&stream);
    assert_eq!(list.len(), 6, "{list:?}");
    let ends = |daemon: support::daemon::Daemon, (_, name, operations): &(Resource, String, Vec<String>)| {
        let (code, said) = daemon.wait();
        let last = said.rfind("\nmillstream: ").map_or("", |at| &said[at..]);
        eprintln!("{last}");
        assert_eq!(code, Some(4), "{said}");
        let name = name.trim_end_matches('*');
        let operations = operations.iter().map(|o| format!("--operation {o} ")).collect::<String>();
        for named in [name, &user.name, "doesn't allow", "kafka-acls --add", &operations] {
            assert!(last.contains(named), "{named:?} is not in: {last}");
        }
        assert!(!said.contains(&format!("pass-{}", user.name)), "{said}");
    };
    // In the order in which they are met; each message names what the next line of the list grants.
    let order = ["-journal", "-in", "-out", "-dead", "granted", "granted-*"];
    list.sort_by_key(|(_, name, _)| order.iter().position(|end| name.ends_with(end)));
    for line in &list {
        ends(scene.spawn(&[]), line);
        line.2.iter().for_each(|operation| user.grant(line.0, &line.1, operation));
    }
    let mut daemon = scene.start(&[]);
    let mut sent = 0;
    let mut send = |count: u64| {
        stream.send(&events::json(count, sent), sent);
        sent += count;
        sent
    };
    stream.committed(&mut daemon, send(500));
    // Taken back while it runs: it stops, says so, and goes on exactly once it is granted again.
    for end in ["-in", "-out", "granted-*"] {
        let line = list.iter().find(|(_, name, _)| name.ends_with(end)).expect("a line");
        line.2.iter().for_each(|operation| user.revoke(line.0, &line.1, operation));
        let all = send(200);
        ends(daemon, line);
        line.2.iter().for_each(|operation| user.grant(line.0, &line.1, operation));
        daemon = scene.start(&[]);
        stream.committed(&mut daemon, all);
    }
    let trimmed = scene.ctl(&["checkpoint"]);
    trimmed.good();
    let said = daemon.stop();
    assert!(!said.contains("doesn't allow"), "{said}");
    is_exact(&stream, sent);
    replay_is_equal(&scene);
}
