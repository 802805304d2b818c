//! A broker that this program started: ready, frozen between its turns, and gone at the end,
//! whatever happens to this program.

use super::listener::process_listening;
use super::recipe::{Recipe, Values};
use crate::login::Login;
use crate::process::Process;
use anyhow::{Context, Result, bail, ensure};
use ringlane_mqtt::{ReasonCode, Version, encode};
use rustix::process::{Pid, Signal, kill_process_group};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a broker may take until it accepts a CONNECT.
const START_MAX: Duration = Duration::from_secs(90);
/// How long it may take to end by itself after SIGTERM.
const END_MAX: Duration = Duration::from_secs(2);
/// How often it is asked whether it is ready, or gone: a quick restart is to be seen as one.
const GLANCE: Duration = Duration::from_millis(5);
/// How long an answer to CONNECT may take before the question is asked again.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// What is shown of a broker's output when it does not start.
const OUTPUT_BYTES: usize = 2000;

/// A broker in a process group of its own.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    /// Kills the group when this program ends without having stopped it.
    watchdog: Child,
    stop: Option<String>,
    directory: PathBuf,
    /// Whether what it stored is left when it ends.
    keeps_directory: bool,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// The process that listens, which is the one to measure.
    pub(crate) process: Process,
}

impl Running {
    /// Starts a broker and waits until it accepts a CONNECT.
    ///
    /// # Errors
    /// If its port is taken, it cannot be started, ends, or is not ready in time.
    pub(crate) fn start(name: &str, recipe: &Recipe, values: &Values) -> Result<Self> {
        let mut running = Self::launch(name, recipe, values)?;
        running.keeps_directory = false;
        running.await_ready(name)?;
        Ok(running)
    }

