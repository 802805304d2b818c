//! Operating the running broker: health, metrics, status, log lines, `$SYS`, signals, its end.

#![allow(clippy::print_stdout, reason = "a test that cannot run says so")]

use crate::support::broker::cpus;
use crate::support::{Broker, Client, Connect, Kind, Options, PATIENCE, Transport, Version};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

on_both_transports!(
    a_ready_broker_answers_on_every_path,
    counters_are_those_of_the_core_that_did_the_work,
    a_terminated_broker_tells_its_clients_and_ends_with_0,
    a_second_signal_ends_it_at_once,
    system_topics_have_mosquittos_names,
);

fn a_ready_broker_answers_on_every_path(transport: Transport) {
    let broker = Broker::on(transport);
    for path in ["/livez", "/healthz", "/readyz"] {
        assert_eq!(broker.get(path), (200, "ready\n".to_owned()), "{path}");
    }
    assert_eq!(broker.get("/no-such-path").0, 404);
    let (code, status) = broker.get("/status?format=json");
    assert_eq!(code, 200);
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    assert_eq!(status["pid"], broker.pid());
    assert_eq!(status["state"], "ready");
    let name = if transport == Transport::Uring { "io_uring" } else { "epoll" };
    assert_eq!(status["transport"], name);
    assert_eq!(status["listeners"][0]["address"], broker.tcp.to_string());
    assert_eq!(status["listeners"][1]["address"], broker.websocket.to_string());
    let (code, text) = broker.get("/status");
    assert_eq!(code, 200);
    assert!(text.contains("is ready") && text.contains(name), "{text}");
    broker.stop();
}

fn counters_are_those_of_the_core_that_did_the_work(transport: Transport) {
    let broker = Broker::on(transport);
    let mut clients: Vec<Client> = (0..16)
        .map(|number| Client::plain(broker.tcp, Version::V5, &format!("client-{number}")))
        .collect();
    for client in &mut clients {
        client.publish("counted", "x", 1);
    }
    broker.wait_until("all are counted", |broker| {
        broker.metric("publishes_received_qos1_total") == 16
    });
    let cores = broker.metric_by_label("connections");
    assert_eq!(cores.iter().map(|(_, count)| count).sum::<f64>(), 16.0);
    assert_eq!(cores[0].0, "core=\"0\"");
    let publishes = broker.metric_by_label("publishes_received_qos1_total");
    assert_eq!(cores, publishes, "a client's publishes are on the core that owns it");
    assert!(0 < broker.metric("system_calls_total"));
    assert!(0 < broker.metric("core_turns_total"));
    page_is_well_formed(&broker.get("/metrics").1);
    drop(clients);
    broker.stop();
}

/// The rules of Prometheus' text format 0.0.4: one head per family, before its samples.
fn page_is_well_formed(page: &str) {
    let mut kinds: BTreeMap<&str, &str> = BTreeMap::new();
    let mut helped = BTreeSet::new();
    let mut samples = BTreeSet::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            assert!(helped.insert(rest.split(' ').next().expect("a name")), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a kind");
            assert!(kinds.insert(name, kind).is_none(), "{line}");
        } else {
            let (sample, value) = line.rsplit_once(' ').expect("a value");
            value.parse::<f64>().unwrap_or_else(|_| panic!("{line}"));
            assert!(samples.insert(sample), "twice: {line}");
            let name = sample.split('{').next().expect("a name");
            let ends = ["", "_bucket", "_sum", "_count"];
            let mut families = ends.iter().filter_map(|end| name.strip_suffix(end));
            assert!(families.any(|family| kinds.contains_key(family)), "no head: {line}");
        }
    }
    assert!(kinds.keys().all(|name| helped.contains(name)));
    assert!(50 < kinds.len());
}

fn a_terminated_broker_tells_its_clients_and_ends_with_0(transport: Transport) {
    let mut broker = Broker::on(transport);
    let mut newer = Client::plain(broker.tcp, Version::V5, "newer");
    let mut older = Client::plain(broker.tcp, Version::V311, "older");
    broker.terminate();
    // It waits for the clients to close their side, and says so meanwhile.
    broker.wait_until("it drains", |broker| broker.get("/readyz").0 == 503);
    let (code, state) = broker.get("/livez");
    assert_eq!((code, state.as_str()), (200, "draining\n"), "it is not to be killed");
    let disconnect = newer.expect(Kind::Disconnect);
    assert_eq!(disconnect.reason(), 0x8b, "server shutting down");
    assert!(older.expect_closed().is_empty(), "MQTT 3.1.1 has no DISCONNECT from the server");
    drop((newer, older));
    assert_eq!(broker.wait().code(), Some(0));
    let log = broker.log();
    assert!(log.contains("stopping") && log.trim_end().ends_with("stopped"), "{log}");
}

