//! The broker's process: started on addresses of its own, stopped by SIGTERM.

use super::PATIENCE;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// Small segments, of which each of four partitions keeps two beside what is needed.
pub const TRIMMED: &str = r#"
    [runtime]
    partitions = 4
    [mqtt]
    max_packet_size = "64KiB"
    [commit_log]
    segment_size = "1MiB"
    checkpoint_size = "256KiB"
    [[stream]]
    name = "default"
    retention_size = "8MiB"
"#;

/// A socket driver of the broker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    Uring,
    Epoll,
}

impl Transport {
    pub fn name(self) -> &'static str {
        match self {
            Self::Uring => "uring",
            Self::Epoll => "epoll",
        }
    }

    /// Runs a test on this transport, unless `RINGLANE_TEST_TRANSPORTS` leaves it out.
    pub fn run(self, test: fn(Self)) {
        let chosen = std::env::var("RINGLANE_TEST_TRANSPORTS");
        let chosen = chosen.as_deref().unwrap_or("uring,epoll");
        if chosen.split(',').any(|name| name.trim() == self.name()) {
            test(self);
        } else {
            println!("NOT RUN: RINGLANE_TEST_TRANSPORTS leaves out {}", self.name());
        }
    }
}

/// How to start the broker.
#[derive(Clone, Debug)]
pub struct Options {
    pub transport: Transport,
    /// How many of the CPUs that this process may use.
    pub cores: usize,
    /// Configuration on top of the addresses that the harness chooses, in TOML.
    pub config: String,
    /// Environment of the process, on top of this one's.
    pub environment: Vec<(String, String)>,
}

impl Options {
    /// Two cores where there are two, and the defaults.
    pub fn new(transport: Transport) -> Self {
        Self { transport, cores: 2, config: String::new(), environment: Vec::new() }
    }

    pub fn cores(mut self, cores: usize) -> Self {
        self.cores = cores;
        self
    }

    /// With a commit log. Tests that are about something else run without one, and are fast.
    pub fn logged(self) -> Self {
        self.config("commit_log.enabled = true")
    }

    /// Adds configuration in TOML; a later value replaces an earlier one.
    pub fn config(mut self, toml: &str) -> Self {
        let mut table: toml::Table = self.config.parse().expect("TOML");
        merge(&mut table, toml.parse().expect("TOML"));
        self.config = table.to_string();
        self
    }

    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A running broker; killed when dropped.
#[derive(Debug)]
pub struct Broker {
    child: Child,
    place: Place,
}

/// Where a broker keeps what it has, and where it listens.
#[derive(Clone, Debug)]
pub struct Place {
    pub directory: PathBuf,
    pub tcp: SocketAddr,
    pub websocket: SocketAddr,
    pub control: SocketAddr,
    /// For the other nodes of a cluster.
    pub replication: SocketAddr,
}

impl Place {
    /// One that no other broker has.
    pub fn new() -> Self {
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let [tcp, websocket, control, replication] = addresses(number);
        Self { directory: make_directory(number), tcp, websocket, control, replication }
    }
}

impl std::ops::Deref for Broker {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

static STARTED: AtomicU16 = AtomicU16::new(0);

impl Broker {
    /// Starts a broker with the defaults and waits until it is ready.
    pub fn on(transport: Transport) -> Self {
        Self::start(&Options::new(transport))
    }

    /// Starts a broker and waits until it is ready.
    pub fn start(options: &Options) -> Self {
        let mut broker = Self::launch(Place::new(), options);
        broker.wait_until_ready();
        broker
    }

    /// Starts a broker and does not wait.
    pub fn launch(place: Place, options: &Options) -> Self {
        let child = spawn(options, &place);
        Self { child, place }
    }

    /// Ends the process at once, as a crash would: nothing is flushed, nobody is told.
    pub fn kill(&mut self) {
        self.child.kill().expect("the process is killed");
        self.child.wait().expect("the state of the process");
    }

    /// Starts the broker again on the same data and the same addresses, after its end.
    pub fn restart(&mut self, options: &Options) {
        self.spawn_again(options);
        self.wait_until_ready();
    }

    /// The same for a start that is to be refused: how it ended.
    pub fn restart_in_vain(&mut self, options: &Options) -> ExitStatus {
        self.spawn_again(options);
        self.wait()
    }

    /// Starts the broker again and does not wait.
    pub fn spawn_again(&mut self, options: &Options) {
        assert!(self.child.try_wait().expect("the state of the process").is_some());
        self.child = spawn(options, &self.place);
    }

