//! The control thread: signals, health, metrics, `$SYS`, the service manager.
//!
//! One thread that is pinned beside the cores where there is room. It reads counters that the
//! cores write, and asks something of a core only by mail; it never touches what a core owns.

mod accept;
mod ctl;
mod http;
mod metrics_page;
mod node;
mod outbox;
mod process;
mod status;
mod totals;

pub use ctl::CtlSocket;
pub(crate) use ctl::with_address;
pub use http::{ControlError, bind, bind_ctl};
pub use node::{CoreView, ListenerView, Node, NodeFacts, State};
pub use process::Process;

use crate::clock::WallClock;
use crate::config::{Config, LogFormat, StreamConfig};
use crate::mail::{ControlMail, Mail};
use crate::startup::affinity::render_cpus;
use crate::startup::{CoreThreads, StartError};
use crate::sys_topics::SysTopics;
use ctl::Asks;
use outbox::Outbox;
use ringlane_dataplane::ids::CoreId;
use ringlane_dataplane::routing::Placement;
use ringlane_dataplane::runtime::Endpoint;
use ringlane_transport_uring::Wakers;
use sd_notify::NotifyState;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
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

/// Where operators come in.
#[derive(Debug, Default)]
pub struct Doors {
    /// HTTP, to read only.
    pub http: Option<(TcpListener, SocketAddr)>,
    /// The operator's socket, and who owns what.
    pub ctl: Option<(CtlSocket, Placement)>,
}

/// The control thread's state.
pub struct Control {
    node: Arc<Node>,
    endpoint: Endpoint<Mail>,
    outbox: Outbox,
    wakers: Wakers,
    clock: WallClock,
    doors: Doors,
    asks: Option<Asks>,
    sys: Option<(SysTopics, Duration)>,
    streams: Vec<StreamConfig>,
    drain_timeout: Duration,
    text_hints: bool,
    /// Set by the first signal or the first failure.
    stopping: Option<Stopping>,
    running: usize,
    failure: Option<StartError>,
}

struct Stopping {
    deadline: Instant,
}

/// Signals that mean something to a server (signal(7)).
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }
}

impl Control {
    /// A control thread that has not started. `endpoint` is the last one of the mesh.
    #[must_use]
    pub fn new(
        config: &Config,
        node: Arc<Node>,
        endpoint: Endpoint<Mail>,
        wakers: Wakers,
        doors: Doors,
        clock: WallClock,
    ) -> Self {
        let cores = node.facts.cores.len();
        Self {
            node,
            endpoint,
            outbox: Outbox::default(),
            wakers,
            clock,
            doors,
            asks: None,
            streams: config.streams(),
            sys: config.sys.enabled.then(|| (SysTopics::new(), config.sys.interval)),
            drain_timeout: config.mqtt.drain_timeout,
            text_hints: config.log.format == LogFormat::Text,
            stopping: None,
            running: cores,
            failure: None,
        }
    }

    /// Runs until every core has ended, or must be left.
    ///
    /// # Errors
    /// Which core failed, or that the end was not an orderly one.
    pub fn run(mut self, mut cores: CoreThreads) -> Result<(), StartError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| StartError::system("start the control thread", error))?;
        runtime.block_on(self.serve(&mut cores))?;
        // Connections of the control plane end here, before the process does.
        drop(runtime);
        cores.join();
        info!("stopped");
        self.failure.map_or(Ok(()), Err)
    }

    async fn serve(&mut self, cores: &mut CoreThreads) -> Result<(), StartError> {
        let system = |what| move |error| StartError::system(what, error);
        let mut signals = Signals::listen().map_err(system("listen for signals"))?;
        if let Some((listener, _)) = self.doors.http.take() {
            http::spawn(listener, Arc::clone(&self.node))?;
        }
        self.open_ctl().map_err(system("open the operator's socket"))?;
        let mut sys_ticks = ticks(self.sys.as_ref().map(|(_, interval)| *interval));
        let mut watchdog_ticks = ticks(sd_notify::watchdog_enabled().map(|limit| limit / 2));
        self.announce();
        while 0 < self.running {
            self.exchange();
            let next = self.next_exchange();
            tokio::select! {
                () = sleep_until(next) => {}
                ask = next_ask(&mut self.asks) => self.pass_on(ask),
                () = tick(&mut sys_ticks) => self.publish_sys(),
                () = tick(&mut watchdog_ticks) => notify(&[NotifyState::Watchdog]),
                end = cores.next_end() => self.on_core_end(end),
                _ = signals.terminate.recv() => self.on_stop_signal("SIGTERM")?,
                _ = signals.interrupt.recv() => self.on_stop_signal("SIGINT")?,
                _ = signals.hang_up.recv() => {
                    warn!("SIGHUP: nothing was reloaded; restart to apply a changed configuration");
                }
            }
            self.check_deadline()?;
        }
        Ok(())
    }

    fn open_ctl(&mut self) -> io::Result<()> {
        let Some((socket, placement)) = &self.doors.ctl else { return Ok(()) };
        let data_dir = self.node.facts.data_dir.clone();
        let streams = core::mem::take(&mut self.streams);
        self.asks = Some(ctl::spawn(socket, *placement, streams, data_dir)?);
        Ok(())
    }

    /// Mails a question to its core. While the node stops there are no answers.
    fn pass_on(&mut self, ask: Option<(CoreId, ControlMail)>) {
        match ask {
            Some((core, mail)) if self.stopping.is_none() => self.outbox.push(core, mail),
            Some(_) => {}
            None => self.asks = None,
        }
    }

    /// Says that the node is ready: to clients of the control plane, the service manager, and
    /// whoever reads the log.
    fn announce(&self) {
        self.node.set_state(State::Ready);
        let facts = &self.node.facts;
        let cpus: Vec<u32> = facts.cores.iter().map(|core| core.cpu).collect();
        let address = |kind: &str| {
            let found = facts.listeners.iter().find(|listener| listener.kind == kind);
            found.map_or_else(|| "off".to_owned(), |listener| listener.address.to_string())
        };
        let (mqtt, websocket) = (address("mqtt"), address("websocket"));
        let ctl = self.doors.ctl.as_ref();
        let ctl = ctl.map_or_else(|| "off".to_owned(), |(ctl, _)| ctl.path().display().to_string());
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
        if self.text_hints {
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
        if self.stopping.is_some() || !self.outbox.is_empty() {
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
        self.outbox.clear();
        for core in &self.node.facts.cores {
            self.outbox.push(core.core, ControlMail::Drain);
        }
        let deadline = Instant::now() + self.drain_timeout + DRAIN_GRACE;
        self.stopping = Some(Stopping { deadline });
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
        self.begin_stop();
        self.node.set_state(State::Failed);
    }

    fn check_deadline(&self) -> Result<(), StartError> {
        match &self.stopping {
            Some(stopping) if stopping.deadline <= Instant::now() => {
                error!(cores = self.running, "cores did not end in time; leaving them");
                Err(StartError::Stuck { waited: self.drain_timeout + DRAIN_GRACE })
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// Who can reach the broker, and how to try it.
fn hints(facts: &NodeFacts) {
    let open = facts.listeners.iter().find(|listener| !listener.address.ip().is_loopback());
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

async fn next_ask(asks: &mut Option<Asks>) -> Option<(CoreId, ControlMail)> {
    match asks {
        Some(asks) => asks.recv().await,
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
