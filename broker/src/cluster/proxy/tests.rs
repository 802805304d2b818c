//! The proxy between real sockets: what comes through, who waits, who is ended.

use super::*;
use crate::proxy_protocol::{self, Proxied};
use rustix::net::{Shutdown, shutdown};
use std::future::Future;
use std::os::fd::OwnedFd;
use tokio::net::{TcpListener, TcpStream};

/// How long a test waits for what must come. Reached only by a failing test.
const PATIENCE: Duration = Duration::from_secs(20);
/// CONNECT of MQTT 5 with the client identifier `x`.
const CONNECT: &[u8] = b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01x";
const CONNACK: &[u8] = b"\x20\x03\x00\x00\x00";
const PUBLISH: &[u8] = b"\x30\x04\x00\x01tx";
/// CONNECT of MQTT 3.1.1.
const CONNECT_4: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01x";
/// DISCONNECT: server shutting down.
const GONE: &[u8] = b"\xe0\x02\x8b\x00";

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("in time") })
}

/// A follower: its proxy, and where clients come in.
struct Follower {
    proxy: Proxy,
    leader: watch::Sender<Option<ProxyTarget>>,
    listener: TcpListener,
}

impl Follower {
    async fn new(connections_max: usize, wait: Duration) -> Self {
        let (leader, known) = watch::channel(None);
        let proxy = Proxy::new(ProxyLimits { connections_max, wait }, known);
        Self { proxy, leader, listener: listen().await }
    }

    async fn patient() -> Self {
        Self::new(10, PATIENCE).await
    }

    fn led_by(&self, leader: &TcpListener, epoch: u64) {
        self.led_and_named(leader, epoch, None);
    }

    /// Clients are told where it is.
    fn led_and_named(&self, leader: &TcpListener, epoch: u64, reference: Option<&str>) {
        let mqtt = Some(leader.local_addr().unwrap().to_string());
        let reference = reference.map(str::to_owned);
        let target = ProxyTarget { node: NodeId(2), epoch, mqtt, websocket: None, reference };
        self.leader.send(Some(target)).expect("a proxy");
    }

    async fn client(&self) -> TcpStream {
        self.client_that_said(b"").await
    }

    /// A client of which a core has read `bytes` already.
    async fn client_that_said(&self, bytes: &[u8]) -> TcpStream {
        let client = TcpStream::connect(self.listener.local_addr().unwrap()).await.unwrap();
        let (socket, peer) = self.listener.accept().await.unwrap();
        self.proxy.take(AcceptedClient {
            socket: OwnedFd::from(socket.into_std().unwrap()),
            kind: ListenerKind::Tcp,
            is_behind_balancer: false,
            peer,
            bytes: bytes.to_vec(),
        });
        client
    }

    /// A client that an established pair joins to `leader`.
    async fn joined(&self, leader: &TcpListener) -> (TcpStream, TcpStream) {
        let client = self.client_that_said(CONNECT).await;
        let server = accept(leader, &client).await;
        expect(&server, CONNECT).await;
        send(&server, CONNACK).await;
        expect(&client, CONNACK).await;
        (client, server)
    }
}

async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// The leader's end of a pair, behind the header that names `client`.
async fn accept(leader: &TcpListener, client: &TcpStream) -> TcpStream {
    let (server, _) = leader.accept().await.unwrap();
    let mut header = Vec::new();
    loop {
        header.extend(read(&server, 1).await);
        if let Proxied::Whole { client: named, .. } = proxy_protocol::read(&header) {
            assert_eq!(named, Some(client.local_addr().unwrap()));
            return server;
        }
    }
}

/// `count` bytes, or what came before the end.
async fn read(socket: &TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < count {
        socket.readable().await.unwrap();
        let mut buffer = vec![0; count - bytes.len()];
        match socket.try_read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("{error}"),
        }
    }
    bytes
}

async fn expect(socket: &TcpStream, bytes: &[u8]) {
    assert_eq!(read(socket, bytes.len()).await, bytes);
}

async fn expect_end(socket: &TcpStream) {
    assert_eq!(read(socket, 1).await, b"", "the end");
}

