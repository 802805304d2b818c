//! A client and the leader, joined.

use super::boundary::Boundary;
use super::farewell::{self, LINGER, finish};
use super::flow::{Flow, Step};
use super::metrics::{Held, ProxyMetrics};
use super::opening::{Heard, OPENING_BYTES_MAX, Opening};
use super::{AcceptedClient, Proxy, ProxyTarget};
use crate::proxy_protocol;
use crate::service::ListenerKind;
use ringlane_dataplane::ids::NodeId;
use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::debug;

/// A leader that cannot be reached is tried again after this time; one that closes without an answer
/// after this time, then twice as long each time.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// After a client has ended its side the leader may go on for so long: it answers what came before.
const HALF_OPEN_LONGEST: Duration = Duration::from_secs(30);

/// How a pair ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum PairEnd {
    /// By one of its sides.
    Over,
    /// Somebody else leads.
    Changed,
    /// The leader ended, or another one came, before an answer did.
    Unanswered,
}

/// A client and whoever leads.
#[derive(Debug)]
pub(super) struct Pair {
    client: TcpStream,
    kind: ListenerKind,
    /// What names the client; empty if a load balancer has.
    header: Vec<u8>,
    opening: Opening,
    /// The client has ended its side.
    client_ended: bool,
    wait: Duration,
    leader: watch::Receiver<Option<ProxyTarget>>,
    metrics: Arc<ProxyMetrics>,
}

impl Pair {
    /// A client that no leader has heard of.
    ///
    /// # Errors
    /// Its socket has ended, or the runtime does not take it.
    pub(super) fn new(accepted: AcceptedClient, proxy: &Proxy) -> io::Result<Self> {
        let AcceptedClient { socket, kind, is_behind_balancer, peer, bytes } = accepted;
        let client = stream(socket)?;
        let header = match is_behind_balancer {
            true => Vec::new(),
            false => proxy_protocol::header(peer, client.local_addr()?),
        };
        Ok(Self {
            client,
            kind,
            header,
            opening: Opening::new(kind, is_behind_balancer, bytes),
            client_ended: false,
            wait: proxy.limits.wait,
            leader: proxy.leader.clone(),
            metrics: proxy.metrics(),
        })
    }

    /// Passes the client on until it or its leader ends.
    pub(super) async fn run(mut self) {
        let metrics = Arc::clone(&self.metrics);
        metrics.taken.add(1);
        let _held = Held::new(&metrics.clients);
        let (mut tried, mut pause) = (None, RETRY_PAUSE);
        let mut deadline = Instant::now() + self.wait;
        if self.is_sent_away(deadline).await {
            return;
        }
        loop {
            let reached = {
                let _waits = Held::new(&metrics.waiting);
                self.reach_leader(deadline).await
            };
            let Some((leader, reign)) = reached else { return };
            match self.join(&leader, reign).await {
                PairEnd::Over => return,
                PairEnd::Changed => return metrics.ended_by_change.add(1),
                PairEnd::Unanswered if self.client_ended || !self.opening.may_be_repeated() => {
                    return;
                }
                PairEnd::Unanswered => metrics.tried_again.add(1),
            }
            // A leader that has just been elected closes what comes before it serves.
            if tried.replace(reign) != Some(reign) {
                (deadline, pause) = (Instant::now() + self.wait, RETRY_PAUSE);
            }
            sleep(pause).await;
            pause *= 2;
        }
    }