fn a_second_signal_ends_it_at_once(transport: Transport) {
    let mut broker = Broker::on(transport);
    let client = Client::plain(broker.tcp, Version::V5, "stays");
    // Both signals wait until the process goes on, so that none comes too late.
    let pid = broker.pid();
    signals(&format!("kill -STOP {pid}; kill -TERM {pid}; kill -INT {pid}; kill -CONT {pid}"));
    assert_eq!(broker.wait().code(), Some(1));
    assert!(broker.log().contains("second signal"), "{}", broker.log());
    drop(client);
}

fn signals(commands: &str) {
    let status = Command::new("sh").args(["-ec", commands]).status().expect("sh runs");
    assert!(status.success(), "{commands}: {status}");
}

fn system_topics_have_mosquittos_names(transport: Transport) {
    let options = Options::new(transport).config("[sys]\ninterval = \"1s\"");
    let broker = Broker::start(&options);
    let mut client = Client::plain(broker.tcp, Version::V5, "monitor");
    assert_eq!(client.subscribe("$SYS/#", 0), 0);
    let wanted = ["version", "uptime", "messages/received", "load/messages/received/1min"];
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    let deadline = Instant::now() + PATIENCE;
    while values.get("clients/connected").is_none_or(|count| count != "1")
        || !wanted.iter().all(|topic| values.contains_key(*topic))
    {
        assert!(Instant::now() < deadline, "{values:?}");
        let received = client.receive();
        let topic = received.topic.strip_prefix("$SYS/broker/").expect("a topic of the broker");
        values.insert(topic.to_owned(), received.text());
    }
    assert!(values["version"].starts_with("ringlane version "), "{values:?}");
    // They are retained: who comes later gets the last values.
    let mut later = Client::plain(broker.tcp, Version::V5, "later");
    later.subscribe("$SYS/broker/version", 0);
    let version = later.receive();
    assert!(version.retain, "{version:?}");
    broker.stop();
}

#[test]
fn each_core_is_a_thread_pinned_to_its_cpu() {
    let broker = Broker::start(&Options::new(Transport::Epoll).cores(1));
    let allowed = cpus(usize::MAX);
    let core = allowed.first().expect("a CPU");
    let others = if allowed.len() == 1 { &allowed[..] } else { &allowed[1..] };
    let mut threads = 0;
    for entry in std::fs::read_dir(format!("/proc/{}/task", broker.pid())).expect("the broker") {
        let task = entry.expect("a thread").path();
        let read = |name: &str| std::fs::read_to_string(task.join(name)).expect("the thread");
        let status = read("status");
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let list = list.expect("an affinity").trim();
        if read("comm").trim() == "ringlane-core-0" {
            assert_eq!(list, core);
        } else {
            assert!(list.starts_with(others[0].as_str()), "{list}, not of {others:?}");
        }
        threads += 1;
    }
    assert_eq!(threads, 3, "one core, the control thread, the log");
    broker.stop();
}

#[test]
fn fewer_partitions_than_cores_is_a_warning_with_the_remedy() {
    if cpus(2).len() < 2 {
        println!("NOT RUN: this needs two CPUs");
        return;
    }
    let options = Options::new(Transport::Epoll).config("[runtime]\npartitions = 1");
    let mut broker = Broker::start(&options);
    broker.terminate();
    assert_eq!(broker.wait().code(), Some(0));
    let log = broker.log();
    let warning = log.lines().find(|line| line.contains("fewer partitions than cores"));
    assert!(warning.is_some_and(|line| line.contains("runtime.partitions = 0")), "{log}");
}

#[test]
fn a_port_or_a_directory_in_use_ends_the_second_broker_with_1() {
    let first = Broker::on(Transport::Epoll);
    let directory = first.directory();
    let data = first.data_dir();
    let serve = |data_dir: &std::path::Path, control: &str| -> Output {
        Command::new(env!("CARGO_BIN_EXE_ringlane"))
            .arg("serve")
            .arg("-c")
            .arg(directory.join("ringlane.toml"))
            .arg("--data-dir")
            .arg(data_dir)
            .env("RINGLANE_CONTROL__BIND", control)
            .output()
            .expect("the program runs")
    };
    let error = |output: Output| {
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).expect("UTF-8")
    };
    let message = error(serve(&data, "127.0.0.1:0"));
    assert!(message.contains(&format!("in use by pid {}", first.pid())), "{message}");
    let message = error(serve(&directory.join("other"), "127.0.0.1:0"));
    let expected = format!("{} is already in use", first.tcp);
    assert!(message.contains(&expected), "{message}");
    first.stop();
}

#[test]
fn the_control_port_in_use_is_an_error_that_names_the_key() {
    let first = Broker::on(Transport::Epoll);
    let output = Command::new(env!("CARGO_BIN_EXE_ringlane"))
        .args(["serve", "-p", "0", "--data-dir"])
        .arg(first.directory().join("other"))
        .env("RINGLANE_LISTENERS__WEBSOCKET__ENABLED", "false")
        .env("RINGLANE_CONTROL__BIND", first.control.to_string())
        .output()
        .expect("the program runs");
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("control.bind"), "{message}");
    first.stop();
}

