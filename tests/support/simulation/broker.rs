//! A broker: partitions, transactions with epochs and markers, requests that arrive late; and a group that hands out
//! lanes, in generations.

use super::{Chance, Me, World, name};
use millstream::kafka::claim::Holdings;
use millstream::kafka::client::NextOffset;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the group waits for a member's word.
const SESSION: Duration = Duration::from_secs(10);
/// How long a transaction may stay open.
const TRANSACTION: Duration = Duration::from_secs(60);

/// A message, a marker, or a gap.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    pub key: Option<Vec<u8>>,
    pub value: Vec<u8>,
    pub headers: Vec<u8>,
    pub txn: Option<usize>,
    /// Not a message: a transaction's marker, or what a compaction has left.
    pub marker: bool,
}

#[derive(Debug, Default)]
pub struct Partition {
    pub log: Vec<Entry>,
    pub low: usize,
    /// The outcome of the transactions whose markers are written here.
    resolved: BTreeMap<usize, bool>,
    stable: usize,
}

impl Partition {
    /// One past the last offset that a reader of committed messages may see.
    pub fn stable(&mut self) -> usize {
        let open = |e: &Entry| e.txn.is_some_and(|txn| !e.marker && !self.resolved.contains_key(&txn));
        while self.log.get(self.stable).is_some_and(|e| !open(e)) {
            self.stable += 1;
        }
        self.stable
    }

    pub fn is_visible(&self, entry: &Entry) -> bool {
        !entry.marker && entry.txn.is_none_or(|txn| self.resolved.get(&txn) == Some(&true))
    }

    /// What readers see in the end: offset and message.
    pub fn committed(&self) -> impl Iterator<Item = (usize, &Entry)> {
        self.log.iter().enumerate().filter(|(_, entry)| self.is_visible(entry))
    }
}

#[derive(Debug, Default)]
struct Txn {
    touched: Vec<(String, i32)>,
    offsets: Vec<NextOffset>,
}

/// What is known of a transactional id.
#[derive(Debug, Default)]
struct Id {
    epoch: u32,
    open: Option<(usize, Option<Instant>)>,
    /// Decided, and not yet written everywhere.
    ending: Option<Ending>,
}

/// A transaction, its outcome, and the partitions that lack the marker.
type Ending = (usize, bool, Vec<(String, i32)>);

/// A request that is still on its way.
#[derive(Debug)]
struct Late {
    at: Instant,
    id: String,
    epoch: u32,
    commit: bool,
}

/// The producer's epoch is an old one.
#[derive(Debug)]
pub struct Stale;

#[derive(Debug, Default)]
pub struct Broker {
    pub topics: BTreeMap<String, Vec<Partition>>,
    txns: Vec<Txn>,
    ids: BTreeMap<String, Id>,
    late: Vec<Late>,
    pub away_until: Option<Instant>,
    /// Events that will come: partition and message, the next one last.
    pub coming: Vec<(i32, Entry)>,
    pub input: String,
    pub group: Group,
}

impl Broker {
    pub fn is_away(&self, now: Instant) -> bool {
        self.away_until.is_some_and(|until| now < until)
    }

    pub fn partition(&mut self, topic: &str, partition: i32) -> &mut Partition {
        &mut self.topics.get_mut(topic).expect("a topic")[partition as usize]
    }

    /// Some of the events that are to come.
    pub fn take_input(&mut self, chance: &mut Chance) {
        let topic = self.input.clone();
        for _ in 0..1 + chance.below(6) {
            let Some((partition, entry)) = self.coming.pop() else { return };
            self.partition(&topic, partition).log.push(entry);
            if chance.one_in(8) {
                self.partition(&topic, partition).log.push(Entry { marker: true, ..Entry::default() });
            }
        }
    }

    /// Fences the older producers of an id and settles what they left; the new epoch.
    pub fn init(&mut self, id: &str) -> u32 {
        self.finish(id);
        if self.ids.entry(id.to_string()).or_default().open.is_some() {
            let epoch = self.ids[id].epoch;
            assert!(self.end(id, epoch, false).is_ok(), "its own epoch");
            self.finish(id);
        }
        let state = self.ids.get_mut(id).expect("made above");
        state.epoch += 1;
        state.epoch
    }

