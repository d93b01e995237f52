//! What matters in the style is a test: who may import whom, which rooms may touch the outside, how
//! long a function may be, and that no file is dead. Each rule is also shown a planted offence.

use std::path::{Path, PathBuf};

/// What every room may import.
const VOCABULARY: &[&str] = &["batch", "schema", "state", "error", "disk", "wide", "faults", "clock"];

/// Who may import whom, beyond the vocabulary: ARCHITECTURE.md's picture as data. The vocabulary itself
/// may import `error` only.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("batch", &[]),
    ("schema", &[]),
    ("state", &[]),
    ("error", &[]),
    ("disk", &[]),
    ("wide", &[]),
    ("faults", &[]),
    ("clock", &[]),
    ("queue", &[]),
    ("config", &[]),
    ("cli", &[]),
    ("source", &["kafka"]),
    ("decode", &[]),
    ("preprocess", &[]),
    ("model", &[]),
    ("pipeline", &["preprocess", "model", "artifact"]),
    ("encode", &[]),
    ("sink", &["kafka"]),
    ("kafka", &["source", "sink", "journal"]),
    ("journal", &["source", "sink", "kafka"]),
    ("artifact", &[]),
    ("checkpoint", &[]),
    ("metrics", &[]),
    ("admin", &["metrics", "source"]),
    ("service", &["metrics"]),
    ("train", &["model"]),
    (
        "engine",
        &[
            "queue",
            "config",
            "source",
            "decode",
            "preprocess",
            "model",
            "pipeline",
            "encode",
            "sink",
            "kafka",
            "journal",
            "artifact",
            "checkpoint",
            "metrics",
            "admin",
            "service",
            "train",
        ],
    ),
    (
        "commands",
        &[
            "queue",
            "config",
            "cli",
            "source",
            "decode",
            "preprocess",
            "model",
            "pipeline",
            "encode",
            "sink",
            "kafka",
            "journal",
            "artifact",
            "checkpoint",
            "metrics",
            "admin",
            "service",
            "train",
            "engine",
        ],
    ),
];

/// Rooms that return values and counts: no I/O, no clock, no thread, no log.
const PURE: &[&str] = &["decode", "preprocess", "model", "encode", "pipeline"];
const IMPURE_WORDS: &[&str] = &[
    "std::time",
    "SystemTime",
    "Instant",
    "quanta::",
    "std::thread",
    "thread::spawn",
    "std::fs",
    "std::net",
    "tracing::",
    "println!",
    "eprintln!",
];

/// Rooms whose numbers must be the same on every machine: no function of the platform's libm (the
/// `libm` crate has them all), no fused multiply-add.
const SAME_BITS: &[&str] = &["decode", "preprocess", "model", "encode", "pipeline"];
const PLATFORM_WORDS: &[&str] = &[
    ".mul_add(",
    ".exp()",
    ".exp2()",
    ".exp_m1()",
    ".ln()",
    ".ln_1p()",
    ".log(",
    ".log2()",
    ".log10()",
    ".powf(",
    ".powi(",
    ".tanh()",
    ".sinh()",
    ".cosh()",
    ".sin()",
    ".cos()",
    ".tan()",
    ".atan()",
    ".atan2(",
    ".cbrt()",
];

const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 600;
/// `path` or `path::function` that may be longer, with the reason.
const MAY_BE_LONG: &[(&str, &str)] = &[];

/// A file as the rules see it.
struct File {
    path: String,
    text: String,
    /// Without comments, texts and test modules; line by line as in the file.
    code: String,
}

impl File {
    fn new(path: &str, text: &str) -> File {
        let code = without_tests(&blanked(text));
        let code = if path.ends_with("/tests.rs") || path.contains("/tests/") { String::new() } else { code };
        File { path: path.into(), text: text.into(), code }
    }
    /// `src/source/file.rs` and `src/queue.rs` are in the rooms `source` and `queue`.
    fn room(&self) -> Option<&str> {
        let room = self.path.strip_prefix("src/")?.split('/').next()?;
        let room = room.strip_suffix(".rs").unwrap_or(room);
        (!["lib", "main"].contains(&room)).then_some(room)
    }
    fn line(&self, offset: usize) -> usize {
        self.code[..offset].matches('\n').count() + 1
    }
    fn offence(&self, offset: usize, what: impl std::fmt::Display) -> String {
        format!("{}:{}: {what}", self.path, self.line(offset))
    }
    fn words<'a>(&'a self, words: &'a [&'a str], why: &'a str) -> impl Iterator<Item = String> + 'a {
        words.iter().flat_map(move |word| {
            let whole = self.code.match_indices(word).filter(|(at, _)| {
                !word.starts_with(char::is_alphabetic)
                    || !self.code[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_')
            });
            whole.map(move |(at, word)| self.offence(at, format!("{word} {why}"))).collect::<Vec<_>>()
        })
    }
}

