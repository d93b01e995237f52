//! Files and standard input as a source: read in big chunks, one after another.
//!
//! Inputs are named by their paths as they were matched; `-` is standard input. With `follow`, files
//! that grow and files that begin to match are read on. A file whose path leads to another file
//! (rotation by renaming) is read to its end; the new file is an input of its own, named `path#1`,
//! `path#2`, …, because offsets of an input never start over. A file that was cut short is a fault.

mod reader;

use super::{Past, Polled, Position, ReadOptions, Source};
use crate::batch::Block;
use crate::error::{Fault, Result};
use reader::{Opening, Reader};
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

/// How often a follower looks for more bytes and new files.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileOptions {
    /// Files and globs, in this order; a glob's matches by name. `-` is standard input.
    pub paths: Vec<String>,
    /// Wait for more lines and for new files that match.
    pub follow: bool,
    /// The lane's number.
    pub lane: u32,
    /// Number of lanes: a file belongs to the lane `xxh3_64(path) mod lanes`.
    pub lanes: u32,
    /// Format and limits.
    pub read: ReadOptions,
}

/// The files of one lane.
pub struct FileSource {
    options: FileOptions,
    /// Names of the inputs by their numbers, and the way back.
    names: Vec<String>,
    numbers: HashMap<String, u32>,
    /// The files that are being read, in their order, and the names of all that were opened.
    readers: Vec<Reader>,
    opened: HashSet<String>,
    /// Without `follow`: files whose turn will come, so that one is open at a time.
    waiting: VecDeque<String>,
    /// Index of the reader whose turn it is.
    turn: usize,
    positions: HashMap<String, Position>,
    /// A reader on its way through the past, and where it stands.
    replay: Option<(Reader, Position)>,
    next_look: Instant,
    paused: bool,
}

impl FileSource {
    /// A source of the given files; opens nothing yet.
    ///
    /// # Errors
    /// Misuse: no path, a glob that cannot be read, standard input twice.
    pub fn new(options: FileOptions) -> Result<FileSource> {
        if options.paths.is_empty() {
            return Err(Fault::misuse("source.paths is empty").hint("name at least one file, glob or \"-\""));
        }
        for path in &options.paths {
            glob::Pattern::new(path).map_err(|e| Fault::misuse(format!("source.paths: {path:?}: {e}")))?;
        }
        if options.paths.iter().filter(|p| *p == "-").count() > 1 {
            return Err(Fault::misuse("source.paths names \"-\" (standard input) twice"));
        }
        Ok(FileSource {
            options,
            names: Vec::new(),
            numbers: HashMap::new(),
            readers: Vec::new(),
            opened: HashSet::new(),
            waiting: VecDeque::new(),
            turn: 0,
            positions: HashMap::new(),
            replay: None,
            next_look: Instant::now(),
            paused: false,
        })
    }

    /// True where a path is this lane's.
    fn is_mine(&self, path: &str) -> bool {
        let lanes = u64::from(self.options.lanes.max(1));
        lanes == 1 || xxhash_rust::xxh3::xxh3_64(path.as_bytes()) % lanes == u64::from(self.options.lane)
    }

