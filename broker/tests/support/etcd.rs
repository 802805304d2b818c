//! A real etcd of one member, to be killed, paused, put back in time.

use super::PATIENCE;
use super::broker::own_address;
use ringlane::cluster::etcd::{Endpoint, Etcd, EtcdSettings};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// An etcd, ended and removed with this value.
#[derive(Debug)]
pub struct EtcdServer {
    child: Option<Child>,
    directory: PathBuf,
    /// For clients and for other members, of which there are none.
    addresses: [SocketAddr; 2],
}

impl EtcdServer {
    /// Starts one with an empty directory.
    pub fn start() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ringlane-etcd-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&directory);
        let addresses =
            [0, 1].map(|offset| SocketAddr::new(own_address(), 9_000 + number * 2 + offset));
        let mut server = Self { child: None, directory, addresses };
        server.restart();
        server
    }

    /// Starts it again, with what it had.
    pub fn restart(&mut self) {
        assert!(
            self.try_start(),
            "etcd does not start; see {}",
            self.directory.join("log").display()
        );
    }

    fn try_start(&mut self) -> bool {
        fs::create_dir_all(&self.directory).expect("a directory");
        let log = fs::File::create(self.directory.join("log")).expect("a log");
        let [client, peer] = self.addresses.map(|address| format!("http://{address}"));
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(self.data())
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            // Alone, it need not wait for others, and its shortest lease becomes one second.
            .args(["--heartbeat-interval", "20", "--election-timeout", "200"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second descriptor"))
            .stderr(log)
            .spawn();
        let child = child.unwrap_or_else(|error| {
            panic!(
                "etcd cannot be started ({error}): install etcd-server, or run scripts/test.sh rust"
            )
        });
        self.child = Some(child);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if self.is_healthy() {
                return true;
            }
            let child = self.child.as_mut().expect("it was started");
            if child.try_wait().expect("a child").is_some() {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    fn is_healthy(&self) -> bool {
        let body = r#"{"key":"L2hlYWx0aA=="}"#;
        // It works, too, if it wants a name first.
        let works = |answer: &str| answer.contains("\"revision\"") || answer.contains("user name");
        self.try_post("/v3/kv/range", body).is_some_and(|answer| works(&answer))
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it was running");
            child.wait().expect("a child");
        }
    }

    /// A copy of what it has on disk; only while it does not run.
    pub fn backup(&self) -> PathBuf {
        assert!(self.child.is_none(), "a running etcd cannot be copied");
        let target = self.directory.join("backup");
        copy(&self.data(), &target);
        target
    }

    /// Puts a copy back; only while it does not run.
    pub fn restore(&self, backup: &Path) {
        assert!(self.child.is_none(), "a running etcd cannot be replaced");
        fs::remove_dir_all(self.data()).expect("its data");
        copy(backup, &self.data());
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// Its client URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.addresses[0])
    }

    /// A directory that goes with it.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A client of it.
    pub fn client(&self) -> Etcd {
        Etcd::new(self.settings())
    }

    /// What a client of it is told.
    pub fn settings(&self) -> EtcdSettings {
        EtcdSettings {
            endpoints: vec![Endpoint::parse(&self.url()).expect("a URL")],
            prefix: "/ringlane/test/".to_owned(),
            user: None,
            timeout: PATIENCE,
        }
    }

    /// Asks its gateway for something that the broker never asks for.
    pub fn post(&self, path: &str, body: &str) -> String {
        self.try_post(path, body).unwrap_or_else(|| panic!("etcd does not answer {path}"))
    }

    fn try_post(&self, path: &str, body: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.addresses[0]).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let length = body.len();
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        self.kill();
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

fn copy(source: &Path, target: &Path) {
    fs::create_dir_all(target).expect("a directory");
    for entry in fs::read_dir(source).expect("a directory") {
        let entry = entry.expect("an entry");
        let to = target.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("a copy");
        }
    }
}
