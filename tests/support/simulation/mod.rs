//! A world on one thread, in which the engine is the real one and everything around it is made up: a broker with
//! transactions and groups, disks that forget, a clock that is set by hand, two daemons. One seed decides everything
//! that happens, and in which order.
//!
//! ```text
//! mod.rs     the world: chance, time, who lives, what may go wrong; the end of a daemon at any call
//! broker.rs  partitions, transactions, group;  client.rs  the client that the engine uses of it
//! disk.rs    files of which a power cut leaves this or that
//! daemon.rs  a daemon: its lanes, its checkpointer, its orders
//! run.rs     the scheduler, and the way to the end;  oracle.rs  what must have come out
//! ```

pub mod broker;
pub mod client;
pub mod daemon;
pub mod disk;
pub mod oracle;
pub mod run;

use broker::Broker;
use millstream::clock::Clock;
use millstream::error::{Fault, Result};
use std::cell::RefCell;
use std::fmt::Display;
use std::time::{Duration, Instant};

/// Chance, by one seed.
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Chance {
        let mut chance = Chance(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03);
        chance.next();
        chance
    }
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    /// A number below `n` (0 where `n` is).
    pub fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { (self.next() % n as u64) as usize }
    }
    pub fn one_in(&mut self, n: u32) -> bool {
        n > 0 && self.next().is_multiple_of(u64::from(n))
    }
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// How often things go wrong in this world; 0: never.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plan {
    /// A daemon dies after about so many of its calls.
    pub crash_calls: usize,
    /// One in so many commits stays without an answer.
    pub lost_answer: u32,
    /// One in so many calls fails.
    pub failed_call: u32,
    /// One in so many of the scheduler's steps cuts a daemon off from its group.
    pub cut: u32,
    /// One in so many of the scheduler's steps takes the broker away for a while.
    pub broker_away: u32,
    /// One in so many calls lets another daemon act in the middle.
    pub interleave: u32,
    /// A daemon that dies takes what its disk has not synced with it.
    pub power_cuts: bool,
    /// One in so many sends of the producer is put off to the next call.
    pub put_off: u32,
    /// One in so many restarts finds that a checkpoint was replaced by one that is whole, and wrong.
    pub falsified: u32,
}

/// Who makes a call: a daemon, in one of its lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Me {
    pub daemon: usize,
    pub life: u64,
}

/// What the world knows of a daemon's process.
#[derive(Debug, Default)]
pub struct Process {
    pub life: u64,
    pub alive: bool,
    /// Calls until it dies.
    pub dies_in: Option<usize>,
    /// Since when the group hasn't heard of it.
    pub cut_since: Option<Instant>,
    pub died_at: Option<Instant>,
    pub recovering: bool,
}

/// What happened, in numbers.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counts {
    pub steps: u64,
    pub calls: u64,
    pub crashes: u64,
    pub crashes_in_recovery: u64,
    pub rebalances: u64,
    pub unknown: u64,
    pub unknown_committed: u64,
    pub fenced: u64,
    pub aborted: u64,
    pub commits: u64,
    pub swaps: u64,
    pub rollbacks: u64,
    pub checkpoints: u64,
    pub checkpoints_falsified: u64,
    pub faults: u64,
    pub events: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        macro_rules! sum { ($($f:ident)*) => { $(self.$f += other.$f;)* } }
        sum!(steps calls crashes crashes_in_recovery rebalances unknown unknown_committed fenced aborted commits
             swaps rollbacks checkpoints checkpoints_falsified faults events);
    }
}