    /// The number of an input, which it gets when it is first asked for.
    fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.names.len() as u32;
        self.names.push(name.to_string());
        self.numbers.insert(name.to_string(), number);
        number
    }

    /// Opens what matches the options and isn't read yet.
    fn look_for_files(&mut self) -> Result<()> {
        for pattern in self.options.paths.clone() {
            for path in matches(&pattern, self.options.follow)? {
                if !self.is_mine(&path) || self.opened.contains(&path) {
                    continue;
                }
                if self.options.follow {
                    self.open(&path, &path)?;
                } else {
                    self.opened.insert(path.clone());
                    self.waiting.push_back(path);
                }
            }
        }
        Ok(())
    }

    /// Opens a path as the input of the given name, at its position if it has one. Where the past
    /// knows rotations of the path, its file is the last of these inputs.
    fn open(&mut self, path: &str, name: &str) -> Result<()> {
        let next = rotated_name(path, name);
        if self.positions.contains_key(&next) {
            self.opened.insert(name.to_string());
            return self.open(path, &next);
        }
        let input = self.number(name);
        let at = self.positions.get(name).copied().unwrap_or_default();
        match Reader::open(path, name, input, at, &self.options.read) {
            Err(Opening::Absent) if self.options.follow => Ok(()),
            Err(Opening::Absent) => Err(Fault::environment(format!("{path}: no such file")).hint("check source.paths")),
            Err(Opening::Fault(fault)) => Err(fault),
            Ok(reader) => {
                self.opened.insert(path.to_string());
                self.opened.insert(name.to_string());
                self.readers.push(reader);
                Ok(())
            }
        }
    }

    /// Notices files that were cut short or replaced, and forgets those that are done.
    fn look_for_changes(&mut self) -> Result<()> {
        for i in 0..self.readers.len() {
            self.readers[i].check_length()?;
            if self.readers[i].replaced || !self.readers[i].is_rotated() {
                continue;
            }
            let (path, name) = (self.readers[i].path.clone(), self.readers[i].name.clone());
            let next = rotated_name(&path, &name);
            let readers = self.readers.len();
            self.open(&path, &next)?;
            self.readers[i].replaced = self.readers.len() > readers;
        }
        let turn = self.readers.get(self.turn).map(|r| r.name.clone());
        self.readers.retain(|r| !(r.replaced && r.done));
        self.turn = self.readers.iter().position(|r| Some(&r.name) == turn.as_ref()).unwrap_or(0);
        Ok(())
    }

    /// Reads from the reader whose turn it is, or the next one that has something.
    fn read_next(&mut self, block: &mut Block, wait: Duration) -> Result<Polled> {
        if !self.options.follow {
            return self.read_in_order(block, wait);
        }
        let count = self.readers.len();
        for _ in 0..count {
            let reader = &mut self.readers[self.turn];
            let ended = reader.replaced;
            if reader.fill(block, self.options.read.block_bytes, u64::MAX, ended, Duration::ZERO)? == Polled::Filled {
                return Ok(Polled::Filled);
            }
            self.turn = (self.turn + 1) % count;
        }
        // Standard input alone ends even a follower.
        let has_ended = self.options.paths.iter().all(|p| p == "-") && self.readers.iter().all(|r| r.done);
        Ok(if has_ended { Polled::End } else { Polled::Idle })
    }

    /// Reads each file to its end, one after another.
    fn read_in_order(&mut self, block: &mut Block, wait: Duration) -> Result<Polled> {
        loop {
            if let Some(reader) = self.readers.first_mut() {
                let polled = reader.fill(block, self.options.read.block_bytes, u64::MAX, true, wait)?;
                if polled != Polled::End {
                    return Ok(polled);
                }
                self.readers.clear();
            }
            let Some(path) = self.waiting.pop_front() else { return Ok(Polled::End) };
            self.open(&path, &path)?;
        }
    }
}

/// The name of the input that follows `name` when its path is rotated: `path#1`, `path#2`, …
fn rotated_name(path: &str, name: &str) -> String {
    let suffix = name.strip_prefix(path).and_then(|s| s.strip_prefix('#')).and_then(|s| s.parse::<u64>().ok());
    format!("{path}#{}", suffix.unwrap_or(0) + 1)
}

