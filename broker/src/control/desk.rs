//! What the control thread has for as long as the process runs: signals, HTTP, the operator's socket.
//! Cores may begin again behind it.

use super::ctl::{self, Asks, CtlSocket};
use super::http;
use super::node::Node;
use super::{notify, tick, ticks};
use crate::config::{Config, LogFormat, StreamConfig};
use crate::mail::ControlMail;
use crate::startup::StartError;
use ringlane_dataplane::ids::CoreId;
use ringlane_dataplane::routing::Placement;
use sd_notify::NotifyState;
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Interval;

/// Where operators come in.
#[derive(Debug, Default)]
pub struct Doors {
    /// HTTP, to read only.
    pub http: Option<(TcpListener, SocketAddr)>,
    /// The operator's socket, and who owns what.
    pub ctl: Option<(CtlSocket, Placement)>,
}

/// Signals that mean something to a server (signal(7)).
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

/// A signal that came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Told {
    /// To stop, by this signal.
    Stop(&'static str),
    /// SIGHUP.
    Reload,
}

/// The control thread without its cores.
pub(crate) struct Desk {
    signals: Signals,
    shown: watch::Sender<Arc<Node>>,
    ctl: Option<CtlSocket>,
    asks: Option<Asks>,
    streams: Vec<StreamConfig>,
    pub(super) text_hints: bool,
    /// Whether it was said that the node is up.
    pub(super) is_announced: bool,
    /// The service manager is told this often that the node works, also while its cores begin again.
    watchdog: Option<Interval>,
}

impl Desk {
    /// Opens everything, on the current runtime.
    ///
    /// # Errors
    /// What cannot be had.
    pub(crate) fn open(
        config: &Config,
        node: &Arc<Node>,
        doors: Doors,
    ) -> Result<Self, StartError> {
        let (shown, _) = watch::channel(Arc::clone(node));
        if let Some((listener, _)) = doors.http {
            http::spawn(listener, shown.subscribe())?;
        }
        let mut desk = Self {
            signals: Signals::listen()
                .map_err(|error| StartError::system("listen for signals", error))?,
            shown,
            ctl: None,
            asks: None,
            streams: config.streams(),
            text_hints: config.log.format == LogFormat::Text,
            is_announced: false,
            watchdog: ticks(sd_notify::watchdog_enabled().map(|limit| limit / 2)),
        };
        if let Some((socket, placement)) = doors.ctl {
            desk.open_ctl(socket, placement)?;
        }
        Ok(desk)
    }

    /// Answers on the operator's socket from now on.
    ///
    /// # Errors
    /// If the runtime does not take it.
    pub(crate) fn open_ctl(
        &mut self,
        socket: CtlSocket,
        placement: Placement,
    ) -> Result<(), StartError> {
        let streams = core::mem::take(&mut self.streams);
        let asks = ctl::spawn(&socket, placement, streams, self.shown.subscribe());
        let failed = |error| StartError::system("open the operator's socket", error);
        self.asks = Some(asks.map_err(failed)?);
        self.ctl = Some(socket);
        Ok(())
    }

    /// Shows this node from now on.
    pub(crate) fn show(&self, node: &Arc<Node>) {
        self.shown.send_replace(Arc::clone(node));
    }

    /// Where the operator's socket is.
    pub(super) fn ctl(&self) -> String {
        let path = self.ctl.as_ref().map(|ctl| ctl.path().display().to_string());
        path.unwrap_or_else(|| "off".to_owned())
    }

    /// The next signal, or the next question of an operator. Nothing is lost if the caller stops
    /// waiting.
    pub(super) async fn next(&mut self) -> Visit {
        let Self { signals, asks, watchdog, .. } = self;
        tokio::select! {
            told = signals.next() => Visit::Told(told),
            ask = next_ask(asks) => Visit::Asked(ask.0, ask.1),
            never = watch(watchdog) => match never {},
        }
    }

    /// The next signal.
    pub(crate) async fn told(&mut self) -> Told {
        tokio::select! {
            told = self.signals.next() => told,
            never = watch(&mut self.watchdog) => match never {},
        }
    }
}

/// Tells the service manager that the node works, for as long as somebody waits for this.
async fn watch(watchdog: &mut Option<Interval>) -> Infallible {
    loop {
        tick(watchdog).await;
        notify(&[NotifyState::Watchdog]);
    }
}

/// Somebody wants something.
pub(super) enum Visit {
    Told(Told),
    Asked(CoreId, ControlMail),
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Told::Stop("SIGINT"),
            _ = self.hang_up.recv() => Told::Reload,
        }
    }
}

async fn next_ask(asks: &mut Option<Asks>) -> (CoreId, ControlMail) {
    if let Some(open) = asks {
        match open.recv().await {
            Some(ask) => return ask,
            None => *asks = None,
        }
    }
    std::future::pending().await
}
