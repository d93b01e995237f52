//! One seed from its beginning to its end: a world made by chance, a time in which things go wrong, and the way to
//! the end on which nothing does any more, which every daemon must find by itself.

use super::broker::{Broker, Entry};
use super::daemon::{self, DIR, Daemon, Setup, lane_dir};
use super::{Chance, Counts, Plan, Process, World, disk, oracle, replace, tell, world};
use millstream::artifact;
use millstream::clock::Clock;
use millstream::config::{Config, Environment};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::Duration;

/// Steps within which a world without faults must come to its end.
const END_STEPS_MAX: u64 = 30_000;

fn spec(name: &str, rest: &str) -> String {
    format!(
        "name = \"{name}\"\n[schema]\nlabel = \"y\"\nid = \"id\"\n[schema.fields]\na = \"float\"\nb = \"float\"\n\
         id = \"int\"\ny = \"bool\"\n{rest}"
    )
}

/// Small pipelines of several kinds; all read the same events.
fn specs() -> &'static [String] {
    static SPECS: OnceLock<Vec<String>> = OnceLock::new();
    SPECS.get_or_init(|| {
        let scale = "[[steps]]\nkind = \"standard-scale\"\n[model]\nkind = \"logistic-regression\"\n";
        vec![
            spec("sgd", &format!("{scale}optimizer = {{ kind = \"sgd\", learning_rate = 0.05 }}\n")),
            spec("adam", &format!("{scale}optimizer = {{ kind = \"adam\", learning_rate = 0.05 }}\n")),
            spec("bayes", "[model]\nkind = \"gaussian-naive-bayes\"\n"),
            spec(
                "network",
                "[[steps]]\nkind = \"min-max-scale\"\n[model]\nkind = \"multilayer-perceptron\"\nlayers = [8]\n\
                 unit_events = 5\noptimizer = { kind = \"adam\", learning_rate = 0.05 }\n",
            ),
        ]
    })
}

fn config() -> &'static Config {
    static CONFIG: OnceLock<Config> = OnceLock::new();
    CONFIG.get_or_init(|| {
        let text = "pipeline = \"sim.toml\"\nstate_dir = \"/sim\"\nsource.kind = \"kafka\"\nsource.format = \"json\"\n\
                    source.brokers = \"nowhere:1\"\nsource.topics = [\"sim-in\"]\nsource.group = \"sim\"\n\
                    sink.kind = \"kafka\"\nsink.topic = \"sim-out\"\nsink.dead_letters = \"sim-dead\"\n\
                    engine.threads = 1\n";
        Config::parse("sim", text, &[], &Environment::of_process()).expect("a config")
    })
}

/// Events of a stream: most are labelled, some can't be read, some messages pack two.
fn events(chance: &mut Chance, partitions: i32) -> Vec<(i32, Entry)> {
    let mut all: Vec<(i32, Entry)> = Vec::new();
    let row = |chance: &mut Chance, id: usize| {
        let mut number = || (chance.next() % 2_000) as f64 / 500.0 - 2.0;
        let (a, b) = (number(), number());
        match chance.below(20) {
            0 => format!("{{\"a\":{a},\"b\":"),
            1 => format!("{{\"id\":{id},\"b\":{b},\"y\":true}}"),
            2 | 3 => format!("{{\"id\":{id},\"a\":{a},\"b\":{b}}}"),
            _ => format!("{{\"id\":{id},\"a\":{a},\"b\":{b},\"y\":{}}}", a + b > 0.3),
        }
    };
    for id in 0..20 + chance.below(70) {
        let mut value = row(chance, id);
        if chance.one_in(12) {
            value = format!("{value}\n{}", row(chance, id + 1_000));
        }
        let key = (!chance.one_in(5)).then(|| format!("k{id}").into_bytes());
        all.push((
            chance.below(partitions as usize) as i32,
            Entry { key, value: value.into_bytes(), ..Entry::default() },
        ));
    }
    all
}