/// The text with comments, strings and characters blanked out; lines stay where they are.
fn blanked(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = token_end(bytes, at);
        if end == at + 1 && bytes[at].is_ascii() {
            out.push(char::from(bytes[at]));
        } else {
            out.extend(bytes[at..end].iter().map(|byte| if *byte == b'\n' { '\n' } else { ' ' }));
        }
        at = end;
    }
    out
}

/// The end of the comment or literal that starts at a byte; the next byte where none does.
fn token_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let find = |needle: &[u8], from: usize| {
        rest[from..]
            .windows(needle.len())
            .position(|window| window == needle)
            .map_or(bytes.len(), |n| at + from + n + needle.len())
    };
    let in_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if rest.starts_with(b"//") {
        return find(b"\n", 0).saturating_sub(1).max(at + 2);
    }
    if rest.starts_with(b"/*") {
        return find(b"*/", 2);
    }
    let raw = rest.iter().skip(1).take_while(|byte| **byte == b'#').count();
    if rest[0] == b'r' && (!in_word || bytes[at - 1] == b'b') && rest.get(1 + raw) == Some(&b'"') {
        let close = [b"\"".as_slice(), &vec![b'#'; raw]].concat();
        return find(&close, 2 + raw);
    }
    if rest[0] == b'"' {
        let mut end = 1;
        while end < rest.len() && rest[end] != b'"' {
            end += if rest[end] == b'\\' { 2 } else { 1 };
        }
        return (at + end + 1).min(bytes.len());
    }
    if rest[0] == b'\'' {
        // A character, not a lifetime: it closes after one (maybe escaped, maybe wide) character.
        let text = String::from_utf8_lossy(&rest[1..rest.len().min(16)]).into_owned();
        let escaped = text.starts_with('\\');
        let body = if escaped {
            text.get(2..).and_then(|t| t.find('\'')).map(|n| n + 2)
        } else {
            text.chars().next().map(char::len_utf8)
        };
        if let Some(body) = body
            && text.get(body..).is_some_and(|t| t.starts_with('\''))
        {
            return at + body + 2;
        }
    }
    at + 1
}

/// Cuts out `#[cfg(test)]` items (modules, functions), leaving their lines empty.
fn without_tests(code: &str) -> String {
    let mut code = code.to_string();
    while let Some(start) = code.find("#[cfg(test)]") {
        let end = code[start..].find(['{', ';']).map_or(code.len(), |n| match code.as_bytes()[start + n] {
            b'{' => block_end(&code, start + n),
            _ => start + n + 1,
        });
        let blank: String = code[start..end].chars().filter(|c| *c == '\n').collect();
        code.replace_range(start..end, &blank);
    }
    code
}

/// One past the brace that closes the one at `open`.
fn block_end(code: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => continue,
        }
        if depth == 0 {
            return at + 1;
        }
    }
    code.len()
}

/// Rooms that a file names by `crate::…`, with the place of each.
fn imports(code: &str) -> Vec<(usize, String)> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = Vec::new();
    for (at, path) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &code[at + path.len()..];
        if !rest.starts_with('{') {
            found.push((at, word(rest)));
            continue;
        }
        let mut depth = 0;
        for (i, c) in rest[..block_end(rest, 0)].char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if (c == '{' || c == ',') && depth == 1 {
                found.push((at, word(rest[i + 1..].trim_start())));
            }
        }
    }
    // A macro or item at the root has no room; a trailing comma no name.
    found.retain(|(_, room)| room.starts_with(|c: char| c.is_ascii_lowercase()));
    found
}

fn head_comment(file: &File) -> Vec<String> {
    if file.text.starts_with("//!") { Vec::new() } else { vec![format!("{}: does not start with //!", file.path)] }
}

fn rooms(file: &File) -> Vec<String> {
    let Some(room) = file.room() else { return Vec::new() };
    let Some((_, more)) = MAY_IMPORT.iter().find(|(name, _)| *name == room) else {
        return vec![format!("{}: the room {room} is not in the table of rooms", file.path)];
    };
    let allowed = |other: &str| {
        let vocabulary = if VOCABULARY.contains(&room) { &["error"] } else { VOCABULARY };
        other == room || vocabulary.contains(&other) || more.contains(&other)
    };
    let mut offences: Vec<String> = imports(&file.code)
        .into_iter()
        .filter(|(_, other)| !allowed(other))
        .map(|(at, other)| file.offence(at, format!("{room} may not import {other}")))
        .collect();
    let inner = file.path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    let root = "super::".repeat(inner.split('/').count());
    offences.extend(
        file.code.match_indices(&root).map(|(at, _)| file.offence(at, "super reaches the root; name crate::room")),
    );
    offences
}

