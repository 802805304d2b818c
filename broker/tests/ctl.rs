//! `ringlane ctl` against a running broker: what it lists, what it deletes, and that what was
//! deleted stays so after a crash.

use crate::support::properties::SUBSCRIPTION_ID;
use crate::support::{
    Broker, Client, Connect, Kind, Options, Properties, Publish, Transport, Version, Will, packets,
};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn run(data_dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringlane"))
        .args(["ctl", "--data-dir"])
        .arg(data_dir)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// The output of a command that succeeds.
fn ctl(broker: &Broker, arguments: &[&str]) -> String {
    let output = run(&broker.data_dir(), arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// The message of a command that fails, and its output.
fn fails(broker: &Broker, arguments: &[&str]) -> (String, String) {
    let output = run(&broker.data_dir(), arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", text(&output.stdout));
    (text(&output.stderr), text(&output.stdout))
}

/// The rows of a command that succeeds.
fn rows(broker: &Broker, arguments: &[&str]) -> Vec<Value> {
    let mut arguments = arguments.to_vec();
    arguments.push("--json");
    let lines = ctl(broker, &arguments);
    lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn names(rows: &[Value], key: &str) -> Vec<String> {
    let mut names: Vec<String> =
        rows.iter().map(|row| row[key].as_str().expect("a text").to_owned()).collect();
    names.sort();
    names
}

fn start(transport: Transport) -> (Broker, Options) {
    let options = Options::new(transport).logged();
    (Broker::start(&options), options)
}

fn crash(broker: &mut Broker, options: &Options) {
    broker.kill();
    broker.restart(options);
}

fn durable(broker: &Broker, client_id: &str) -> Client {
    Client::connect(broker.tcp, &Connect::new(Version::V5, client_id).durable())
}

fn absent(broker: &Broker, client_id: &str, filter: &str) {
    let mut client = durable(broker, client_id);
    assert_eq!(client.subscribe(filter, 1), 1);
    client.disconnect();
    broker.wait_until("it has gone", |broker| {
        rows(broker, &["sessions", "--absent", "--filter", client_id]).len() == 1
    });
}

fn publisher(broker: &Broker) -> Client {
    Client::plain(broker.tcp, Version::V5, "publisher")
}

fn sessions_are_listed_with_what_they_cost(transport: Transport) {
    let (broker, _) = start(transport);
    absent(&broker, "meter-1", "m/#");
    absent(&broker, "meter-2", "m/+");
    let will = Will::new("gone/panel", "bye");
    let connect = Connect::new(Version::V5, "panel").will(will);
    let mut panel = Client::connect(broker.tcp, &connect);
    panel.subscribe("m/+", 1);
    let mut publisher = publisher(&broker);
    for number in 0..5 {
        publisher.publish("m/a", format!("{number}"), 1);
    }
    assert_eq!(panel.receive().text(), "0");
    let all = rows(&broker, &["sessions"]);
    assert_eq!(names(&all, "client_id"), ["meter-1", "meter-2", "panel", "publisher"]);
    let meter = &rows(&broker, &["sessions", "--filter", "meter-?", "--absent"])[0];
    assert_eq!((&meter["connected"], &meter["durable"]), (&false.into(), &true.into()));
    assert_eq!((&meter["pending"], &meter["in_flight"]), (&5.into(), &0.into()));
    assert!(meter["pending_bytes"].as_u64() > Some(0) && meter["subscriptions"] == 1, "{meter}");
    let since = meter["absent_since_ms"].as_u64().expect("a time");
    assert_eq!(meter["expires_ms"].as_u64(), Some(since + 3_600_000));
    let oldest = &meter["oldest"];
    assert!(oldest["partition"].is_u64() && oldest["behind"].as_u64() >= Some(5), "{oldest}");
    let panel_row = &rows(&broker, &["sessions", "--connected", "--owed"])[0];
    assert_eq!(panel_row["client_id"], "panel");
    assert_eq!((&panel_row["in_flight"], &panel_row["expiry_secs"]), (&5.into(), &0.into()));
    assert_eq!(panel_row["will"]["topic"], "gone/panel");
    let address = panel.socket().local_addr().expect("its address").to_string();
    assert_eq!(panel_row["address"], address.as_str());
    let connected = panel_row["connected_since_ms"].as_u64().expect("a time");
    assert!(connected / 1000 + 60 > since / 1000 && connected <= since + 60_000, "{connected}");
    assert!(meter["address"].is_null() && meter["connected_since_ms"].is_null(), "{meter}");
    assert!(rows(&broker, &["sessions", "--absent-for", "1h"]).is_empty());
    let table = ctl(&broker, &["sessions"]);
    assert!(table.starts_with("CLIENT "), "{table}");
    assert!(table.contains("meter-1") && table.contains("absent since 20"), "{table}");
    assert!(table.contains("connected since 20") && table.contains(&address), "{table}");
    let one = ctl(&broker, &["sessions", "show", "panel"]);
    assert!(one.contains("gone/panel, QoS 1, 3 bytes") && one.contains("m/+"), "{one}");
    let (error, _) = fails(&broker, &["sessions", "show", "nobody"]);
    assert!(error.contains("there is no session of \"nobody\""), "{error}");
    broker.stop();
}

fn a_session_that_was_ended_stays_so(transport: Transport) {
    let (mut broker, options) = start(transport);
    for client in 0..6 {
        absent(&broker, &format!("old-{client}"), "t");
    }
    absent(&broker, "kept", "t");
    let ended = ctl(&broker, &["sessions", "end", "old-0"]);
    assert_eq!(ended, "old-0  deleted\n");
    crash(&mut broker, &options);
    let (error, out) = fails(&broker, &["sessions", "end", "old-0", "old-1"]);
    assert!(out.contains("old-0  NOT FOUND") && out.contains("old-1  deleted"), "{out} {error}");
    // What is chosen wants a yes.
    for flags in [&["--filter", "old-*"][..], &["--filter", "old-*", "--yes", "--dry-run"]] {
        let output = run(&broker.data_dir(), &[&["sessions", "end"], flags].concat());
        assert!(output.status.success());
        assert_eq!(text(&output.stdout).matches("would be deleted").count(), 4);
        assert!(text(&output.stderr).contains("--yes"));
    }
    assert_eq!(ctl(&broker, &["sessions", "end", "--absent-for", "1d", "--yes"]), "");
    let ended = rows(&broker, &["sessions", "end", "--filter", "old-*", "--yes"]);
    assert_eq!(names(&ended, "name").len(), 4);
    assert!(ended.iter().all(|row| row["outcome"] == "deleted"));
    crash(&mut broker, &options);
    assert_eq!(names(&rows(&broker, &["sessions"]), "client_id"), ["kept"]);
    assert!(!durable(&broker, "old-3").connack().session_present());
    assert!(durable(&broker, "kept").connack().session_present());
    assert_eq!(names(&rows(&broker, &["subscriptions"]), "client_id"), ["kept"]);
    broker.stop();
}

fn a_client_whose_session_is_ended_is_told(transport: Transport) {
    let (mut broker, options) = start(transport);
    let mut watcher = Client::plain(broker.tcp, Version::V311, "watcher");
    watcher.subscribe("gone/#", 1);
    for version in [Version::V5, Version::V311] {
        let will = Will::new("gone/c", "bye");
        let connect = Connect::new(version, "c").durable().will(will);
        let mut client = Client::connect(broker.tcp, &connect);
        client.subscribe("t", 1);
        ctl(&broker, &["sessions", "end", "c"]);
        let last = client.expect_closed();
        let told: Vec<u8> = last.iter().map(|packet| packet.body[0]).collect();
        assert_eq!(told, if version.is_v5() { vec![0x98] } else { vec![] });
        assert_eq!(watcher.receive_and_acknowledge().text(), "bye");
    }
    crash(&mut broker, &options);
    assert!(!rows(&broker, &["sessions"]).iter().any(|row| row["client_id"] == "c"));
    // One that is not in the log goes as well.
    let mut passing = Client::plain(broker.tcp, Version::V5, "passing");
    ctl(&broker, &["sessions", "end", "passing"]);
    passing.expect_closed();
    broker.stop();
}

fn subscriptions_are_listed(transport: Transport) {
    let (broker, _) = start(transport);
    let mut client = durable(&broker, "c");
    let id = Properties::new().variable(SUBSCRIPTION_ID, 7);
    // No Local and Retain As Published [MQTT5 §3.8.3.1].
    client.subscribe_all(&[("a/+", 0x0c | 2)], &id);
    client.subscribe_all(&[("$share/group/a/#", 1)], &Properties::new());
    client.subscribe("$replay/earliest/c/+", 1);
    let mut other = Client::plain(broker.tcp, Version::V311, "other");
    other.subscribe("b", 0);
    let of = |arguments: &[&str]| {
        let rows = rows(&broker, &[&["subscriptions"], arguments].concat());
        names(&rows, "filter")
    };
    assert_eq!(of(&[]), ["$replay/earliest/c/+", "$share/group/a/#", "a/+", "b"]);
    assert_eq!(of(&["--topic", "c/d"]), ["$replay/earliest/c/+"]);
    assert_eq!(of(&["--client", "other"]), ["b"]);
    assert_eq!(of(&["--topic", "a/b"]), ["$share/group/a/#", "a/+"]);
    assert_eq!(of(&["--topic", "a"]), ["$share/group/a/#"]);
    assert_eq!(of(&["--client", "other", "--topic", "a/b"]), [""; 0]);
    let plain = &rows(&broker, &["subscriptions", "--topic", "a/b/"])[..];
    assert_eq!(plain[0]["group"], "group");
    let plain = rows(&broker, &["subscriptions", "--client", "c"]);
    let plain = plain.iter().find(|row| row["filter"] == "a/+").expect("it is there");
    assert_eq!((&plain["qos"], &plain["id"]), (&2.into(), &7.into()));
    assert_eq!((&plain["no_local"], &plain["retain_as_published"]), (&true.into(), &true.into()));
    let table = ctl(&broker, &["subscriptions"]);
    assert!(table.contains("no-local,retain-as-published"), "{table}");
    let (error, _) = fails(&broker, &["subscriptions", "--topic", "a/#"]);
    assert!(error.contains("\"a/#\" is no topic name"), "{error}");
    broker.stop();
}

/// More subscriptions than one answer of a core holds.
fn one_client_may_have_many_subscriptions(transport: Transport) {
    let (broker, _) = start(transport);
    let mut client = durable(&broker, "c");
    for hundred in 0..10 {
        let filters: Vec<String> = (0..100).map(|n| format!("t/{hundred}/{n}")).collect();
        let filters: Vec<(&str, u8)> = filters.iter().map(|filter| (&**filter, 1)).collect();
        client.subscribe_all(&filters, &Properties::new());
    }
    let mut found = names(&rows(&broker, &["subscriptions"]), "filter");
    found.dedup();
    assert_eq!(found.len(), 1000);
    assert_eq!(rows(&broker, &["subscriptions", "--client", "c"]).len(), 1000);
    broker.stop();
}

fn retained_messages_are_listed_shown_and_deleted(transport: Transport) {
    let (mut broker, options) = start(transport);
    let mut publisher = publisher(&broker);
    for number in 0..600 {
        let topic = format!("site/{}/{number}", number % 2);
        let publish = Publish::new(&topic, format!("value {number}")).qos(1, 0).retain();
        publisher.publish_packet(publish);
    }
    publisher.publish_packet(Publish::new("raw", [0xff, 0, 0x80]).qos(1, 0).retain());
    assert_eq!(rows(&broker, &["retained", "list"]).len(), 601);
    let odd = rows(&broker, &["retained", "list", "site/1/+"]);
    assert_eq!(odd.len(), 300);
    assert!(odd.iter().all(|row| row["qos"] == 1 && row["partition"].is_u64()), "{odd:?}");
    let shown = ctl(&broker, &["retained", "show", "site/0/4"]);
    assert!(shown.contains("payload   value 4\n"), "{shown}");
    assert_eq!(rows(&broker, &["retained", "show", "raw"])[0]["payload_base64"], "/wCA");
    let raw = run(&broker.data_dir(), &["retained", "show", "--raw", "raw"]);
    assert_eq!(raw.stdout, [0xff, 0, 0x80]);
    // Whoever subscribes sees it go, as after an empty retained message.
    let mut watcher = Client::plain(broker.tcp, Version::V5, "watcher");
    watcher.subscribe_all(&[("raw", 1 | 2 << 4)], &Properties::new());
    assert_eq!(ctl(&broker, &["retained", "delete", "raw"]), "raw  deleted\n");
    assert_eq!(watcher.receive_and_acknowledge().text(), "");
    let (error, out) = fails(&broker, &["retained", "delete", "raw"]);
    assert!(out.contains("raw  NOT FOUND"), "{out} {error}");
    let dry = ctl(&broker, &["retained", "delete", "site/1/#"]);
    assert_eq!(dry.matches("would be deleted").count(), 300);
    let gone = rows(&broker, &["retained", "delete", "site/1/#", "--yes"]);
    assert_eq!(gone.iter().filter(|row| row["outcome"] == "deleted").count(), 300);
    crash(&mut broker, &options);
    assert_eq!(rows(&broker, &["retained", "list"]).len(), 300);
    let (error, _) = fails(&broker, &["retained", "show", "site/1/1"]);
    assert!(error.contains("there is no retained message"), "{error}");
    let (error, _) = fails(&broker, &["retained", "list", "a/#/b"]);
    assert!(error.contains("\"a/#/b\""), "{error}");
    broker.stop();
}

/// What is deleted is flushed before it is said, whatever the level of its topic.
fn what_is_cleared_in_memory_stays_cleared(transport: Transport) {
    let memory = "[[stream]]\nname = \"default\"\nlevel = \"memory\"";
    let options = Options::new(transport).logged().config(memory);
    let mut broker = Broker::start(&options);
    let mut publisher = publisher(&broker);
    for round in 0..4 {
        let topic = format!("t/{round}");
        publisher.publish_packet(Publish::new(&topic, "x").qos(1, 0).retain());
        assert_eq!(ctl(&broker, &["retained", "delete", &topic]), format!("{topic}  deleted\n"));
    }
    crash(&mut broker, &options);
    assert!(rows(&broker, &["retained", "list"]).is_empty());
    broker.stop();
}

/// A message counts once, however many filters of a session match it; one that is in a QoS 2
/// exchange is in flight, whether the client is there or not.
fn what_a_session_is_owed_is_counted(transport: Transport) {
    let (mut broker, options) = start(transport);
    let mut client = durable(&broker, "c");
    client.subscribe_all(&[("m/#", 1), ("m/+", 2), ("other", 2)], &Properties::new());
    let mut publisher = publisher(&broker);
    for number in 0..3 {
        publisher.publish("other", format!("{number}"), 2);
    }
    let first = client.receive();
    client.finish(&first);
    client.receive();
    client.reset();
    for number in 0..5 {
        publisher.publish("m/a", format!("{number}"), 1);
    }
    let owed = |broker: &Broker| {
        let row = rows(broker, &["sessions", "--filter", "c", "--owed"]).remove(0);
        (row["in_flight"].as_u64(), row["pending"].as_u64())
    };
    broker.wait_until("it is absent", |broker| {
        rows(broker, &["sessions", "--absent", "--filter", "c"]).len() == 1
    });
    assert_eq!(owed(&broker), (Some(2), Some(5)));
    crash(&mut broker, &options);
    assert_eq!(owed(&broker), (Some(2), Some(5)));
    ctl(&broker, &["sessions", "end", "--owed", "--yes"]);
    assert!(rows(&broker, &["sessions", "--owed"]).is_empty());
    broker.stop();
}

/// Subscriptions go with their sessions, those in groups too, and those of many sessions are more
/// than a core ends in one turn.
fn sessions_with_many_subscriptions_are_ended(transport: Transport) {
    let (mut broker, options) = start(transport);
    for number in 0..8 {
        let mut client = durable(&broker, &format!("many-{number}"));
        for hundred in 0..5 {
            let filters: Vec<String> = (0..100)
                .map(|n| match n % 10 {
                    0 => format!("$share/g/{number}/{hundred}/{n}"),
                    _ => format!("t/{number}/{hundred}/{n}"),
                })
                .collect();
            let filters: Vec<(&str, u8)> = filters.iter().map(|filter| (&**filter, 1)).collect();
            client.subscribe_all(&filters, &Properties::new());
        }
    }
    let ended = rows(&broker, &["sessions", "end", "--filter", "many-*", "--yes"]);
    assert_eq!((ended.len(), broker.metric("subscriptions")), (8, 0));
    assert!(ended.iter().all(|row| row["outcome"] == "deleted"), "{ended:?}");
    crash(&mut broker, &options);
    assert!(rows(&broker, &["subscriptions"]).is_empty());
    broker.stop();
}

fn streams_and_logs_are_listed(transport: Transport) {
    let stream = "[[stream]]\nname = \"alarms\"\nfilters = [\"+/alarm\"]\nlevel = \"memory\"\n";
    let broker = Broker::start(&Options::new(transport).logged().config(stream));
    absent(&broker, "slow", "t");
    publisher(&broker).publish("t", "x", 1);
    let all = rows(&broker, &["streams"]);
    let (streams, logs): (Vec<&Value>, Vec<&Value>) =
        all.iter().partition(|row| row["kind"] == "stream");
    assert_eq!((streams.len(), &streams[0]["level"]), (2, &"memory".into()));
    assert_eq!(streams[1]["name"], "default");
    let numbers: Vec<u64> =
        logs.iter().map(|row| row["partition"].as_u64().expect("one")).collect();
    assert_eq!(numbers, [0, 1, 2, 3]);
    let holds = |row: &&Value| {
        let needed = row["needed"].as_array().expect("a list");
        needed.iter().any(|need| need["by"] == "session" && need["name"] == "slow")
    };
    assert_eq!(logs.iter().filter(|row| holds(row)).count(), 1, "{logs:?}");
    assert!(logs.iter().all(|row| row["state"] == "open" && row["bytes"].as_u64() > Some(0)));
    let table = ctl(&broker, &["streams"]);
    assert!(table.contains("+/alarm") && table.contains("session slow from "), "{table}");
    broker.stop();
}

fn groups_are_listed_with_what_they_are_owed(transport: Transport) {
    let (mut broker, options) = start(transport);
    absent(&broker, "worker", "$share/crew/t");
    let mut other = Client::plain(broker.tcp, Version::V5, "other");
    assert_eq!(other.subscribe("$share/quick/u", 1), 1);
    for number in 0..5 {
        publisher(&broker).publish("t", number.to_string(), 1);
    }
    let check = |broker: &Broker| {
        let groups = rows(broker, &["groups"]);
        let crew = groups.iter().find(|row| row["name"] == "crew").expect("the group");
        assert_eq!((&crew["filter"], &crew["members"]), (&"t".into(), &1.into()));
        assert_eq!((&crew["connected"], &crew["durable"]), (&0.into(), &true.into()));
        assert_eq!((&crew["pending"], &crew["in_flight"]), (&5.into(), &0.into()));
        assert!(crew["pending_bytes"].as_u64() > Some(5), "{crew}");
        assert_eq!(crew["oldest"]["offset"].as_u64().map(|_| ()), Some(()), "{crew}");
        groups.len()
    };
    assert_eq!(check(&broker), 2);
    let logs = rows(&broker, &["streams"]);
    let needs = logs.iter().filter_map(|row| row["needed"].as_array()).flatten();
    let mut by_groups = needs.filter(|need| need["by"] == "group");
    assert_eq!(by_groups.next().map(|need| &need["name"]), Some(&"$share/crew/t".into()));
    let table = ctl(&broker, &["groups"]);
    assert!(table.contains("crew") && table.contains("1 (0 connected)"), "{table}");
    crash(&mut broker, &options);
    assert_eq!(check(&broker), 1);
    let mut worker = durable(&broker, "worker");
    for _ in 0..5 {
        worker.receive_and_acknowledge();
    }
    broker.wait_until("nothing is owed", |broker| {
        let groups = rows(broker, &["groups"]);
        (&groups[0]["pending"], &groups[0]["in_flight"]) == (&0.into(), &0.into())
    });
    assert_eq!(rows(&broker, &["groups"])[0]["connected"], 1);
    broker.stop();
}

fn it_works_without_a_log(transport: Transport) {
    let broker = Broker::on(transport);
    let mut client = durable(&broker, "c");
    client.subscribe("t", 1);
    client.disconnect();
    let mut publisher = publisher(&broker);
    publisher.publish_packet(Publish::new("t", "x").qos(1, 0).retain());
    broker.wait_until("it is absent", |broker| {
        rows(broker, &["sessions", "--absent"]).first().is_some_and(|row| row["pending"] == 1)
    });
    assert_eq!(ctl(&broker, &["retained", "delete", "t"]), "t  deleted\n");
    assert!(rows(&broker, &["retained", "list"]).is_empty());
    assert_eq!(ctl(&broker, &["sessions", "end", "c"]), "c  deleted\n");
    assert!(!durable(&broker, "c").connack().session_present());
    assert_eq!(rows(&broker, &["streams"]).len(), 1);
    broker.stop();
}

/// Many times what one answer of a core holds.
fn twenty_thousand_sessions_are_listed_and_ended(transport: Transport) {
    const SESSIONS: usize = 20_000;
    let (broker, _) = start(transport);
    let mut number = 0;
    while number < SESSIONS {
        let names = (number..number + 250).map(|n| format!("device-{n:05}"));
        let connect = |name: String| {
            let mut client = Client::open(broker.tcp, Version::V5);
            let mut bytes = Connect::new(Version::V5, &name).durable().encode();
            bytes.extend(packets::disconnect());
            client.send(&bytes);
            client
        };
        let clients: Vec<Client> = names.map(connect).collect();
        for mut client in clients {
            client.read_kind(Kind::Connack);
        }
        number += 250;
    }
    broker.wait_until("all have gone", |broker| broker.metric("connections") == 0);
    let mut found = names(&rows(&broker, &["sessions"]), "client_id");
    found.dedup();
    assert_eq!(found.len(), SESSIONS);
    assert!(ctl(&broker, &["sessions"]).lines().count() == SESSIONS + 1);
    let half = ctl(&broker, &["sessions", "end", "--filter", "device-0*", "--yes"]);
    assert_eq!(half.matches("  deleted\n").count(), SESSIONS / 2);
    assert_eq!(rows(&broker, &["sessions", "--absent"]).len(), SESSIONS / 2);
    broker.stop();
}

/// The whole answer to a request.
fn post(socket: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(socket).expect("the socket");
    let length = request.len();
    let head = format!("POST /ctl HTTP/1.1\r\nHost: x\r\nContent-Length: {length}");
    write!(stream, "{head}\r\nConnection: close\r\n\r\n{request}").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

fn what_makes_no_sense_is_refused(transport: Transport) {
    let (mut broker, _) = start(transport);
    let socket = broker.data_dir().join("ctl.sock");
    let mode = std::fs::metadata(&socket).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for (request, status) in [
        ("POST /ctl HTTP/1.1\r\nContent-Length: 2\r\n", "400"),
        ("POST /ctl HTTP/1.1\r\nContent-Length: 9999999999\r\n", "400"),
        ("GET /ctl HTTP/1.1\r\n", "405"),
        ("GET /metrics HTTP/1.1\r\n", "404"),
        ("nonsense", "400"),
    ] {
        let mut stream = UnixStream::connect(&socket).expect("the socket");
        write!(stream, "{request}Host: x\r\nConnection: close\r\n\r\n{{}}").expect("a request");
        let mut answer = String::new();
        // The broker may close before all of it was read.
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {answer}");
    }
    let (error, _) = fails(&broker, &["sessions", "end"]);
    assert!(error.contains("which sessions?"), "{error}");
    // A time that nobody has been absent for.
    absent(&broker, "meter", "m");
    let answer =
        post(&socket, r#"{"ask":"sessions","choose":{"absent_secs":18446744073709551615}}"#);
    assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("meter"), "{answer}");
    assert_eq!(rows(&broker, &["sessions", "--absent"]).len(), 1);
    for wrong in [
        &["sessions", "--absent-for", "long"][..],
        &["sessions", "--absent", "--connected"],
        &["retained", "show"],
        &["nothing"],
    ] {
        assert_eq!(run(&broker.data_dir(), wrong).status.code(), Some(2), "{wrong:?}");
    }
    // Nobody answers once it has ended.
    broker.terminate();
    assert_eq!(broker.wait().code(), Some(0));
    assert!(!socket.exists());
    let (error, _) = fails(&broker, &["sessions"]);
    assert!(error.contains("no broker answers at") && error.contains("--data-dir"), "{error}");
}

/// Connections that ask nothing, or half of something, or that stay when they were answered, keep
/// nobody else out for long.
fn idle_connections_keep_nobody_out(transport: Transport) {
    let (broker, _) = start(transport);
    let socket = broker.data_dir().join("ctl.sock");
    let idle: Vec<UnixStream> = (0..8)
        .map(|number| {
            let mut stream = UnixStream::connect(&socket).expect("the socket");
            match number % 3 {
                0 => {}
                1 => write!(stream, "POST /ctl HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{{")
                    .expect("a part of a request"),
                _ => write!(stream, "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n").expect("a request"),
            }
            stream
        })
        .collect();
    assert_eq!(rows(&broker, &["sessions"]).len(), 0);
    for mut stream in idle {
        // It has ended.
        let _ = stream.read_to_end(&mut Vec::new());
    }
}

/// A path may be longer than the address of a Unix socket, and a file that a killed broker left is
/// no obstacle; a broker that runs is.
fn the_socket_is_where_the_configuration_says(transport: Transport) {
    let directory = std::env::temp_dir().join(format!("ringlane-ctl-{}", std::process::id()));
    let directory = directory.join(transport.name()).join("long".repeat(40));
    std::fs::create_dir_all(&directory).expect("a directory");
    let socket = directory.join("operator.sock");
    let at = format!("control.socket = {socket:?}");
    let options = Options::new(transport).logged().config(&at);
    let mut broker = Broker::start(&options);
    crash(&mut broker, &options);
    let arguments = ["--socket", socket.to_str().expect("UTF-8"), "sessions"];
    assert!(ctl(&broker, &arguments).starts_with("CLIENT"));
    let mut second = Broker::start_until_end(&options);
    assert!(!second.is_alive());
    assert!(second.log().contains("cannot make the operator's socket"), "{}", second.log());
    broker.stop();
    let none = Broker::start(&Options::new(transport).config("control.socket = \"\""));
    none.wait_until("it says so", |broker| broker.log().contains("ctl=\"off\""));
    assert!(!none.data_dir().join("ctl.sock").exists());
    none.stop();
    let _ = std::fs::remove_dir_all(directory);
}

on_both_transports!(
    sessions_are_listed_with_what_they_cost,
    a_session_that_was_ended_stays_so,
    a_client_whose_session_is_ended_is_told,
    subscriptions_are_listed,
    one_client_may_have_many_subscriptions,
    retained_messages_are_listed_shown_and_deleted,
    what_is_cleared_in_memory_stays_cleared,
    what_a_session_is_owed_is_counted,
    sessions_with_many_subscriptions_are_ended,
    streams_and_logs_are_listed,
    groups_are_listed_with_what_they_are_owed,
    it_works_without_a_log,
    twenty_thousand_sessions_are_listed_and_ended,
    what_makes_no_sense_is_refused,
    idle_connections_keep_nobody_out,
    the_socket_is_where_the_configuration_says,
);
