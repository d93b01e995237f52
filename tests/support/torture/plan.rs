//! What a round of the torture does: derived from the seed and the round's number, and from nothing else.

use crate::support::events::Random;
use millstream::faults::STEPS;
use std::time::Duration;

/// Deaths of a round of the long form.
const DEATHS: usize = 24;

/// From where to where events travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Road {
    /// From topic to topic, exactly once.
    Kafka,
    /// From growing files to files.
    Files,
}

/// When a daemon dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// At a named step, when it is reached for the so-manieth time.
    Step(&'static str, u64),
    /// So long after it was ready.
    Ready(Duration),
    /// So long after its start, whatever it does then: mostly recovering.
    Start(Duration),
}

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            At::Step(step, count) => write!(f, "{step}:{count}"),
            At::Ready(after) => write!(f, "{} ms after ready", after.as_millis()),
            At::Start(after) => write!(f, "{} ms after start", after.as_millis()),
        }
    }
}

/// One life of the daemon: how it is tuned, and how it ends.
#[derive(Debug, Clone)]
pub struct Life {
    /// Its death.
    pub at: At,
    /// `--set …`: what may differ from life to life without a trace in the output.
    pub tuning: Vec<String>,
    /// After the death the newest checkpoint of this lane is damaged, in the way of this number.
    pub damage: Option<(u32, u64)>,
}

/// A round.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The program's seed.
    pub seed: u64,
    /// The round's number.
    pub round: u64,
    /// From where to where.
    pub road: Road,
    /// Lanes of the daemon.
    pub lanes: u32,
    /// Partitions of the input; files: one a lane.
    pub partitions: i32,
    /// One lane over one input and no swap: an uninterrupted daemon must make the same bytes.
    pub forced: bool,
    /// The journal is cut behind the oldest checkpoint.
    pub trims: bool,
    /// Which of the specs the lineage begins with.
    pub first_spec: usize,
    /// The lives that end too early, in order.
    pub lives: Vec<Life>,
    /// Checkpoints are damaged between two lives: an older one must do.
    pub damages: bool,
    /// A mistake that the daemon is to make.
    pub plant: Option<String>,
    /// On a cluster of three in trouble: how many of 24 times it is only leaders that move. `None`: one broker, well.
    pub calm: Option<u64>,
}

impl Plan {
    /// The long form's round.
    pub fn long(seed: u64, round: u64) -> Plan {
        let road = if round % 3 == 1 { Road::Files } else { Road::Kafka };
        Plan::long_on(road, seed, round, round / 3)
    }

    /// The long form's round on a cluster in trouble.
    pub fn long_in_trouble(seed: u64, round: u64) -> Plan {
        Plan { calm: Some(22), ..Plan::long_on(Road::Kafka, seed, round, round) }
    }

    /// The short form of that: one round, and leaders move only.
    pub fn short_in_trouble(seed: u64, round: u64) -> Plan {
        let mut random = random_of(seed, round);
        let mut plan = Plan::empty(seed, round, Road::Kafka, false, &mut random);
        let steps = ["kafka.commit", "kafka.offsets", "kafka.begin", "kafka.init", "recovery.tail", "store.rename"];
        let mut deaths: Vec<At> = steps.iter().map(|step| At::Step(step, few(step, &mut random))).collect();
        deaths.extend([At::Ready(Duration::from_millis(300)), At::Start(Duration::from_millis(150))]);
        shuffle(&mut deaths, &mut random);
        plan.set_lives(deaths, &mut random);
        Plan { calm: Some(24), ..plan }
    }

