//! One broker process per test, started by the harness that the Python suites use.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A running broker; `RINGLANE_TEST_BROKER`, `RINGLANE_TEST_TRANSPORT` and `RINGLANE_TEST_CORES` choose it.
#[derive(Debug)]
pub struct Broker {
    child: Child,
    /// Port of the TCP listener on 127.0.0.1.
    pub port: u16,
}

impl Broker {
    /// Starts a broker on free ports and waits until it serves. Panics if it does not.
    pub fn start() -> Self {
        let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("../clients");
        let mut child = Command::new("python3")
            .args(["-m", "harness.serve"])
            .current_dir(clients)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 starts the harness");
        let mut line = String::new();
        let output = child.stdout.as_mut().expect("standard output is piped");
        BufReader::new(output).read_line(&mut line).expect("the harness writes text");
        let port = tcp_port(&line).unwrap_or_else(|| panic!("no ports in {line:?}"));
        Self { child, port }
    }

    /// Stops it by SIGTERM, and asserts that it drained and exited with 0.
    pub fn stop(mut self) {
        drop(self.child.stdin.take());
        let status = self.child.wait().expect("the harness is our child");
        assert!(status.success(), "the broker's end: {status}");
    }
}

impl Drop for Broker {
    /// After a failed test: the harness stops the broker when its standard input ends.
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // A second wait after `stop` returns the stored status at once.
        let _ = self.child.wait();
    }
}

/// The value of "tcp" in the harness's one line of JSON.
fn tcp_port(line: &str) -> Option<u16> {
    let (_, rest) = line.split_once("\"tcp\": ")?;
    rest.split(|byte: char| !byte.is_ascii_digit()).next()?.parse().ok()
}