fn outside(file: &File) -> Vec<String> {
    let Some(room) = file.room() else { return Vec::new() };
    let mut offences = Vec::new();
    if PURE.contains(&room) {
        offences.extend(
            file.words(IMPURE_WORDS, "in a room that does no I/O, reads no clock, starts no thread, logs nothing"),
        );
    }
    if SAME_BITS.contains(&room) {
        offences.extend(file.words(PLATFORM_WORDS, "differs from machine to machine; use the libm crate"));
    }
    offences
}

fn words(file: &File) -> Vec<String> {
    if !file.path.starts_with("src/") {
        return Vec::new();
    }
    let mut offences: Vec<String> = file
        .words(
            &[".unwrap()", "todo!(", "dbg!(", "unimplemented!("],
            "outside tests: return a fault, or expect(\"the invariant\")",
        )
        .collect();
    if file.path != "src/main.rs" {
        offences.extend(file.words(&["process::exit"], "outside main.rs"));
    }
    if file.path != "src/queue.rs" {
        offences.extend(file.words(&["rtrb"], "outside queue.rs"));
    }
    offences
}

fn lengths(file: &File) -> Vec<String> {
    if !file.path.starts_with("src/") && !file.path.starts_with("bench/") {
        return Vec::new();
    }
    let may = |name: &str| MAY_BE_LONG.iter().any(|(long, _)| *long == name);
    let mut offences = Vec::new();
    let lines = file.text.lines().count();
    if lines > FILE_LINES_MAX && !may(&file.path) {
        offences.push(format!("{}: {lines} lines; at most {FILE_LINES_MAX}", file.path));
    }
    for (at, _) in file.code.match_indices("fn ") {
        if file.code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let name: String = file.code[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let Some(end) = function_end(&file.code, at) else { continue };
        let lines = file.code[at..end].matches('\n').count() + 1;
        if lines > FUNCTION_LINES_MAX && !may(&format!("{}::{name}", file.path)) {
            offences.push(file.offence(at, format!("fn {name} has {lines} lines; at most {FUNCTION_LINES_MAX}")));
        }
    }
    offences
}

/// The end of the function that starts at `at`; none where it has no body.
fn function_end(code: &str, at: usize) -> Option<usize> {
    let mut depth = 0_i32;
    for (offset, byte) in code.bytes().enumerate().skip(at) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b';' if depth == 0 => return None,
            b'{' if depth == 0 => return Some(block_end(code, offset)),
            _ => {}
        }
    }
    None
}

/// Files that no `mod` line names.
fn dead(files: &[File]) -> Vec<String> {
    let mut offences = Vec::new();
    for file in files.iter().filter(|file| file.path.starts_with("src/") || file.path.starts_with("bench/")) {
        let path = Path::new(&file.path);
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let folder = path.parent().unwrap_or(Path::new(""));
        if folder.components().count() == 1 && ["lib", "main"].contains(&stem) {
            continue;
        }
        let (name, folder) = match stem {
            "mod" => (
                folder.file_name().and_then(|name| name.to_str()).unwrap_or_default(),
                folder.parent().unwrap_or(folder),
            ),
            _ => (stem, folder),
        };
        let parents: [PathBuf; 4] =
            [folder.join("lib.rs"), folder.join("main.rs"), folder.join("mod.rs"), folder.with_extension("rs")];
        let named = |parent: &File| {
            let parent = blanked(&parent.text);
            parent.split(';').any(|item| item.trim_end().ends_with(&format!("mod {name}")))
        };
        if !files.iter().any(|file| parents.iter().any(|parent| Path::new(&file.path) == parent) && named(file)) {
            offences.push(format!("{}: no mod line names it", file.path));
        }
    }
    offences
}

const RULES: &[fn(&File) -> Vec<String>] = &[head_comment, rooms, outside, words, lengths];

fn collect(folder: &Path, files: &mut Vec<File>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            collect(&entry, files);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&entry).expect("UTF-8");
            files.push(File::new(entry.to_str().expect("UTF-8"), &text));
        }
    }
}

#[test]
fn the_code_is_tidy() {
    let mut files = Vec::new();
    for folder in ["src", "bench", "tests"] {
        collect(Path::new(folder), &mut files);
    }
    assert!(files.len() > 20, "run from the root of the repository");
    let mut offences: Vec<String> =
        files.iter().flat_map(|file| RULES.iter().flat_map(move |rule| rule(file))).collect();
    offences.extend(dead(&files));
    offences.sort();
    assert!(offences.is_empty(), "{} offences\n{}", offences.len(), offences.join("\n"));
}

#[test]
fn every_room_of_the_table_may_import_only_rooms_of_the_table() {
    for (room, more) in MAY_IMPORT {
        for other in *more {
            assert!(MAY_IMPORT.iter().any(|(name, _)| name == other), "{room} may import {other}, which is no room");
        }
    }
}

