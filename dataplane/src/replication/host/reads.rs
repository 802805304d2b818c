//! What a host reads of its log for other nodes that lack it, and how what it reads ends.

use super::{Ask, Host, Outside, Turn};
use crate::disk::{Disk, DiskEvent};
use crate::ids::{NodeId, Offset};
use crate::log::reader::{Next, ReadError, ReadFailure, Reader};
use crate::log::record::{self, RecordSeed};
use crate::log::writer::BATCH_BYTES_MAX;
use crate::partition::Partition;

/// The reads for one node, one after the other.
#[derive(Debug)]
pub(super) struct PeerRead {
    peer: NodeId,
    reader: Reader,
    /// What is wanted, until it is there.
    wanted: Option<Wanted>,
}

/// Records of one epoch, one behind the other.
#[derive(Debug)]
struct Wanted {
    from: Offset,
    bytes_max: usize,
    epoch: Option<u64>,
    body: Vec<u8>,
    records: u32,
}

impl Wanted {
    /// Takes a record, if it belongs to the others. Whether it did.
    fn take(&mut self, seed: RecordSeed, record: &record::Record<'_>) -> bool {
        let is_same = self.epoch.is_none_or(|epoch| epoch == record.head.epoch);
        let fits = self.records == 0 || self.body.len() + record.bytes() <= self.bytes_max;
        if is_same && fits {
            self.epoch = Some(record.head.epoch);
            record::encode(seed, record, &mut self.body);
            self.records += 1;
        }
        is_same && fits
    }
}

/// What became of a read in a turn.
enum Progress {
    /// The disk has been asked.
    Waits,
    /// There is nothing more to add.
    Done,
    /// It cannot be read.
    Lost(ReadError),
}

impl PeerRead {
    /// Takes what is in memory.
    fn take(&mut self, seed: RecordSeed) -> Progress {
        let Some(wanted) = &mut self.wanted else { return Progress::Waits };
        loop {
            match self.reader.next_record() {
                Next::Record(record) if wanted.take(seed, &record) => {}
                Next::Record(_) => return Progress::Done,
                Next::Lost(error) if wanted.records == 0 => return Progress::Lost(error),
                Next::Lost(_) => return Progress::Done,
                Next::Wait => return Progress::Waits,
            }
        }
    }
}

impl Host {
    pub(super) fn begin_read<A>(
        &mut self,
        peer: NodeId,
        from: Offset,
        bytes_max: u32,
        partition: &Partition<A>,
    ) {
        let Some(log) = partition.log().filter(|_| self.state.is_open()) else { return };
        let index = self.reads.iter().position(|read| read.peer == peer);
        let index = index.unwrap_or_else(|| {
            let tag = self.tag + 2 + self.reads.len() as u32;
            let reader = Reader::of_flushed(log, tag, from);
            self.reads.push(PeerRead { peer, reader, wanted: None });
            self.reads.len() - 1
        });
        let read = &mut self.reads[index];
        read.reader.seek(from);
        // Whatever segments the other node has, such a batch fits into one.
        let bytes_max = u64::from(bytes_max).min(BATCH_BYTES_MAX) as usize;
        let wanted = Wanted { from, bytes_max, epoch: None, body: Vec::new(), records: 0 };
        read.wanted = Some(wanted);
    }

    /// Goes on with everything that is read. To be called at the end of a turn.
    pub(super) fn read_on<A>(&mut self, turn: &mut Turn<'_, A>, outside: &mut impl Outside) {
        if !self.state.is_open() || self.has_failed {
            return;
        }
        self.apply_on(turn, outside);
        for index in 0..self.reads.len() {
            self.read_for_peer(index, turn, outside);
        }
    }

    fn read_for_peer<A>(
        &mut self,
        index: usize,
        turn: &mut Turn<'_, A>,
        outside: &mut impl Outside,
    ) {
        let Some(log) = turn.partition.log() else { return };
        let read = &mut self.reads[index];
        let mut progress = read.take(self.seed);
        if let Progress::Waits = progress
            && let Some(wanted) = &read.wanted
        {
            read.reader.ask(log, turn.disk);
            let is_at_end =
                !read.reader.is_waiting() && log.marks().flushed <= read.reader.offset();
            if is_at_end && wanted.records > 0 {
                progress = Progress::Done;
            }
        }
        match progress {
            Progress::Waits => return,
            Progress::Lost(error) if error.failure != ReadFailure::Trimmed => {
                outside.ask(Ask::Lost(error));
            }
            Progress::Done | Progress::Lost(_) => {}
        }
        let (peer, wanted) = (read.peer, read.wanted.take());
        let Some(Wanted { from, body, records, .. }) = wanted else { return };
        if records == 0 {
            return self.replica.on_read(peer, from, None);
        }
        self.pieces_read += 1;
        let batch = turn.pool.copy_records(&body, records);
        self.replica.on_read(peer, from, Some(&batch));
        turn.pool.give_out(batch);
    }

    /// Something that was asked for to be read has ended: of the state (0), or for a node.
    pub(super) fn on_read_event<A>(
        &mut self,
        which: u32,
        event: DiskEvent,
        turn: &mut Turn<'_, A>,
    ) {
        let Some(log) = turn.partition.log() else { return };
        let reader = match which.checked_sub(1) {
            None => self.apply.reader.as_mut(),
            Some(index) => self.reads.get_mut(index as usize).map(|read| &mut read.reader),
        };
        if let Some(reader) = reader {
            reader.on_disk(log, event, turn.disk);
        }
    }

    fn readers(&mut self) -> impl Iterator<Item = &mut Reader> {
        let reads = self.reads.iter_mut().map(|read| &mut read.reader);
        reads.chain(self.apply.reader.as_mut())
    }

    pub(super) fn close_readers(&mut self, disk: &mut Disk) {
        self.readers().for_each(|reader| reader.close(disk));
    }

    pub(super) fn are_readers_closed(&mut self) -> bool {
        self.readers().all(|reader| reader.is_closed())
    }
}
