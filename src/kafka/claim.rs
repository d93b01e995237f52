//! Which lanes are this daemon's, as the group has told, and a lane's hold on its own.
//!
//! A [`Claim`] is valid as long as its journal partition was never given to somebody else, not even if it came
//! back.

use super::client::{Client, Membership, taken};
use super::{ASSIGNMENT_TIMEOUT, KafkaOptions};
use crate::clock::Clock;
use crate::error::{Fault, Result};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often a lane that waits for its assignment looks up.
const STANDBY_LOOK: Duration = Duration::from_millis(50);

/// Called while a lane waits for its assignment, with the membership, and whether the group has given the lane to
/// somebody else. False: the wait is given up.
pub type Standby<'a> = dyn FnMut(&Arc<dyn Membership>, bool) -> bool + 'a;

/// What the group has decided so far.
#[derive(Debug, Default)]
struct Assigned {
    lanes: BTreeSet<u32>,
    /// True where the group has said which lanes are ours, and has been in reach since.
    settled: bool,
    /// Lanes that were ours when the group was out of reach for too long. Nobody has said yet whose they are now.
    adrift: BTreeSet<u32>,
    /// How many times each lane was given to somebody else.
    taken: HashMap<u32, u64>,
    /// How many times each lane went adrift.
    lost: HashMap<u32, u64>,
    /// Why this member can't go on, where it can't.
    dead: Option<String>,
    /// What a broker that doesn't allow this client its group makes of it.
    refused: Option<Fault>,
    /// Partitions of the input topics and of the journal's, as last seen.
    partitions: HashMap<String, i32>,
    /// Counts every change.
    changes: u64,
}

/// What a membership was told by its group. The client writes it, claims read it.
#[derive(Debug, Default)]
pub struct Holdings {
    assigned: Mutex<Assigned>,
    changed: Condvar,
}

impl Holdings {
    fn lock(&self) -> MutexGuard<'_, Assigned> {
        self.assigned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Assigned)) {
        let mut assigned = self.lock();
        change(&mut assigned);
        assigned.changes += 1;
        drop(assigned);
        self.changed.notify_all();
    }

    /// The group takes lanes away; `lost`: not to give them to somebody else, but because this member was not
    /// heard of for too long.
    pub fn revoked(&self, lanes: &[u32], lost: bool) {
        self.change(|assigned| {
            for lane in lanes {
                assigned.lanes.remove(lane);
                if lost {
                    assigned.settled = false;
                    assigned.adrift.insert(*lane);
                    *assigned.lost.entry(*lane).or_default() += 1;
                } else {
                    *assigned.taken.entry(*lane).or_default() += 1;
                }
            }
        });
    }

    /// The group has handed out lanes anew: these are added to ours.
    pub fn assigned(&self, lanes: &[u32]) {
        self.change(|assigned| {
            assigned.settled = true;
            assigned.refused = None;
            assigned.lanes.extend(lanes);
            // What was ours and isn't handed back is somebody else's now.
            for lane in std::mem::take(&mut assigned.adrift) {
                if !assigned.lanes.contains(&lane) {
                    *assigned.taken.entry(lane).or_default() += 1;
                }
            }
        });
    }

    /// This member can't go on.
    pub fn shut_out(&self, reason: &str) {
        self.change(|assigned| assigned.dead = Some(reason.to_string()));
    }

    /// The broker doesn't allow this member its group, until it hands out lanes again.
    pub fn refused(&self, fault: &Fault) {
        self.change(|assigned| assigned.refused = Some(fault.clone()));
    }

    /// So many partitions a topic (an input's, or the journal's) has now; 0 where it is gone.
    pub fn saw_partitions(&self, topic: &str, partitions: i32) {
        self.change(|assigned| {
            assigned.partitions.insert(topic.to_string(), partitions);
        });
    }

    /// The lanes that are this daemon's at the moment.
    pub fn lanes(&self) -> Vec<u32> {
        self.lock().lanes.iter().copied().collect()
    }

    /// True where the group has given the lane to somebody else, or to nobody yet.
    pub fn is_elsewhere(&self, lane: u32) -> bool {
        let assigned = self.lock();
        assigned.dead.is_none() && assigned.refused.is_none() && assigned.settled && !assigned.lanes.contains(&lane)
    }

    /// True where this member can't go on.
    pub fn is_shut_out(&self) -> bool {
        self.lock().dead.is_some()
    }

    /// Partitions of an input topic, as last seen; 0 where it is gone.
    pub fn partitions_seen(&self, topic: &str) -> Option<i32> {
        self.lock().partitions.get(topic).copied()
    }

    /// How often something changed.
    pub fn changes(&self) -> u64 {
        self.lock().changes
    }

    /// Waits at most `most` until something has changed since `seen`.
    pub fn wait(&self, seen: u64, most: Duration) {
        let unchanged = |assigned: &mut Assigned| assigned.changes == seen;
        drop(self.changed.wait_timeout_while(self.lock(), most, unchanged));
    }
}

/// A lane's hold on its partition of the journal.
pub struct Claim {
    group: Arc<dyn Membership>,
    clock: Clock,
    lane: u32,
    journal: String,
    /// Counts at the time of the claim.
    taken: u64,
    lost: u64,
    /// The lane's producer is fenced as soon as somebody else takes the lane (exactly-once). So a lane that went
    /// adrift and came back is still ours, as far as the group is concerned.
    fenced_by_producer: bool,
}