fn plan(chance: &mut Chance, daemons: usize) -> Plan {
    let mut seldom =
        |from: u32, to: u32| if chance.one_in(4) { 0 } else { from + (chance.next() % u64::from(to - from)) as u32 };
    let (lost_answer, failed_call, cut, broker_away) =
        (seldom(2, 12), seldom(80, 800), seldom(60, 400), seldom(100, 600));
    let put_off = seldom(2, 12);
    let seldom_one = seldom(2, 6);
    let interleave = if daemons > 1 { seldom(4, 40) } else { 0 };
    let crash_calls = if chance.one_in(6) { 0 } else { *chance.pick(&[20, 100, 200, 400, 1_000]) };
    Plan {
        crash_calls,
        lost_answer,
        failed_call,
        cut,
        broker_away,
        interleave,
        power_cuts: daemons == 1,
        put_off,
        falsified: seldom_one,
    }
}

fn setup(chance: &mut Chance, clock: &Clock, daemons: usize) -> Setup {
    let mut config = config().clone();
    config.lanes = if chance.one_in(3) { 2 } else { 1 };
    config.engine.commit_events_max = 1 + chance.next() % 25;
    config.delivery.commit_interval_ms = *chance.pick(&[1, 10, 50, 200]);
    config.checkpoint.interval_ms = *chance.pick(&[10, 60, 300, 2_000]);
    config.checkpoint.keep = 1 + chance.below(3) as u32;
    config.checkpoint.keep_journal = chance.one_in(3);
    let mut specs = specs().to_vec();
    let first = chance.below(specs.len());
    specs.swap(0, first);
    let unfit = spec("unfit", "[model]\nkind = \"gaussian-naive-bayes\"\n").replace("b = \"float\"", "c = \"float\"");
    Setup { config, specs, unfit, shared: daemons > 1, clock: clock.clone() }
}

/// Makes the world of a seed.
fn make(seed: u64, trace: bool) -> (World, Rc<Setup>) {
    let mut chance = Chance::new(seed);
    let clock = Clock::by_hand();
    let daemons = if chance.one_in(2) { 2 } else { 1 };
    let setup = setup(&mut chance, &clock, daemons);
    let partitions = 1 + chance.below(3) as i32;
    let mut broker = Broker::default();
    broker.input = "sim-in".into();
    let lanes = setup.config.lanes;
    (broker.group.lanes, broker.group.named) = (lanes, chance.one_in(2));
    broker.topics.insert("sim-in".into(), (0..partitions).map(|_| Default::default()).collect());
    broker.coming = events(&mut chance, partitions);
    let plan = plan(&mut chance, daemons);
    let mut disks: Vec<disk::Files> = (0..daemons).map(|_| Default::default()).collect();
    let base = artifact::content_hash(setup.specs[0].as_bytes());
    for disk in &mut disks {
        disk.install(&Path::new(DIR).join("artifacts").join(&base), setup.specs[0].as_bytes());
        (0..lanes as usize).for_each(|lane| disk.make_dir(&lane_dir(lane)));
    }
    let processes = (0..daemons).map(|_| Process::default()).collect();
    let (began, counts) = (clock.now(), Counts { events: broker.coming.len() as u64, ..Counts::default() });
    let world = World {
        chance,
        clock,
        began,
        plan,
        broker,
        disks,
        processes,
        counts,
        trace,
        depth: 0,
        false_bytes: Vec::new(),
    };
    (world, Rc::new(setup))
}

/// Runs a seed. What went wrong, where something did.
pub fn seed(number: u64, trace: bool) -> Result<Counts, String> {
    let (made, setup) = make(number, trace);
    daemon::places(made.processes.len());
    replace(Some(made));
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        trouble(&setup);
        to_the_end(&setup);
    }));
    daemon::places(0);
    let counts = replace(None).map(|world| world.counts).unwrap_or_default();
    outcome.map(|()| counts).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|t| t.to_string())).unwrap_or_else(|| "a panic".into())
    })
}

/// The time in which things go wrong.
fn trouble(setup: &Rc<Setup>) {
    let (daemons, steps) = world(|w| (w.processes.len(), 150 + w.chance.below(450)));
    for _ in 0..steps {
        let (daemon, what) = world(|w| {
            w.counts.steps += 1;
            (w.chance.below(daemons), w.chance.below(60))
        });
        match what {
            0 => world(|w| {
                let ms = *w.chance.pick(&[30u64, 30, 200, 200, 2_000, 12_000, 65_000]);
                w.tell(|| format!("{ms} ms pass"));
                w.clock.advance(Duration::from_millis(ms));
            }),
            1..=5 => drop(daemon::act(daemon, Daemon::order)),
            6..=8 => world(World::background),
            9 => world(|w| {
                let World { broker, chance, .. } = w;
                if chance.one_in(4) {
                    broker.group.shake(chance);
                }
            }),
            10 if world(|w| w.chance.one_in(8)) => drop(daemon::act(daemon, Daemon::stop)),
            11 if world(|w| w.plan.crash_calls > 0 && w.chance.one_in(3)) => drop(daemon::kill(daemon)),
            _ => step(daemon, setup),
        }
        outside(daemon);
        world(World::group_step);
    }
}

