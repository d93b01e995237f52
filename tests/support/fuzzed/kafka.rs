//! Kafka's protocol: record batches, and what brokers answer.

use super::input::Input;
use super::memory;
use millstream::batch::Span;
use millstream::kafka::direct::batch::{HEADER_BYTES, Header, Record, Records, headers};
use millstream::kafka::direct::build::{Builder, Entry, HeaderEntry};
use millstream::kafka::direct::calls::{
    ApiVersions, At, Call, CoordinatorOf, FindCoordinator, ListOffsets, Metadata, OffsetFetch, SaslAuthenticate,
    SaslHandshake,
};
use millstream::kafka::direct::compress::{UNPACKED_BYTES_MAX, unpack};
use millstream::kafka::direct::produce_call::Produce;
use millstream::kafka::direct::txn_calls::{
    AddOffsets, AddPartitions, DescribeTxn, EndTxn, InitProducerId, TxnOffsets,
};
use millstream::kafka::direct::wire::Reader;
use millstream::kafka::direct::{Compression, Fetched, Identity, Membership};

const PACKINGS: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

/// What unpacking may take beside the bytes that come out: windows and blocks of the formats.
const UNPACKING_BYTES_MAX: usize = 16 << 20;

/// A batch. Input: one byte (odd: what follows is a script of records, to be written and read back; 2: the length,
/// magic number and checksum of what follows are mended), its bytes.
///
/// What is written reads back the same, in every compression. What is read lies in the batch, and takes memory by
/// the bytes that came, whatever lengths they announce.
pub fn record_batch(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let choice = input.byte();
    if choice & 1 != 0 {
        return written_is_read(usize::from(choice >> 1) % PACKINGS.len(), input);
    }
    let mut batch = input.rest().to_vec();
    if choice & 2 != 0 && batch.len() >= HEADER_BYTES {
        mend(&mut batch);
    }
    let Ok(Some(header)) = memory::within(1_000, "a header", || Header::peek(&batch)) else { return };
    assert!(header.len <= batch.len());
    let sum = crc32c(&batch[21..header.len]);
    assert_eq!(header.check(&batch).is_ok(), sum == header.crc, "two ways to a checksum");
    let Ok(compression) = header.compression() else { return };
    let (records, from, bytes_max) = match compression {
        Compression::None => (batch, HEADER_BYTES, 1_000),
        packed => {
            let bytes_max = UNPACKING_BYTES_MAX + 3 * UNPACKED_BYTES_MAX;
            let plain = memory::within(bytes_max, "unpacking", || {
                let mut plain = Vec::new();
                unpack(packed, &batch[HEADER_BYTES..header.len], &mut plain).map(|()| plain)
            });
            let Ok(plain) = plain else { return };
            (plain, 0, 1_000)
        }
    };
    let end = if compression == Compression::None { header.len } else { records.len() };
    memory::within(bytes_max, "walking a batch", || {
        let (mut walk, mut count) = (Records::new(&header, from, end), 0);
        while let Ok(Some(record)) = walk.next(&records) {
            lies_within(&record, from, end);
            assert!((header.base_offset..header.next_offset()).contains(&record.offset));
            headers(record.headers.of(&records)).for_each(drop);
            count += 1;
        }
        assert!(count <= header.count);
    });
}

fn lies_within(record: &Record, from: usize, end: usize) {
    let within = |span: Span| from <= span.start as usize && span.start <= span.end && span.end as usize <= end;
    assert!(record.key.is_none_or(within) && record.value.is_none_or(within) && within(record.headers), "{record:?}");
}

/// Sets a batch's length, magic number and checksum right.
fn mend(batch: &mut [u8]) {
    let length = batch.len() as i32 - 12;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[16] = 2;
    let sum = crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&sum.to_be_bytes());
}

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg()))
    })
}

/// Records by a script: each of a key, a value and headers, or none of these.
fn written_is_read(packing: usize, mut input: Input<'_>) {
    type Made<'a> = (Option<&'a [u8]>, Option<&'a [u8]>, i64, Vec<HeaderEntry<'a>>);
    let (mut made, mut builder): (Vec<Made<'_>>, _) = (Vec::new(), Builder::default());
    while !input.is_empty() && made.len() < 100 {
        let choice = input.byte();
        let part = |input: &mut Input<'_>, given: bool| given.then(|| input.below(150));
        let lengths = [part(&mut input, choice & 1 != 0), part(&mut input, choice & 2 != 0)];
        let [key, value] = lengths.map(|length| length.map(|length| input.take(length)));
        let time = if choice & 4 != 0 { input.word() as i64 } else { i64::from(choice) };
        let list: Vec<HeaderEntry<'_>> = (0..choice >> 6)
            .map(|number| {
                let (name, value) = (input.until(0), input.until(0));
                (name, (number != 1).then_some(value))
            })
            .collect();
        made.push((key, value, time, list));
    }
    for (key, value, timestamp, list) in &made {
        builder.push(&Entry { key: *key, value: *value, timestamp: *timestamp, headers: list });
    }
    if made.is_empty() {
        return;
    }
    let compression = PACKINGS[packing];
    let sealed = builder.seal(compression, Identity { id: 3, epoch: 1 }, 9, true).expect("packed").to_vec();
    let header = Header::peek(&sealed).expect("a header").expect("whole");
    header.check(&sealed).expect("its own checksum");
    assert_eq!((header.len, header.count as usize, header.producer), (sealed.len(), made.len(), 3));
    let mut plain = Vec::new();
    unpack(compression, &sealed[HEADER_BYTES..], &mut plain).expect("its own packing");
    let mut walk = Records::new(&header, 0, plain.len());
    for (number, (key, value, timestamp, list)) in made.iter().enumerate() {
        let record = walk.next(&plain).expect("a record").expect("as many as were written");
        assert_eq!((record.offset, record.timestamp), (number as i64, *timestamp));
        assert_eq!(record.key.map(|key| key.of(&plain)), *key);
        assert_eq!(record.value.map(|value| value.of(&plain)), *value);
        assert!(headers(record.headers.of(&plain)).eq(list.iter().copied()));
    }
    assert_eq!(walk.next(&plain).expect("the end"), None);
}

