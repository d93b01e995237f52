//! The story: the world sends rubbish. Each row of the design's table 'What bad input gets', through the
//! real daemon: what cannot be scored becomes a dead letter with its reason, what can be is scored,
//! nothing is lost (outputs + dead letters = inputs), and neither the model nor the daemon is harmed.

mod support;

use millstream::admin::CtlAction;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use support::daemon::{Scene, until};
use support::events::{self, SPEC};

const FILES: &str = "source.kind = \"file\"\nsource.paths = [\"DIR/in\"]\nsink.kind = \"file\"\n\
                     sink.path = \"DIR/out.ndjson\"\nsink.dead_letters = \"DIR/dead.ndjson\"\n";

/// Runs a daemon over lines; gives its predictions and its dead letters, which together are all of them.
fn through(scene: &Scene, lines: &[Vec<u8>], more: &[&str]) -> (Vec<Value>, Vec<Value>) {
    scene.write("in", [lines.join(&b'\n'), b"\n".to_vec()].concat());
    scene.run_to_end(more);
    let (out, dead) = (events::lines(&scene.read("out.ndjson")), events::lines(&scene.read("dead.ndjson")));
    assert_eq!(out.len() + dead.len(), lines.len(), "{out:?}\n{dead:?}");
    (out, dead)
}

fn bytes(lines: &[&str]) -> Vec<Vec<u8>> {
    lines.iter().map(|l| l.as_bytes().to_vec()).collect()
}

/// One prediction by its offset.
fn at(out: &[Value], offset: u64) -> &Value {
    out.iter().find(|o| o["offset"] == offset).unwrap_or_else(|| panic!("no answer to {offset} in {out:?}"))
}

