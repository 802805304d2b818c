//! A node of a cluster while its cores run: what the control thread does for them.
//!
//! Cores ask ([`ToControl`]) and are answered by mail ([`ToCore`]): epochs come from etcd and are durable
//! in the manifest before they are answered, logs give up their ends, and once all partitions lead in
//! an epoch the state of the node is put together and every core begins to serve. Whatever waits for a
//! disk or for etcd is a job beside; nothing here waits.
//!
//! A node that cannot go on as it is (deposed, without its majority, its manifest not written) ends its cores in
//! an orderly way and begins again ([`Running::end`] says so). How one that leads hands over is in
//! [`handing_over`](super::handing_over).

use super::etcd::Etcd;
use super::files::{LogPlaces, Notes, Written};
use super::handing_over::Leaving;
use super::keeper::{Keeper, Known};
use super::keys::View;
use super::membership::{ClusterError, Standing, check};
use super::metadata::{Metadata, MetadataError, Outcome};
use super::orders::{Transfer, open_wish};
use super::peers::{Addresses, Peers};
use super::reporting::Reporting;
use crate::delivery::Routes;
use crate::durable::{CoreState, Recovery};
use crate::mail::ControlMail;
use crate::replicated::control_mail::{Given, Learned, ToControl, ToCore};
use crate::replicated::setup::AcceptedClient;
use crate::service::RestoredState;
use crate::startup::StartError;
use crate::startup::manifest::DataDirectory;
use ringlane_dataplane::ids::{CoreId, NodeId, Offset, PartitionId};
use ringlane_dataplane::log::recovery::ReplayFrom;
use ringlane_dataplane::log::writer::Writer;
use ringlane_dataplane::replication::message::CheckpointStart;
use ringlane_dataplane::time::Nanos;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, error, info, warn};

/// The core that elects.
pub(super) const ELECTING: CoreId = CoreId(0);

/// What a node of a cluster is made of, beside its cores.
pub(crate) struct Parts<M: Metadata> {
    /// Cores of this node.
    pub(crate) cores: u16,
    /// It is kept in its cluster by this.
    pub(crate) keeper: Arc<Keeper<M>>,
    /// What the cores say.
    pub(crate) from_cores: mpsc::Receiver<ToControl>,
    /// Its data directory.
    pub(crate) data: DataDirectory,
    /// Its logs.
    pub(crate) logs: LogPlaces,
    /// What others are told of it.
    pub(crate) reporting: Reporting,
    /// How long a hand-over may take.
    pub(crate) hand_over: Duration,
    /// What its data directory said when it joined.
    pub(crate) standing: Standing,
    /// The other nodes.
    pub(crate) peers: Peers,
}

/// Where the node is.
#[derive(Debug)]
pub(super) enum Phase {
    /// It follows, or its partitions campaign.
    Following,
    /// Its cores serve clients.
    Leading,
    /// It is to stop, and clients leave these cores.
    Draining(BTreeSet<CoreId>),
    /// It was asked of a follower to lead.
    HandingOver { until: Instant },
    /// Its cores end.
    Ending,
}

/// What happens next.
pub(crate) enum Step {
    /// A core says something.
    Told(ToControl),
    /// A job has ended.
    Done(Result<Done, JoinError>),
    /// Something else is known of the cluster.
    Known,
    /// The hand-over takes too long, or nobody to hand over to is found.
    Late,
    /// The addresses of the other nodes are to be looked up again.
    LookUp,
}

/// A job that has ended.
pub(crate) enum Done {
    Asked(Result<u64, ClusterError>),
    Written(Written),
    Truncated(CoreId, PartitionId, Result<Box<Writer>, StartError>),
    Replaced(CoreId, PartitionId, Result<Box<Learned>, StartError>),
    TookOver(u64, Result<Vec<CoreState>, StartError>),
    Answered(Result<Outcome, MetadataError>),
    LookedUp(Addresses),
}

/// How a node of a cluster ended.
pub(crate) struct Ended {
    /// Its data directory.
    pub(crate) data: DataDirectory,
    /// What others are told of it.
    pub(crate) reporting: Reporting,
    /// Why it is to begin again, if it is.
    pub(crate) again: Option<String>,
    /// Why it cannot be a node of its cluster any more, if that is so.
    pub(crate) failed: Option<ClusterError>,
}

