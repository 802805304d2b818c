//! The cluster's metadata on a real etcd: candidates, outages, leases, backups, endpoints that hang.

use crate::support::etcd::EtcdServer;
use crate::support::{PATIENCE, run_program};
use ringlane::cluster::etcd::{Endpoint, Etcd, EtcdSettings};
use ringlane::cluster::keeper::{Keeper, Known};
use ringlane::cluster::keys::{ClusterIdentity, Id16, NodeRecord, ProxiedAt};
use ringlane::cluster::membership::{ClusterError, Membership, Standing};
use ringlane::cluster::metadata::{Changes, LeaseId, Metadata, MetadataError};
use ringlane_dataplane::ids::NodeId;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;
use tokio::sync::watch;

/// The shortest that a configuration allows.
const TTL: Duration = Duration::from_secs(2);

fn member(etcd: Etcd, node: u16) -> Membership<Etcd> {
    let record = NodeRecord {
        node,
        name: format!("n{node}"),
        instance: Id16([u8::try_from(node).expect("a small number"); 16]),
        address: format!("127.0.0.1:{}", 7000 + node),
        advertised_address: None,
        version: "0.1.0".to_owned(),
        proxied: ProxiedAt::default(),
        control: None,
        streams: None,
    };
    Membership::new(etcd, record)
}

fn standing(seed: u8) -> Standing {
    let identity = ClusterIdentity {
        id: Id16([seed; 16]),
        hash_key: Id16([seed + 100; 16]),
        partitions: 8,
        nodes: vec![1, 2, 3],
    };
    Standing { identity, partitions_wanted: 0, is_member: false, is_empty: true }
}

/// A node that has joined and holds a lease.
async fn candidate(etcd: Etcd, node: u16) -> (Membership<Etcd>, LeaseId) {
    let member = member(etcd, node);
    member.join(&standing(u8::try_from(node).expect("a small number"))).await.expect("a cluster");
    let lease = LeaseId(1000 + u64::from(node));
    member.store().grant(lease, Duration::from_secs(60)).await.expect("a lease");
    member.register(lease).await.expect("a number of its own");
    (member, lease)
}

async fn keeper(etcd: Etcd, node: u16) -> Keeper<Etcd> {
    let member = member(etcd, node);
    member.join(&standing(1)).await.expect("a cluster");
    Keeper::start(member, TTL).await.expect("a lease")
}

