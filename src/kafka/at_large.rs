//! Whether an end of a transaction may still be on its way to the broker.
//!
//! The library asks again by itself when an EndTxn was not answered, and reports success once the second is. The
//! first may reach the broker later, in the midst of the next transaction, and would commit (or abort) the half
//! of it that is there: both carry the same epoch. A producer that is made anew has a higher epoch, which turns the
//! late one away. That the library asked twice can be heard only from its log (`debug = eos`), which comes through
//! the client's event queue: it is served before anything is judged.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

/// The client's own debug context that tells of each EndTxn.
pub(crate) const DEBUG_CONTEXT: &str = "eos";

/// What was heard of the ends of the transaction that is open.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    answered: AtomicU32,
    lost: AtomicU32,
}

impl Ends {
    /// A transaction begins.
    pub fn begin(&self) {
        self.answered.store(0, SeqCst);
        self.lost.store(0, SeqCst);
    }

    /// Takes note of a line of the library's log.
    pub fn hear(&self, facility: &str, line: &str) {
        if facility != "ENDTXN" {
            return;
        }
        // Codes that begin so are the client's own: a time-out, a broken connection. The others were answers.
        let lost = line.split_once("EndTxn returned ").is_none_or(|(_, code)| code.starts_with('_'));
        let count = if lost { &self.lost } else { &self.answered };
        count.fetch_add(1, SeqCst);
    }

    /// True where an EndTxn was answered.
    pub fn any_answered(&self) -> bool {
        self.answered.load(SeqCst) > 0
    }

    /// True where an EndTxn was not answered.
    pub fn any_lost(&self) -> bool {
        self.lost.load(SeqCst) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_for_good_where_each_was_answered() {
        let ends = Ends::default();
        assert!(!ends.any_answered() && !ends.any_lost(), "nothing was heard");
        ends.hear("TXNSTATE", "[thrd:app]: Transaction state change Ready -> InTransaction");
        ends.hear("ENDTXN", "[thrd:main]: EndTxn returned CONCURRENT_TRANSACTIONS in state X (may_retry=true)");
        ends.hear("ENDTXN", "[thrd:main]: EndTxn returned NO_ERROR in state CommittingTransaction (may_retry=true)");
        assert!(ends.any_answered() && !ends.any_lost());
        for lost in ["EndTxn returned _TIMED_OUT in state X", "EndTxn returned _TRANSPORT in state X", "other words"] {
            ends.begin();
            ends.hear("ENDTXN", lost);
            ends.hear("ENDTXN", "EndTxn returned NO_ERROR in state X");
            assert!(ends.any_answered() && ends.any_lost(), "{lost}");
        }
    }
}