/// A node of a cluster whose cores run.
pub(crate) struct Running<M: Metadata = Etcd> {
    pub(super) node: NodeId,
    pub(super) cores: u16,
    pub(super) keeper: Arc<Keeper<M>>,
    pub(super) known: watch::Receiver<Known>,
    from_cores: mpsc::Receiver<ToControl>,
    logs: Arc<LogPlaces>,
    notes: Notes,
    pub(super) reporting: Reporting,
    pub(super) hand_over: Duration,
    standing: Standing,
    peers: Peers,
    pub(super) jobs: JoinSet<Done>,
    /// A question to etcd that is under way.
    asking: Option<AbortHandle>,
    /// Why the last one was refused: said once, however often it is asked.
    refusal: Option<String>,
    /// The newest epoch that cores were told of.
    seen: u64,
    /// States of the partitions that lead in an epoch.
    given: BTreeMap<PartitionId, Given>,
    pub(super) given_in: u64,
    /// The epoch that clients are served in, and until when cores were told that the lease counts for it.
    leads: Option<(u64, Nanos)>,
    pub(super) phase: Phase,
    /// It leads, and hands over once a follower could lead at once.
    pub(super) leaving: Option<Leaving>,
    /// What an operator has asked for that this node does, or has answered.
    pub(super) wish: Option<Transfer>,
    pub(super) again: Option<String>,
    /// Since when its cores end.
    ends_since: Option<Instant>,
    failed: Option<ClusterError>,
    pub(super) mails: Vec<(CoreId, ControlMail)>,
}

impl<M: Metadata> Running<M> {
    /// A node whose cores follow.
    pub(crate) fn new(parts: Parts<M>) -> Self {
        let Parts { cores, keeper, from_cores, data, logs, reporting, hand_over, standing, peers } =
            parts;
        let mut running = Self {
            node: keeper.membership().node(),
            cores,
            known: keeper.known(),
            keeper,
            from_cores,
            logs: Arc::new(logs),
            notes: Notes::new(data),
            reporting,
            hand_over,
            standing,
            peers,
            jobs: JoinSet::new(),
            asking: None,
            refusal: None,
            seen: 0,
            given: BTreeMap::new(),
            given_in: 0,
            leads: None,
            phase: Phase::Following,
            leaving: None,
            wish: None,
            again: None,
            ends_since: None,
            failed: None,
            mails: Vec::new(),
        };
        running.write_notes();
        running.on_known();
        running
    }

    /// Whether clients are served here.
    pub(crate) fn is_leading(&self) -> bool {
        matches!(self.phase, Phase::Leading)
    }

