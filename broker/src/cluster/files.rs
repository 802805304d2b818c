//! What the control thread of a node of a cluster does with files: epochs, ends that logs give up, and the
//! state of a node that is to lead. All of it waits for the disk, and so happens on threads of its own.

use crate::clock::unix_ms_now;
use crate::config::Config;
use crate::durable::CoreState;
use crate::replicated::control_mail::{Given, Learned, ToCore};
use crate::startup::learn::{self, InPlace, LearnError};
use crate::startup::logs::LogFacts;
use crate::startup::manifest::{DataDirectory, ManifestError};
use crate::startup::{StartError, state};
use crate::system_random::random_bytes;
use ringlane_dataplane::disk::StartFiles;
use ringlane_dataplane::ids::{CoreId, Offset, PartitionId};
use ringlane_dataplane::log::format::{DirectoryId, SegmentId};
use ringlane_dataplane::log::recovery::{ReplayFrom, recover};
use ringlane_dataplane::log::scan::LogOwner;
use ringlane_dataplane::log::truncate::truncate;
use ringlane_dataplane::log::writer::Writer;
use ringlane_dataplane::replication::message::CheckpointStart;
use ringlane_dataplane::replication::reign::Reign;
use ringlane_dataplane::routing::Placement;
use ringlane_transport_uring::StdFiles;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// A partition's log, as it was opened.
#[derive(Clone, Debug)]
pub(crate) struct LogPlace {
    /// Its directory.
    pub(crate) directory: PathBuf,
    /// What the tokens of its writer carry.
    pub(crate) tag: u32,
}

/// What does not change while the cores run.
#[derive(Debug)]
pub(crate) struct LogPlaces {
    /// The identity of the data directory.
    pub(crate) id: DirectoryId,
    /// What all logs have in common.
    pub(crate) facts: LogFacts,
    /// By partition.
    pub(crate) logs: Vec<LogPlace>,
    /// Who owns what.
    pub(crate) placement: Placement,
    /// The configuration.
    pub(crate) config: Arc<Config>,
}

impl LogPlaces {
    fn owner(&self, partition: PartitionId) -> LogOwner {
        LogOwner { directory: self.id, partition }
    }

    /// Gives up the end of a log that nobody has open, and opens it again: behind its newest checkpoint, `from`.
    ///
    /// # Errors
    /// The log cannot be opened, or its files cannot be changed.
    pub(crate) fn truncate(
        &self,
        partition: PartitionId,
        to: Offset,
        from: Option<&ReplayFrom>,
    ) -> Result<Box<Writer>, StartError> {
        let place = &self.logs[partition.0 as usize];
        let (directory, owner) = (&place.directory, self.owner(partition));
        let failed = |error| StartError::Log { partition: partition.0, error: Box::new(error) };
        let (files, id) = (&mut StdFiles, segment_id()?);
        truncate(files, directory, &owner, from, to, id).map_err(failed)?;
        let log = recover(files, directory, &owner, from, &mut |_| ()).map_err(failed)?;
        if log.next_offset != to {
            let path = directory.clone();
            let message =
                format!("it ends at offset {}, and was cut at {}", log.next_offset.0, to.0);
            return Err(StartError::Reread { partition: partition.0, path, message, errno: None });
        }
        let facts = self.facts.with_new_secret()?;
        let writer = facts.writer(partition, directory.clone(), &log, log.epoch, place.tag);
        Ok(Box::new(writer))
    }

    /// Puts a checkpoint that came whole in place of a log that nobody has open and of its state.
    ///
    /// # Errors
    /// What came is of no use, and is removed; or files cannot be changed.
    pub(crate) fn replace(
        &self,
        partition: PartitionId,
        start: CheckpointStart,
    ) -> Result<Box<Learned>, StartError> {
        let place = &self.logs[partition.0 as usize];
        let (directory, owner, files) = (&place.directory, self.owner(partition), &mut StdFiles);
        let facts = self.facts.with_new_secret()?;
        let setup = facts.setup(partition, directory.clone(), 0, place.tag);
        let put = learn::put_in_place(files, &setup, self.placement.partitions(), unix_ms_now());
        let failed =
            |error: LearnError| StartError::Learn { partition: partition.0, error: error.into() };
        let put = put.or_else(|error| {
            if let LearnError::Unusable { path, .. } = &error {
                let removed = files.remove(core::slice::from_ref(path));
                removed.map_err(|error| StartError::system("remove a checkpoint", error))?;
            }
            Err(failed(error))
        })?;
        let wrong = |message| {
            let path = directory.clone();
            StartError::Reread { partition: partition.0, path, message, errno: None }
        };
        let put = put.ok_or_else(|| wrong("the checkpoint that came is not there".to_owned()))?;
        let log = recover(files, directory, &owner, None, &mut |_| ())
            .map_err(|error| StartError::Log { partition: partition.0, error: Box::new(error) })?;
        if (put.start, put.epoch) != (start.start, start.epoch) || log.next_offset != put.start {
            return Err(wrong(format!(
                "it does not begin at offset {} as it was to",
                start.start.0
            )));
        }
        let writer = facts.writer(partition, directory.clone(), &log, log.epoch, place.tag);
        let InPlace { recovery, checkpoints, .. } = put;
        Ok(Box::new(Learned { writer, recovery, checkpoints }))
    }