async fn send(socket: &TcpStream, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        socket.writable().await.unwrap();
        match socket.try_write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Lets the proxy's tasks run until `condition` holds.
async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn a_client_is_named_and_bytes_go_both_ways() {
    block_on(async {
        let (follower, leader) = (Follower::patient().await, listen().await);
        follower.led_by(&leader, 7);
        let (client, server) = follower.joined(&leader).await;
        send(&client, b"up").await;
        expect(&server, b"up").await;
        send(&server, b"down").await;
        expect(&client, b"down").await;
        let metrics = follower.proxy.metrics();
        assert_eq!((metrics.taken.get(), metrics.clients.get(), metrics.waiting.get()), (1, 1, 0));
        assert_eq!(metrics.bytes_to_leader.get(), CONNECT.len() as u64 + 2);
        assert_eq!(metrics.bytes_to_clients.get(), CONNACK.len() as u64 + 4);
        drop(client);
        expect_end(&server).await;
        drop(server);
        until(|| metrics.clients.get() == 0).await;
    });
}

#[test]
fn a_balancers_header_is_passed_on_as_it_is() {
    block_on(async {
        let (follower, leader) = (Follower::patient().await, listen().await);
        follower.led_by(&leader, 7);
        let client = TcpStream::connect(follower.listener.local_addr().unwrap()).await.unwrap();
        let (socket, peer) = follower.listener.accept().await.unwrap();
        follower.proxy.take(AcceptedClient {
            socket: OwnedFd::from(socket.into_std().unwrap()),
            kind: ListenerKind::Tcp,
            is_behind_balancer: true,
            peer,
            bytes: Vec::new(),
        });
        let whole = [b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 1883\r\n", CONNECT].concat();
        send(&client, &whole).await;
        let (server, _) = leader.accept().await.unwrap();
        expect(&server, &whole).await;
    });
}

#[test]
fn one_side_may_end_before_the_other() {
    block_on(async {
        let (follower, leader) = (Follower::patient().await, listen().await);
        follower.led_by(&leader, 7);
        let (client, server) = follower.joined(&leader).await;
        send(&client, PUBLISH).await;
        shutdown(&client, Shutdown::Write).unwrap();
        expect(&server, PUBLISH).await;
        expect_end(&server).await;
        send(&server, b"what it was owed").await;
        expect(&client, b"what it was owed").await;
        drop(server);
        expect_end(&client).await;
    });
}

#[test]
fn what_the_leader_said_last_comes_through_though_the_client_goes_on() {
    block_on(async {
        let (follower, leader) = (Follower::patient().await, listen().await);
        follower.led_by(&leader, 7);
        let (client, server) = follower.joined(&leader).await;
        send(&server, b"\xe0\x01\x8b").await;
        drop(server);
        for _ in 0..100 {
            // The pair ends when it has thrown enough away: then this fails.
            let _ = client.try_write(PUBLISH);
        }
        expect(&client, b"\xe0\x01\x8b").await;
        expect_end(&client).await;
    });
}

#[test]
fn a_client_waits_for_a_leader_and_what_it_says_meanwhile_is_kept() {
    block_on(async {
        let (follower, leader) = (Follower::patient().await, listen().await);
        let client = follower.client_that_said(&CONNECT[..3]).await;
        let metrics = follower.proxy.metrics();
        until(|| metrics.waiting.get() == 1).await;
        send(&client, &CONNECT[3..]).await;
        send(&client, PUBLISH).await;
        follower.led_by(&leader, 7);
        let server = accept(&leader, &client).await;
        expect(&server, &[CONNECT, PUBLISH].concat()).await;
        assert_eq!((metrics.waiting.get(), metrics.clients.get()), (0, 1));
    });
}

#[test]
fn nobody_waits_for_ever() {
    block_on(async {
        let follower = Follower::new(10, Duration::from_millis(20)).await;
        let metrics = follower.proxy.metrics();
        expect_end(&follower.client().await).await;
        assert_eq!(metrics.given_up.get(), 1);
        // A leader that nobody reaches is none.
        let leader = listen().await;
        follower.led_by(&leader, 7);
        drop(leader);
        expect_end(&follower.client().await).await;
        assert_eq!((metrics.given_up.get(), metrics.clients.get()), (2, 0));
    });
}

#[test]
fn too_many_are_turned_away_and_places_come_free() {
    block_on(async {
        let follower = Follower::new(2, PATIENCE).await;
        let leader = listen().await;
        follower.led_by(&leader, 7);
        let (one, _server) = follower.joined(&leader).await;
        let _two = follower.joined(&leader).await;
        expect_end(&follower.client().await).await;
        let metrics = follower.proxy.metrics();
        assert_eq!((metrics.taken.get(), metrics.refused.get()), (2, 1));
        drop((one, _server));
        until(|| metrics.clients.get() == 1).await;
        follower.joined(&leader).await;
        assert_eq!((metrics.taken.get(), metrics.refused.get()), (3, 1));
    });
}

#[test]
fn a_change_of_the_leader_ends_its_pairs() {
    block_on(async {
        let (follower, leader) = (Follower::patient().await, listen().await);
        follower.led_by(&leader, 7);
        let (client, server) = follower.joined(&leader).await;
        // Nobody is known to lead for a while: that is no change.
        follower.leader.send(None).unwrap();
        send(&client, b"on").await;
        expect(&server, b"on").await;
        follower.led_by(&leader, 7);
        send(&server, b"and on").await;
        expect(&client, b"and on").await;
        follower.led_by(&leader, 9);
        expect_end(&client).await;
        expect_end(&server).await;
        assert_eq!(follower.proxy.metrics().ended_by_change.get(), 1);
    });
}

#[test]
fn a_connect_that_nobody_answered_is_tried_at_the_next_leader() {
    block_on(async {
        let (follower, first, second) = (Follower::patient().await, listen().await, listen().await);
        follower.led_by(&first, 7);
        let (one, two) = (follower.client().await, follower.client().await);
        send(&one, CONNECT).await;
        let dead = accept(&first, &one).await;
        expect(&dead, CONNECT).await;
        let silent = accept(&first, &two).await;
        send(&two, CONNECT).await;
        expect(&silent, CONNECT).await;
        // One pair sees the end of the leader, the other one only that there is a new one.
        drop(dead);
        follower.led_by(&second, 9);
        let mut servers = Vec::new();
        for _ in 0..2 {
            let (server, _) = second.accept().await.unwrap();
            let header =
                proxy_protocol::header(one.local_addr().unwrap(), one.local_addr().unwrap());
            read(&server, header.len()).await;
            expect(&server, CONNECT).await;
            send(&server, CONNACK).await;
            servers.push(server);
        }
        expect(&one, CONNACK).await;
        expect(&two, CONNACK).await;
        assert_eq!(follower.proxy.metrics().tried_again.get(), 2);
    });
}

#[test]
fn a_leader_that_does_not_serve_yet_is_tried_until_it_does() {
    block_on(async {
        let (follower, leader) = (Follower::patient().await, listen().await);
        follower.led_by(&leader, 7);
        let client = follower.client_that_said(CONNECT).await;
        for _ in 0..3 {
            drop(leader.accept().await.unwrap());
        }
        let server = accept(&leader, &client).await;
        expect(&server, CONNECT).await;
        send(&server, CONNACK).await;
        expect(&client, CONNACK).await;
        assert_eq!(follower.proxy.metrics().tried_again.get(), 3);
    });
}

#[test]
fn what_came_behind_a_connect_is_not_said_twice() {
    block_on(async {
        let (follower, leader) = (Follower::patient().await, listen().await);
        follower.led_by(&leader, 7);
        let client = follower.client_that_said(&[CONNECT, PUBLISH].concat()).await;
        let server = accept(&leader, &client).await;
        expect(&server, &[CONNECT, PUBLISH].concat()).await;
        drop(server);
        expect_end(&client).await;
        assert_eq!(follower.proxy.metrics().tried_again.get(), 0);
    });
}

#[test]
fn a_slow_reader_holds_its_own_pair_back_and_loses_nothing() {
    block_on(async {
        let (follower, leader) = (Follower::patient().await, listen().await);
        follower.led_by(&leader, 7);
        let (client, server) = follower.joined(&leader).await;
        let metrics = follower.proxy.metrics();
        let before = metrics.bytes_to_clients.get();
        let mut sent = Vec::new();
        // Until every buffer between both is full: nothing went on for a while.
        let mut idle = 0;
        while idle < 50 {
            let piece: Vec<u8> = (0..60_000_u32).map(|at| (at + sent.len() as u32) as u8).collect();
            match server.try_write(&piece) {
                Ok(count) => {
                    sent.extend_from_slice(&piece[..count]);
                    idle = 0;
                }
                Err(_) => idle += 1,
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(metrics.bytes_to_clients.get() - before < sent.len() as u64);
        assert!(read(&client, sent.len()).await == sent);
    });
}

#[test]
fn a_client_of_mqtt_5_is_told_that_its_leader_has_gone() {
    block_on(async {
        let (follower, leader) = (Follower::patient().await, listen().await);
        follower.led_by(&leader, 7);
        let (client, server) = follower.joined(&leader).await;
        send(&client, PUBLISH).await;
        expect(&server, PUBLISH).await;
        send(&server, PUBLISH).await;
        expect(&client, PUBLISH).await;
        drop(server);
        expect(&client, GONE).await;
        expect_end(&client).await;
        // In the middle of a packet nothing can be said.
        let (client, server) = follower.joined(&leader).await;
        send(&server, &PUBLISH[..4]).await;
        expect(&client, &PUBLISH[..4]).await;
        drop(server);
        expect_end(&client).await;
        // Nor when one of them has said that it ends.
        let (client, server) = follower.joined(&leader).await;
        send(&client, b"\xe0\x00").await;
        expect(&server, b"\xe0\x00").await;
        drop(server);
        expect_end(&client).await;
        // The next leader is named where clients go there themselves.
        let (client, _server) = follower.joined(&leader).await;
        follower.led_and_named(&leader, 9, Some("b:1"));
        expect(&client, b"\xe0\x08\x9d\x06\x1c\x00\x03b:1").await;
        expect_end(&client).await;
    });
}

#[test]
fn a_client_of_mqtt_3_1_1_is_closed_with_its_leader() {
    block_on(async {
        let (follower, leader) = (Follower::patient().await, listen().await);
        follower.led_by(&leader, 7);
        let client = follower.client_that_said(CONNECT_4).await;
        let server = accept(&leader, &client).await;
        expect(&server, CONNECT_4).await;
        send(&server, b"\x20\x02\x00\x00").await;
        expect(&client, b"\x20\x02\x00\x00").await;
        drop(server);
        expect_end(&client).await;
    });
}

#[test]
fn who_speaks_mqtt_5_is_told_where_the_leader_is_if_that_is_wanted() {
    block_on(async {
        let (follower, leader) = (Follower::patient().await, listen().await);
        let early = follower.client_that_said(&CONNECT[..3]).await;
        follower.led_and_named(&leader, 7, Some("b:1"));
        send(&early, &CONNECT[3..]).await;
        let moved = b"\x20\x09\x00\x9d\x06\x1c\x00\x03b:1";
        expect(&early, moved).await;
        expect_end(&early).await;
        let metrics = follower.proxy.metrics();
        drop(early);
        until(|| metrics.clients.get() == 0).await;
        // What it sends ahead is not looked at.
        let hasty = follower.client_that_said(&[CONNECT, PUBLISH].concat()).await;
        expect(&hasty, moved).await;
        assert_eq!(metrics.sent_away.get(), 2);
        // A reference that is too long for the client is left out [MQTT-3.1.2-24].
        let small = b"\x10\x13\x00\x04MQTT\x05\x02\x00\x3c\x05\x27\x00\x00\x00\x09\x00\x01x";
        let small = follower.client_that_said(small).await;
        expect(&small, b"\x20\x03\x00\x9d\x00").await;
        expect_end(&small).await;
        // Others know no references: they are passed on, and so is what is no CONNECT.
        for first in [CONNECT_4, PUBLISH] {
            let client = follower.client_that_said(first).await;
            let server = accept(&leader, &client).await;
            expect(&server, first).await;
        }
        assert_eq!(metrics.sent_away.get(), 3);
    });
}

#[test]
fn clients_end_with_the_node() {
    block_on(async {
        let (follower, leader) = (Follower::patient().await, listen().await);
        follower.led_by(&leader, 7);
        let (client, _server) = follower.joined(&leader).await;
        let waiting = {
            follower.leader.send(None).unwrap();
            follower.client().await
        };
        drop(follower.leader);
        expect(&client, GONE).await;
        expect_end(&client).await;
        expect_end(&waiting).await;
    });
}

#[test]
fn only_a_connect_is_repeated() {
    use super::opening::{OPENING_BYTES_MAX, Opening};
    let repeated = |kind, is_behind_balancer, bytes: &[u8]| {
        Opening::new(kind, is_behind_balancer, bytes.to_vec()).may_be_repeated()
    };
    let (tcp, websocket) = (ListenerKind::Tcp, ListenerKind::WebSocket);
    let line: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 1883\r\n";
    let upgrade: &[u8] = b"GET /mqtt HTTP/1.1\r\n\r\n";
    for end in 0..=CONNECT.len() {
        assert!(repeated(tcp, false, &CONNECT[..end]), "{end}");
    }
    assert!(!repeated(tcp, false, &[CONNECT, PUBLISH].concat()));
    assert!(!repeated(tcp, false, b"\x10\xff\xff\xff\xff\xff"), "no packet at all");
    assert!(!repeated(tcp, false, &PUBLISH[..1]), "no CONNECT");
    assert!(repeated(tcp, true, &line[..9]));
    assert!(repeated(tcp, true, &[line, CONNECT].concat()));
    assert!(!repeated(tcp, true, &[line, CONNECT, PUBLISH].concat()));
    assert!(repeated(websocket, false, &upgrade[..7]));
    assert!(repeated(websocket, false, upgrade));
    assert!(!repeated(websocket, false, &[upgrade, b"\x82"].concat()));
    let mut opening = Opening::new(tcp, false, CONNECT.to_vec());
    opening.keep(&vec![0; OPENING_BYTES_MAX]);
    assert!(!opening.may_be_repeated() && opening.bytes().is_empty(), "more than is kept");
}