#[test]
fn rows_that_cannot_be_decoded() {
    let scene = Scene::new(SPEC, FILES);
    let mut lines = bytes(&[
        r#"{"id":"a","x1":1,"x2":2,"x3":3,"y":true}"#,
        r#"{"id":"b","x1":1,"#,
        "not json",
        "[1,2]",
        r#"{"id":"c","x1":"word","x2":2,"x3":3,"y":true}"#,
        r#"{"id":"d","x1":1,"x2":2,"x3":3,"y":"maybe"}"#,
        r#"{"id":"e","x1":1,"x2":2,"x3":3,"y":true} {"again":1}"#,
        r#"{"id":"f","x1":2,"x2":2,"x3":3}"#,
    ]);
    lines.push(b"{\"id\":\"\xFF\xFE\",\"x1\":1,\"x3\":3}".to_vec());
    lines.push(b"\0\0\0\0".to_vec());
    let (out, dead) = through(&scene, &lines, &[]);
    let ids: Vec<&str> = out.iter().map(|o| o["id"].as_str().expect("id")).collect();
    assert_eq!(ids, ["a", "f"]);
    for letter in &dead {
        let error = &letter["error"];
        let offset = error["offset"].as_u64().expect("offset") as usize;
        assert_eq!(error["input"], scene.text("in").as_str());
        assert!(error["reason"].as_str().is_some_and(|r| !r.is_empty()), "{letter}");
        let raw = match (&letter["raw"], &letter["raw_base64"]) {
            (Value::String(raw), _) => raw.as_bytes().to_vec(),
            (_, Value::String(raw)) => {
                use base64::Engine;
                base64::engine::general_purpose::STANDARD.decode(raw).expect("base64")
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(raw, lines[offset], "the original bytes");
    }
    let stage = |offset: u64| {
        let letter = dead.iter().find(|d| d["error"]["offset"] == offset).expect("a letter");
        (letter["error"]["stage"].clone(), letter["error"]["field"].clone())
    };
    assert_eq!(stage(1), (json!("decode"), Value::Null));
    assert_eq!(stage(4), (json!("schema"), json!("x1")));
    assert_eq!(stage(5), (json!("schema"), json!("y")));
}

#[test]
fn limits_hold_at_under_and_over() {
    let scene = Scene::new(SPEC, &format!("{FILES}limits.event_bytes_max = 200\nlimits.nesting_max = 4\n"));
    let of_length = |n: usize| {
        let head = r#"{"id":"l","x1":1,"x2":2,"x3":3,"pad":""#;
        format!("{head}{}\"}}", "p".repeat(n - head.len() - 2)).into_bytes()
    };
    let nested = |depth: usize| {
        // The event itself is the first level.
        let (open, close) = ("[".repeat(depth - 1), "]".repeat(depth - 1));
        format!(r#"{{"id":"n","x1":1,"x2":2,"x3":3,"deep":{open}{close}}}"#).into_bytes()
    };
    let lines = vec![
        of_length(199),
        of_length(200),
        of_length(201),
        of_length(100_000),
        nested(3),
        nested(4),
        nested(5),
        nested(90),
    ];
    let (out, dead) = through(&scene, &lines, &[]);
    let offsets = |values: &[Value], path: &str| -> Vec<u64> {
        values.iter().map(|v| v.pointer(path).and_then(Value::as_u64).expect("offset")).collect()
    };
    assert_eq!(offsets(&out, "/offset"), [0, 1, 4, 5]);
    assert_eq!(offsets(&dead, "/error/offset"), [2, 3, 6, 7]);
    for letter in &dead {
        assert_eq!(letter["error"]["stage"], "limit", "{letter}");
    }
    assert!(dead[0]["error"]["reason"].as_str().expect("reason").contains("event_bytes_max"));
    assert!(dead[2]["error"]["reason"].as_str().expect("reason").contains("nesting_max"));
}

#[test]
fn missing_is_what_its_policy_says() {
    let spec = r#"
name = "policies"
[schema]
label = "y"
[schema.fields]
mean = "float"
zero = { type = "float", missing = "zero" }
must = { type = "float", missing = "reject" }
y = "float"
[model]
kind = "linear-regression"
optimizer = { kind = "sgd", learning_rate = 0.1 }
"#;
    // In pairs: what is missing, and the value that must give the same score.
    let learn = [r#"{"mean":2,"zero":1,"must":1,"y":3}"#, r#"{"mean":4,"zero":-1,"must":1,"y":1}"#];
    for missing in ["null", "1e999", "-1e999"] {
        let scene = Scene::new(spec, FILES);
        let mut lines = bytes(&learn);
        lines.extend(bytes(&[
            &format!(r#"{{"mean":{missing},"zero":5,"must":1}}"#),
            r#"{"mean":3,"zero":5,"must":1}"#,
            &format!(r#"{{"mean":3,"zero":{missing},"must":1}}"#),
            r#"{"mean":3,"zero":0,"must":1}"#,
            &format!(r#"{{"mean":3,"zero":0,"must":{missing}}}"#),
            r#"{"must":1}"#,
            r#"{"mean":3,"zero":0,"must":1}"#,
        ]));
        let (out, dead) = through(&scene, &lines, &[]);
        assert_eq!(at(&out, 2)["score"], at(&out, 3)["score"], "{missing}: the running mean");
        assert_eq!(at(&out, 4)["score"], at(&out, 5)["score"], "{missing}: zero");
        assert_ne!(at(&out, 3)["score"], at(&out, 5)["score"]);
        assert_eq!(at(&out, 7)["score"], at(&out, 8)["score"], "absent keys");
        assert_eq!(dead.len(), 1, "{dead:?}");
        assert_eq!((&dead[0]["error"]["stage"], &dead[0]["error"]["field"]), (&json!("missing"), &json!("must")));
    }
    // The same in CSV, where NaN and infinities can be written.
    for missing in ["", "nan", "NaN", "inf", "-Infinity", "1e999"] {
        let scene = Scene::new(
            spec,
            &format!("{FILES}source.format = \"csv\"\nsource.columns = [\"mean\", \"zero\", \"must\", \"y\"]\n"),
        );
        let lines = bytes(&[
            "2,1,1,3",
            "4,-1,1,1",
            &format!("{missing},5,1,"),
            "3,5,1,",
            &format!("3,{missing},1,"),
            "3,0,1,",
            &format!("3,0,{missing},"),
        ]);
        let (out, dead) = through(&scene, &lines, &[]);
        assert_eq!(at(&out, 2)["score"], at(&out, 3)["score"], "{missing}: the running mean");
        assert_eq!(at(&out, 4)["score"], at(&out, 5)["score"], "{missing}: zero");
        assert_eq!((dead.len(), &dead[0]["error"]["stage"]), (1, &json!("missing")), "{missing}");
    }
    // NaN is kept only for models that route it.
    let scene = Scene::new(&spec.replace("mean = \"float\"", "mean = { type = \"float\", missing = \"keep\" }"), FILES);
    scene.call_with_config("validate", &[]).refused(2, &["mean", "keep"]);
}

#[test]
fn categories_never_seen() {
    let spec = |step: &str| {
        format!(
            "name = \"c\"\n[schema]\nlabel = \"y\"\n[schema.fields]\ncolour = \"category\"\ny = \"bool\"\n[[steps]]\n{step}\n\
             [model]\nkind = \"logistic-regression\"\noptimizer = {{ kind = \"sgd\", learning_rate = 0.1 }}\n"
        )
    };
    for step in ["kind = \"one-hot\"\ncategories_max = 3", "kind = \"hash\"\nbits = 12"] {
        let scene = Scene::new(&spec(step), FILES);
        let mut lines: Vec<Vec<u8>> =
            (0..200).map(|i| format!(r#"{{"colour":"c{i}","y":{}}}"#, i % 2).into_bytes()).collect();
        lines.extend(bytes(&[r#"{"colour":"unseen"}"#, r#"{"colour":"never seen either"}"#, r#"{"colour":null}"#]));
        let (out, dead) = through(&scene, &lines, &[]);
        assert_eq!(dead.len(), 0, "{step}: {dead:?}");
        assert!(out.iter().all(|o| o["score"].as_f64().is_some_and(f64::is_finite)), "{step}");
        if step.contains("one-hot") {
            assert_eq!(at(&out, 200)["score"], at(&out, 201)["score"], "both are `other`");
        }
    }
}

#[test]
fn an_update_that_would_not_be_finite_is_refused_and_counted() {
    let spec = "name = \"h\"\n[schema]\nlabel = \"y\"\n[schema.fields]\na = \"float\"\nb = \"float\"\ny = \"float\"\n\
                [model]\nkind = \"linear-regression\"\noptimizer = { kind = \"sgd\", learning_rate = 0.5 }\n";
    let scene = Scene::new(spec, "source.kind = \"socket\"\nsource.listen = \"127.0.0.1:0\"\n");
    let daemon = scene.start(&[]);
    let mut stream = TcpStream::connect(daemon.address()).expect("connect");
    let mut lines = String::new();
    for i in 0..100 {
        let (a, b) = if i % 10 == 3 { (1e308, -1e308) } else { (0.1, 0.2) };
        lines += &format!("{{\"a\":{a},\"b\":{b},\"y\":{}}}\n", if i % 10 == 3 { 1e308 } else { 1.0 });
    }
    stream.write_all(lines.as_bytes()).expect("sent");
    stream.shutdown(std::net::Shutdown::Write).expect("shutdown");
    let mut answers = String::new();
    stream.read_to_string(&mut answers).expect("answers");
    assert_eq!(answers.lines().count(), 100);
    let status = daemon.status();
    let lane = &status["lanes"][0];
    let (learned, refused) =
        (lane["learned"].as_u64().expect("learned"), lane["refused_updates"].as_u64().expect("refused"));
    assert!(refused >= 10 && learned + refused == 100, "{learned} learned, {refused} refused");
    scene.ctl(&["checkpoint"]).good();
    daemon.stop();
    // Reading a checkpoint checks that every weight is finite.
    let (_, state) = scene.newest_checkpoint(0);
    assert!(state.get_f64("model.weights", None).expect("weights").iter().all(|w| w.is_finite()));
    for line in answers.lines().skip(1) {
        let answer: Value = serde_json::from_str(line).expect("JSON");
        let huge = answer["offset"].as_u64().expect("offset") % 10 == 3;
        assert!(huge || answer["score"].as_f64().is_some_and(f64::is_finite), "{line}");
    }
}

#[test]
fn a_damaged_artifact_is_refused_at_the_start() {
    let scene = Scene::new("", &format!("pipeline = \"DIR/a.safetensors\"\n{FILES}"));
    let mut pipeline = millstream::pipeline::Pipeline::from_spec_text(SPEC).expect("a spec");
    let good = pipeline.to_artifact(Value::Null);
    scene.write("in", events::json(50, 1));
    let mut flipped = good.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 4;
    for (bytes, code) in [(&flipped[..], 3), (&good[..100], 3), (b"", 2), (b"[schema", 2)] {
        scene.write("a.safetensors", bytes);
        for command in ["run", "validate"] {
            let called = scene.call_with_config(command, &[]);
            assert_eq!(called.code, Some(code), "{command}: {}", called.said);
            assert!(called.said.contains("a.safetensors"), "{command}: {}", called.said);
        }
    }
    scene.write("a.safetensors", &good);
    scene.run_to_end(&[]);
}

#[test]
fn a_config_that_is_wrong_is_refused_at_start_and_by_validate() {
    let scene = Scene::new(SPEC, FILES);
    scene.write("in", events::json(10, 1));
    for (line, named) in [
        ("limits.event_bytes_mx = 5", &["limits.event_bytes_mx", "did you mean"][..]),
        ("engine.threads = \"two\"", &["engine.threads"]),
        ("limits.nesting_max = 0", &["limits.nesting_max = 0", "from 1 to"]),
        ("limits.event_bytes_max = 63", &["limits.event_bytes_max = 63", "from 64"]),
        ("checkpoint.keep = 1_001", &["checkpoint.keep", "1_000"]),
    ] {
        scene.configure(&format!("{FILES}{line}"));
        for command in ["run", "validate"] {
            scene.call_with_config(command, &[]).refused(2, &[named, &["millstream.toml:"]].concat());
        }
    }
    assert!(!scene.path("state").exists(), "nothing was begun");
}

/// Checkpoints fail while `broken` holds; the daemon scores on, says so, and recovers by itself.
fn checkpoints_fail(scene: &Scene, repair: impl FnOnce()) {
    let daemon = scene.spawn(&[]);
    until("a ready daemon", || daemon.ask(&CtlAction::Status).ok().filter(|s| s["ready"] == true));
    until("a failed checkpoint", || {
        let status = daemon.status();
        (status["lanes"][0]["checkpoint"]["error"].is_string()).then_some(())
    });
    let before = daemon.status()["lanes"][0]["events"].as_u64().expect("events");
    scene.ctl(&["checkpoint"]).refused(4, &["checkpoint"]);
    until("scoring that goes on", || (daemon.status()["lanes"][0]["events"].as_u64()? > before + 10).then_some(()));
    let http = |route: &str| get(&scene.text("admin.sock"), route);
    assert!(http("/healthz").starts_with("HTTP/1.1 200"), "{}", http("/healthz"));
    assert!(http("/readyz").starts_with("HTTP/1.1 200"), "{}", http("/readyz"));
    let metrics = http("/metrics");
    let failures = metrics.lines().find(|l| l.starts_with("millstream_checkpoint_failures_total")).expect("a counter");
    assert!(!failures.ends_with(" 0"), "{failures}");
    assert!(daemon.said().contains("checkpoint failed, scoring goes on"), "{}", daemon.said());
    repair();
    scene.ctl(&["checkpoint"]).good();
    let status = daemon.status();
    assert!(status["lanes"][0]["checkpoint"]["error"].is_null(), "{status}");
    let said = daemon.stop();
    assert!(said.contains("checkpoints succeed again"), "{said}");
}

/// A GET over the admin socket, with its head.
fn get(socket: &str, route: &str) -> String {
    let mut stream = std::os::unix::net::UnixStream::connect(socket).expect("connect");
    write!(stream, "GET {route} HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answer");
    answer
}

const SLOW: &str = "source.kind = \"rate\"\nsource.rate = 2_000\nsink.kind = \"none\"\ncheckpoint.interval_ms = 50\n";

#[test]
fn a_full_disk_does_not_stop_the_scoring() {
    let scene =
        Scene::new(include_str!("../models/hyperplane.toml"), &format!("{SLOW}state_dir = \"DIR/disk/state\"\n"));
    let disk = scene.path("disk");
    std::fs::create_dir(&disk).expect("a folder");
    // A disk of 512 KiB, with a file that fills what the daemon leaves.
    let name = std::ffi::CString::new(disk.display().to_string()).expect("a path");
    let options = std::ffi::CString::new("size=512k").expect("options");
    // SAFETY: all pointers are to strings that live on.
    let mounted =
        unsafe { libc::mount(c"none".as_ptr(), name.as_ptr(), c"tmpfs".as_ptr(), 0, options.as_ptr().cast()) };
    if mounted != 0 {
        println!("skipped: a small disk cannot be mounted here: {}", std::io::Error::last_os_error());
        return;
    }
    struct Unmount(std::ffi::CString);
    impl Drop for Unmount {
        fn drop(&mut self) {
            // SAFETY: a path that lives on. The daemon has ended by now.
            unsafe { libc::umount2(self.0.as_ptr(), libc::MNT_DETACH) };
        }
    }
    let _unmount = Unmount(name);
    // A first run writes the lineage; then the disk fills up, but for room for the journal's few lines.
    let daemon = scene.start(&[]);
    scene.ctl(&["checkpoint"]).good();
    daemon.stop();
    let mut filler = std::fs::File::create(disk.join("filler")).expect("a file");
    while filler.write_all(&[0; 4096]).is_ok() {}
    filler.set_len(filler.metadata().expect("metadata").len() - 8 * 4096).expect("room for the journal");
    drop(filler);
    let free_less = std::fs::File::create(disk.join("more")).and_then(|mut f| f.write_all(&[0; 2 * 4096]));
    free_less.expect("written");
    checkpoints_fail(&scene, || std::fs::remove_file(disk.join("filler")).expect("removed"));
}

#[test]
fn what_stands_in_the_metrics_is_what_happened() {
    let scene =
        Scene::new(SPEC, "source.kind = \"socket\"\nsource.listen = \"127.0.0.1:0\"\nlimits.event_bytes_max = 300\n");
    let daemon = scene.start(&[]);
    let mut stream = TcpStream::connect(daemon.address()).expect("connect");
    let long = format!("{{\"id\":\"{}\"}}", "i".repeat(400));
    let lines = [
        r#"{"id":"a","x1":1,"x2":null,"x3":3,"y":true}"#,
        r#"{"id":"b","x1":1,"x2":2,"x3":null,"y":true}"#,
        r#"{"id":"c","x1":"no","x2":2,"x3":3}"#,
        "rubbish",
        &long,
    ];
    stream.write_all((lines.join("\n") + "\n").as_bytes()).expect("sent");
    stream.shutdown(std::net::Shutdown::Write).expect("shutdown");
    let mut answers = String::new();
    stream.read_to_string(&mut answers).expect("answers");
    let answers = events::lines(answers.as_bytes());
    assert_eq!(answers.len(), 5);
    let stages: Vec<&Value> = answers.iter().map(|a| &a["error"]["stage"]).collect();
    assert_eq!(stages, [&Value::Null, &json!("missing"), &json!("schema"), &json!("decode"), &json!("limit")]);
    let metrics = get(&scene.text("admin.sock"), "/metrics");
    let value = |name: &str, labels: &[&str]| -> f64 {
        let line =
            metrics.lines().find(|l| l.starts_with(&format!("{name}{{")) && labels.iter().all(|x| l.contains(x)));
        let line = line.unwrap_or_else(|| panic!("{name} {labels:?} in {metrics}"));
        line.rsplit(' ').next().and_then(|v| v.parse().ok()).expect("a number")
    };
    assert_eq!(value("millstream_events_total", &[]), 5.0);
    assert_eq!(value("millstream_predictions_total", &[]), 1.0);
    for stage in ["missing", "schema", "decode", "limit"] {
        assert_eq!(value("millstream_dead_letters_total", &[&format!("stage=\"{stage}\"")]), 1.0, "{stage}");
    }
    assert_eq!(value("millstream_missing_total", &["field=\"x2\""]), 1.0);
    assert!(value("millstream_missing_total", &["field=\"x3\""]) >= 1.0);
    daemon.stop();
}