async fn until(known: &mut watch::Receiver<Known>, what: impl FnMut(&Known) -> bool) -> Known {
    let found = tokio::time::timeout(3 * PATIENCE, known.wait_for(what)).await;
    found.expect("in time").expect("a keeper").clone()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

#[test]
fn two_candidates_at_once_get_one_epoch_each_and_epochs_grow() {
    let server = EtcdServer::start();
    block_on(async {
        let (one, lease_one) = candidate(server.client(), 1).await;
        let (two, lease_two) = candidate(server.client(), 2).await;
        let (first, second) = (one.join(&standing(1)).await, two.join(&standing(2)).await);
        assert_eq!(first.expect("joined"), second.expect("joined"), "one cluster for both");
        let (mut newest, mut wins) = (0, [0, 0]);
        for _ in 0..20 {
            let seen = one.view().await.expect("a view");
            let both = tokio::join!(
                one.acquire(&seen, newest, lease_one),
                two.acquire(&seen, newest, lease_two)
            );
            let (winner, epoch, refused) = match both {
                (Ok(epoch), Err(refused)) => (0, epoch, refused),
                (Err(refused), Ok(epoch)) => (1, epoch, refused),
                other => panic!("{other:?}"),
            };
            let ClusterError::Superseded { view } = refused else { panic!("{refused}") };
            let leader = view.leader.expect("a leader");
            assert_eq!((leader.node, leader.epoch), (NodeId(winner + 1), epoch));
            assert!(newest < epoch, "{epoch} after {newest}");
            // Who lost tries again against what it was told, and waits for no lease.
            let (loser, lease) = if winner == 0 { (&two, lease_two) } else { (&one, lease_one) };
            newest = loser.acquire(&view, epoch, lease).await.expect("nobody else tries");
            assert!(epoch < newest);
            wins[usize::from(winner)] += 1;
        }
        assert_eq!(wins[0] + wins[1], 20);
    });
}

#[test]
fn an_etcd_that_was_killed_is_found_again_with_what_it_had() {
    let mut server = EtcdServer::start();
    let settings = EtcdSettings { timeout: Duration::from_secs(1), ..server.settings() };
    block_on(async {
        let keeper = keeper(Etcd::new(settings), 1).await;
        let mut known = keeper.known();
        let epoch = keeper.acquire(0).await.expect("nobody else tries");
        let led = until(&mut known, |known| known.view.epoch() == epoch).await;
        let until_then = led.leads_until(NodeId(1), epoch).expect("a lease");
        server.kill();
        let ill = until(&mut known, |known| known.trouble.is_some()).await;
        let trouble = ill.trouble.expect("a trouble");
        assert!(trouble.contains("etcd does not answer"), "{trouble}");
        assert!(trouble.contains(&server.url()) && trouble.contains("endpoints"), "{trouble}");
        let error = keeper.acquire(epoch).await.expect_err("there is no etcd");
        assert!(matches!(error, ClusterError::Metadata(MetadataError::Unreachable { .. })));
        server.restart();
        let well = until(&mut known, |known| known.trouble.is_none()).await;
        assert_eq!(well.view.epoch(), epoch, "it still leads");
        let later = well.leads_until(NodeId(1), epoch).expect("a lease");
        assert!(until_then < later, "the lease was kept again");
        let next = keeper.acquire(epoch).await.expect("nobody else tries");
        assert!(epoch < next);
    });
}

#[test]
fn a_lease_that_was_lost_is_replaced_and_gives_no_leadership() {
    let server = EtcdServer::start();
    block_on(async {
        let keeper = keeper(server.client(), 1).await;
        let mut known = keeper.known();
        let lost = known.borrow().lease.expect("a lease").id;
        server.client().revoke(lost).await.expect("an etcd");
        let seen = keeper.membership().view().await.expect("a view");
        assert!(seen.node(NodeId(1)).is_none(), "the key goes with the lease");
        let error = keeper.membership().acquire(&seen, 0, lost).await.expect_err("no lease");
        assert_eq!(error, MetadataError::LeaseLost { lease: lost }.into());
        let well = until(&mut known, |known| {
            let other = known.lease.is_some_and(|lease| lease.id != lost);
            other && known.view.node(NodeId(1)).is_some()
        })
        .await;
        let lease = well.lease.expect("a lease");
        assert_eq!(well.view.node(NodeId(1)).and_then(|present| present.lease), Some(lease.id));
        let left = server.client().remaining(lease.id).await.expect("an etcd");
        assert!(left.expect("it lives") <= TTL);
        assert_eq!(server.client().remaining(lost).await.expect("an etcd"), None);
        keeper.leave().await.expect("an etcd");
        let seen = server.client().read().await.expect("an etcd");
        assert!(!seen.entries.iter().any(|entry| entry.key == "nodes/1"), "{seen:?}");
    });
}

#[test]
fn an_etcd_that_was_put_back_in_time_gives_no_epoch_twice() {
    let mut server = EtcdServer::start();
    block_on(async {
        let (one, lease) = candidate(server.client(), 1).await;
        server.kill();
        let backup = server.backup();
        server.restart();
        let mut newest = 0;
        for _ in 0..3 {
            let seen = one.view().await.expect("a view");
            newest = one.acquire(&seen, newest, lease).await.expect("nobody else tries");
        }
        server.kill();
        server.restore(&backup);
        server.restart();
        let seen = one.view().await.expect("a view");
        assert_eq!(seen.leader, None, "the backup knows of no leader");
        let error = one.acquire(&seen, newest, lease).await.expect_err("an older etcd");
        let ClusterError::Restored { revision, newest: told } = error else { panic!("{error}") };
        assert!(revision < told && told == newest);
        assert_eq!(one.view().await.expect("a view"), seen, "nothing was written");
        // The remedy that the error names.
        while server.client().read().await.expect("an etcd").revision < newest {
            server.post("/v3/kv/put", r#"{"key":"L290aGVy","value":"eA=="}"#);
        }
        let seen = one.view().await.expect("a view");
        assert!(newest < one.acquire(&seen, newest, lease).await.expect("a new epoch"));
    });
}

#[test]
fn a_watch_goes_on_after_what_it_asked_for_was_compacted() {
    let server = EtcdServer::start();
    block_on(async {
        let (one, lease) = candidate(server.client(), 1).await;
        let seen = one.view().await.expect("a view");
        let mut changes = one.store().watch(seen.revision + 1).await.expect("a watch");
        let epoch = one.acquire(&seen, 0, lease).await.expect("nobody else tries");
        assert_eq!(changes.next().await.expect("a change"), epoch);
        let seen = one.view().await.expect("a view");
        let next = one.acquire(&seen, epoch, lease).await.expect("nobody else tries");
        server.post("/v3/kv/compaction", &format!(r#"{{"revision":"{next}","physical":true}}"#));
        let late = match one.store().watch(seen.revision).await {
            Ok(mut late) => late.next().await.expect_err("it was compacted"),
            Err(error) => error,
        };
        assert_eq!(late, MetadataError::Compacted { revision: next });
        // One that was open goes on, and so does one that begins with a reading.
        assert_eq!(changes.next().await.expect("a change"), next);
        let seen = one.view().await.expect("a view");
        let mut fresh = one.store().watch(seen.revision + 1).await.expect("a watch");
        let last = one.acquire(&seen, next, lease).await.expect("nobody else tries");
        assert_eq!(fresh.next().await.expect("a change"), last);
    });
}

#[test]
fn a_keeper_hears_of_a_new_leader_after_a_compaction_and_a_restart() {
    let mut server = EtcdServer::start();
    let settings = EtcdSettings { timeout: Duration::from_secs(1), ..server.settings() };
    block_on(async {
        let keeper = keeper(Etcd::new(settings), 1).await;
        let mut known = keeper.known();
        let (two, lease) = candidate(server.client(), 2).await;
        let first = two.acquire(&two.view().await.expect("a view"), 0, lease).await;
        let first = first.expect("nobody else tries");
        until(&mut known, |known| known.view.epoch() == first).await;
        server.kill();
        server.restart();
        let second = two.acquire(&two.view().await.expect("a view"), first, lease).await;
        let second = second.expect("nobody else tries");
        server.post("/v3/kv/compaction", &format!(r#"{{"revision":"{second}"}}"#));
        let told = until(&mut known, |known| known.view.epoch() == second).await;
        assert_eq!(told.view.leader.map(|leader| leader.node), Some(NodeId(2)));
    });
}

#[test]
fn an_endpoint_that_hangs_is_left_for_the_next_one() {
    let server = EtcdServer::start();
    // The kernel takes connections, and nobody answers.
    let hangs = TcpListener::bind("127.0.0.1:0").expect("a port");
    hangs.set_nonblocking(true).expect("a socket");
    let url = format!("http://{}", hangs.local_addr().expect("an address"));
    let connections = || std::iter::from_fn(|| hangs.accept().ok()).count();
    let mut settings = server.settings();
    settings.endpoints.insert(0, Endpoint::parse(&url).expect("a URL"));
    settings.timeout = Duration::from_secs(1);
    block_on(async {
        let (one, lease) = candidate(Etcd::new(settings.clone()), 1).await;
        let seen = one.view().await.expect("the other one answers");
        one.acquire(&seen, 0, lease).await.expect("the other one answers");
        assert_eq!(connections(), 1, "it is not asked again while the other one answers");
        settings.endpoints.truncate(1);
        let error = Etcd::new(settings).read().await.expect_err("nobody answers").to_string();
        assert!(error.contains(&format!("{url}: no answer within 1s")), "{error}");
    });
}

/// Name and password are asked for; `user` may read and write the keys below `/ringlane/`.
fn ask_for_passwords(server: &EtcdServer) {
    let calls = [
        ("/v3/auth/user/add", r#"{"name":"root","password":"r"}"#),
        ("/v3/auth/role/add", r#"{"name":"root"}"#),
        ("/v3/auth/user/grant", r#"{"user":"root","role":"root"}"#),
        ("/v3/auth/user/add", r#"{"name":"user","password":"secret"}"#),
        ("/v3/auth/role/add", r#"{"name":"ringlane"}"#),
        (
            "/v3/auth/role/grant",
            r#"{"name":"ringlane","perm":{"permType":"READWRITE","key":"L3JpbmdsYW5lLw==","range_end":"L3JpbmdsYW5lMA=="}}"#,
        ),
        ("/v3/auth/user/grant", r#"{"user":"user","role":"ringlane"}"#),
        ("/v3/auth/enable", "{}"),
    ];
    for (path, body) in calls {
        let answer = server.post(path, body);
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    }
}

#[test]
fn name_and_password_are_shown_where_etcd_asks_for_them() {
    let mut server = EtcdServer::start();
    ask_for_passwords(&server);
    let file = server.directory().join("password");
    let settings = server.settings();
    let with = |name: &str, password: &str| {
        std::fs::write(&file, password).expect("a file");
        EtcdSettings { user: Some((name.to_owned(), file.clone())), ..settings.clone() }
    };
    block_on(async {
        let error = server.client().read().await.expect_err("nobody").to_string();
        assert!(error.contains("set cluster.etcd.username"), "{error}");
        let wrong = Etcd::new(with("user", "guess")).read().await.expect_err("a guess");
        assert!(wrong.to_string().contains("check cluster.etcd.username"), "{wrong}");
        let mut other = with("user", "secret");
        other.prefix = "/other/".to_owned();
        let error = Etcd::new(other).read().await.expect_err("not its keys").to_string();
        assert!(error.contains("grant the user readwrite"), "{error}");
        let (one, lease) = candidate(Etcd::new(with("user", "secret\n")), 1).await;
        let seen = one.view().await.expect("a view");
        let epoch = one.acquire(&seen, 0, lease).await.expect("nobody else tries");
        let mut changes = one.store().watch(epoch).await.expect("a watch");
        assert_eq!(changes.next().await.expect("a change"), epoch);
        // It forgets its tokens; the client shows the password again.
        server.kill();
        server.restart();
        assert_eq!(one.view().await.expect("a view").epoch(), epoch);
    });
}

/// Takes one connection and answers like a proxy whose server has gone.
fn answer_as_a_proxy_without_its_server(listener: &TcpListener) {
    let (mut stream, _) = listener.accept().expect("a connection");
    let mut head = [0; 1024];
    assert!(0 < stream.read(&mut head).expect("a request"));
    let answer = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 11\r\n\r\nbad gateway";
    stream.write_all(answer).expect("an answer");
}

#[test]
fn a_proxy_without_its_server_is_left_for_the_next_one() {
    let server = EtcdServer::start();
    let proxy = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", proxy.local_addr().expect("an address"));
    let mut settings = server.settings();
    settings.endpoints.insert(0, Endpoint::parse(&url).expect("a URL"));
    std::thread::scope(|scope| {
        scope.spawn(|| answer_as_a_proxy_without_its_server(&proxy));
        let read = block_on(Etcd::new(settings).read());
        assert!(0 < read.expect("the other one answers").revision);
    });
}

#[test]
fn a_password_where_none_is_asked_for_is_told() {
    let server = EtcdServer::start();
    let file = server.directory().join("password");
    std::fs::write(&file, "secret").expect("a file");
    let user = Some(("user".to_owned(), file));
    let etcd = Etcd::new(EtcdSettings { user, ..server.settings() });
    let error = block_on(etcd.read()).expect_err("it is not enabled").to_string();
    assert!(error.contains("take cluster.etcd.username out"), "{error}");
}

#[test]
fn a_missing_password_file_is_named() {
    let server = EtcdServer::start();
    let user = Some(("user".to_owned(), Path::new("/no/such/file").to_owned()));
    let etcd = Etcd::new(EtcdSettings { user, ..server.settings() });
    let error = block_on(etcd.read()).expect_err("no password").to_string();
    assert!(error.contains("/no/such/file") && error.contains("password_file"), "{error}");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_program_shows_a_cluster() {
    let mut server = EtcdServer::start();
    let file = server.directory().join("ringlane.toml");
    let config = format!(
        r#"data_dir = "{}"
[cluster]
name = "test"
node = 1
members = [
  {{ node = 1, name = "a", address = "127.0.0.1:7001" }},
  {{ node = 2, name = "b", address = "127.0.0.1:7002" }},
  {{ node = 3, name = "c", address = "127.0.0.1:7003" }},
]
[cluster.etcd]
endpoints = ["{}"]
[replication]
lease = "30s"
"#,
        server.directory().join("ringlane-data").display(),
        server.url()
    );
    std::fs::write(&file, config).expect("a file");
    let file = file.to_str().expect("UTF-8");
    let output = run_program(&["cluster", "status", "-c", file]);
    assert!(text(&output.stdout).contains("not made yet"), "{output:?}");
    let epoch = block_on(async {
        let (one, lease) = candidate(server.client(), 1).await;
        one.acquire(&one.view().await.expect("a view"), 0, lease).await.expect("an epoch")
    });
    let output = run_program(&["cluster", "status", "-c", file]);
    let expected = format!("leader   node 1 (a), epoch {epoch}; runs, its lease has ");
    assert!(text(&output.stdout).contains(&expected), "{output:?}");
    let output = run_program(&["cluster", "members", "--json", "-c", file]);
    let rows: Vec<serde_json::Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 3, "{output:?}");
    assert_eq!((&rows[0]["leads"], &rows[0]["runs"]), (&true.into(), &true.into()));
    assert_eq!((&rows[2]["leads"], &rows[2]["runs"]), (&false.into(), &false.into()));
    let output = run_program(&["doctor", "-c", file]);
    assert!(text(&output.stdout).contains(&format!("etcd {}", server.url())), "{output:?}");
    server.kill();
    let output = run_program(&["cluster", "members", "-c", file]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains("etcd does not answer"), "{output:?}");
    let output = run_program(&["cluster", "members"]);
    assert!(text(&output.stderr).contains("a node that is alone"), "{output:?}");
}