/// Everything outside the engine.
pub struct World {
    pub chance: Chance,
    pub clock: Clock,
    pub began: Instant,
    pub plan: Plan,
    pub broker: Broker,
    pub disks: Vec<disk::Files>,
    pub processes: Vec<Process>,
    pub counts: Counts,
    pub trace: bool,
    /// Other daemons acting inside a call, one inside the other.
    pub depth: usize,
    /// Checkpoints that were replaced by wrong ones.
    pub false_bytes: Vec<Vec<u8>>,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// Looks at or changes the world. Nothing inside may call the engine.
pub fn world<R>(f: impl FnOnce(&mut World) -> R) -> R {
    WORLD.with(|world| f(world.borrow_mut().as_mut().expect("a world")))
}

/// Puts a world in place, and gives back the one before.
pub fn replace(new: Option<World>) -> Option<World> {
    WORLD.with(|world| world.replace(new))
}

/// A line of the seed's story.
pub fn tell(what: impl FnOnce() -> String) {
    world(|w| w.tell(what));
}

/// What ends a daemon in the middle of a call.
pub struct Death;

/// The beginning of every call that leaves the engine: the daemon may die here, time passes, the rest of the world
/// goes on, and another daemon may act.
pub fn call(me: Me, what: &str) -> Result<()> {
    let (interleave, fails) = world(|w| {
        let living = w.processes[me.daemon].alive && w.processes[me.daemon].life == me.life;
        if !living || std::thread::panicking() {
            return (None, true);
        }
        w.counts.calls += 1;
        w.tell(|| format!("  {}: {what}", name(me.daemon)));
        w.clock.advance(Duration::from_micros(w.chance.next() % 900));
        if w.chance.one_in(3) {
            w.background();
        }
        let interleave = w.depth == 0 && w.chance.one_in(w.plan.interleave);
        (Some(interleave), false)
    });
    match interleave {
        _ if fails && std::thread::panicking() => return Err(Fault::environment("this process is dead")),
        None => std::panic::resume_unwind(Box::new(Death)),
        Some(true) => daemon::act_inside(me.daemon),
        Some(false) => {}
    }
    may_die(me);
    let (away, failed) = world(|w| (w.broker.is_away(w.clock.now()), w.chance.one_in(w.plan.failed_call)));
    if away && !what.starts_with("disk") {
        world(|w| w.clock.advance(Duration::from_millis(700)));
        return Err(Fault::environment(format!("{what}: the broker is away")));
    }
    if failed && !what.starts_with("disk") {
        tell(|| format!("  {}: {what} fails", name(me.daemon)));
        return Err(Fault::environment(format!("{what}: no answer")));
    }
    Ok(())
}

/// Counts the calls down to the daemon's death.
pub fn may_die(me: Me) {
    let dies = world(|w| {
        let process = &mut w.processes[me.daemon];
        let living = process.alive && process.life == me.life;
        match &mut process.dies_in {
            Some(0) if living => true,
            Some(left) if living => {
                *left -= 1;
                false
            }
            _ => !living,
        }
    });
    if dies && !std::thread::panicking() {
        world(|w| w.kill(me.daemon, "dies"));
        std::panic::resume_unwind(Box::new(Death));
    }
}

pub fn name(daemon: usize) -> char {
    (b'A' + daemon as u8) as char
}

impl World {
    pub fn tell(&self, what: impl FnOnce() -> String) {
        if self.trace {
            let at = self.clock.now() - self.began;
            println!("{:>10.3} {}{}", at.as_secs_f64() * 1e3, "    ".repeat(self.depth), what());
        }
    }

    /// Ends a daemon's life: nothing that it still holds has any effect.
    pub fn kill(&mut self, daemon: usize, how: &str) {
        let now = self.clock.now();
        let process = &mut self.processes[daemon];
        if !process.alive {
            return;
        }
        (process.alive, process.dies_in, process.died_at) = (false, None, Some(now));
        self.counts.crashes += 1;
        self.counts.crashes_in_recovery += u64::from(std::mem::take(&mut self.processes[daemon].recovering));
        self.tell(|| format!("{} {how}", name(daemon)));
        if self.plan.power_cuts {
            let World { disks, chance, .. } = self;
            disks[daemon].power_cut(chance);
        }
    }

    /// One thing that happens by itself.
    pub fn background(&mut self) {
        let now = self.clock.now();
        match self.chance.below(5) {
            0 => self.broker.take_input(&mut self.chance),
            1 => self.broker.write_marker(&mut self.chance),
            2 => self.broker.deliver_late(now, &mut self.chance),
            3 => self.group_step(),
            _ => {
                let daemon = self.chance.below(self.disks.len());
                let World { disks, chance, .. } = self;
                disks[daemon].write_back(chance);
            }
        }
    }
}

/// The words of a fault, for the story.
pub fn words(fault: &dyn Display) -> String {
    fault.to_string().replace('\n', " ")
}
