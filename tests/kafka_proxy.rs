//! The story: between the daemon and its broker stands a proxy that loses, delays and cuts what a test picks: an
//! EndTxn whose answer never comes, one that arrives in the middle of a later transaction, a Fetch torn in half,
//! heartbeats that are missed until the group has gone on without the member, each also with kill -9. Whatever it
//! does, the committed output is the oracle's, byte for byte, each event once, and the model is the oracle's.
//!
//! The direct client speaks the newer protocol of transactions, which has fewer requests: some of its tests run
//! against a broker that speaks the older one.
//!
//! `MILLSTREAM_PROXY=long` tries everything with everything; `MILLSTREAM_PROXY_ROUNDS` and `MILLSTREAM_PROXY_SEED`
//! make the random mix longer, and another.

mod support;

use millstream::kafka::ClientKind;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use support::broker::{self, Broker};
use support::daemon::{Daemon, is_fault, until};
use support::events::Random;
use support::proxy::{Act, Api, Proxy, broker_behind, older_broker_behind};
use support::stage::{ANSWER_MS, Stage};

/// A delay that is past the client's patience.
const LATE: Duration = Duration::from_millis(ANSWER_MS + 300);

const AT_LEAST_ONCE: &str = "delivery.guarantee = \"at-least-once\"\n";

/// Tests that need all requests of a transaction.
const OLDER: [usize; 3] = [1, 5, 7];

/// True where a test's broker is the one that speaks the older protocol.
fn is_older(number: usize) -> bool {
    OLDER.contains(&number) && broker::client() == ClientKind::Direct
}

/// Two brokers for all these tests: the second speaks the older protocol.
fn broker(number: usize) -> &'static Broker {
    static ALL: [OnceLock<Broker>; 2] = [const { OnceLock::new() }; 2];
    let ways: Vec<&Proxy> = (0..9).filter(|way| is_older(*way) == is_older(number)).map(way).collect();
    match is_older(number) {
        false => ALL[0].get_or_init(|| broker_behind(&ways)),
        true => ALL[1].get_or_init(|| older_broker_behind(&ways)),
    }
}

/// Each test has a way to its broker of its own.
fn way(number: usize) -> &'static Proxy {
    static ALL: OnceLock<Vec<Proxy>> = OnceLock::new();
    &ALL.get_or_init(|| (0..9).map(|_| Proxy::new()).collect())[number]
}

/// Everything that may happen to a request and its answer.
const ACTS: [Act; 8] = [
    Act::LoseRequest,
    Act::DelayRequest(LATE),
    Act::CutBefore,
    Act::CutInRequest,
    Act::LoseAnswer,
    Act::DelayAnswer(LATE),
    Act::CutAfter,
    Act::CutInAnswer,
];

/// What happens in the short form, or everything.
fn acts(short: &[Act]) -> Vec<Act> {
    let long = std::env::var("MILLSTREAM_PROXY").is_ok_and(|form| form == "long");
    if long { ACTS.to_vec() } else { short.to_vec() }
}

/// One fault after the other, each while events come; after each the daemon goes on by itself.
fn through(name: &str, number: usize, more: &str, faults: &[(Api, &[Act])]) {
    let mut stage = Stage::new(broker(number), way(number), name, more);
    let mut daemon = Some(stage.scene.start(&[]));
    for (api, short) in faults {
        for act in acts(short) {
            stage.meanwhile(&mut daemon, &format!("{api:?} {act:?}"), |stage, _| {
                stage.proxy.next(*api, act).wait_met();
            });
        }
    }
    stage.verdict(daemon.expect("a daemon"));
}

#[test]
fn the_end_of_a_transaction_is_lost_late_or_cut() {
    through("end", 0, "", &[(Api::EndTxn, &ACTS)]);
}