    /// Whether the cores end.
    pub(crate) fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Ending)
    }

    /// How long it may take to stop, beside the cores themselves.
    pub(crate) fn takes(&self) -> Duration {
        self.hand_over + self.waits_for_successor()
    }

    /// Mails to cores, in order.
    pub(crate) fn take_mails(&mut self) -> Vec<(CoreId, ControlMail)> {
        core::mem::take(&mut self.mails)
    }

    /// What happens next. Nothing is lost if the caller stops waiting.
    pub(crate) async fn next(&mut self) -> Step {
        let until = match self.phase {
            Phase::HandingOver { until } => Some(until),
            Phase::Leading => self.leaving.as_ref().map(|leaving| leaving.until),
            Phase::Following | Phase::Draining(_) | Phase::Ending => None,
        };
        tokio::select! {
            // Cores that have ended say nothing any more.
            Some(told) = self.from_cores.recv() => Step::Told(told),
            Some(done) = self.jobs.join_next() => Step::Done(done),
            Ok(()) = self.known.changed() => Step::Known,
            () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => Step::Late,
            () = self.peers.due() => Step::LookUp,
            else => std::future::pending().await,
        }
    }

    /// Takes in what has happened.
    pub(crate) fn on_step(&mut self, step: Step) {
        match step {
            Step::Told(told) => self.on_told(told),
            Step::Done(Ok(done)) => self.on_done(done),
            Step::Done(Err(error)) if error.is_cancelled() => {}
            Step::Done(Err(error)) => self.begin_again(format!("a job of the cluster: {error}")),
            Step::Known => self.on_known(),
            Step::Late if self.is_leading() => self.on_no_successor(),
            Step::Late => {
                warn!("the follower that was asked to lead has not done so in time; leaving");
                self.end_cores();
            }
            Step::LookUp => {
                if let Some(names) = self.peers.look_up() {
                    self.jobs.spawn_blocking(move || Done::LookedUp(names.addresses()));
                }
            }
        }
    }

    fn on_told(&mut self, told: ToControl) {
        match told {
            ToControl::AskForEpoch { observed } => self.ask(observed),
            ToControl::PersistEpoch { core, reign } => {
                self.notes.want_promise(core, reign);
                self.write_notes();
            }
            ToControl::ClearDamage { core, partition } => {
                self.notes.want_filled(core, partition);
                self.write_notes();
            }
            ToControl::Truncate { core, partition, to, from } => {
                self.truncate(core, partition, (to, from));
            }
            ToControl::Replace { core, partition, start, before } => {
                self.replace(core, partition, start, before);
            }
            ToControl::State { partition, epoch, given } => self.on_state(partition, epoch, given),
            ToControl::Leader { epoch, leader } => self.on_leader(epoch, leader),
            ToControl::Progress { partitions, others } => {
                self.reporting.on_progress(partitions, others);
                self.look_for_successor();
            }
            ToControl::Ended { core, epoch, why } => self.on_ended(core, epoch, why),
            ToControl::CannotLead { why } => self.on_cannot_lead(why),
            ToControl::Drained { core } => self.on_drained(core),
            ToControl::Client(client) => self.on_client(client),
        }
    }

    /// Asks etcd for an epoch. A question that is under way is answered with that one's answer.
    fn ask(&mut self, observed: u64) {
        // What is known by now is judged before it is used.
        self.on_known();
        if self.asking.is_some() || self.is_ending() {
            return;
        }
        let keeper = Arc::clone(&self.keeper);
        let newest = observed.max(self.notes.epoch());
        let job = self.jobs.spawn(async move { Done::Asked(keeper.acquire(newest).await) });
        self.asking = Some(job);
    }

    fn truncate(
        &mut self,
        core: CoreId,
        partition: PartitionId,
        (to, from): (Offset, Option<ReplayFrom>),
    ) {
        warn!(
            partition = partition.0,
            offset = to.0,
            "the end of a log is given up: its leader has other records there, and no majority had \
             these"
        );
        let logs = Arc::clone(&self.logs);
        self.jobs.spawn_blocking(move || {
            let begun = Instant::now();
            let writer = logs.truncate(partition, to, from.as_ref());
            info!(partition = partition.0, took = ?begun.elapsed(), "the log was opened again without it");
            Done::Truncated(core, partition, writer)
        });
    }

    fn replace(
        &mut self,
        core: CoreId,
        partition: PartitionId,
        start: CheckpointStart,
        before: Box<(Option<Recovery>, Routes)>,
    ) {
        info!(
            partition = partition.0,
            begins = start.start.0,
            offset = start.next.0,
            bytes = start.bytes,
            "a checkpoint of the leader takes the place of a partition's log and state"
        );
        let logs = Arc::clone(&self.logs);
        self.jobs.spawn_blocking(move || {
            drop(before);
            Done::Replaced(core, partition, logs.replace(partition, start))
        });
    }

    fn write_notes(&mut self) {
        for (core, answer) in self.notes.take_answers() {
            self.tell(core, answer);
        }
        self.reporting.on_learner(self.notes.is_learner());
        if let Some(write) = self.notes.write() {
            self.jobs.spawn_blocking(move || Done::Written(write()));
        }
    }

    /// A partition leads. With the last one the node's state is put together.
    fn on_state(&mut self, partition: PartitionId, epoch: u64, given: Given) {
        if self.given_in < epoch {
            self.given.clear();
            self.given_in = epoch;
        }
        if epoch < self.given_in || self.is_ending() {
            return;
        }
        self.given.insert(partition, given);
        if self.given.len() < self.logs.logs.len() {
            return;
        }
        let states = core::mem::take(&mut self.given).into_values().collect();
        let logs = Arc::clone(&self.logs);
        self.jobs.spawn_blocking(move || Done::TookOver(epoch, logs.take_over(epoch, states)));
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Asked(answer) => self.on_asked(answer),
            Done::Written(written) => match self.notes.on_written(written) {
                Ok(()) => self.write_notes(),
                Err(error) => self.begin_again(error.to_string()),
            },
            Done::Truncated(core, partition, Ok(writer)) => {
                self.tell(core, ToCore::Truncated { partition, writer });
            }
            Done::Replaced(core, partition, Ok(learned)) => {
                self.tell(core, ToCore::Replaced { partition, learned });
            }
            Done::TookOver(epoch, Ok(states)) => self.begin(epoch, states),
            Done::Answered(Ok(_)) => {}
            Done::Answered(Err(error)) => warn!("what an operator asked is not answered: {error}"),
            Done::LookedUp(addresses) => {
                self.peers.on_addresses(addresses);
                self.tell_peers();
            }
            Done::TookOver(_, Err(error)) => self.on_state_unread(&error),
            Done::Truncated(.., Err(error)) | Done::Replaced(.., Err(error)) => {
                self.begin_again(error.to_string());
            }
        }
    }

    fn on_asked(&mut self, answer: Result<u64, ClusterError>) {
        self.asking = None;
        match answer {
            Ok(epoch) => {
                info!(epoch, "etcd has given this node an epoch: it wants to lead");
                self.refusal = None;
                // Before anybody's word counts: which directories do.
                self.on_known();
                self.tell(ELECTING, ToCore::EpochGiven { epoch });
            }
            Err(refused) => {
                self.say_refused(&refused);
                self.tell(ELECTING, ToCore::EpochRefused);
            }
        }
    }

    fn say_refused(&mut self, refused: &ClusterError) {
        let why = refused.to_string();
        match refused {
            // Somebody else has one, or the keeper of the lease says what is wrong.
            ClusterError::Superseded { .. } | ClusterError::Metadata(_) => debug!(why, "no epoch"),
            _ if self.refusal.as_ref() == Some(&why) => {}
            _ => error!("this node cannot lead: {why}"),
        }
        self.refusal = Some(why);
    }

    /// Every core serves from now on.
    fn begin(&mut self, epoch: u64, states: Vec<CoreState>) {
        if !matches!(self.phase, Phase::Following) || epoch < self.given_in {
            return;
        }
        info!(epoch, "this node leads");
        self.phase = Phase::Leading;
        self.reporting.on_begun(epoch, self.node);
        for (core, state) in (0..).map(CoreId).zip(states) {
            let state = Box::new(RestoredState(state));
            self.tell(core, ToCore::Begin { epoch, state });
        }
        self.leads = Some((epoch, Nanos(0)));
        self.tell_lease();
        self.answer_as_next(epoch);
    }

    /// Tells the cores until when the lease counts, if that has changed. Where another node has been given an
    /// epoch it does not count any more.
    fn tell_lease(&mut self) {
        let Some((epoch, told)) = self.leads else { return };
        let until = self.known.borrow().leads_until(self.node, epoch).unwrap_or(Nanos(0));
        if until == told {
            return;
        }
        self.leads = Some((epoch, until));
        for core in (0..self.cores).map(CoreId) {
            self.tell(core, ToCore::Lease { until });
        }
    }

    /// What etcd says, if that is new.
    fn on_known(&mut self) {
        let (view, trouble) = {
            let known = self.known.borrow_and_update();
            self.reporting.on_known(&known);
            (known.view.clone(), known.trouble.is_some())
        };
        self.tell_lease();
        if let Err(error) = self.judge(&view) {
            return self.fail(error);
        }
        self.peers.on_view(&view);
        self.tell_peers();
        let newer = view.leader.filter(|leader| self.seen < leader.epoch);
        if let Some(leader) = newer {
            self.seen = leader.epoch;
            let (epoch, leader) = (leader.epoch, Some(leader.node));
            self.tell(ELECTING, ToCore::EpochSeen { epoch, leader });
        }
        if let Some(wish) = open_wish(&view).filter(|_| !trouble) {
            self.on_wish(wish);
        }
    }

    /// Whether this node is still one of the cluster that etcd shows, which it may have begun without asking.
    fn judge(&self, view: &View) -> Result<(), ClusterError> {
        let own = self.keeper.membership().instance();
        let counts = view.directory(self.node).map(|directory| directory.instance);
        if counts.is_some_and(|counts| counts != Some(own)) {
            return Err(ClusterError::Replaced { node: self.node.0 });
        }
        view.identity.as_ref().map_or(Ok(()), |identity| check(&self.standing, identity))
    }

    fn fail(&mut self, error: ClusterError) {
        if self.failed.is_none() {
            error!("this node ends: {error}");
            self.failed = Some(error);
        }
        self.again = None;
        self.end_cores();
    }

    fn tell_peers(&mut self) {
        let news = self.peers.take_news();
        if news.is_empty() {
            return;
        }
        for core in (0..self.cores).map(CoreId) {
            self.tell(core, ToCore::Peers(news.clone()));
        }
    }

    fn on_leader(&mut self, epoch: u64, leader: Option<NodeId>) {
        self.reporting.on_leader(epoch, leader);
        let is_other = leader.is_some_and(|leader| leader != self.node);
        if is_other && matches!(self.phase, Phase::HandingOver { .. }) {
            info!(epoch, "another node leads now");
            self.end_cores();
        }
    }

    fn on_client(&mut self, client: AcceptedClient) {
        // Whom another node has passed on is not passed on again: that one is wrong about who leads.
        if matches!(self.phase, Phase::Following | Phase::Leading) {
            self.reporting.pass_on(client);
        }
    }

    /// It follows from now on, so that what the others acknowledge is here, too.
    fn on_cannot_lead(&mut self, why: String) {
        if self.reporting.on_cannot_lead(why.clone()) {
            error!(
                "this node has a record that it cannot read, and so cannot lead before it is started again: {why}"
            );
        }
    }

    /// What it is to lead with cannot be read: nor could it the next time, unless the host was short of something.
    fn on_state_unread(&mut self, error: &StartError) {
        if !self.is_ending() && !error.is_passing() {
            self.on_cannot_lead(error.to_string());
        }
        self.begin_again(error.to_string());
    }

    fn on_ended(&mut self, core: CoreId, epoch: u64, why: String) {
        match self.phase {
            Phase::Following | Phase::Leading => {
                let why = format!("core {core}, epoch {epoch}: {why}");
                self.begin_again(why);
            }
            // It was to end anyway.
            Phase::Draining(_) | Phase::HandingOver { .. } => self.end_cores(),
            Phase::Ending => {}
        }
    }

    fn begin_again(&mut self, why: String) {
        if !self.is_ending() && self.is_to_stop() {
            warn!(why, "this node cannot go on as it is, and does not begin again: it is to stop");
        } else if !self.is_ending() {
            warn!(why, "this node cannot go on as it is: it begins again");
            self.again = Some(why);
        }
        self.end_cores();
    }

    /// Ends all cores.
    pub(crate) fn end_cores(&mut self) {
        if self.is_ending() {
            return;
        }
        self.phase = Phase::Ending;
        self.ends_since = Some(Instant::now());
        self.reporting.on_ending();
        let moved_to = self.reporting.moved_to();
        for core in (0..self.cores).map(CoreId) {
            self.tell(core, ToCore::End { moved_to: moved_to.clone() });
        }
    }

    pub(super) fn tell(&mut self, core: CoreId, what: ToCore) {
        self.mails.push((core, ControlMail::Cluster(Box::new(what))));
    }

    /// All cores have ended. What is under way on the disk ends first: nobody opens a log meanwhile.
    ///
    /// # Errors
    /// A job that writes to the data directory has failed.
    pub(crate) async fn end(mut self) -> Result<Ended, StartError> {
        if let Some(asking) = &self.asking {
            asking.abort();
        }
        while let Some(done) = self.jobs.join_next().await {
            if let Ok(Done::Written(written)) = done {
                // Who waits for it is gone; the next start takes what is there. What was promised since is
                // written, too: it is known then who leads.
                let is_written = self.notes.on_written(written).is_ok();
                if let Some(write) = self.notes.write().filter(|_| is_written) {
                    self.jobs.spawn_blocking(move || Done::Written(write()));
                }
            }
        }
        if let Some(since) = self.ends_since {
            info!(took = ?since.elapsed(), "the cores have ended");
        }
        let Self { notes, reporting, again, failed, .. } = self;
        let lost = || std::io::Error::other("the thread that wrote to it panicked");
        let data = notes.into_data();
        let data = data.ok_or_else(|| StartError::system("write the manifest", lost()))?;
        Ok(Ended { data, reporting, again, failed })
    }
}

#[cfg(test)]
#[path = "running_tests.rs"]
mod tests;