    /// Appends a message under a transaction, which begins with it.
    pub fn produce(&mut self, now: Instant, id: &str, epoch: u32, to: (&str, i32), entry: Entry) -> Result<(), Stale> {
        if self.ids[id].epoch != epoch {
            return Err(Stale);
        }
        self.finish(id);
        let number = self.txns.len();
        let state = self.ids.get_mut(id).expect("known");
        let txn = state.open.get_or_insert((number, Some(now))).0;
        if txn == number {
            self.txns.push(Txn::default());
        }
        let place = (to.0.to_string(), to.1);
        if !self.txns[txn].touched.contains(&place) {
            self.txns[txn].touched.push(place);
        }
        self.partition(to.0, to.1).log.push(Entry { txn: Some(txn), ..entry });
        Ok(())
    }

    /// Adds offsets to the open transaction.
    pub fn add_offsets(&mut self, now: Instant, id: &str, epoch: u32, offsets: &[NextOffset]) -> Result<(), Stale> {
        if self.ids[id].epoch != epoch {
            return Err(Stale);
        }
        let number = self.txns.len();
        let txn = self.ids.get_mut(id).expect("known").open.get_or_insert((number, Some(now))).0;
        if txn == number {
            self.txns.push(Txn::default());
        }
        self.txns[txn].offsets = offsets.to_vec();
        Ok(())
    }

    /// Decides the open transaction; the markers follow.
    pub fn end(&mut self, id: &str, epoch: u32, commit: bool) -> Result<(), Stale> {
        let state = self.ids.get_mut(id).expect("known");
        if state.epoch != epoch {
            return Err(Stale);
        }
        if let Some((txn, _)) = state.open.take() {
            state.ending = Some((txn, commit, self.txns[txn].touched.clone()));
            if self.txns[txn].touched.is_empty() {
                self.finish(id);
            }
        }
        Ok(())
    }

    /// A request to end what is open, which arrives later (and then meets whatever is open under that epoch).
    pub fn end_later(&mut self, at: Instant, id: &str, epoch: u32, commit: bool) {
        self.late.push(Late { at, id: id.to_string(), epoch, commit });
    }

    pub fn deliver_late(&mut self, now: Instant, chance: &mut Chance) {
        if !self.late.is_empty() {
            let one = chance.below(self.late.len());
            if self.late[one].at <= now {
                let Late { id, epoch, commit, .. } = self.late.swap_remove(one);
                // A stale one is refused, and nobody listens.
                let _ = self.end(&id, epoch, commit);
            }
        }
        // What stayed open for too long is aborted, and its producer fenced.
        let old = |state: &Id| state.open.is_some_and(|(_, since)| since.is_some_and(|s| now - s > TRANSACTION));
        let old: Vec<String> = self.ids.iter().filter(|(_, s)| old(s)).map(|(id, _)| id.clone()).collect();
        for id in old {
            self.init(&id);
        }
    }

    /// Writes one marker of a transaction that is decided.
    pub fn write_marker(&mut self, chance: &mut Chance) {
        let ending: Vec<String> =
            self.ids.iter().filter(|(_, s)| s.ending.is_some()).map(|(id, _)| id.clone()).collect();
        if !ending.is_empty() {
            self.write_one_marker(chance.pick(&ending).as_str(), chance.next() as usize);
        }
    }

    fn write_one_marker(&mut self, id: &str, which: usize) {
        let Some(state) = self.ids.get_mut(id) else { return };
        let Some((txn, commit, left)) = state.ending.as_mut() else { return };
        let (txn, commit) = (*txn, *commit);
        if !left.is_empty() {
            let (topic, partition) = left.swap_remove(which % left.len());
            let partition = self.partition(&topic, partition);
            partition.resolved.insert(txn, commit);
            partition.log.push(Entry { txn: Some(txn), marker: true, ..Entry::default() });
            return;
        }
        state.ending = None;
        if commit {
            for offset in self.txns[txn].offsets.clone() {
                self.group.offsets.insert((offset.topic, offset.partition), offset.offset);
            }
        }
    }