/// Offences of a planted file.
fn planted(rule: fn(&File) -> Vec<String>, path: &str, text: &str) -> usize {
    rule(&File::new(path, text)).len()
}

#[test]
fn a_planted_import_is_found_and_a_mention_is_not() {
    assert_eq!(planted(rooms, "src/decode/json.rs", "use crate::model::Model;"), 1);
    assert_eq!(planted(rooms, "src/decode/json.rs", "use crate::{batch::{A, B}, model, sink::Sink,};"), 2);
    assert_eq!(planted(rooms, "src/decode/json.rs", "fn f(x: &crate::engine::Engine) {}"), 1);
    assert_eq!(planted(rooms, "src/decode/json.rs", "use crate::batch::A; use crate::decode::B; // crate::model"), 0);
    assert_eq!(planted(rooms, "src/decode/json.rs", "#[cfg(test)]\nmod tests { use crate::model; }"), 0);
    assert_eq!(planted(rooms, "src/decode/json.rs", "const A: &str = \"crate::model\"; use super::number;"), 0);
    assert_eq!(planted(rooms, "src/decode/json.rs", "use super::super::model::Model;"), 1);
    assert_eq!(planted(rooms, "src/decode/mod.rs", "use super::model::Model;"), 1);
    assert_eq!(planted(rooms, "src/state.rs", "use crate::schema::Schema;"), 1);
    assert_eq!(planted(rooms, "src/parlour/mod.rs", ""), 1);
}

#[test]
fn a_planted_clock_thread_or_platform_function_is_found() {
    for bad in [
        "use std::time::Duration;",
        "let t = Instant::now();",
        "std::fs::read(p)",
        "tracing::warn!(x)",
        "let y = x.exp();",
        "a.mul_add(b, c)",
    ] {
        assert_eq!(planted(outside, "src/model/linear.rs", bad), 1, "{bad}");
        assert_eq!(planted(outside, "src/engine/worker.rs", bad), 0, "{bad}");
    }
    assert_eq!(planted(outside, "src/model/linear.rs", "struct MyInstant; libm::exp(x); // Instant"), 0);
}

#[test]
fn a_planted_word_is_found_and_one_in_a_test_is_not() {
    for bad in ["x.unwrap()", "todo!()", "dbg!(x)", "std::process::exit(1)", "use rtrb::RingBuffer;"] {
        let inside = format!("fn a() {{ {bad} }}\n");
        assert_eq!(planted(words, "src/engine/worker.rs", &inside), 1, "{bad}");
        assert_eq!(
            planted(words, "src/engine/worker.rs", &format!("#[cfg(test)]\nmod tests {{ {inside} }}")),
            0,
            "{bad}"
        );
        assert_eq!(
            planted(
                words,
                "src/engine/worker.rs",
                &format!("fn c() -> char {{ '\"' }} // {bad}\nconst A: &str = r#\"{bad}\"#;")
            ),
            0
        );
        assert_eq!(
            planted(words, "src/engine/worker.rs", &format!("fn c<'a>() -> char {{ '\\'' }} {inside}")),
            1,
            "{bad}"
        );
    }
    assert_eq!(planted(words, "src/queue.rs", "use rtrb::RingBuffer;"), 0);
    assert_eq!(planted(words, "src/main.rs", "fn main() { std::process::exit(1) }"), 0);
}

#[test]
fn a_planted_length_is_found_at_one_over() {
    let function = |lines: usize| format!("fn a(x: [u8; 2]) {{\n{}}}\n", "    b();\n".repeat(lines - 2));
    assert_eq!(planted(lengths, "src/engine/worker.rs", &function(FUNCTION_LINES_MAX)), 0);
    assert_eq!(planted(lengths, "src/engine/worker.rs", &function(FUNCTION_LINES_MAX + 1)), 1);
    assert_eq!(planted(lengths, "src/engine/worker.rs", &"//\n".repeat(FILE_LINES_MAX)), 0);
    assert_eq!(planted(lengths, "src/engine/worker.rs", &"//\n".repeat(FILE_LINES_MAX + 1)), 1);
}

#[test]
fn a_planted_dead_file_and_a_missing_head_are_found() {
    let files = |root: &str| {
        vec![File::new("src/lib.rs", root), File::new("src/a/mod.rs", "pub mod b;"), File::new("src/a/b.rs", "")]
    };
    assert_eq!(dead(&files("pub mod a;")), Vec::<String>::new());
    assert_eq!(dead(&files("// mod a;")).len(), 1);
    let mut more = files("pub mod a;");
    more.push(File::new("src/a/c.rs", ""));
    assert_eq!(dead(&more).len(), 1);
    assert_eq!(planted(head_comment, "src/a.rs", "// not a head"), 1);
    assert_eq!(planted(head_comment, "src/a.rs", "//! A head."), 0);
}