    /// Connects to whoever leads; `None` if that took too long, or the client has gone.
    async fn reach_leader(&mut self, deadline: Instant) -> Option<(TcpStream, (NodeId, u64))> {
        loop {
            let target = self.known_leader(deadline).await?;
            let address = target.address(self.kind).unwrap_or_default().to_owned();
            let reached = tokio::select! {
                reached = TcpStream::connect(&address) => reached,
                () = changes(&mut self.leader, target.reign()) => continue,
                () = sleep_until(deadline) => continue,
            };
            match reached.and_then(|leader| leader.set_nodelay(true).map(|()| leader)) {
                Ok(leader) => return Some((leader, target.reign())),
                Err(error) => {
                    debug!(node = target.node.0, address, %error, "the leader cannot be reached");
                    sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    /// Tells a client where the leader is, if that is what is wanted and it can be told. Whether that is all
    /// there is to be done for it; it is also where nobody is known to lead for too long.
    async fn is_sent_away(&mut self, deadline: Instant) -> bool {
        let metrics = Arc::clone(&self.metrics);
        let target = {
            let _waits = Held::new(&metrics.waiting);
            self.known_leader(deadline).await
        };
        let Some(target) = target else { return true };
        let Some(reference) = target.reference else { return false };
        let Heard::Version5 { packet_bytes_max } = self.hear_connect(deadline).await else {
            return false;
        };
        metrics.sent_away.add(1);
        let answer = farewell::moved(&reference, packet_bytes_max);
        farewell::say(&self.client, &answer).await;
        true
    }

    /// Waits for the client's CONNECT, as long as there is time and room for it.
    async fn hear_connect(&mut self, deadline: Instant) -> Heard {
        loop {
            let heard = self.opening.heard();
            if heard != Heard::Nothing || self.client_ended || self.opening.room() == 0 {
                return heard;
            }
            let ready = tokio::select! {
                ready = self.client.readable() => ready,
                () = sleep_until(deadline) => return heard,
            };
            let (opening, ended) = (&mut self.opening, &mut self.client_ended);
            if ready.and_then(|()| hear_once(&self.client, opening, ended)).is_err() {
                return heard;
            }
        }
    }

    /// Waits until somebody is known to lead, and reads what the client says meanwhile.
    async fn known_leader(&mut self, deadline: Instant) -> Option<ProxyTarget> {
        let kind = self.kind;
        let serves = |target: &ProxyTarget| target.address(kind).is_some();
        tokio::select! {
            biased;
            () = sleep_until(deadline) => {
                self.metrics.given_up.add(1);
                None
            }
            // An error: the node ends.
            found = self.leader.wait_for(|target| target.as_ref().is_some_and(serves)) => {
                found.ok()?.clone()
            }
            () = hear(&self.client, &mut self.opening, &mut self.client_ended) => None,
        }
    }

    /// Passes bytes both ways until one side ends.
    async fn join(&mut self, leader: &TcpStream, reign: (NodeId, u64)) -> PairEnd {
        let first = [self.header.as_slice(), self.opening.bytes()].concat();
        self.metrics.bytes_to_leader.add(self.opening.bytes().len() as u64);
        let mut up = Flow::new(first, self.client_ended);
        let mut down = Flow::new(Vec::new(), false);
        let mut packets = Packets::new(&self.opening);
        let mut is_answered = false;
        let mut until = None;
        while !(up.is_over() && down.is_over()) {
            // Others have their turn, too, however busy this pair is.
            consume_budget().await;
            let opening = &mut self.opening;
            tokio::select! {
                step = up.step(&self.client, leader, |bytes| {
                    packets.up.pass(bytes);
                    opening.keep(bytes);
                }) => match step {
                    Step::Moved(count) => self.metrics.bytes_to_leader.add(count as u64),
                    Step::Ended => {
                        self.client_ended = true;
                        finish(leader);
                        until = until.or(Some(Instant::now() + HALF_OPEN_LONGEST));
                    }
                    Step::SourceFailed => return PairEnd::Over,
                    // What the leader said last is still to be read.
                    Step::SinkFailed => until = Some(Instant::now() + LINGER),
                },
                step = down.step(leader, &self.client, |bytes| packets.down.pass(bytes)) => match step {
                    Step::Moved(0) => {}
                    Step::Moved(count) => {
                        if !core::mem::replace(&mut is_answered, true) {
                            packets.client = self.opening.heard();
                            self.opening.forget();
                        }
                        self.metrics.bytes_to_clients.add(count as u64);
                    }
                    Step::Ended | Step::SourceFailed if !is_answered => return PairEnd::Unanswered,
                    Step::Ended | Step::SourceFailed if packets.are_open(&down) => {
                        return self.part(PairEnd::Over, reign, packets.client).await;
                    }
                    Step::Ended => {
                        finish(&self.client);
                        until = Some(Instant::now() + LINGER);
                    }
                    Step::SourceFailed | Step::SinkFailed => return PairEnd::Over,
                },
                () = changes(&mut self.leader, reign) => {
                    return match is_answered {
                        true if packets.are_open(&down) => {
                            self.part(PairEnd::Changed, reign, packets.client).await
                        }
                        true => PairEnd::Changed,
                        false => PairEnd::Unanswered,
                    };
                }
                () = over(until) => return PairEnd::Over,
            }
        }
        PairEnd::Over
    }

    /// Tells a client of MQTT 5 that its leader has gone, and where the next one is if it is to go there itself.
    async fn part(&self, end: PairEnd, reign: (NodeId, u64), client: Heard) -> PairEnd {
        let Heard::Version5 { packet_bytes_max } = client else { return end };
        let reference = {
            let target = self.leader.borrow();
            let next = target.as_ref().filter(|target| target.reign() != reign);
            next.and_then(|target| target.reference.clone())
        };
        let last = farewell::gone(reference.as_deref(), packet_bytes_max);
        farewell::say(&self.client, &last).await;
        end
    }
}

/// Both directions, packet by packet.
struct Packets {
    up: Boundary,
    down: Boundary,
    /// Who it is, once the leader has answered.
    client: Heard,
}

impl Packets {
    fn new(opening: &Opening) -> Self {
        let mut up = Boundary::default();
        up.pass(opening.packets());
        Self { up, down: Boundary::default(), client: Heard::Nothing }
    }

    /// Whether the client may be told something of which its leader knows nothing: it has all of the packets
    /// that the leader began, and neither has said DISCONNECT.
    fn are_open(&self, down: &Flow) -> bool {
        let is_v5 = matches!(self.client, Heard::Version5 { .. });
        is_v5 && down.is_delivered() && self.down.is_open() && !self.up.has_ended()
    }
}

/// The socket for the runtime.
fn stream(socket: OwnedFd) -> io::Result<TcpStream> {
    let socket = std::net::TcpStream::from(socket);
    socket.set_nonblocking(true)?;
    // Small packets come and go one by one.
    socket.set_nodelay(true)?;
    TcpStream::from_std(socket)
}

/// Waits until somebody else leads, or the node ends. That nobody is known to lead is no change: the
/// leader may be there all the same.
async fn changes(leader: &mut watch::Receiver<Option<ProxyTarget>>, reign: (NodeId, u64)) {
    let is_other = |target: &ProxyTarget| target.reign() != reign;
    let _ = leader.wait_for(|target| target.as_ref().is_some_and(is_other)).await;
}

async fn over(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => pending().await,
    }
}

/// Reads what a client says while it waits, as far as that is kept. Returns when the client has
/// failed.
async fn hear(client: &TcpStream, opening: &mut Opening, ended: &mut bool) {
    while 0 < opening.room() && !*ended {
        let ready = client.readable().await;
        if ready.and_then(|()| hear_once(client, opening, ended)).is_err() {
            return;
        }
    }
    pending().await
}

fn hear_once(client: &TcpStream, opening: &mut Opening, ended: &mut bool) -> io::Result<()> {
    let mut buffer = [0; OPENING_BYTES_MAX];
    let room = opening.room();
    match client.try_read(&mut buffer[..room]) {
        Ok(0) => *ended = true,
        Ok(count) => opening.keep(&buffer[..count]),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(error) => return Err(error),
    }
    Ok(())
}