/// A step of a daemon; a dead one may come back.
fn step(daemon: usize, setup: &Rc<Setup>) {
    let (alive, comes_back, dies_in) = world(|w| {
        let alive = w.processes[daemon].alive;
        let dies_in = (w.plan.crash_calls > 0).then(|| w.chance.below(2 * w.plan.crash_calls));
        (alive, w.chance.one_in(3), dies_in)
    });
    match alive {
        true => drop(daemon::act(daemon, Daemon::step)),
        false if comes_back => {
            oracle::falsify(setup, daemon);
            daemon::start(daemon, setup, dies_in)
        }
        false => world(|w| w.clock.advance(Duration::from_millis(100))),
    }
}

/// What happens to networks.
fn outside(daemon: usize) {
    let heals = world(|w| {
        let now = w.clock.now();
        if w.chance.one_in(w.plan.broker_away) {
            w.broker.away_until = Some(now + Duration::from_millis(100 + w.chance.next() % 5_000));
            w.tell(|| "the broker is away".into());
        }
        let cut = w.chance.one_in(w.plan.cut);
        if cut && w.processes[daemon].cut_since.is_none() && w.processes[daemon].alive {
            w.processes[daemon].cut_since = Some(now);
            w.tell(|| format!("{} is cut off from its group", super::name(daemon)));
        }
        w.processes[daemon].cut_since.is_some() && w.chance.one_in(25)
    });
    if heals {
        heal(daemon);
    }
}

fn heal(daemon: usize) {
    if daemon::act(daemon, Daemon::heal).is_none() {
        world(|w| w.heal(daemon, None));
    }
}

/// Nothing goes wrong any more: all daemons live, and must come to the end of the input by themselves.
fn to_the_end(setup: &Rc<Setup>) {
    let daemons = world(|w| {
        w.plan = Plan { power_cuts: w.plan.power_cuts, ..Plan::default() };
        w.broker.away_until = None;
        w.processes.iter_mut().for_each(|process| process.dies_in = None);
        w.tell(|| "the faults are over".into());
        w.processes.len()
    });
    (0..daemons).for_each(heal);
    let mut done = false;
    for number in 0..END_STEPS_MAX {
        let daemon = world(|w| {
            w.counts.steps += 1;
            w.background();
            w.clock.advance(Duration::from_millis(if number % 64 == 63 { 1_000 } else { 2 }));
            w.chance.below(daemons)
        });
        step(daemon, setup);
        if number % 50 == 49 && oracle::all_taken(setup.config.lanes) {
            done = true;
            break;
        }
    }
    assert!(done, "stranded: without any fault, the end of the input was not reached in {END_STEPS_MAX} steps");
    // Whatever is taken is committed by a graceful end, and every lane's last checkpoint is on the disk.
    let lanes = setup.config.lanes as usize;
    let states_of = |d| (0..lanes).filter_map(move |lane| Some((lane, daemon::act(d, |d| d.state(lane))??)));
    let states: Vec<_> = (0..daemons).flat_map(states_of).collect();
    for d in 0..daemons {
        daemon::act(d, Daemon::stop);
        for _ in 0..2_000 {
            if !world(|w| w.processes[d].alive) {
                break;
            }
            daemon::act(d, Daemon::step);
        }
        assert!(!world(|w| w.processes[d].alive), "a daemon that was told to stop does not end");
    }
    world(|w| w.broker.settle());
    let made = oracle::compare(setup);
    for (lane, (seq, digest, state)) in states {
        // A daemon that has lost its lane and doesn't know yet stands where it stood.
        if seq == made[lane].seq {
            assert_eq!(digest, made[lane].digest, "lane {lane}: digest");
            assert!(state == made[lane].state, "lane {lane}: the state in memory differs");
        }
    }
    tell(|| "all is as it should be".into());
}