    fn finish(&mut self, id: &str) {
        while self.ids.get(id).is_some_and(|state| state.ending.is_some()) {
            self.write_one_marker(id, 0);
        }
    }

    /// All that is decided is written (the faults are over).
    pub fn settle(&mut self) {
        let ids: Vec<String> = self.ids.keys().cloned().collect();
        ids.iter().for_each(|id| self.finish(id));
    }
}

/// What a member hears from its group, in order.
#[derive(Debug)]
enum Notice {
    Assign(Vec<u32>, u64),
    Revoke(u32),
}

#[derive(Debug)]
struct Member {
    id: u64,
    me: Me,
    /// The generation that it knows.
    generation: u64,
    notices: VecDeque<Notice>,
    holdings: Arc<Holdings>,
}

/// A group that hands out lanes.
#[derive(Debug, Default)]
pub struct Group {
    pub lanes: u32,
    /// Members have names: a restart within the session takes its lanes back at once.
    pub named: bool,
    generation: u64,
    members: Vec<Member>,
    owner: BTreeMap<u32, u64>,
    /// A lane that its owner is to give up.
    moving: Option<(u32, u64)>,
    next_id: u64,
    pub offsets: BTreeMap<(String, i32), u64>,
    pub rebalances: u64,
}

impl Group {
    pub fn join(&mut self, me: Me, holdings: &Arc<Holdings>) {
        self.next_id += 1;
        let id = self.next_id;
        let (generation, holdings) = (self.generation, holdings.clone());
        if self.named
            && let Some(member) = self.members.iter_mut().find(|m| m.me.daemon == me.daemon)
        {
            let former = std::mem::replace(&mut member.id, id);
            let lanes: Vec<u32> = self.owner.iter().filter(|(_, o)| **o == former).map(|(lane, _)| *lane).collect();
            self.owner.values_mut().filter(|owner| **owner == former).for_each(|owner| *owner = id);
            // What it was to give up, it gave up by dying.
            self.moving = self.moving.filter(|(_, from)| *from != former);
            let notices = VecDeque::from([Notice::Assign(lanes, generation)]);
            *member = Member { id, me, generation, notices, holdings };
            return;
        }
        self.members.push(Member { id, me, generation: 0, notices: VecDeque::new(), holdings });
        self.new_generation();
    }

    /// Who a process is in the group: member and generation, as it knows them.
    pub fn standing(&self, me: Me) -> Option<(u64, u64)> {
        self.members.iter().find(|m| m.me == me).map(|m| (m.id, m.generation))
    }

    pub fn accepts(&self, (id, generation): (u64, u64)) -> bool {
        generation == self.generation && self.members.iter().any(|m| m.id == id)
    }

    fn new_generation(&mut self) {
        self.generation += 1;
        self.rebalances += 1;
        let generation = self.generation;
        self.members.iter_mut().for_each(|m| m.notices.push_back(Notice::Assign(Vec::new(), generation)));
    }

    fn held(&self, id: u64) -> usize {
        self.owner.values().filter(|owner| **owner == id).count()
    }

    fn remove(&mut self, at: usize) {
        let member = self.members.remove(at);
        self.owner.retain(|_, owner| *owner != member.id);
        self.moving = self.moving.filter(|(_, from)| *from != member.id);
        self.new_generation();
    }

    /// A lane is to move, as after a change of the membership.
    pub fn shake(&mut self, chance: &mut Chance) {
        if self.moving.is_none() && self.members.len() > 1 && !self.owner.is_empty() {
            let lane = chance.below(self.owner.len()) as u32;
            self.ask_for(lane);
        }
    }

    fn ask_for(&mut self, lane: u32) {
        let Some(&owner) = self.owner.get(&lane) else { return };
        self.moving = Some((lane, owner));
        if let Some(member) = self.members.iter_mut().find(|m| m.id == owner) {
            member.notices.push_back(Notice::Revoke(lane));
        }
    }

