//! The control thread: signals, health, metrics, `$SYS`, the service manager.
//!
//! One thread that is pinned beside the cores where there is room. It reads counters that the
//! cores write, and asks something of a core only by mail; it never touches what a core owns.

mod accept;
mod ctl;
mod desk;
mod http;
mod metrics_page;
mod node;
mod outbox;
mod process;
mod status;
mod totals;

pub use ctl::CtlSocket;
pub(crate) use ctl::with_address;
pub use desk::Doors;
pub(crate) use desk::{Desk, Told};
pub use http::{ControlError, bind, bind_ctl};
pub use node::{CoreView, ListenerView, Node, NodeFacts, State};
pub use process::Process;

use crate::clock::WallClock;
use crate::cluster::etcd::Etcd;
use crate::cluster::running::{Running, Step};
use crate::config::Config;
use crate::mail::{ControlMail, Mail};
use crate::startup::affinity::render_cpus;
use crate::startup::{CoreThreads, Life, StartError};
use crate::sys_topics::SysTopics;
use desk::Visit;
use outbox::Outbox;
use ringlane_dataplane::ids::CoreId;
use ringlane_dataplane::runtime::Endpoint;
use ringlane_transport_uring::Wakers;
use sd_notify::NotifyState;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};
use tracing::{error, info, warn};

/// How a core ended.
#[derive(Debug)]
pub struct CoreEnd {
    /// Which one.
    pub core: CoreId,
    /// Why, if it failed.
    pub result: Result<(), String>,
}

/// How much longer than `mqtt.drain_timeout` the cores may take to end.
const DRAIN_GRACE: Duration = Duration::from_secs(5);

/// How often mails of cores are looked for.
const EXCHANGE_PAUSE: Duration = Duration::from_millis(100);

/// How soon a mail that found a full mailbox is sent again.
const OUTBOX_RETRY: Duration = Duration::from_millis(1);

/// The runtime of the control thread.
///
/// # Errors
/// If the system gives none.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| StartError::system("start the control thread", error))
}

/// The control thread's state while cores run.
pub(crate) struct Control {
    node: Arc<Node>,
    endpoint: Endpoint<Mail>,
    outbox: Outbox,
    wakers: Wakers,
    clock: WallClock,
    cores: Option<CoreThreads>,
    sys: Option<(SysTopics, Duration)>,
    drain_timeout: Duration,
    /// What a node of a cluster does besides.
    cluster: Option<Box<Running<Etcd>>>,
    /// Set by the first signal or the first failure.
    stopping: Option<Stopping>,
    running: usize,
    failure: Option<StartError>,
}

struct Stopping {
    deadline: Instant,
}

impl Control {
    /// A control thread for cores that run.
    pub(crate) fn new(config: &Config, life: Life) -> Self {
        let Life { node, endpoint, wakers, clock, threads } = life;
        let running = node.facts.cores.len();
        Self {
            node,
            endpoint,
            outbox: Outbox::default(),
            wakers,
            clock,
            cores: Some(threads),
            sys: config.sys.enabled.then(|| (SysTopics::new(), config.sys.interval)),
            drain_timeout: config.mqtt.drain_timeout,
            cluster: None,
            stopping: None,
            running,
            failure: None,
        }
    }

    /// The same for a node of a cluster.
    pub(crate) fn with_cluster(self, running: Running<Etcd>) -> Self {
        Self { cluster: Some(Box::new(running)), ..self }
    }

    /// Runs until every core has ended, or must be left; gives back what a node of a cluster has besides.
    ///
    /// # Errors
    /// Which core failed, or that the end was not an orderly one.
    pub(crate) async fn run(
        mut self,
        desk: &mut Desk,
    ) -> Result<Option<Running<Etcd>>, StartError> {
        let Some(mut cores) = self.cores.take() else { return Ok(None) };
        self.serve(desk, &mut cores).await?;
        cores.join();
        match self.failure {
            Some(failure) => Err(failure),
            None => Ok(self.cluster.map(|running| *running)),
        }
    }

    async fn serve(&mut self, desk: &mut Desk, cores: &mut CoreThreads) -> Result<(), StartError> {
        let mut sys_ticks = ticks(self.sys.as_ref().map(|(_, interval)| *interval));
        self.announce(desk);
        self.take_mails();
        while 0 < self.running {
            self.exchange();
            let next = self.next_exchange();
            tokio::select! {
                () = sleep_until(next) => {}
                step = next_step(&mut self.cluster) => self.on_step(step),
                visit = desk.next() => self.on_visit(visit)?,
                () = tick(&mut sys_ticks) => self.publish_sys(),
                end = cores.next_end() => self.on_core_end(end),
            }
            self.check_deadline()?;
        }
        Ok(())
    }