fn count(counts: &HashMap<u32, u64>, lane: u32) -> u64 {
    counts.get(&lane).copied().unwrap_or(0)
}

impl Claim {
    /// Waits until the group hands the lane to this daemon: without an end while it is another's, and as long as
    /// `standby` says. `None` where that gave up.
    ///
    /// # Errors
    /// Environment, where the group doesn't say within `wait` whose the lane is, this daemon was shut out of it, or is
    /// not allowed in.
    pub fn wait(
        client: &dyn Client,
        group: Arc<dyn Membership>,
        options: &KafkaOptions,
        wait: Duration,
        standby: &mut Standby<'_>,
    ) -> Result<Option<Arc<Claim>>> {
        let (lane, clock, fenced_by_producer) = (options.lane, client.clock(), options.exactly_once);
        let journal = options.journal_topic();
        let mut claim = Claim { group, clock, lane, journal, taken: 0, lost: 0, fenced_by_producer };
        let mut patience = claim.clock.now();
        loop {
            let elsewhere = claim.group.holdings().is_elsewhere(lane);
            if !standby(&claim.group, elsewhere) {
                return Ok(None);
            }
            let now = claim.clock.now();
            if elsewhere {
                patience = now;
            }
            let counts = claim.wait_for(STANDBY_LOOK, |_, assigned| {
                Ok(assigned.lanes.contains(&lane).then(|| (count(&assigned.taken, lane), count(&assigned.lost, lane))))
            });
            match counts {
                Ok(counts) => (claim.taken, claim.lost) = counts,
                Err(fault) if fault.lasting || claim.group.holdings().is_shut_out() || now - patience > wait => {
                    return Err(fault);
                }
                Err(_) => continue,
            }
            return Ok(Some(Arc::new(claim)));
        }
    }

    /// Waits until `until` finds what it looks for.
    fn wait_for<T>(&self, wait: Duration, until: impl Fn(&Claim, &Assigned) -> Result<Option<T>>) -> Result<T> {
        let deadline = self.clock.now() + wait;
        loop {
            let changes = {
                let assigned = self.group.holdings().lock();
                if let Some(reason) = &assigned.dead {
                    return Err(shut_out(self.lane, reason));
                }
                if let Some(fault) = &assigned.refused {
                    return Err(fault.clone());
                }
                self.check_journal(&assigned)?;
                if let Some(found) = until(self, &assigned)? {
                    return Ok(found);
                }
                assigned.changes
            };
            let left = deadline.saturating_duration_since(self.clock.now());
            if left.is_zero() {
                return Err(Fault::environment(format!("the group hasn't said whose lane {} is", self.lane))
                    .hint("the group's coordinator doesn't answer, or its members can't agree; look at the brokers"));
            }
            self.group.wait(changes, left);
        }
    }

    /// Fails where the lane was taken away since, or its journal was deleted; true where the group says that it is ours, false where the group
    /// is out of reach.
    ///
    /// # Errors
    /// Environment: "lane N was taken by another daemon".
    pub fn check(&self) -> Result<bool> {
        self.judge(&self.group.holdings().lock())
    }

    fn judge(&self, assigned: &Assigned) -> Result<bool> {
        if let Some(reason) = &assigned.dead {
            return Err(shut_out(self.lane, reason));
        }
        self.check_journal(assigned)?;
        let lost = !self.fenced_by_producer && count(&assigned.lost, self.lane) != self.lost;
        if lost || count(&assigned.taken, self.lane) != self.taken {
            return Err(taken(self.lane));
        }
        Ok(assigned.lanes.contains(&self.lane))
    }

    /// Nothing can be committed without the journal, and the group hands out no lane of a topic that isn't there.
    fn check_journal(&self, assigned: &Assigned) -> Result<()> {
        if assigned.partitions.get(&self.journal) != Some(&0) {
            return Ok(());
        }
        Err(Fault::environment(format!("the journal's topic \"{}\" was deleted", self.journal))
            .hint("nothing more can be committed: restore it from a copy, or start over with --new-lineage")
            .lasting())
    }

    /// As `check`, and waits for a group that is out of reach.
    ///
    /// # Errors
    /// As for `check`; Environment, where the group stays out of reach.
    pub fn hold(&self) -> Result<()> {
        self.wait_for(ASSIGNMENT_TIMEOUT, |claim, assigned| Ok(claim.judge(assigned)?.then_some(())))
    }

    /// The membership behind the claim.
    pub fn group(&self) -> &dyn Membership {
        self.group.as_ref()
    }

    /// The lane.
    pub fn lane(&self) -> u32 {
        self.lane
    }
}

fn shut_out(lane: u32, reason: &str) -> Fault {
    taken(lane).hint(format!("this daemon was shut out of its group: {reason}; is its node.name used twice?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_adrift_and_is_not_handed_back_is_taken() {
        let holdings = Holdings::default();
        holdings.assigned(&[0, 1]);
        let before = holdings.changes();
        holdings.revoked(&[0, 1], true);
        holdings.assigned(&[1]);
        assert_eq!((holdings.lanes(), holdings.changes()), (vec![1], before + 2));
        let assigned = holdings.lock();
        assert_eq!((count(&assigned.taken, 0), count(&assigned.taken, 1)), (1, 0));
        assert_eq!((count(&assigned.lost, 0), count(&assigned.lost, 1)), (1, 1));
    }
}
