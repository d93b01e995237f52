//! A proxy between Kafka clients and a broker that knows the protocol's frames: a test says which requests or
//! answers are late, lost or cut, at run time.
//!
//! The broker has a listener of its own behind each proxy, and advertises the proxy's address there, so that
//! clients never learn of another way. One thread a connection and direction; what is delayed holds up what comes
//! behind it on its connection, as a network would. A request that is late is delivered even if its client
//! has hung up meanwhile.

use super::broker::Broker;
use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a test waits for a rule to be met.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long the broker's answers are waited for after a client has hung up.
const AFTERMATH: Duration = Duration::from_secs(3);

/// Longer than any test.
const FOREVER: Duration = Duration::from_secs(86_400);

/// The longest frame that is believed.
const FRAME_BYTES_MAX: usize = 256 << 20;

/// A request's kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i16)]
pub enum Api {
    Produce = 0,
    Fetch = 1,
    Metadata = 3,
    FindCoordinator = 10,
    JoinGroup = 11,
    Heartbeat = 12,
    SyncGroup = 14,
    InitProducerId = 22,
    AddPartitionsToTxn = 24,
    AddOffsetsToTxn = 25,
    EndTxn = 26,
    TxnOffsetCommit = 28,
}

/// What happens to a request that meets a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Nothing: it is only counted.
    Watch,
    /// The request reaches the broker late.
    DelayRequest(Duration),
    /// The request reaches the broker once it is released.
    HoldRequest,
    /// The request never reaches the broker; the connection stays.
    LoseRequest,
    /// The connection is cut, the request lost.
    CutBefore,
    /// The connection is cut in the middle of the request.
    CutInRequest,
    /// The answer comes late.
    DelayAnswer(Duration),
    /// The answer comes once it is released.
    HoldAnswer,
    /// The answer never comes; the connection stays.
    LoseAnswer,
    /// The connection is cut after the broker has answered, the answer lost.
    CutAfter,
    /// The connection is cut in the middle of the answer.
    CutInAnswer,
}

/// How the broker can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// As it should.
    Open,
    /// Connections are cut, and new ones end at once.
    Cut,
    /// Connections stay, and nothing passes.
    Silent,
}

/// A rule that is in force: for requests of one kind, passing over the first `skip`, for the next `times`.
pub struct Rule {
    api: Api,
    act: Act,
    skip: u64,
    times: u64,
    seen: AtomicU64,
    met: AtomicU64,
    answered: AtomicU64,
    released: AtomicBool,
    shared: Arc<Shared>,
}

impl Rule {
    /// How many requests have met it so far.
    pub fn met(&self) -> u64 {
        self.met.load(SeqCst)
    }

    /// Waits until a request has met it.
    pub fn wait_met(&self) {
        self.wait_until("came", || self.met() > 0);
    }

    /// Waits until the broker has answered a request that met it.
    pub fn wait_answered(&self) {
        self.wait_until("was answered", || self.answered.load(SeqCst) > 0);
    }

    fn wait_until(&self, what: &str, done: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done() {
            assert!(Instant::now() < deadline, "no {:?} {what} that meets {:?}", self.api, self.act);
            self.shared.while_holds(Duration::from_millis(20), |_| !done());
        }
    }

    /// Lets go what it holds, and no longer holds anything.
    pub fn release(&self) {
        self.released.store(true, SeqCst);
        self.shared.changed.notify_all();
    }

    /// It meets nothing more, and lets go what it holds.
    pub fn end(&self) {
        self.shared.lock().rules.retain(|rule| !std::ptr::eq(Arc::as_ptr(rule), self));
        self.release();
    }

    /// Whether this request is the one.
    fn meets(&self, api: i16) -> bool {
        if self.api as i16 != api {
            return false;
        }
        let number = self.seen.fetch_add(1, SeqCst);
        let meets = number >= self.skip && number - self.skip < self.times;
        self.met.fetch_add(meets.into(), SeqCst);
        meets
    }
}