    /// Starts a broker and does not wait for it. Its directory stays when it ends.
    ///
    /// # Errors
    /// If its port is taken, or it cannot be started.
    pub(crate) fn launch(name: &str, recipe: &Recipe, values: &Values) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, values.port));
        TcpListener::bind(address).with_context(|| format!("{name} gets no port {address}"))?;
        fs::create_dir_all(&values.directory).context("the broker's directory")?;
        for (file, text) in &recipe.files {
            fs::write(values.directory.join(file), values.fill(text))
                .with_context(|| format!("{file} of {name}"))?;
        }
        let child = spawn(recipe, values).with_context(|| format!("{name} does not start"))?;
        let stop = recipe.stop.as_ref().map(|stop| values.fill(stop));
        let watchdog = watchdog(child.id(), stop.as_deref()).context("the watchdog")?;
        let directory = values.directory.clone();
        let process = Process(child.id());
        let keeps_directory = true;
        Ok(Self { child, watchdog, stop, directory, keeps_directory, address, process })
    }

    /// Waits until it accepts a CONNECT.
    ///
    /// # Errors
    /// If it ends, or is not ready in time.
    pub(crate) fn await_ready(&mut self, name: &str) -> Result<()> {
        let deadline = Instant::now() + START_MAX;
        while !accepts_connect(self.address) {
            if let Some(status) = self.child.try_wait()? {
                bail!("{name} ended ({status}): {}", self.output());
            }
            ensure!(
                Instant::now() < deadline,
                "{name} is not ready after {START_MAX:?}: {}",
                self.output()
            );
            sleep(GLANCE);
        }
        if let Some(process) = process_listening(self.child.id(), self.address.port()) {
            self.process = process;
        }
        Ok(())
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// The end of what it has printed.
    pub(crate) fn output(&self) -> String {
        let text = fs::read(self.directory.join(OUTPUT)).unwrap_or_default();
        let tail = &text[text.len().saturating_sub(OUTPUT_BYTES)..];
        String::from_utf8_lossy(tail).trim().to_owned()
    }

    /// Stops its threads where they are: idle work would be in the way of the others.
    ///
    /// # Errors
    /// If it is gone.
    pub(super) fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP).context("a broker is gone")
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// If it is gone.
    pub(super) fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT).context("a broker is gone")
    }

    /// Ends it at once (SIGKILL to the whole group).
    ///
    /// # Errors
    /// If it had ended by itself.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.ensure_runs()?;
        self.reap()
    }

    /// Ends what perhaps ended by itself already.
    ///
    /// # Errors
    /// If the kernel does not say what became of it.
    pub(crate) fn reap(mut self) -> Result<()> {
        // Its leader may be gone, but not the rest of the group.
        let _ = self.signal(Signal::KILL);
        self.child.wait().context("a broker that was killed")?;
        // What listened may be another process of the group, which is about to go.
        let deadline = Instant::now() + END_MAX;
        while TcpListener::bind(self.address).is_err() && Instant::now() < deadline {
            sleep(GLANCE);
        }
        Ok(())
    }

    /// Ends it in order (SIGTERM).
    ///
    /// # Errors
    /// If it had ended by itself, or has not ended in time.
    pub(crate) fn terminate(mut self, patience: Duration) -> Result<()> {
        self.ensure_runs()?;
        self.signal(Signal::TERM).context("a broker is gone")?;
        let deadline = Instant::now() + patience;
        while self.child.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "no end {patience:?} after SIGTERM");
            sleep(GLANCE);
        }
        Ok(())
    }

    fn ensure_runs(&mut self) -> Result<()> {
        let status = self.child.try_wait().context("a broker")?;
        status.map_or(Ok(()), |status| bail!("it ended by itself ({status}): {}", self.output()))
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process_group(group.context("a process number")?, signal)?;
        Ok(())
    }

    fn end(&mut self) {
        // Each step is tried whatever became of the one before: what is gone already is no failure.
        let _ = self.signal(Signal::CONT);
        let _ = self.signal(Signal::TERM);
        let deadline = Instant::now() + END_MAX;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            sleep(GLANCE);
        }
        let _ = self.watchdog.kill();
        let _ = self.watchdog.wait();
        let _ = self.signal(Signal::KILL);
        let _ = self.child.wait();
        if let Some(stop) = &self.stop {
            let _ = Command::new("sh").args(["-c", stop]).stdout(Stdio::null()).status();
        }
        if !self.keeps_directory {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// The file that takes a broker's standard output and error.
const OUTPUT: &str = "output.log";

fn spawn(recipe: &Recipe, values: &Values) -> Result<Child> {
    let output = File::create(values.directory.join(OUTPUT))?;
    let variables = recipe.environment.iter().map(|(name, value)| (name, values.fill(value)));
    let child = Command::new("sh")
        .args(["-c", &format!("exec {}", values.command(&recipe.command))])
        .envs(variables)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .process_group(0)
        .spawn()?;
    Ok(child)
}

/// A shell that waits for the end of this program, which closes its standard input, and then kills
/// the group. A signal to this program alone, even SIGKILL, leaves no broker behind.
fn watchdog(group: u32, stop: Option<&str>) -> Result<Child> {
    let stop = stop.unwrap_or("true");
    let script = format!("read -r _; kill -s KILL -- -{group}; {stop}");
    let child = Command::new("sh")
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()?;
    Ok(child)
}

/// Whether a broker answers a CONNECT with success.
pub(crate) fn accepts_connect(address: SocketAddr) -> bool {
    let ask = || -> Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address, ANSWER_MAX)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        let mut packet = Vec::new();
        Login::clean("ringlane-bench-probe").encode(Version::V311, &mut packet);
        stream.write_all(&packet)?;
        let mut connack = [0; 4];
        stream.read_exact(&mut connack)?;
        let mut packet = Vec::new();
        let reason = ReasonCode::NORMAL_DISCONNECTION;
        encode::disconnect(&mut packet, Version::V311, reason, None, None, None);
        stream.write_all(&packet)?;
        Ok(connack[0] == 0x20 && connack[3] == 0)
    };
    ask().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(name: &str) -> Values {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let directory = format!("ringlane-launch-{name}-{}", std::process::id());
        let directory = std::env::temp_dir().join(directory);
        Values { directory, port, cpu: "0".into(), ..Values::default() }
    }

    #[test]
    fn a_broker_that_ends_at_once_says_why() {
        let values = values("ends");
        let mut recipe = Recipe::of_command("sh -c 'cat {dir}/a; exit 3'");
        recipe.files.insert("a".into(), "no such option on {port}".into());
        let error = Running::start("x", &recipe, &values).unwrap_err().to_string();
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(error.contains(&format!("no such option on {}", values.port)), "{error}");
        assert!(!values.directory.exists());
    }

    #[test]
    fn what_a_killed_broker_stored_is_there_for_the_next() {
        let values = values("killed");
        let recipe = Recipe::of_command("sh -c 'echo x >{dir}/kept; exec sleep 100'");
        let running = Running::launch("x", &recipe, &values).unwrap();
        while fs::read(values.directory.join("kept")).unwrap_or_default().is_empty() {
            sleep(GLANCE);
        }
        let process = running.process;
        running.kill().unwrap();
        assert!(!process.is_alive());
        assert!(values.directory.join("kept").exists());
        let running = Running::launch("x", &recipe, &values).unwrap();
        running.terminate(END_MAX).unwrap();
        assert!(values.directory.join("kept").exists());
        fs::remove_dir_all(&values.directory).unwrap();
    }

    #[test]
    fn a_broker_that_ended_by_itself_cannot_be_killed() {
        let values = values("gone");
        let recipe = Recipe::of_command("sh -c 'exit 3'");
        let mut running = Running::launch("x", &recipe, &values).unwrap();
        while !running.has_ended() {
            sleep(GLANCE);
        }
        let error = running.kill().unwrap_err().to_string();
        assert!(error.contains("exit status: 3"), "{error}");
        fs::remove_dir_all(&values.directory).unwrap();
    }

    #[test]
    fn a_port_that_is_taken_is_named() {
        let values = values("taken");
        let _taken = TcpListener::bind(("127.0.0.1", values.port)).unwrap();
        let recipe = Recipe::of_command("sleep 100");
        let error = Running::start("x", &recipe, &values).unwrap_err().to_string();
        assert!(error.contains(&values.port.to_string()), "{error}");
    }
}