#[test]
fn what_a_transaction_says_before_its_end_is_lost_late_or_cut() {
    let late = [Act::LoseRequest, Act::LoseAnswer, Act::DelayRequest(LATE)];
    through(
        "says",
        1,
        "",
        &[(Api::TxnOffsetCommit, &late), (Api::AddOffsetsToTxn, &late), (Api::AddPartitionsToTxn, &late[1..])],
    );
}

#[test]
fn messages_and_fetches_are_lost_late_or_cut() {
    let produce = [Act::CutInRequest, Act::LoseAnswer, Act::DelayRequest(LATE), Act::CutAfter];
    through("data", 2, "", &[(Api::Produce, &produce), (Api::Fetch, &[Act::CutInAnswer, Act::LoseAnswer])]);
}

#[test]
fn at_least_once_messages_are_lost_late_or_cut() {
    let produce = [Act::CutInRequest, Act::LoseAnswer, Act::DelayRequest(LATE), Act::CutAfter];
    through("least", 3, AT_LEAST_ONCE, &[(Api::Produce, &produce)]);
}

/// The commit of one transaction arrives while the next is open: it must not commit the half that is there.
#[test]
fn an_end_that_arrives_in_the_next_transaction_ends_nothing() {
    let mut stage = Stage::new(broker(4), way(4), "late", "");
    let mut daemon = Some(stage.scene.start(&["--set", "delivery.commit_interval_ms=1500"]));
    stage.meanwhile(&mut daemon, "a late end", |stage, daemon| {
        let late = stage.proxy.next(Api::EndTxn, Act::HoldRequest);
        late.wait_met();
        // The client asks again, and goes on.
        stage.proxy.next(Api::EndTxn, Act::Watch).wait_answered();
        // Predictions of the next transaction are at the broker; their journal record is not yet made.
        stage.proxy.next(Api::Produce, Act::Watch).wait_answered();
        late.release();
        late.wait_answered();
        kill_and_start(stage, daemon);
    });
    stage.verdict(daemon.expect("a daemon"));
}

fn kill_and_start(stage: &Stage, daemon: &mut Option<Daemon>) {
    let said = daemon.take().expect("a daemon").kill();
    // A fence of its own that arrived late looks like a successor's: it is obeyed, and the lane taken again.
    let fault = |line: &str| is_fault(line) && !line.contains("was taken by another daemon");
    assert!(!said.lines().any(fault) && !said.contains("differs"), "{said}");
    *daemon = Some(stage.scene.spawn(&[]));
}

/// Dies while a request of its is on the way; it arrives when the next process is there already, or never.
#[test]
fn killed_while_a_request_is_on_its_way() {
    let mut stage = Stage::new(broker(5), way(5), "held", "");
    let mut daemon = Some(stage.scene.start(&[]));
    let apis = [Api::Produce, Api::AddPartitionsToTxn, Api::AddOffsetsToTxn, Api::TxnOffsetCommit, Api::EndTxn];
    for (number, api) in apis.into_iter().enumerate() {
        let acts = [Act::HoldRequest, Act::HoldAnswer];
        // By turns in the short form.
        for act in acts.into_iter().filter(|act| *act == acts[number % 2] || self::acts(&[]).len() > 2) {
            stage.meanwhile(&mut daemon, &format!("{api:?} {act:?} and a kill"), |stage, daemon| {
                let held = stage.proxy.next(api, act);
                held.wait_met();
                kill_and_start(stage, daemon);
                // The next process fences the last one before it reads; the late request comes before or after.
                if number % 2 == 0 {
                    stage.proxy.next(Api::InitProducerId, Act::Watch).wait_answered();
                }
                held.release();
            });
        }
    }
    stage.verdict(daemon.expect("a daemon"));
}