struct State {
    rules: Vec<Arc<Rule>>,
    reach: Reach,
    bytes_per_second: Option<u64>,
    seen: BTreeMap<i16, u64>,
    sockets: Vec<TcpStream>,
    ended: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, wait: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Waits while `holds`, or until the proxy ends.
    fn while_holds(&self, wait: Duration, holds: impl Fn(&State) -> bool) {
        let deadline = Instant::now() + wait;
        let mut state = self.lock();
        while !state.ended && holds(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.wait(state, left);
        }
    }

    fn pause(&self, wait: Duration) {
        self.while_holds(wait, |_| true);
    }

    fn hold(&self, rule: &Rule) {
        self.while_holds(FOREVER, |_| !rule.released.load(SeqCst));
    }

    /// The rule that a request meets.
    fn meet(&self, api: i16) -> Option<Arc<Rule>> {
        let mut state = self.lock();
        *state.seen.entry(api).or_default() += 1;
        let rule = state.rules.iter().find(|rule| rule.meets(api)).cloned();
        if rule.is_some() {
            self.changed.notify_all();
        }
        rule
    }

    /// Writes what may pass, at the speed of the link.
    fn write(&self, to: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
        self.while_holds(FOREVER, |state| state.reach == Reach::Silent);
        let mut left = bytes;
        while !left.is_empty() {
            let rate = self.lock().bytes_per_second;
            let Some(rate) = rate else { return to.write_all(left) };
            let (now, later) = left.split_at((rate as usize / 50).clamp(1, left.len()));
            to.write_all(now)?;
            self.pause(Duration::from_secs_f64(now.len() as f64 / rate as f64));
            left = later;
        }
        Ok(())
    }
}

/// A broker that can be reached directly, and through each of these proxies.
pub fn broker_behind(proxies: &[&Proxy]) -> Broker {
    broker_with(proxies, &[])
}

/// The same in version 1 of the transactions' protocol, as brokers before 4 have it.
pub fn older_broker_behind(proxies: &[&Proxy]) -> Broker {
    broker_with(proxies, &["--feature".into(), "transaction.version=1".into()])
}

fn broker_with(proxies: &[&Proxy], format: &[String]) -> Broker {
    let own: Vec<u16> = proxies.iter().map(|_| super::free_port()).collect();
    let ways = |_: &Path, usual: String| {
        let mut names = String::from("listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT");
        let (mut listeners, mut advertised, mut more) = (String::new(), String::new(), String::new());
        for (number, (proxy, own)) in proxies.iter().zip(&own).enumerate() {
            names.push_str(&format!(",WAY{number}:PLAINTEXT"));
            listeners.push_str(&format!("WAY{number}://127.0.0.1:{own},"));
            advertised.push_str(&format!("WAY{number}://{},", proxy.address()));
            more.push_str(&format!("listener.name.way{number}.num.network.threads=1\n"));
        }
        let usual = usual.replace("\nlisteners=", &format!("\nlisteners={listeners}"));
        let usual = usual.replace("advertised.listeners=", &format!("advertised.listeners={advertised}"));
        // Transactions that nobody ends are looked for often.
        let often = "transaction.abort.timed.out.transaction.cleanup.interval.ms=1000";
        format!("{usual}{names}\ninter.broker.listener.name=PLAINTEXT\n{often}\n{more}")
    };
    let broker = Broker::with(ways, format);
    proxies.iter().zip(own).for_each(|(proxy, port)| proxy.stand_before(port));
    broker
}

/// A proxy on a port of its own. Everything ends with this value.
pub struct Proxy {
    shared: Arc<Shared>,
    port: u16,
    acceptor: Option<JoinHandle<()>>,
    /// The broker's listener behind this.
    behind: Arc<Mutex<Option<SocketAddr>>>,
}