/// The files of a path or glob, by name.
fn matches(pattern: &str, follow: bool) -> Result<Vec<String>> {
    let is_glob = pattern.contains(['*', '?', '[']) && !std::path::Path::new(pattern).exists();
    if !is_glob {
        return Ok(vec![pattern.to_string()]);
    }
    let found = glob::glob(pattern).map_err(|e| Fault::misuse(format!("source.paths: {pattern:?}: {e}")))?;
    let mut paths = Vec::new();
    for path in found {
        let path = path.map_err(|e| Fault::io(format!("source.paths: {pattern:?}"), e.error()))?;
        if path.is_file() {
            let name = path.to_str().map(str::to_string);
            paths.push(name.ok_or_else(|| Fault::environment(format!("{}: the name is not UTF-8", path.display())))?);
        }
    }
    if paths.is_empty() && !follow {
        return Err(Fault::environment(format!("{pattern}: no file matches")).hint("check source.paths"));
    }
    paths.sort_unstable();
    Ok(paths)
}

impl Past for FileSource {
    fn read_run(&mut self, input: &str, from: Position, end_offset: u64, block: &mut Block) -> Result<Polled> {
        if input == "-" {
            return Err(Fault::misuse("standard input cannot be read again"));
        }
        if from.offset >= end_offset {
            return Ok(Polled::End);
        }
        let goes_on = matches!(&self.replay, Some((r, at)) if r.name == input && at.offset == from.offset);
        let (mut reader, _) = match self.replay.take().filter(|_| goes_on) {
            Some(replay) => replay,
            None => (self.open_past(input, from)?, from),
        };
        reader.repeat_header();
        let left = end_offset - from.offset;
        let polled = reader.fill(block, self.options.read.block_bytes, left, true, Duration::ZERO)?;
        let at = reader.position();
        if polled == Polled::Filled {
            self.replay = Some((reader, at));
            return Ok(Polled::Filled);
        }
        let row = at.offset;
        let fault = Fault::environment(format!("{input}: ends at row {row}, but it was read up to row {end_offset}"));
        Err(fault.hint("the file was cut short: restore it, or start over with --new-lineage"))
    }

    fn input_name(&self, input: u32) -> &str {
        self.names.get(input as usize).map_or("", String::as_str)
    }
}

impl Source for FileSource {
    fn start(&mut self, positions: &[(String, Position)]) -> Result<()> {
        self.positions = positions.iter().cloned().collect();
        self.replay = None;
        self.look_for_files()?;
        if !self.options.follow {
            // Faults belong to the start: each file is opened once, and again when its turn comes.
            for path in self.waiting.clone() {
                self.open(&path, &path)?;
                self.readers.clear();
            }
        }
        Ok(())
    }

    fn poll(&mut self, block: &mut Block, wait: Duration) -> Result<Polled> {
        let until = Instant::now() + wait;
        loop {
            if !self.paused {
                let polled = self.read_next(block, wait)?;
                if polled != Polled::Idle || !self.options.follow {
                    return Ok(polled);
                }
            }
            let now = Instant::now();
            if now >= self.next_look && self.options.follow && !self.paused {
                self.next_look = now + LOOK_EVERY;
                let before = self.readers.len();
                self.look_for_changes()?;
                self.look_for_files()?;
                if self.readers.len() > before {
                    continue;
                }
            }
            if now >= until {
                return Ok(Polled::Idle);
            }
            std::thread::sleep(LOOK_EVERY.min(until - now));
        }
    }

    fn replayable(&self) -> bool {
        !self.options.paths.iter().any(|p| p == "-")
    }

    fn pause(&mut self, paused: bool) {
        self.paused = paused;
    }
}

impl FileSource {
    /// A reader for the past of an input.
    fn open_past(&mut self, name: &str, from: Position) -> Result<Reader> {
        let path = match name.rsplit_once('#') {
            Some((path, n)) if n.parse::<u64>().is_ok() && !std::path::Path::new(name).exists() => path,
            _ => name,
        };
        let input = self.number(name);
        Reader::open(path, name, input, from, &self.options.read).map_err(|e| match e {
            Opening::Absent => Fault::environment(format!("{path}: no such file, but its events are needed again"))
                .hint("bring the file back, or start over with --new-lineage"),
            Opening::Fault(fault) => fault,
        })
    }
}