    fn on_visit(&mut self, visit: Visit) -> Result<(), StartError> {
        match visit {
            Visit::Told(Told::Stop(name)) => return self.on_stop_signal(name),
            Visit::Told(Told::Reload) => {
                warn!("SIGHUP: nothing was reloaded; restart to apply a changed configuration");
            }
            // While the node stops there are no answers.
            Visit::Asked(core, mail) if self.stopping.is_none() => self.outbox.push(core, mail),
            Visit::Asked(..) => {}
        }
        Ok(())
    }

    /// Something of the cluster has happened.
    fn on_step(&mut self, step: Step) {
        let Some(cluster) = &mut self.cluster else { return };
        cluster.on_step(step);
        self.take_mails();
    }

    /// Takes what the cluster's side has for the cores.
    fn take_mails(&mut self) {
        let Some(cluster) = &mut self.cluster else { return };
        for (core, mail) in cluster.take_mails() {
            self.outbox.push(core, mail);
        }
        if self.stopping.is_none() {
            self.node.set_state(match cluster.is_leading() {
                true => State::Ready,
                false => State::Following,
            });
            if cluster.is_ending() {
                self.await_end();
            }
        }
    }

    /// Says that the node is ready: to clients of the control plane, the service manager, and
    /// whoever reads the log.
    fn announce(&mut self, desk: &mut Desk) {
        desk.show(&self.node);
        let is_alone = self.cluster.is_none();
        self.node.set_state(if is_alone { State::Ready } else { State::Following });
        if core::mem::replace(&mut desk.is_announced, true) {
            return;
        }
        let facts = &self.node.facts;
        let cpus: Vec<u32> = facts.cores.iter().map(|core| core.cpu).collect();
        let address = |kind: &str| {
            let found = facts.listeners.iter().find(|listener| listener.kind == kind);
            found.map_or_else(|| "off".to_owned(), |listener| listener.address.to_string())
        };
        let (mqtt, websocket) = (address("mqtt"), address("websocket"));
        let ctl = desk.ctl();
        let control = facts.control.map_or_else(|| "off".to_owned(), |bind| bind.to_string());
        info!(
            mqtt,
            websocket,
            control,
            ctl,
            cores = cpus.len(),
            cpus = render_cpus(&cpus),
            transport = facts.transport,
            partitions = facts.partitions,
            data_dir = %facts.data_dir.display(),
            "ringlane {} is ready",
            env!("CARGO_PKG_VERSION")
        );
        let listening = format!("mqtt {mqtt}, {} cores, {}", cpus.len(), facts.transport);
        notify(&[NotifyState::Ready, NotifyState::Status(&listening)]);
        if desk.text_hints {
            hints(facts);
        }
    }

    /// Takes mails and sends what waits. This thread does not advertise sleep: no core spends a
    /// system call on it, and it looks often enough by itself.
    fn exchange(&mut self) {
        self.clock.refresh();
        for view in &self.node.facts.cores {
            // Cores have nothing to tell this thread yet; mailboxes must not fill all the same.
            while self.endpoint.receive(view.core).is_some() {}
        }
        self.outbox.send(&mut self.endpoint);
        let wakers = &self.wakers;
        self.endpoint.publish(&mut |core| wakers.wake(core));
    }

    fn next_exchange(&self) -> Instant {
        let pause = if self.outbox.is_empty() { EXCHANGE_PAUSE } else { OUTBOX_RETRY };
        Instant::now() + pause
    }

    fn publish_sys(&mut self) {
        let Some((topics, _)) = &mut self.sys else { return };
        let follows = self.cluster.as_ref().is_some_and(|cluster| !cluster.is_leading());
        if follows || self.stopping.is_some() || !self.outbox.is_empty() {
            // The core is behind: the next interval has newer values.
            return;
        }
        let facts = &self.node.facts;
        let changed = topics.update(&facts.cores, &Process::read(), facts.started.elapsed());
        for (topic, value) in changed {
            let payload = value.into_bytes();
            let mail = ControlMail::Publish { topic, payload, retain: true };
            self.outbox.push(CoreId(0), mail);
        }
    }

    fn on_stop_signal(&mut self, name: &str) -> Result<(), StartError> {
        if self.stopping.is_some() {
            warn!(signal = name, "second signal: leaving at once");
            return Err(StartError::Interrupted);
        }
        info!(signal = name, "stopping: clients are told, and get their last bytes");
        self.begin_stop();
        Ok(())
    }