    /// `turn`: the how-manieth round on its road.
    fn long_on(road: Road, seed: u64, round: u64, turn: u64) -> Plan {
        let mut random = random_of(seed, round);
        let forced = random.below(4) == 0;
        let mut plan = Plan::empty(seed, round, road, forced, &mut random);
        // Behind a journal that is cut, the last checkpoint that is left may be the one that is damaged.
        plan.damages = !plan.trims && random.below(3) == 0;
        // Every step gets its turn: half of the deaths go through the pack, round after round.
        let steps = plan.reachable();
        let mut pack = steps.clone();
        shuffle(&mut pack, &mut Random(seed));
        let begins = turn as usize * (DEATHS / 2);
        let mut deaths: Vec<At> =
            (0..DEATHS / 2).map(|i| at_step(pack[(begins + i) % pack.len()], &mut random)).collect();
        let in_recovery: Vec<&'static str> = steps.into_iter().filter(|step| is_recovery(step)).collect();
        while deaths.len() < DEATHS {
            deaths.push(match random.below(4) {
                0 => at_step(in_recovery[random.below(in_recovery.len() as u64) as usize], &mut random),
                1 => At::Start(Duration::from_millis(random.below(400))),
                _ => At::Ready(Duration::from_millis(random.below(500))),
            });
        }
        shuffle(&mut deaths, &mut random);
        plan.set_lives(deaths, &mut random);
        plan
    }

    /// The short form's three rounds: every step once, on each road that has it.
    pub fn short(seed: u64, round: u64) -> Plan {
        let mut random = random_of(seed, round);
        let road = if round == 1 { Road::Files } else { Road::Kafka };
        let mut plan = Plan::empty(seed, round, road, round == 2, &mut random);
        let mut deaths = match round {
            2 => {
                plan.trims = true;
                vec![At::Step("journal.trim", 1), At::Step("kafka.commit", 3), At::Step("recovery.tail", 1)]
            }
            _ => plan.reachable().into_iter().map(|step| At::Step(step, few(step, &mut random))).collect(),
        };
        // What only the first start reaches comes first, in the order in which it does.
        shuffle(&mut deaths, &mut random);
        plan.set_lives(deaths, &mut random);
        plan
    }

    /// A round with these deaths, for whoever wants to see a certain thing.
    pub fn with(seed: u64, road: Road, forced: bool, deaths: Vec<At>) -> Plan {
        let mut random = random_of(seed, 0);
        let mut plan = Plan::empty(seed, 0, road, forced, &mut random);
        plan.trims = false;
        plan.set_lives(deaths, &mut random);
        plan
    }

    fn empty(seed: u64, round: u64, road: Road, forced: bool, random: &mut Random) -> Plan {
        let lanes = if forced { 1 } else { 1 + random.below(3) as u32 };
        let partitions = if forced { 1 } else { lanes as i32 + random.below(3) as i32 };
        Plan {
            seed,
            round,
            road,
            lanes,
            partitions,
            forced,
            trims: forced && random.below(2) == 0,
            first_spec: random.below(4) as usize,
            lives: Vec::new(),
            damages: false,
            plant: None,
            calm: None,
        }
    }

    fn set_lives(&mut self, mut deaths: Vec<At>, random: &mut Random) {
        let first = |at: &At| match at {
            At::Step("home.lineage", _) => 0,
            At::Step("journal.first", _) => 1,
            _ => 2,
        };
        deaths.sort_by_key(first);
        // Nothing is to be cut back unless the life before left bytes behind that were never committed.
        let uncommitted =
            |at: At| if at == At::Step("file.cut", 1) { vec![At::Step("file.fsync", 2), at] } else { vec![at] };
        let deaths: Vec<At> = deaths.into_iter().flat_map(uncommitted).collect();
        let (lanes, damages, forced) = (u64::from(self.lanes), self.damages, self.forced);
        let damage = |random: &mut Random| {
            (damages && random.below(4) == 0).then(|| (random.below(lanes) as u32, random.next()))
        };
        let mut life = |at| Life { at, tuning: tuning(at, random, forced), damage: damage(random) };
        self.lives = deaths.into_iter().map(&mut life).collect();
    }

