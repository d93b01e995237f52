//! The near end of a lane: blocks come from a source on the worker's own thread, from one on a thread
//! of its own behind a ring, or from the connections that the worker also answers.

use crate::batch::{Block, Outbox, now_ns};
use crate::error::{Fault, Result};
use crate::queue::{self, Received};
use crate::sink::InputNames;
use crate::source::socket::SocketSource;
use crate::source::{Polled, Source};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

/// Blocks that may wait in front of the worker.
const BLOCKS_MAX: usize = 4;
/// How long a source waits before it looks up.
const LOOK_UP: Duration = Duration::from_millis(20);

/// Events known to wait, by input.
type Lag = Vec<(String, Option<u64>)>;

/// A block with the names of its inputs.
pub struct Delivered {
    block: Block,
    names: Arc<InputNames>,
}

/// Where a lane's blocks come from.
pub enum Intake {
    /// A source on the worker's thread.
    Inline(Box<dyn Source>),
    /// Connections that the worker answers.
    Answering(Box<SocketSource>),
    /// A source on a thread of its own.
    Threaded(Threaded),
}

/// The worker's side of a source on a thread of its own.
pub struct Threaded {
    blocks: queue::Receiver<Delivered>,
    /// `None` once the intake was stopped.
    back: Option<queue::Sender<Block>>,
    thread: Option<JoinHandle<Result<()>>>,
    stop: Arc<AtomicBool>,
    paused: Arc<AtomicBool>,
    lag: Arc<arc_swap::ArcSwap<Lag>>,
}

/// Keeps `names` up to date with the inputs that a block speaks of, and stamps the block. Numbers are
/// given out in order; those of closed connections are given out again, with another name.
fn receive(source: &dyn Source, block: &mut Block, names: &mut Arc<InputNames>) {
    if block.read_at_ns == 0 {
        block.read_at_ns = now_ns();
    }
    let mut last = u32::MAX;
    for record in block.records.iter().filter(|r| std::mem::replace(&mut last, r.input) != r.input) {
        let input = record.input as usize;
        if input >= names.len() {
            let names = Arc::make_mut(names);
            for number in names.len()..=input {
                names.push(Arc::from(source.input_name(number as u32)));
            }
        } else if !source.replayable() && *names[input] != *source.input_name(record.input) {
            Arc::make_mut(names)[input] = Arc::from(source.input_name(record.input));
        }
    }
}

impl Intake {
    /// Moves a started source to a thread of its own.
    ///
    /// # Errors
    /// Environment, where no thread can be started.
    pub fn threaded(mut source: Box<dyn Source>, name: String) -> Result<Intake> {
        let (mut to, blocks) = queue::ring::<Delivered>(BLOCKS_MAX);
        let (mut back, mut empty) = queue::ring::<Block>(BLOCKS_MAX + 2);
        for _ in 0..BLOCKS_MAX + 1 {
            back.send(Block::default()).map_err(|_| Fault::internal("a new ring has room"))?;
        }
        let (stop, paused) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let lag = Arc::new(arc_swap::ArcSwap::default());
        let (stop_seen, paused_seen, lag_seen) = (stop.clone(), paused.clone(), lag.clone());
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            let (mut names, mut was_paused) = (Arc::new(InputNames::new()), false);
            let mut block = Block::default();
            while !stop_seen.load(Relaxed) {
                if paused_seen.load(Relaxed) != was_paused {
                    was_paused = !was_paused;
                    source.pause(was_paused);
                }
                match source.poll(&mut block, LOOK_UP)? {
                    Polled::Filled => {
                        receive(source.as_ref(), &mut block, &mut names);
                        if to.send(Delivered { block, names: names.clone() }).is_err() {
                            return Ok(());
                        }
                        block = loop {
                            match empty.receive(Duration::from_millis(100)) {
                                Received::Item(block) => break block,
                                Received::Empty => {}
                                Received::Closed => return Ok(()),
                            }
                        };
                        block.clear();
                    }
                    Polled::Idle => lag_seen.store(Arc::new(source.lag())),
                    Polled::End => return Ok(()),
                }
            }
            Ok(())
        });
        let thread = Some(thread.map_err(|e| Fault::io("start the source's thread", &e))?);
        Ok(Intake::Threaded(Threaded { blocks, back: Some(back), thread, stop, paused, lag }))
    }

    /// The next block, waiting at most `wait` for it; `names` follows the inputs.
    ///
    /// # Errors
    /// The source's fault.
    pub fn next(&mut self, block: &mut Block, names: &mut Arc<InputNames>, wait: Duration) -> Result<Polled> {
        match self {
            Intake::Inline(source) => {
                block.clear();
                let polled = source.poll(block, wait.min(LOOK_UP))?;
                receive(source.as_ref(), block, names);
                Ok(polled)
            }
            Intake::Answering(source) => {
                block.clear();
                let polled = source.poll(block, wait.min(LOOK_UP))?;
                receive(source.as_ref(), block, names);
                Ok(polled)
            }
            Intake::Threaded(threaded) => threaded.next(block, names, wait),
        }
    }

    /// Answers the connections; nothing to do for other sources.
    pub fn answer(&mut self, outbox: &Outbox) {
        if let Intake::Answering(source) = self {
            source.answer(outbox);
        }
    }

    /// Sends what is still unsent to the connections, for at most `wait`.
    pub fn finish(&mut self, wait: Duration) -> Result<()> {
        if let Intake::Answering(source) = self {
            let left = source.send_all(wait)?;
            if left > 0 {
                tracing::warn!("{left} bytes of answers were not taken by their clients");
            }
        }
        Ok(())
    }

    /// Stops or goes on taking events.
    pub fn pause(&mut self, paused: bool) {
        match self {
            Intake::Inline(source) => source.pause(paused),
            Intake::Answering(source) => source.pause(paused),
            Intake::Threaded(threaded) => threaded.paused.store(paused, Relaxed),
        }
    }

    /// Events known to wait, by input.
    pub fn lag(&mut self) -> Lag {
        match self {
            Intake::Inline(source) => source.lag(),
            Intake::Answering(source) => source.lag(),
            Intake::Threaded(threaded) => threaded.lag.load().as_ref().clone(),
        }
    }
}

impl Threaded {
    fn next(&mut self, block: &mut Block, names: &mut Arc<InputNames>, wait: Duration) -> Result<Polled> {
        match self.blocks.receive(wait) {
            Received::Item(delivered) => {
                let used = std::mem::replace(block, delivered.block);
                *names = delivered.names;
                if let Some(back) = &mut self.back {
                    // A source that has ended needs no empty blocks.
                    let _ = back.send(used);
                }
                Ok(Polled::Filled)
            }
            Received::Empty => Ok(Polled::Idle),
            Received::Closed => match self.thread.take().map(JoinHandle::join) {
                Some(Ok(Err(fault))) => Err(fault),
                Some(Err(_)) => Err(Fault::internal("the source's thread panicked")),
                _ => Ok(Polled::End),
            },
        }
    }
}

impl Drop for Threaded {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        self.back = None;
        // What waits in the ring was not taken: it is read again after the restart.
        while let Received::Item(_) = self.blocks.receive(Duration::ZERO) {}
        if let Some(thread) = self.thread.take()
            && let Ok(Err(fault)) = {
                while !thread.is_finished() {
                    while let Received::Item(_) = self.blocks.receive(Duration::from_millis(1)) {}
                }
                thread.join()
            }
        {
            tracing::debug!("the source ended after the stop: {fault}");
        }
    }
}