#[test]
fn the_fence_at_the_start_is_lost_late_or_cut() {
    let mut stage = Stage::new(broker(6), way(6), "fence", "");
    let mut daemon = Some(stage.scene.start(&[]));
    for act in acts(&[Act::LoseRequest, Act::LoseAnswer, Act::DelayRequest(LATE), Act::CutAfter]) {
        stage.meanwhile(&mut daemon, &format!("a kill and InitProducerId {act:?}"), |stage, daemon| {
            let fault = stage.proxy.next(Api::InitProducerId, act);
            kill_and_start(stage, daemon);
            fault.wait_met();
        });
    }
    stage.meanwhile(&mut daemon, "no heartbeats past the session's end", |stage, _| {
        let silence = stage.proxy.rule(Api::Heartbeat, 0, u64::MAX, Act::LoseRequest);
        stage.proxy.next(Api::JoinGroup, Act::Watch).wait_met();
        silence.end();
    });
    stage.verdict(daemon.expect("a daemon"));
}

/// A daemon asks for its lane's transactional id and dies. The request arrives when its successor has a transaction
/// open, and ends that; nobody takes the lane over. The successor loses no more than that transaction.
#[test]
fn a_fence_of_the_dead_arrives_late() {
    let mut stage = Stage::new(broker(8), way(8), "dead", "");
    let mut daemon = Some(stage.scene.start(&[]));
    stage.meanwhile(&mut daemon, "a late fence of the dead", |stage, daemon| {
        let late = stage.proxy.next(Api::InitProducerId, Act::HoldRequest);
        kill_and_start(stage, daemon);
        late.wait_met();
        daemon.take().expect("a daemon").kill();
        *daemon = Some(stage.scene.spawn(&["--set", "delivery.commit_interval_ms=3000"]));
        // Its first transaction is the one that says what its lane found.
        stage.proxy.next(Api::EndTxn, Act::Watch).wait_answered();
        stage.proxy.next(Api::Produce, Act::Watch).wait_answered();
        late.release();
        late.wait_answered();
        let said = until("a word about it", || {
            let said = daemon.as_ref().expect("a daemon").said();
            said.contains("a setback").then_some(said)
        });
        assert!(said.contains("INVALID_PRODUCER_EPOCH") && said.contains("an earlier start of this lane"), "{said}");
        assert!(!said.contains("ERROR") && !said.contains("was taken by another daemon"), "{said}");
    });
    stage.verdict(daemon.expect("a daemon"));
}

/// A fault of any kind at any time, sometimes with a kill, sometimes two at once.
#[test]
fn a_random_mix() {
    let number = |name: &str, usual| std::env::var(name).map_or(usual, |text| text.parse().expect("a number"));
    let (rounds, seed) = (number("MILLSTREAM_PROXY_ROUNDS", 6), number("MILLSTREAM_PROXY_SEED", 4));
    let apis = [
        Api::Produce,
        Api::Fetch,
        Api::Heartbeat,
        Api::AddPartitionsToTxn,
        Api::AddOffsetsToTxn,
        Api::TxnOffsetCommit,
        Api::EndTxn,
        Api::EndTxn,
    ];
    eprintln!("MILLSTREAM_PROXY_SEED={seed}, {rounds} rounds");
    let (mut random, began) = (Random(seed), Instant::now());
    let mut stage = Stage::new(broker(7), way(7), "mix", "");
    let mut daemon = Some(stage.scene.start(&[]));
    for round in 0..rounds {
        let mut pick = || (apis[random.below(apis.len() as u64) as usize], ACTS[random.below(8) as usize]);
        let (first, second) = (pick(), pick());
        let (skip, two, kill) = (random.below(4), random.below(3) == 0, random.below(3) == 0);
        let second = two.then_some(second);
        let what = format!("round {round}: {first:?} after {skip}, {second:?}{}", if kill { ", a kill" } else { "" });
        stage.meanwhile(&mut daemon, &what, |stage, daemon| {
            if let Some((api, act)) = second {
                stage.proxy.next(api, act);
            }
            stage.proxy.rule(first.0, skip, 1, first.1).wait_met();
            if kill {
                kill_and_start(stage, daemon);
            }
        });
    }
    eprintln!("{rounds} rounds in {:.0} s", began.elapsed().as_secs_f64());
    stage.verdict(daemon.expect("a daemon"));
}