/// An answer. Input: one byte (which call's), the body. Whatever it says is read or refused, in memory by the bytes
/// that came.
pub fn kafka_answer(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (choice, body) = (input.byte(), input.rest());
    // A string or an array of a few bytes is tens of bytes in memory.
    let bytes_max = 10_000 + 100 * body.len();
    memory::within(bytes_max, "an answer", || match choice % 14 {
        0 => read(&ApiVersions, body),
        1 => read(&SaslHandshake("PLAIN"), body),
        2 => read(&SaslAuthenticate(b""), body),
        3 => read(&Metadata { topics: &[] }, body),
        4 => read(&FindCoordinator { of: CoordinatorOf::Group, name: "g" }, body),
        5 => read(&ListOffsets { topic: "t", partitions: &[0], at: At::Latest, committed: true }, body),
        6 => read(&OffsetFetch { group: "g", topic: "t", partitions: &[0] }, body),
        7 => read(&InitProducerId { transactional: None, timeout_ms: 1, identity: Identity::NONE }, body),
        8 => read(&AddPartitions { transactional: "t", identity: Identity::NONE, topics: &[] }, body),
        9 => read(&AddOffsets { transactional: "t", identity: Identity::NONE, group: "g" }, body),
        10 => {
            let membership = Membership::outside("g");
            let (identity, joins) = (Identity::NONE, choice > 127);
            read(&TxnOffsets { transactional: "t", identity, membership: &membership, topics: &[], joins }, body);
        }
        11 => {
            read(&EndTxn { transactional: "t", identity: Identity::NONE, commit: true, joins: choice > 127 }, body);
        }
        12 => read(&Produce { transactional: None, timeout_ms: 1, joins: false }, body),
        _ => drop(DescribeTxn { transactional: "t" }.read(&mut Reader::new(body))),
    });
}

fn read<C: Call>(call: &C, body: &[u8]) {
    // What can't be is refused; what can be is of no concern here.
    let _ = call.read(&mut Reader::new(body));
}

/// An answer to a fetch of partition 0 of "t". Input: one byte (odd: what isn't committed too; from which offset), the
/// body. No offset is below the one that was asked for, and memory is bounded as in `record_batch`.
pub fn kafka_fetch(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let choice = input.byte();
    let (from, body) = (i64::from(choice >> 1), input.rest().to_vec());
    let bytes_max = 10_000 + 100 * body.len();
    let read = |body| Fetched::read(body, "t", 0, from, choice & 1 == 0);
    let again = body.clone();
    let Ok(mut fetched) = memory::within(bytes_max, "an answer", || read(body)) else { return };
    let bytes_max = UNPACKING_BYTES_MAX + 3 * UNPACKED_BYTES_MAX;
    let mut walked = Vec::new();
    memory::within(bytes_max, "a walk", || {
        while let Ok(Some(message)) = fetched.peek() {
            assert!(message.offset >= from);
            headers(message.headers).for_each(drop);
            walked.push((message.offset, message.value.map(summed)));
            fetched.advance();
        }
    });
    // The same, handed over as a whole; damage ends the one where it ended the other.
    let (mut fetched, mut poured) = (read(again).expect("as before"), Vec::new());
    memory::within(bytes_max, "a pour", || {
        let mut is_more = true;
        while is_more {
            let (mut into, mut told) = (Vec::new(), Vec::new());
            let all = fetched.pour(&mut into, 1, |poured| told.push(poured.record));
            is_more = all.is_ok_and(|all| !all);
            poured.extend(told.iter().map(|record| (record.offset, record.value.map(|value| summed(value.of(&into))))));
        }
    });
    assert_eq!(poured, walked);
}

fn summed(value: &[u8]) -> u64 {
    value.iter().fold(value.len() as u64, |sum, byte| sum.rotate_left(5) ^ u64::from(*byte))
}