    fn balance(&mut self, chance: &mut Chance) {
        let Some(fewest) = self.members.iter().map(|m| self.held(m.id)).min() else { return };
        let last = self.moving.take_if(|(lane, _)| !self.owner.contains_key(lane));
        for lane in (0..self.lanes).filter(|lane| !self.owner.contains_key(lane)).collect::<Vec<_>>() {
            let mut best: Vec<u64> = self.members.iter().filter(|m| self.held(m.id) == fewest).map(|m| m.id).collect();
            best.retain(|id| best_other(last, lane) != Some(*id) || self.members.len() == 1);
            let Some(id) = best.get(chance.below(best.len())).copied() else { continue };
            self.owner.insert(lane, id);
            self.new_generation();
            let member = self.members.iter_mut().find(|m| m.id == id).expect("chosen");
            let Some(Notice::Assign(lanes, _)) = member.notices.back_mut() else { continue };
            lanes.push(lane);
            return;
        }
        let most = self.members.iter().map(|m| (self.held(m.id), m.id)).max().expect("members");
        if self.moving.is_none() && most.0 >= fewest + 2 {
            let lane = self.owner.iter().find(|(_, owner)| **owner == most.1).map(|(lane, _)| *lane);
            lane.into_iter().for_each(|lane| self.ask_for(lane));
        }
    }
}

/// The member that has just given a lane up.
fn best_other(last: Option<(u32, u64)>, lane: u32) -> Option<u64> {
    last.filter(|(moved, _)| *moved == lane).map(|(_, from)| from)
}

impl World {
    fn is_gone(&self, member: &Member, now: Instant) -> bool {
        let process = &self.processes[member.me.daemon];
        if !process.alive || process.life != member.me.life {
            return process.life != member.me.life || process.died_at.is_some_and(|at| now - at > SESSION);
        }
        process.cut_since.is_some_and(|since| now - since > SESSION)
    }

    /// One thing that the group does.
    pub fn group_step(&mut self) {
        let now = self.clock.now();
        if self.broker.is_away(now) {
            return;
        }
        let gone = (0..self.broker.group.members.len()).find(|m| self.is_gone(&self.broker.group.members[*m], now));
        if let Some(gone) = gone {
            let who = self.broker.group.members[gone].me.daemon;
            self.tell(|| format!("group: {} is not heard of any more", name(who)));
            self.broker.group.remove(gone);
            return;
        }
        if self.chance.one_in(2) {
            let World { broker, chance, .. } = self;
            broker.group.balance(chance);
            return;
        }
        let reached = |m: &Member| {
            let process = &self.processes[m.me.daemon];
            process.alive && process.life == m.me.life && process.cut_since.is_none() && !m.notices.is_empty()
        };
        let members: Vec<usize> =
            (0..self.broker.group.members.len()).filter(|m| reached(&self.broker.group.members[*m])).collect();
        if members.is_empty() {
            return;
        }
        let at = *self.chance.pick(&members);
        let group = &mut self.broker.group;
        let member = &mut group.members[at];
        let (who, told) = (member.me.daemon, member.notices.pop_front().expect("not empty"));
        match &told {
            Notice::Assign(lanes, generation) => {
                member.generation = *generation;
                member.holdings.assigned(lanes);
            }
            Notice::Revoke(lane) => {
                member.holdings.revoked(&[*lane], false);
                group.owner.remove(lane);
                group.new_generation();
            }
        }
        self.counts.rebalances = self.broker.group.rebalances;
        self.tell(|| format!("group: {} hears {told:?}", name(who)));
    }

    /// The group hears of a daemon again; one that it had given up joins anew.
    pub fn heal(&mut self, daemon: usize, holdings: Option<&Arc<Holdings>>) {
        self.processes[daemon].cut_since = None;
        let me = Me { daemon, life: self.processes[daemon].life };
        let Some(holdings) = holdings else { return };
        if self.processes[daemon].alive && self.broker.group.standing(me).is_none() {
            self.tell(|| format!("{} had been given up by its group", name(daemon)));
            holdings.revoked(&holdings.lanes(), true);
            self.broker.group.join(me, holdings);
        }
    }
}