    /// What each core takes over in `epoch`, of the states of all partitions in rising order.
    ///
    /// # Errors
    /// A log cannot be read.
    pub(crate) fn take_over(
        &self,
        epoch: u64,
        states: Vec<Given>,
    ) -> Result<Vec<CoreState>, StartError> {
        let directories: Vec<PathBuf> =
            self.logs.iter().map(|place| place.directory.clone()).collect();
        let node = state::take_over(self.id, &directories, &self.placement, states, &self.config)?;
        Ok(node.split(&self.placement, epoch))
    }
}

fn segment_id() -> Result<SegmentId, StartError> {
    let bytes =
        random_bytes().map_err(|error| StartError::system("draw a random number", error))?;
    Ok(SegmentId(bytes))
}

/// What the manifest says that changes while cores run, and who waits for it to say something else.
#[derive(Debug)]
pub(crate) struct Notes {
    /// Away while it is written to.
    data: Option<DataDirectory>,
    partitions: usize,
    reign: Reign,
    is_learner: bool,
    /// Those who wait for a promise to be durable.
    promises_wanted: Vec<(CoreId, Reign)>,
    /// Partitions that have been filled, with who asks.
    filled: BTreeMap<PartitionId, CoreId>,
}

/// A manifest that was written to.
pub(crate) type Written = (DataDirectory, Result<(), ManifestError>);

impl Notes {
    pub(crate) fn new(data: DataDirectory) -> Self {
        Self {
            partitions: data.manifest.partitions as usize,
            reign: data.reign(),
            is_learner: data.is_learner(),
            data: Some(data),
            promises_wanted: Vec::new(),
            filled: BTreeMap::new(),
        }
    }

    /// The epoch that is durable.
    pub(crate) fn epoch(&self) -> u64 {
        self.reign.epoch
    }

    /// Whether the node has yet to be filled from the others.
    pub(crate) fn is_learner(&self) -> bool {
        self.is_learner
    }

    /// A core wants a promise to be durable.
    pub(crate) fn want_promise(&mut self, core: CoreId, reign: Reign) {
        self.promises_wanted.push((core, reign));
    }

    /// A partition has all that the others have. The note is one for all of them: it goes with the
    /// last.
    pub(crate) fn want_filled(&mut self, core: CoreId, partition: PartitionId) {
        self.filled.insert(partition, core);
    }

    /// Mails to those whose wish is durable.
    pub(crate) fn take_answers(&mut self) -> Vec<(CoreId, ToCore)> {
        let (durable, epoch) = (self.reign, self.reign.epoch);
        let served =
            self.promises_wanted.extract_if(.., |(_, wanted)| durable.and(*wanted) == durable);
        let mut answers: Vec<_> =
            served.map(|(core, _)| (core, ToCore::EpochDurable { epoch })).collect();
        if !self.is_learner {
            let filled = core::mem::take(&mut self.filled).into_iter();
            answers.extend(
                filled.map(|(partition, core)| (core, ToCore::DamageCleared { partition })),
            );
        }
        answers
    }

    /// What is to be written now, if anything is and the manifest is not away: on a thread of its own, and
    /// then [`Notes::on_written`].
    pub(crate) fn write(&mut self) -> Option<impl FnOnce() -> Written + Send + 'static> {
        let wanted = self.promises_wanted.iter().map(|(_, wanted)| *wanted);
        let promise = wanted.fold(self.reign, Reign::and);
        let promise = (promise != self.reign).then_some(promise);
        let is_filled = self.is_learner && self.filled.len() == self.partitions;
        if promise.is_none() && !is_filled {
            return None;
        }
        let mut data = self.data.take()?;
        Some(move || {
            let taken = promise.map_or(Ok(()), |promise| data.take_promise(promise));
            let ended = taken.and_then(|()| if is_filled { data.end_learning() } else { Ok(()) });
            (data, ended)
        })
    }

    /// It was written to, or not.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn on_written(&mut self, (data, written): Written) -> Result<(), ManifestError> {
        (self.reign, self.is_learner) = (data.reign(), data.is_learner());
        self.data = Some(data);
        written
    }

    /// The data directory, if nobody writes to it.
    pub(crate) fn into_data(self) -> Option<DataDirectory> {
        self.data
    }
}
