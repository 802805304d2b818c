//! A small MQTT 5 broker that keeps everything over its "crashes", but for one bug that is planted.

mod state;

use anyhow::{Result, bail};
use ringlane_bench::durability::{Fault, Host};
use ringlane_mqtt::{Frame, PACKET_BYTES_MAX, Packet, decode, frame};
use ringlane_mqtt::{ReasonCode, Version, encode};
use state::{State, Will};
use std::io::Read;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What it does wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bug {
    /// Nothing.
    None,
    /// What was acknowledged last is not kept.
    AckBeforeKeep,
    /// (client, packet identifier) of QoS 2 is not kept.
    ForgetPacketIds,
    /// What waits for a session is turned round.
    Reorder,
    /// A QoS 2 exchange with a subscriber that is over begins again.
    ReleaseAgain,
    /// A session is not kept.
    ForgetSession,
    /// A session is kept without its subscriptions.
    ForgetSubscriptions,
    /// A message in flight to a subscriber is not kept.
    ForgetInFlight,
    /// A message that was acknowledged long ago comes back.
    Resurrect,
    /// A subscription that was ended comes back.
    BringBackFilter,
    /// Retained messages stay as they were before the crash.
    StaleRetained,
    /// Wills are not sent.
    WillMissing,
    /// Wills are sent twice.
    WillTwice,
    /// Wills are sent after DISCONNECT.
    WillAfterDisconnect,
    /// A payload is damaged.
    Damage,
    /// A message is sent twice in one connection.
    Double,
    /// After the crash nothing is acknowledged.
    Stuck,
}

/// The broker.
pub(crate) struct Planted {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

/// How long before a crash packets are taken in and nothing is said any more.
const LAST_WORK: Duration = Duration::from_millis(5);

impl Planted {
    pub(crate) fn new(bug: Bug) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::new(bug)));
        let shared = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, state) = (stream.unwrap(), shared.clone());
                thread::spawn(move || serve(stream, &state));
            }
        });
        Self { address, state }
    }
}

impl Host for Planted {
    fn start(&mut self) -> Result<SocketAddr> {
        self.state.lock().unwrap().start();
        Ok(self.address)
    }

    fn weaken(&mut self, _fault: Fault) -> Result<()> {
        Ok(())
    }

    fn strike(&mut self, fault: Fault) -> Result<()> {
        if fault != Fault::Kill {
            bail!("only kill");
        }
        self.state.lock().unwrap().is_mute = true;
        thread::sleep(LAST_WORK);
        self.state.lock().unwrap().crash();
        Ok(())
    }

    fn stumble(&mut self, fault: Fault, after: Duration) -> Result<()> {
        self.start()?;
        thread::sleep(after);
        self.strike(fault)
    }

    fn arm(&mut self, _failpoint: Option<String>) {}

    fn has_ended(&mut self) -> bool {
        false
    }

    fn output(&self) -> String {
        String::new()
    }
}

/// Reads packets until the end, then publishes the will.
fn serve(mut stream: TcpStream, state: &Mutex<State>) {
    stream.set_nodelay(true).unwrap();
    let mut client = None;
    let mut input = Vec::new();
    let mut buffer = [0; 65_536];
    'connection: while let Ok(length @ 1..) = stream.read(&mut buffer) {
        input.extend_from_slice(&buffer[..length]);
        while let Frame::Complete(raw) = frame(&input, PACKET_BYTES_MAX).unwrap() {
            let (packet, bytes) = (decode(Version::V5, raw).unwrap(), raw.total_bytes);
            let goes_on = on_packet(&mut state.lock().unwrap(), &mut client, &stream, &packet);
            if !goes_on {
                break 'connection;
            }
            input.drain(..bytes);
            if input.is_empty() {
                break;
            }
        }
    }
    if let Some((name, connection)) = client {
        state.lock().unwrap().on_closed(&name, connection);
    }
    let _ = stream.shutdown(Shutdown::Both);
}

/// Says whether the connection goes on.
fn on_packet(
    state: &mut State,
    client: &mut Option<(String, u64)>,
    stream: &TcpStream,
    packet: &Packet<'_>,
) -> bool {
    if let Packet::Connect(connect) = packet {
        let will = connect.will.as_ref().map(|will| Will {
            topic: will.topic.to_owned(),
            payload: will.payload.to_vec(),
            qos: will.qos,
        });
        let persists = connect.properties.session_expiry_secs.unwrap_or(0) > 0;
        let socket = stream.try_clone().unwrap();
        let name = connect.client_id.to_owned();
        let connection = state.connect(&name, connect.clean_start, persists, will, socket);
        *client = connection.map(|connection| (name, connection));
        return client.is_some();
    }
    let Some((name, connection)) = client else { return false };
    if !state.is_current(name, *connection) {
        return false;
    }
    match packet {
        Packet::Publish(publish) => state.publish(name, publish),
        Packet::Pubrel(ack) => state.release(name, ack.packet_id),
        Packet::Puback(ack) | Packet::Pubcomp(ack) => state.finish(name, ack.packet_id),
        Packet::Pubrec(ack) => state.received(name, ack.packet_id),
        Packet::Subscribe(subscribe) => {
            let filters = subscribe.filters.iter().map(|it| (it.filter.to_owned(), it.qos));
            let granted: Vec<ReasonCode> =
                subscribe.filters.iter().map(|it| ReasonCode(it.qos as u8)).collect();
            let mut out = Vec::new();
            encode::suback(&mut out, Version::V5, subscribe.packet_id, &granted, None);
            state.subscribe(name, filters.collect(), &out);
        }
        Packet::Unsubscribe(unsubscribe) => {
            let filters: Vec<String> = unsubscribe.filters.iter().map(str::to_owned).collect();
            let mut out = Vec::new();
            let success = vec![ReasonCode::SUCCESS; filters.len()];
            encode::unsuback(&mut out, Version::V5, unsubscribe.packet_id, &success, None);
            state.unsubscribe(name, &filters, &out);
        }
        Packet::Pingreq => {
            let mut out = Vec::new();
            encode::pingresp(&mut out);
            state.send(name, &out);
        }
        Packet::Disconnect(_) => {
            state.disconnect(name);
            return false;
        }
        _ => {}
    }
    true
}