impl Proxy {
    /// A proxy that listens; connections end at once until it stands before a broker.
    pub fn new() -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("a port").port();
        let state = State {
            rules: Vec::new(),
            reach: Reach::Open,
            bytes_per_second: None,
            seen: BTreeMap::new(),
            sockets: Vec::new(),
            ended: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let behind = Arc::new(Mutex::new(None));
        let (of_acceptor, target) = (shared.clone(), behind.clone());
        let acceptor = std::thread::spawn(move || accept(&listener, &of_acceptor, &target));
        Proxy { shared, port, acceptor: Some(acceptor), behind }
    }

    /// Forwards to this port of 127.0.0.1 from now on.
    pub fn stand_before(&self, port: u16) {
        *self.behind.lock().unwrap() = Some(SocketAddr::from(([127, 0, 0, 1], port)));
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Puts a rule in force: the first `skip` requests of the kind pass, the next `times` meet it.
    pub fn rule(&self, api: Api, skip: u64, times: u64, act: Act) -> Arc<Rule> {
        let ((seen, met, answered), released) = (Default::default(), AtomicBool::new(false));
        let shared = self.shared.clone();
        let rule = Arc::new(Rule { api, act, skip, times, seen, met, answered, released, shared });
        self.shared.lock().rules.push(rule.clone());
        rule
    }

    /// The next request of the kind meets this.
    pub fn next(&self, api: Api, act: Act) -> Arc<Rule> {
        self.rule(api, 0, 1, act)
    }

    /// Takes all rules out of force, and lets go what they hold.
    pub fn clear(&self) {
        let rules = std::mem::take(&mut self.shared.lock().rules);
        rules.iter().for_each(|rule| rule.release());
    }

    /// How many requests of the kind came so far.
    pub fn seen(&self, api: Api) -> u64 {
        self.shared.lock().seen.get(&(api as i16)).copied().unwrap_or(0)
    }

    /// How the broker can be reached from now on.
    pub fn reach(&self, reach: Reach) {
        let mut state = self.shared.lock();
        state.reach = reach;
        if reach == Reach::Cut {
            cut_all(&mut state);
        }
        self.shared.changed.notify_all();
    }

    /// Cuts the connections that there are; new ones are welcome.
    pub fn cut(&self) {
        cut_all(&mut self.shared.lock());
    }

    /// The link's speed in bytes a second, by connection and direction; `None`: as it comes.
    pub fn speed(&self, bytes_per_second: Option<u64>) {
        self.shared.lock().bytes_per_second = bytes_per_second;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.ended = true;
            cut_all(&mut state);
        }
        self.shared.changed.notify_all();
        // Wakes the acceptor.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn cut_all(state: &mut State) {
    for socket in state.sockets.drain(..) {
        // It may have ended by itself.
        let _ = socket.shutdown(Shutdown::Both);
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>, behind: &Mutex<Option<SocketAddr>>) {
    for client in listener.incoming() {
        let Ok(client) = client else { continue };
        if shared.lock().ended {
            return;
        }
        let target = *behind.lock().unwrap();
        if shared.lock().reach == Reach::Cut {
            continue;
        }
        let Some(broker) = target.and_then(|to| TcpStream::connect_timeout(&to, Duration::from_secs(5)).ok()) else {
            continue;
        };
        let _ = (client.set_nodelay(true), broker.set_nodelay(true));
        let both = || Some((client.try_clone().ok()?, broker.try_clone().ok()?));
        let (Some(kept), Some(up), Some(down)) = (both(), both(), both()) else { continue };
        {
            let mut state = shared.lock();
            if state.ended || state.reach == Reach::Cut {
                continue;
            }
            state.sockets.extend([kept.0, kept.1]);
        }
        let pending = Arc::new(Pending::default());
        let (to_broker, to_client) = ((shared.clone(), pending.clone()), (shared.clone(), pending));
        std::thread::spawn(move || requests(&to_broker.0, &to_broker.1, up.0, up.1));
        std::thread::spawn(move || answers(&to_client.0, &to_client.1, down.1, down.0));
    }
}

/// Requests of a connection that the broker has not answered yet, by correlation id, and what their answers meet.
#[derive(Default)]
struct Pending {
    answers: Mutex<HashMap<i32, Option<Arc<Rule>>>>,
    answered: Condvar,
}

/// From the client to the broker.
fn requests(shared: &Shared, pending: &Pending, mut client: TcpStream, mut broker: TcpStream) {
    while let Some(frame) = read_frame(&mut client) {
        let Some((api, correlation)) = head(&frame) else { break };
        let rule = shared.meet(api);
        match rule.as_ref().map(|rule| rule.act) {
            Some(Act::DelayRequest(wait)) => shared.pause(wait),
            Some(Act::HoldRequest) => rule.iter().for_each(|rule| shared.hold(rule)),
            Some(Act::LoseRequest) => continue,
            Some(Act::CutBefore) => break,
            Some(Act::CutInRequest) => {
                let _ = shared.write(&mut broker, &frame[..frame.len() / 2]);
                break;
            }
            // The others are about the answer.
            _ => {}
        }
        pending.answers.lock().unwrap().insert(correlation, rule);
        if shared.write(&mut broker, &frame).is_err() {
            break;
        }
    }
    // What the client has asked for is done, though nobody waits for it.
    let deadline = Instant::now() + AFTERMATH;
    let mut answers = pending.answers.lock().unwrap();
    while !answers.is_empty() && Instant::now() < deadline {
        answers = pending.answered.wait_timeout(answers, Duration::from_millis(50)).unwrap().0;
    }
    drop(answers);
    let _ = (client.shutdown(Shutdown::Both), broker.shutdown(Shutdown::Both));
}

/// From the broker to the client.
fn answers(shared: &Shared, pending: &Pending, mut broker: TcpStream, mut client: TcpStream) {
    while let Some(frame) = read_frame(&mut broker) {
        let correlation = frame.get(4..8).map_or(0, |b| i32::from_be_bytes(b.try_into().expect("four bytes")));
        let rule = pending.answers.lock().unwrap().remove(&correlation).flatten();
        pending.answered.notify_all();
        if let Some(rule) = &rule {
            rule.answered.fetch_add(1, SeqCst);
            shared.changed.notify_all();
        }
        match rule.as_ref().map(|rule| rule.act) {
            Some(Act::DelayAnswer(wait)) => shared.pause(wait),
            Some(Act::HoldAnswer) => rule.iter().for_each(|rule| shared.hold(rule)),
            Some(Act::LoseAnswer) => continue,
            Some(Act::CutAfter) => break,
            Some(Act::CutInAnswer) => {
                let _ = shared.write(&mut client, &frame[..frame.len() / 2]);
                break;
            }
            _ => {}
        }
        // A client that has hung up hears nothing; the broker is read on, so that it does what it was asked for.
        let _ = shared.write(&mut client, &frame);
    }
    let _ = (client.shutdown(Shutdown::Both), broker.shutdown(Shutdown::Both));
}

/// The next frame with its length; `None` where the connection has ended.
fn read_frame(from: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length).ok()?;
    let bytes = usize::try_from(i32::from_be_bytes(length)).ok().filter(|bytes| *bytes <= FRAME_BYTES_MAX)?;
    let mut frame = vec![0; 4 + bytes];
    frame[..4].copy_from_slice(&length);
    from.read_exact(&mut frame[4..]).ok()?;
    Some(frame)
}

/// A request's kind and correlation id.
fn head(frame: &[u8]) -> Option<(i16, i32)> {
    let api = i16::from_be_bytes(frame.get(4..6)?.try_into().ok()?);
    let correlation = i32::from_be_bytes(frame.get(8..12)?.try_into().ok()?);
    Some((api, correlation))
}
