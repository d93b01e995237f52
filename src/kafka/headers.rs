//! The headers of a message as one run of bytes: what a Kafka source leaves in a block, and what a Kafka sink reads back
//! for a dead letter. It is the form in which a record batch holds them, without their number before them, so that the
//! direct client points at what it received.

pub use super::direct::batch::{headers as iter, push_header as push};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_reads_back_as_it_was_written() {
        let mut run = Vec::new();
        push(&mut run, b"trace", Some(b"1"));
        push(&mut run, b"none", None);
        push(&mut run, b"trace", Some(b""));
        let read: Vec<_> = iter(&run).collect();
        assert_eq!(read, vec![(&b"trace"[..], Some(&b"1"[..])), (b"none", None), (b"trace", Some(b""))]);
    }

    #[test]
    fn a_run_that_is_cut_off_ends_early() {
        let mut run = Vec::new();
        push(&mut run, b"a", Some(b"1"));
        let whole = run.len();
        push(&mut run, b"b", Some(b"22"));
        for cut in whole..run.len() {
            assert_eq!(iter(&run[..cut]).count(), 1, "cut at {cut}");
        }
    }
}
