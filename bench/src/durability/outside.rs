//! A broker that somebody else runs: commands strike it and make it well again.

use super::host::{Fault, Host};
use crate::compare::accepts_connect;
use anyhow::{Context, Result, ensure};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often it is asked whether it takes clients.
const GLANCE: Duration = Duration::from_millis(50);

/// A broker or a cluster at addresses that are known.
#[derive(Debug)]
pub struct OutsideHost {
    addresses: Vec<SocketAddr>,
    strike: Option<String>,
    heal: Option<String>,
    patience: Duration,
    is_struck: bool,
}

impl OutsideHost {
    /// A broker at `addresses`, which clients try in turn. `strike` and `heal` are given to `sh -c`; each
    /// has to end with 0. After `heal` the broker must take clients within `patience`.
    #[must_use]
    pub const fn new(
        addresses: Vec<SocketAddr>,
        strike: Option<String>,
        heal: Option<String>,
        patience: Duration,
    ) -> Self {
        Self { addresses, strike, heal, patience, is_struck: false }
    }

    fn wait(&self) -> Result<SocketAddr> {
        let deadline = Instant::now() + self.patience;
        loop {
            if let Some(address) = self.addresses.iter().find(|address| accepts_connect(**address))
            {
                return Ok(*address);
            }
            ensure!(
                Instant::now() < deadline,
                "nobody takes clients at {:?} after {:?}",
                self.addresses,
                self.patience
            );
            sleep(GLANCE);
        }
    }
}

impl Drop for OutsideHost {
    /// A run that ends under a fault leaves none behind.
    fn drop(&mut self) {
        if let Some(command) = self.heal.as_ref().filter(|_| self.is_struck)
            && let Err(error) = run(command)
        {
            let _ = writeln!(io::stderr(), "ringlane-bench ledger: {error:#}");
        }
    }
}

/// Runs a command of the user.
fn run(command: &str) -> Result<()> {
    let status = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot run {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

impl Host for OutsideHost {
    fn start(&mut self) -> Result<SocketAddr> {
        if let Some(command) = self.heal.as_ref().filter(|_| self.is_struck) {
            run(command)?;
        }
        self.is_struck = false;
        self.wait()
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        if self.addresses.len() > 1 { self.addresses.clone() } else { Vec::new() }
    }

    fn weaken(&mut self, fault: Fault) -> Result<()> {
        ensure!(fault == Fault::Command, "a broker that runs elsewhere is struck by a command");
        self.is_struck = true;
        self.strike.as_deref().map_or(Ok(()), run)
    }

    fn strike(&mut self, _: Fault) -> Result<()> {
        unreachable!("its fault begins in `weaken` and goes on until `start` ends it")
    }

    fn stumble(&mut self, _: Fault, _: Duration) -> Result<()> {
        unreachable!("only what this program starts can stumble")
    }

    fn arm(&mut self, _: Option<String>) {
        unreachable!("only what this program starts has failpoints")
    }

    fn has_ended(&mut self) -> bool {
        false
    }

    fn output(&self) -> String {
        String::new()
    }
}
