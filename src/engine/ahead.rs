//! Decoding ahead: the next block becomes batches on a thread of its own while the worker scores and learns the one
//! before. Batches come back in order, by the decoder that saw every earlier block, so nothing depends on it but
//! the time. One block at most is ahead: a source may rely on that (a socket gives numbers out again behind it).

use crate::batch::{Batch, Block};
use crate::decode::Decoder;
use crate::error::{Fault, Result};
use crate::queue::{self, Received};
use crate::sink::InputNames;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// A smaller block is decoded where it is taken: handing it over would cost more than is won.
const BLOCK_BYTES_MIN: usize = 32 << 10;
/// How long one look for the decoded block may wait.
const LOOK: Duration = Duration::from_secs(1);

/// A block and what it holds.
#[derive(Default)]
pub struct Decoded {
    /// The bytes.
    pub block: Block,
    /// The names of its inputs.
    pub names: Arc<InputNames>,
    batches: Vec<Batch>,
    used: usize,
}

impl Decoded {
    /// Its events, in order.
    pub fn parts(&mut self) -> (&Block, &mut [Batch]) {
        (&self.block, &mut self.batches[..self.used])
    }

    fn decode(&mut self, decoder: &mut Decoder, like: &Batch, batch_events_max: usize) {
        self.used = 0;
        let mut cursor = Default::default();
        loop {
            if self.batches.len() == self.used {
                self.batches.push(Batch::new(like.number_stride, like.token_stride));
            }
            let batch = &mut self.batches[self.used];
            batch.clear();
            if !decoder.fill(&self.block, &mut cursor, batch, batch_events_max) {
                return;
            }
            self.used += 1;
        }
    }
}

/// The worker's side of the thread.
pub struct Ahead {
    to: Option<queue::Sender<(Decoded, Decoder)>>,
    back: queue::Receiver<(Decoded, Decoder)>,
    thread: Option<JoinHandle<()>>,
    under_way: bool,
    spare: Vec<Decoded>,
}

impl Ahead {
    /// Starts the thread. Batches are `like` the given one and hold up to `batch_events_max` events.
    ///
    /// # Errors
    /// Environment, where no thread can be started.
    pub fn start(like: &Batch, batch_events_max: usize, name: String) -> Result<Ahead> {
        let (to, mut jobs) = queue::ring::<(Decoded, Decoder)>(1);
        let (mut done, back) = queue::ring::<(Decoded, Decoder)>(1);
        let like = Batch::new(like.number_stride, like.token_stride);
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            loop {
                match jobs.receive(LOOK) {
                    Received::Item((mut decoded, mut decoder)) => {
                        decoded.decode(&mut decoder, &like, batch_events_max);
                        if done.send((decoded, decoder)).is_err() {
                            return;
                        }
                    }
                    Received::Empty => {}
                    Received::Closed => return,
                }
            }
        });
        let thread = Some(thread.map_err(|e| Fault::io("start the decoding thread", &e))?);
        let spare = vec![Decoded::default(), Decoded::default()];
        Ok(Ahead { to: Some(to), back, thread, under_way: false, spare })
    }

    /// True where the block is large enough to be handed over.
    pub fn is_worth(block: &Block) -> bool {
        block.bytes.len() >= BLOCK_BYTES_MIN
    }

    /// True where a block is ahead.
    pub fn under_way(&self) -> bool {
        self.under_way
    }

    /// Hands over a block (which is exchanged for a used one) and the decoder. None may be under way.
    ///
    /// # Errors
    /// Internal, where the thread has ended.
    pub fn submit(&mut self, block: &mut Block, names: &Arc<InputNames>, decoder: Decoder) -> Result<()> {
        debug_assert!(!self.under_way);
        let mut job = self.spare.pop().unwrap_or_default();
        std::mem::swap(&mut job.block, block);
        job.names.clone_from(names);
        let sent = self.to.as_mut().is_some_and(|to| to.send((job, decoder)).is_ok());
        self.under_way = sent;
        if sent { Ok(()) } else { Err(ended()) }
    }

    /// Waits for the block that is ahead; the decoder comes back with it. `None` where none is.
    ///
    /// # Errors
    /// Internal, where the thread has ended.
    pub fn wait(&mut self) -> Result<Option<(Decoded, Decoder)>> {
        while std::mem::take(&mut self.under_way) {
            match self.back.receive(LOOK) {
                Received::Item(item) => return Ok(Some(item)),
                Received::Empty => self.under_way = true,
                Received::Closed => return Err(ended()),
            }
        }
        Ok(None)
    }

    /// Gives back what was taken, so that its memory is used again.
    pub fn recycle(&mut self, decoded: Decoded) {
        self.spare.push(decoded);
    }
}

fn ended() -> Fault {
    Fault::internal("the decoding thread panicked")
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.to = None;
        if let Some(thread) = self.thread.take() {
            // A panic was told by the thread itself.
            let _ = thread.join();
        }
    }
}