    fn begin_stop(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        self.node.set_state(State::Draining);
        notify(&[NotifyState::Stopping, NotifyState::Status("draining")]);
        self.outbox.drop_answers();
        self.await_end();
        if let Some(cluster) = &mut self.cluster {
            cluster.begin_stop();
            return self.take_mails();
        }
        for core in &self.node.facts.cores {
            self.outbox.push(core.core, ControlMail::Drain);
        }
    }

    /// The cores are about to end; for so long that is waited for.
    fn await_end(&mut self) {
        let deadline = Instant::now() + self.end_takes();
        self.stopping.get_or_insert(Stopping { deadline });
    }

    /// How long the cores may take to end.
    fn end_takes(&self) -> Duration {
        let hand_over = self.cluster.as_ref().map_or(Duration::ZERO, |cluster| cluster.takes());
        self.drain_timeout + hand_over + DRAIN_GRACE
    }

    fn on_core_end(&mut self, end: Option<CoreEnd>) {
        let Some(CoreEnd { core, result }) = end else { return };
        self.running -= 1;
        let expected = self.stopping.is_some();
        let message = match result {
            Ok(()) if expected => return,
            Ok(()) => "it ended without being asked to".to_owned(),
            Err(message) => message,
        };
        error!(core = core.0, message, "a core ended; the node stops");
        self.failure.get_or_insert(StartError::Core { core, message });
        if let Some(cluster) = &mut self.cluster {
            cluster.end_cores();
        }
        self.begin_stop();
        self.node.set_state(State::Failed);
    }

    fn check_deadline(&self) -> Result<(), StartError> {
        match &self.stopping {
            Some(stopping) if stopping.deadline <= Instant::now() => {
                error!(cores = self.running, "cores did not end in time; leaving them");
                Err(StartError::Stuck { waited: self.end_takes() })
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// Who can reach the broker, and how to try it.
fn hints(facts: &NodeFacts) {
    let clients = facts.listeners.iter().filter(|listener| listener.kind != "replication");
    let open = clients.into_iter().find(|listener| !listener.address.ip().is_loopback());
    match open {
        None => info!(
            "only this host can connect (loopback, and clients need no password): set \
             listeners.tcp.bind to open it"
        ),
        Some(listener) => warn!(
            address = %listener.address,
            "clients of other hosts can connect, and need no password"
        ),
    }
    if facts.control.is_some_and(|address| !address.ip().is_loopback()) {
        warn!("other hosts can read the control plane, which asks for no password");
    }
    let mqtt = facts.listeners.iter().find(|listener| listener.kind == "mqtt");
    if let Some(ListenerView { address, .. }) = mqtt {
        let target = target(*address);
        info!("try it:  mosquitto_sub{target} -t 'demo/#' -v");
        info!("and:     mosquitto_pub{target} -t demo/hello -m hi");
    }
}

/// The flags that make mosquitto's clients connect to `address`.
fn target(address: SocketAddr) -> String {
    let local = address.ip().is_unspecified() || address.ip() == Ipv4Addr::LOCALHOST;
    let host = if local { String::new() } else { format!(" -h {}", address.ip()) };
    let port = match address.port() {
        1883 => String::new(),
        port => format!(" -p {port}"),
    };
    format!("{host}{port}")
}

/// Tells the service manager (sd_notify(3)); without one it does nothing.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "cannot tell the service manager");
    }
}

fn ticks(period: Option<Duration>) -> Option<Interval> {
    let mut ticks = interval(period?.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Some(ticks)
}

async fn next_step(cluster: &mut Option<Box<Running<Etcd>>>) -> Step {
    match cluster {
        Some(cluster) => cluster.next().await,
        None => std::future::pending().await,
    }
}

async fn tick(ticks: &mut Option<Interval>) {
    match ticks {
        Some(ticks) => {
            ticks.tick().await;
        }
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_told_only_what_differs_from_their_defaults() {
        let cases = [
            ("127.0.0.1:1883", ""),
            ("0.0.0.0:1883", ""),
            ("[::]:1884", " -p 1884"),
            ("127.0.0.2:1883", " -h 127.0.0.2"),
            ("192.0.2.7:1885", " -h 192.0.2.7 -p 1885"),
            ("[::1]:1883", " -h ::1"),
        ];
        for (address, flags) in cases {
            assert_eq!(target(address.parse().unwrap()), flags, "{address}");
        }
    }
}