#[test]
fn json_log_lines_are_objects_with_time_level_and_message() {
    let options = Options::new(Transport::Epoll).config("[log]\nformat = \"json\"");
    let mut broker = Broker::start(&options);
    broker.terminate();
    assert_eq!(broker.wait().code(), Some(0));
    let log = broker.log();
    let lines: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    for line in &lines {
        for field in ["timestamp", "level", "message"] {
            assert!(line[field].is_string(), "{line}");
        }
    }
    let ready = lines.iter().find(|line| line["message"].as_str().is_some_and(is_ready));
    let ready = ready.expect("a line that says it is ready");
    assert_eq!(ready["mqtt"], broker.tcp.to_string());
    assert_eq!(ready["transport"], "epoll");
    assert!(ready["cores"].is_number() && ready["cpus"].is_string(), "{ready}");
}

fn is_ready(message: &str) -> bool {
    message.ends_with("is ready")
}

#[test]
fn the_text_log_says_how_to_try_it_and_who_can_connect() {
    let broker = Broker::on(Transport::Epoll);
    // Lines are written by a thread of their own.
    broker.wait_until("the last line is written", |broker| broker.log().contains("mosquitto_pub"));
    let log = broker.log();
    let port = broker.tcp.port();
    for expected in ["only this host can connect", "mosquitto_sub", "mosquitto_pub", "demo/hello"] {
        assert!(log.contains(expected), "{expected}: {log}");
    }
    assert!(log.contains(&format!("-p {port}")), "{log}");
    broker.stop();
}

#[test]
fn a_hang_up_changes_nothing() {
    let broker = Broker::on(Transport::Epoll);
    signals(&format!("kill -HUP {}", broker.pid()));
    broker.wait_until("it is told", |broker| broker.log().contains("SIGHUP"));
    let client = Client::plain(broker.tcp, Version::V5, "after");
    client.disconnect();
    broker.stop();
}

#[test]
fn the_service_manager_is_told() {
    let path = std::env::temp_dir().join(format!("ringlane-notify-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let options = Options::new(Transport::Epoll)
        .environment("NOTIFY_SOCKET", path.to_str().expect("UTF-8"))
        .environment("WATCHDOG_USEC", "200000");
    let mut broker = Broker::start(&options);
    let wait_for = |word: &str| {
        let mut bytes = [0; 1024];
        loop {
            let length = socket.recv(&mut bytes).expect("a message of the broker");
            let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
            if text.lines().any(|line| line.starts_with(word)) {
                return text;
            }
        }
    };
    let ready = wait_for("READY=1");
    assert!(ready.contains("STATUS=mqtt "), "{ready}");
    wait_for("WATCHDOG=1");
    broker.terminate();
    wait_for("STOPPING=1");
    assert_eq!(broker.wait().code(), Some(0));
    let _ = std::fs::remove_file(&path);
}

#[test]
fn another_number_of_cores_keeps_the_data_directory() {
    let mut broker = Broker::start(&Options::new(Transport::Epoll).cores(1));
    broker.terminate();
    assert_eq!(broker.wait().code(), Some(0));
    let start = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_ringlane"))
            .arg("serve")
            .arg("-c")
            .arg(broker.directory().join("ringlane.toml"))
            .args(arguments)
            .env("RINGLANE_RUNTIME__PARTITIONS", "64")
            .output()
            .expect("the program runs")
    };
    let output = start(&["--cores", "auto"]);
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("has 4 partitions, the configuration wants 64"), "{message}");
}

#[test]
fn the_control_plane_outlives_connections_that_say_nothing() {
    let broker = Broker::on(Transport::Epoll);
    let silent: Vec<TcpStream> =
        (0..20).map(|_| TcpStream::connect(broker.control).expect("a connection")).collect();
    assert_eq!(broker.get("/livez").0, 200);
    let mut half = TcpStream::connect(broker.control).expect("a connection");
    half.write_all(b"GET /metrics HTT").expect("sent");
    assert_eq!(broker.get("/livez").0, 200);
    half.write_all(b"P/9.9\r\n\r\n").expect("sent");
    half.set_read_timeout(Some(Duration::from_secs(5))).expect("a time-out");
    let mut answer = String::new();
    half.read_to_string(&mut answer).expect("an answer, and the end");
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    drop(silent);
    broker.stop();
}

#[test]
fn a_broker_that_stops_refuses_new_clients() {
    let mut broker = Broker::on(Transport::Epoll);
    let mut stays = Client::plain(broker.tcp, Version::V5, "stays");
    broker.terminate();
    stays.expect(Kind::Disconnect);
    // Its own side stays open, so that the broker still lives: no CONNACK of success comes.
    if let Ok(mut socket) = TcpStream::connect(broker.tcp) {
        let _ = socket.write_all(&Connect::new(Version::V311, "late").encode());
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        assert_ne!(answer.get(..4), Some([0x20, 2, 0, 0].as_slice()), "accepted while stopping");
    }
    drop(stays);
    assert_eq!(broker.wait().code(), Some(0));
}