    /// The steps that a daemon on this round's road comes by.
    pub fn reachable(&self) -> Vec<&'static str> {
        let comes_by = |step: &str| match step {
            "journal.trim" => self.trims,
            "journal.first" => true,
            _ if step.starts_with("kafka.") => self.road == Road::Kafka,
            _ if step.starts_with("file.") || step.starts_with("journal.") => self.road == Road::Files,
            _ if step.starts_with("swap.") => !self.forced,
            _ => true,
        };
        STEPS.iter().copied().filter(|step| comes_by(step)).collect()
    }

    /// The command that runs this round again.
    pub fn again(&self, long: bool) -> String {
        let cluster = if self.calm.is_some() { "CLUSTER=1 " } else { "" };
        match long {
            true => format!("make torture {cluster}SEED={} ROUND={}", self.seed, self.round),
            false => format!(
                "MILLSTREAM_TORTURE_SEED={} cargo test --release --locked --features faults --test torture",
                self.seed
            ),
        }
    }
}

/// True for a step of the recovery.
pub fn is_recovery(step: &str) -> bool {
    step.starts_with("recovery.") || matches!(step, "kafka.init" | "kafka.initialised" | "file.cut")
}

/// The generator of a round.
fn random_of(seed: u64, round: u64) -> Random {
    let mut mixed = Random(seed ^ round.wrapping_mul(0xA24B_AED4_963E_E407));
    Random(mixed.next())
}

fn at_step(step: &'static str, random: &mut Random) -> At {
    let most = match step {
        "kafka.produce" => 2_000,
        "kafka.dead-letter" | "file.write" | "file.fsync" | "journal.write" | "journal.fsync" | "journal.written" => 40,
        "recovery.record" => 6,
        "file.cut" | "file.rotate" | "home.lineage" | "journal.first" => 1,
        "kafka.init" | "kafka.initialised" | "swap.rolled-back" => 1,
        _ if step.starts_with("recovery.") || step.starts_with("drain.") => 1,
        _ if step.starts_with("kafka.") => 15,
        _ if step.starts_with("store.") => 8,
        _ if step.starts_with("checkpoint.") || step == "journal.trim" => 4,
        _ => 2,
    };
    At::Step(step, 1 + random.below(most))
}

/// A count that is reached soon.
fn few(step: &str, random: &mut Random) -> u64 {
    match step {
        "kafka.produce" => 1 + random.below(200),
        "kafka.begin" | "kafka.journal" | "kafka.flush" | "kafka.offsets" | "kafka.commit" | "kafka.committed" => {
            1 + random.below(3)
        }
        "recovery.record" | "file.write" | "file.fsync" | "journal.write" | "journal.fsync" => 1 + random.below(2),
        _ => 1,
    }
}

/// What the law of state says has no part in the output.
fn tuning(at: At, random: &mut Random, forced: bool) -> Vec<String> {
    let commit_ms = [1, 5, 20, 50, 100][random.below(5) as usize];
    // The last: none before the death, and all that this life did is replayed.
    let with_checkpoints = matches!(at, At::Step(step, _)
        if step.starts_with("store.") || step.starts_with("checkpoint.") || step == "journal.trim");
    let checkpoint_ms = [20, 60, 150, 400, 60_000][random.below(if with_checkpoints { 3 } else { 5 }) as usize];
    let batch_events = [1, 7, 64, 256, 1_024][random.below(5) as usize];
    let keys = [
        format!("delivery.commit_interval_ms={commit_ms}"),
        format!("checkpoint.interval_ms={checkpoint_ms}"),
        format!("checkpoint.keep={}", 1 + random.below(3)),
        format!("engine.batch_events_max={batch_events}"),
        format!("engine.threads={}", 1 + random.below(8)),
        // What a frozen model did is in the journal as well; an undisturbed daemon would not know of it.
        format!("learn.enabled={}", forced || random.below(8) != 0),
    ];
    keys.into_iter().flat_map(|key| ["--set".to_string(), key]).collect()
}

fn shuffle<T>(items: &mut [T], random: &mut Random) {
    for i in (1..items.len()).rev() {
        items.swap(i, random.below(i as u64 + 1) as usize);
    }
}