    /// Starts a broker that may end while it starts; waits until it is ready or has ended.
    pub fn start_until_end(options: &Options) -> Self {
        let mut broker = Self::launch(Place::new(), options);
        let deadline = Instant::now() + PATIENCE;
        while broker.is_alive() && !broker.is_ready() {
            assert!(Instant::now() < deadline, "the broker is neither ready nor ended");
            std::thread::sleep(Duration::from_millis(5));
        }
        broker
    }

    /// Whether the process runs.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("the state of the process").is_none()
    }

    fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.is_ready() {
            if let Some(status) = self.child.try_wait().expect("the state of the process") {
                panic!("the broker ended at its start: {status}");
            }
            assert!(Instant::now() < deadline, "the broker is not ready");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn is_ready(&self) -> bool {
        if other_broker().is_some() {
            return [self.tcp, self.websocket].iter().all(|it| TcpStream::connect(it).is_ok());
        }
        self.try_get("/readyz").is_ok_and(|(status, _)| status == 200)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where configuration, data and log of this broker are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the broker's manifest is.
    pub fn data_dir(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// What the broker has written to its standard output and error.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.directory.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The resident memory of the process in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = std::fs::read_to_string(path).expect("the broker lives");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kilobytes.and_then(|text| text.trim().parse::<u64>().ok()).expect("VmRSS in kB") * 1024
    }

    /// Open file descriptors of the process.
    pub fn descriptors(&self) -> usize {
        let path = format!("/proc/{}/fd", self.pid());
        std::fs::read_dir(path).expect("the broker lives").count()
    }

    /// Status and body of a GET on the control plane.
    pub fn get(&self, path: &str) -> (u16, String) {
        self.try_get(path).expect("the control plane answers")
    }

    fn try_get(&self, path: &str) -> std::io::Result<(u16, String)> {
        let mut socket = TcpStream::connect(self.control)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        Ok((status, body.to_owned()))
    }

    /// The sum of a metric over all cores, by its name without `ringlane_`.
    pub fn metric(&self, name: &str) -> u64 {
        let values = self.metric_by_label(name);
        assert!(!values.is_empty(), "no metric {name}");
        values.iter().map(|(_, value)| *value).sum::<f64>() as u64
    }

    /// Each sample of a metric with its labels (`core="0"`).
    pub fn metric_by_label(&self, name: &str) -> Vec<(String, f64)> {
        let (status, page) = self.get("/metrics");
        assert_eq!(status, 200, "{page}");
        page.lines().filter_map(|line| sample(line, name)).collect()
    }

    /// Waits until a condition on this broker holds.
    pub fn wait_until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition(self) {
            assert!(Instant::now() < deadline, "waited in vain until {what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until all that was accepted is durable and no round of a log has ended for a while:
    /// nobody is told when what nobody waits for is in the log.
    pub fn wait_until_logs_rest(&self) {
        let is_durable = |log: &serde_json::Value| log["flushed_offset"] == log["next_offset"];
        self.wait_until("the logs are at rest", |broker| {
            let before = broker.metric("log_rounds_total");
            std::thread::sleep(Duration::from_millis(100));
            broker.logs().iter().all(is_durable) && before == broker.metric("log_rounds_total")
        });
    }

    /// The logs of the partitions, as `ringlane ctl streams` lists them.
    fn logs(&self) -> Vec<serde_json::Value> {
        let mut ctl = Command::new(env!("CARGO_BIN_EXE_ringlane"));
        ctl.args(["ctl", "--json", "--data-dir"]).arg(self.data_dir()).arg("streams");
        let output = ctl.output().expect("the program runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let rows = text.lines().map(|line| serde_json::from_str(line).expect("JSON"));
        rows.filter(|row: &serde_json::Value| row["kind"] == "partition").collect()
    }

    /// Waits until the broker has noticed which sockets have ended. Only a broker that counts them
    /// can be asked; another one is given the time of a round trip.
    pub fn wait_until_sockets_are(&self, count: u64) {
        if other_broker().is_none() {
            let what = format!("{count} sockets are open");
            self.wait_until(&what, |broker| broker.metric("sockets") == count);
        } else {
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Sends SIGTERM to the process.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends a signal to the process, by its name.
    pub fn signal(&self, name: &str) {
        let command = format!("kill -{name} {}", self.pid());
        let status = Command::new("sh").args(["-c", &command]).status().expect("sh runs");
        assert!(status.success(), "kill: {status}");
    }

    /// Waits for the end of the process.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("the state of the process") {
                return status;
            }
            assert!(Instant::now() < deadline, "the broker does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops the broker by SIGTERM; it must be alive and end with exit code 0.
    pub fn stop(mut self) {
        if let Some(status) = self.child.try_wait().expect("the state of the process") {
            panic!("the broker had ended before: {status}");
        }
        self.terminate();
        let status = self.wait();
        assert_eq!(status.code(), Some(0), "the broker ended with {status}");
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("---- the broker's last lines ----");
            lines.iter().rev().for_each(|line| eprintln!("{line}"));
        }
        // Both fail if the process has ended before, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() && std::env::var_os("RINGLANE_TEST_KEEP").is_some() {
            eprintln!("---- what it had is in {} ----", self.directory.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }
}

fn make_directory(number: u16) -> PathBuf {
    let process = std::process::id();
    let directory = std::env::temp_dir().join(format!("ringlane-test-{process}-{number}"));
    std::fs::create_dir_all(&directory).expect("a directory for the broker");
    directory
}

/// Starts the program.
fn spawn(options: &Options, place: &Place) -> Child {
    let mut command = match other_broker() {
        Some(program) => mosquitto(&program, place),
        None => ringlane(options, place, "serve"),
    };
    let log = File::create(place.directory.join("log")).expect("a file for the broker's log");
    command
        .envs(options.environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a second handle on the log"))
        .stderr(log)
        .spawn()
        .expect("the broker's program starts")
}

/// The program that takes Ringlane's place, if one is named.
pub fn other_broker() -> Option<String> {
    std::env::var("RINGLANE_TEST_BROKER").ok().filter(|path| !path.is_empty())
}

/// Four addresses that no other process uses: each test process has a loopback address of its
/// own, made from its identifier, and so needs no search for free ports.
fn addresses(number: u16) -> [SocketAddr; 4] {
    [0, 1, 2, 3].map(|offset| SocketAddr::new(own_address(), 10_000 + number * 4 + offset))
}

/// A loopback address that no other running test has: its ports are nobody else's, also while nobody listens.
pub fn own_address() -> IpAddr {
    let [_, high, middle, low] = (std::process::id() + 0x0001_0000).to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(127, high, middle, low))
}

/// A command of the program, with the configuration of this broker.
pub fn ringlane(options: &Options, place: &Place, command: &str) -> Command {
    let cpus = cpus(options.cores).join(", ");
    let Place { directory, tcp, websocket, control, .. } = place;
    let mut table: toml::Table = format!(
        "data_dir = {data:?}\n\
         commit_log.enabled = false\n\
         [runtime]\ncores = [{cpus}]\ntransport = {transport:?}\nidle = \"park\"\n\
         [listeners.tcp]\nbind = \"{tcp}\"\n[listeners.websocket]\nbind = \"{websocket}\"\n\
         [control]\nbind = \"{control}\"\n",
        data = directory.join("data"),
        transport = options.transport.name(),
    )
    .parse()
    .expect("TOML");
    merge(&mut table, options.config.parse().expect("TOML"));
    let file = directory.join("ringlane.toml");
    // In one step: a broker that is starting may be about to read it.
    let next = file.with_extension("next");
    std::fs::write(&next, table.to_string()).expect("a configuration file");
    std::fs::rename(&next, &file).expect("a configuration file");
    let mut program = Command::new(env!("CARGO_BIN_EXE_ringlane"));
    program.args(command.split(' ')).arg("-c").arg(&file);
    program
}

/// Runs the program with arguments and without settings from the environment.
pub fn run_program(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringlane"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("RINGLANE_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).output().expect("the program runs")
}

/// Puts every value of `from` into `into`, table by table.
fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// The first CPUs that this process may run on.
pub fn cpus(count: usize) -> Vec<String> {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let ranges = list.expect("Cpus_allowed_list").trim().split(',');
    let all = ranges.flat_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let number = |text: &str| text.parse::<u32>().expect("a CPU number");
        number(first)..=number(last)
    });
    all.take(count).map(|cpu| cpu.to_string()).collect()
}

/// The labels and the value of a line of the metrics page, if it is a sample of this metric.
fn sample(line: &str, name: &str) -> Option<(String, f64)> {
    let rest = line.strip_prefix("ringlane_")?.strip_prefix(name)?;
    let (labels, value) = rest.rsplit_once(' ')?;
    let labels = match labels {
        "" => "",
        _ => labels.strip_prefix('{')?.strip_suffix('}')?,
    };
    Some((labels.to_owned(), value.parse().ok()?))
}

/// Mosquitto with limits and time limits as far as it has them, for checking the tests.
fn mosquitto(program: &str, place: &Place) -> Command {
    let Place { directory, tcp, websocket, .. } = place;
    let file = directory.join("mosquitto.conf");
    let text = format!(
        "allow_anonymous true\nmax_inflight_messages 20\n\
         listener {} {}\nlistener {} {}\nprotocol websockets\n",
        tcp.port(),
        tcp.ip(),
        websocket.port(),
        websocket.ip(),
    );
    std::fs::write(&file, text).expect("a configuration file");
    let mut command = Command::new(program);
    command.arg("-c").arg(&file);
    command
}
