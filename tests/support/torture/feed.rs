//! What the torture's daemons live on: a stream without end, good and bad, that goes on whether they live or not.

use super::plan::{Plan, Road};
use crate::support::events::Random;
use crate::support::stream::Stream;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

const SCHEMA: &str = r#"
[schema]
label = "y"
id = "id"
[schema.fields]
id = "category"
c = "category"
x1 = "float"
x2 = { type = "float", missing = "impute" }
x3 = { type = "float", missing = "reject" }
y = "bool"
"#;

/// Pipelines over the same events that may be swapped for one another: scalers, hashing, dictionaries, four
/// optimizers with state, and a network that learns in units of events.
pub fn specs() -> Vec<String> {
    let steps = [
        "[[steps]]\nkind = \"standard-scale\"\n[[steps]]\nkind = \"hash\"\nbits = 8\n",
        "[[steps]]\nkind = \"min-max-scale\"\n[[steps]]\nkind = \"one-hot\"\ncategories_max = 12\n",
        "[[steps]]\nkind = \"hash\"\nbits = 6\n[[steps]]\nkind = \"standard-scale\"\n",
        "[[steps]]\nkind = \"one-hot\"\ncategories_max = 5\n[[steps]]\nkind = \"standard-scale\"\n",
    ];
    let models = [
        "kind = \"logistic-regression\"\noptimizer = { kind = \"adagrad\", learning_rate = 0.1 }\nl2 = 0.001\n",
        "kind = \"logistic-regression\"\noptimizer = { kind = \"adam\", learning_rate = 0.01 }\n",
        "kind = \"logistic-regression\"\noptimizer = { kind = \"ftrl\", alpha = 0.1, l1 = 1.0 }\n",
        "kind = \"multilayer-perceptron\"\nlayers = [6]\nunit_events = 16\noptimizer = \"adam\"\nseed = 3\n",
    ];
    let spec = |(i, (steps, model))| format!("name = \"torture-{i}\"\n{SCHEMA}{steps}[model]\n{model}");
    steps.iter().zip(models).enumerate().map(spec).collect()
}

/// A candidate that no swap may take: its events are others.
pub fn misfit() -> String {
    specs()[0].replace("x2 = {", "other = {")
}

/// One event as a line of JSON, without its end; some are bad, some have no label.
fn event(random: &mut Random, number: u64) -> String {
    match random.below(60) {
        0 => return format!("{{\"id\":\"e{number}\",\"x1\":"),
        1 => return "\"no object\"".to_string(),
        _ => {}
    }
    let (x1, x2, x3, c) = (random.signed(), random.signed() * 10.0, random.signed() + 3.0, random.below(30));
    let y = x1 * 2.0 - x2 * 0.1 + (x3 - 3.0) + (c % 3) as f64 * 0.2 + random.signed() * 0.3 > 0.2;
    let mut line = format!("{{\"id\":\"e{number}\",\"c\":\"k{c}\",\"x1\":{x1}");
    if random.below(20) != 0 {
        let _ = write!(line, ",\"x2\":{x2}");
    }
    if random.below(50) != 0 {
        let _ = write!(line, ",\"x3\":{x3}");
    }
    if random.below(5) != 0 {
        let _ = write!(line, ",\"y\":{y}");
    }
    line.push('}');
    line
}

/// A stream that flows until it is told to stop.
pub struct Feed {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Feed {
    /// Messages to a topic's partitions, with and without key; some hold several events.
    pub fn to_topic(plan: &Plan, stream: &Stream) -> Feed {
        let (stream, partitions) = (stream.clone(), plan.partitions as u64);
        let topic = stream.topic("in");
        Feed::start(plan, move |random, sent| {
            for _ in 0..40 {
                let events = if random.below(20) == 0 { 2 + random.below(4) } else { 1 };
                let lines: Vec<String> = (0..events).map(|i| event(random, *sent + i)).collect();
                let key = (random.below(10) != 0).then(|| format!("k{sent}"));
                let partition = random.below(partitions) as i32;
                let key = key.as_ref().map(String::as_bytes);
                stream.broker.produce(&topic, partition, key, lines.join("\n").as_bytes(), &[]);
                *sent += events;
            }
            stream.broker.flush();
        })
    }

    /// Lines to files, in pieces that end anywhere.
    pub fn to_files(plan: &Plan, paths: Vec<PathBuf>) -> Feed {
        let mut files: Vec<std::fs::File> =
            paths.iter().map(|path| std::fs::File::create(path).expect("an input")).collect();
        Feed::start(plan, move |random, sent| {
            for _ in 0..random.below(20) {
                let file = random.below(files.len() as u64) as usize;
                let (mut text, events) = (String::new(), 1 + random.below(8));
                for i in 0..events {
                    text.push_str(&event(random, *sent + i));
                    text.push('\n');
                }
                *sent += events;
                let (first, second) = text.as_bytes().split_at(random.below(text.len() as u64 + 1) as usize);
                for piece in [first, second] {
                    files[file].write_all(piece).expect("written");
                }
            }
        })
    }

    fn start(plan: &Plan, mut burst: impl FnMut(&mut Random, &mut u64) + Send + 'static) -> Feed {
        let stop = Arc::new(AtomicBool::new(false));
        let (told, mut random, mut sent) = (stop.clone(), Random(plan.seed ^ plan.round << 32), 0);
        let thread = std::thread::spawn(move || {
            while !told.load(Relaxed) {
                burst(&mut random, &mut sent);
                // The pace of the stream.
                std::thread::sleep(Duration::from_millis(15));
            }
            sent
        });
        Feed { stop, thread: Some(thread) }
    }

    /// Ends the stream. Returns how many events it held.
    pub fn stop(mut self) -> u64 {
        self.stop.store(true, Relaxed);
        self.thread.take().expect("a thread").join().expect("the feed")
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Names of input files in a folder, one a lane: a file's lane follows from its path.
pub fn one_file_a_lane(folder: &std::path::Path, lanes: u32) -> Vec<PathBuf> {
    let of_lane = |lane: u32| {
        let paths = (0..10_000).map(|n| folder.join(format!("{lane}-{n}.json")));
        let mut fit = paths.filter(|path| {
            let hash = xxhash_rust::xxh3::xxh3_64(path.display().to_string().as_bytes());
            lanes == 1 || hash % u64::from(lanes) == u64::from(lane)
        });
        fit.next().expect("one in so many")
    };
    (0..lanes).map(of_lane).collect()
}

/// The road decides how many inputs there are.
pub fn inputs(plan: &Plan) -> i32 {
    if plan.road == Road::Files { plan.lanes as i32 } else { plan.partitions }
}
