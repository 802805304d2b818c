//! The metadata in etcd, through its JSON gateway (docs/adr/0008).
//!
//! Several endpoints are tried in turn, beginning with the one that answered last. Each has a time
//! limit of its own, so that one that hangs costs that long, once.

mod endpoint;
mod http;
mod wire;

pub use endpoint::Endpoint;

use super::boottime::boottime;
use super::metadata::{
    Changes, Granted, LeaseId, Metadata, MetadataError, Outcome, Snapshot, Transaction,
};
use crate::config::ClusterConfig;
use http::{Answer, Lines, Question};
use hyper::StatusCode;
use ringlane_dataplane::time::Nanos;
use serde::de::DeserializeOwned;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use wire::{
    Credentials, LeaseAnswer, RangeAnswer, Refusal, StatusAnswer, StreamLine, TokenAnswer,
    TxnAnswer, WatchAnswer, path,
};

/// What is asked for of etcd.
#[derive(Clone, PartialEq, Debug)]
pub struct EtcdSettings {
    /// Who is asked; at least one.
    pub endpoints: Vec<Endpoint>,
    /// All keys begin with it; it ends with `/`.
    pub prefix: String,
    /// Name, and the file with the password.
    pub user: Option<(String, PathBuf)>,
    /// How long one endpoint may take.
    pub timeout: Duration,
}

impl EtcdSettings {
    /// The settings of a configuration that was checked.
    #[must_use]
    pub fn of(config: &ClusterConfig) -> Self {
        let etcd = &config.etcd;
        let parse = |text: &String| Endpoint::parse(text).ok();
        Self {
            endpoints: etcd.endpoints.iter().filter_map(parse).collect(),
            prefix: format!("{}/{}/", etcd.prefix, config.name),
            user: etcd.username.clone().map(|name| (name, etcd.password_file.clone())),
            timeout: etcd.timeout,
        }
    }
}

/// An etcd cluster.
#[derive(Debug)]
pub struct Etcd {
    settings: EtcdSettings,
    /// The endpoint that answered last.
    current: AtomicUsize,
    /// What etcd gave for name and password.
    token: Mutex<Option<String>>,
}

/// An answer, where it came from, and when it was asked for.
struct Reply {
    endpoint: String,
    sent: Nanos,
    body: Vec<u8>,
}

/// Why one endpoint gave no answer that can be used.
enum Failure {
    /// Another one may do better.
    Endpoint(String),
    /// None will.
    Refused { endpoint: String, refusal: Refusal },
    /// What there is to prove who asks cannot be had.
    Password(String),
}

impl Etcd {
    /// A client; nothing is connected yet.
    #[must_use]
    pub fn new(settings: EtcdSettings) -> Self {
        Self { settings, current: AtomicUsize::new(0), token: Mutex::new(None) }
    }

    /// Asks each endpoint for its version, one after the other.
    pub async fn versions(&self) -> Vec<(String, Result<String, String>)> {
        let mut found = Vec::new();
        for endpoint in &self.settings.endpoints {
            let version = match self.ask(endpoint, path::STATUS, "{}").await {
                Ok(reply) => match serde_json::from_slice::<StatusAnswer>(&reply.body) {
                    Ok(status) => Ok(status.version),
                    Err(error) => Err(format!("it is no etcd: {error}")),
                },
                Err(Failure::Endpoint(message) | Failure::Password(message)) => Err(message),
                Err(Failure::Refused { refusal, .. }) => Err(refusal.message),
            };
            found.push((endpoint.to_string(), version));
        }
        found
    }

    /// Asks one endpoint after the other until one answers.
    async fn call(&self, path: &str, body: &str) -> Result<Reply, CallError> {
        let endpoints = &self.settings.endpoints;
        let first = self.current.load(Ordering::Relaxed);
        let mut tried = Vec::new();
        for step in 0..endpoints.len() {
            let index = (first + step) % endpoints.len();
            match self.ask(&endpoints[index], path, body).await {
                Ok(reply) => {
                    self.current.store(index, Ordering::Relaxed);
                    return Ok(reply);
                }
                Err(Failure::Endpoint(message)) => {
                    tried.push(format!("{}: {message}", endpoints[index]));
                }
                Err(Failure::Refused { endpoint, refusal }) => {
                    return Err(CallError::Refused { endpoint, refusal });
                }
                Err(Failure::Password(message)) => return Err(CallError::Password(message)),
            }
        }
        Err(CallError::Unreachable(tried))
    }

    /// Asks one endpoint; once more with a new token if it wants one.
    async fn ask(&self, endpoint: &Endpoint, path: &str, body: &str) -> Result<Reply, Failure> {
        let (mut sent, mut answer) = self.ask_once(endpoint, path, body).await?;
        if !answer.status.is_success() && self.wants_token(&answer) {
            self.authenticate(endpoint).await?;
            (sent, answer) = self.ask_once(endpoint, path, body).await?;
        }
        let refusal = match answer.status.is_success() {
            true => stream_error(&answer.body),
            false => Some(Refusal::parse(&answer.body)),
        };
        match refusal {
            None => Ok(Reply { endpoint: endpoint.to_string(), sent, body: answer.body }),
            Some(refusal) => Err(failure(endpoint, answer.status, refusal)),
        }
    }

    async fn ask_once(
        &self,
        endpoint: &Endpoint,
        path: &str,
        body: &str,
    ) -> Result<(Nanos, Answer), Failure> {
        if self.settings.user.is_some() && self.token().is_none() {
            self.authenticate(endpoint).await?;
        }
        let token = self.token();
        let question = Question { path, body, token: token.as_deref() };
        let sent = boottime();
        let answer = http::ask(endpoint, question, self.settings.timeout).await;
        answer.map(|answer| (sent, answer)).map_err(Failure::Endpoint)
    }

    fn wants_token(&self, answer: &Answer) -> bool {
        self.settings.user.is_some() && Refusal::parse(&answer.body).wants_authentication()
    }

    fn token(&self) -> Option<String> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Shows name and password, and keeps the token.
    async fn authenticate(&self, endpoint: &Endpoint) -> Result<(), Failure> {
        let Some((name, file)) = &self.settings.user else { return Ok(()) };
        let password = std::fs::read_to_string(file)
            .map_err(|error| Failure::Password(format!("{}: {error}", file.display())))?;
        let credentials = Credentials { name, password: password.trim_end_matches(['\r', '\n']) };
        let body = serde_json::to_string(&credentials)
            .map_err(|error| Failure::Password(error.to_string()))?;
        let question = Question { path: path::AUTHENTICATE, body: &body, token: None };
        let answer = http::ask(endpoint, question, self.settings.timeout).await;
        let answer = answer.map_err(Failure::Endpoint)?;
        if !answer.status.is_success() {
            return Err(failure(endpoint, answer.status, Refusal::parse(&answer.body)));
        }
        let token: TokenAnswer = serde_json::from_slice(&answer.body)
            .map_err(|error| Failure::Endpoint(format!("a token of another form: {error}")))?;
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(token.token);
        Ok(())
    }

    /// A call whose answer is a stream of one line.
    async fn lease_call(
        &self,
        call: &'static str,
        path: &str,
        lease: LeaseId,
    ) -> Result<(Nanos, Option<Duration>), MetadataError> {
        let reply = self.call(path, &wire::lease(lease)).await.map_err(|error| error.of(call))?;
        let answer: LeaseAnswer = match path {
            path::KEEP_ALIVE => {
                let line: StreamLine<LeaseAnswer> = parse(call, &reply)?;
                line.result.unwrap_or_default()
            }
            _ => parse(call, &reply)?,
        };
        let ttl = u64::try_from(answer.ttl.0).ok().filter(|secs| 0 < *secs);
        Ok((reply.sent, ttl.map(Duration::from_secs)))
    }
}

/// Why a call came to nothing.
#[derive(Debug)]
enum CallError {
    Unreachable(Vec<String>),
    Refused { endpoint: String, refusal: Refusal },
    Password(String),
}

impl CallError {
    fn of(self, call: &'static str) -> MetadataError {
        match self {
            Self::Unreachable(tried) => MetadataError::Unreachable { tried },
            Self::Refused { endpoint, refusal } => {
                MetadataError::Refused { endpoint, call, message: refusal.message }
            }
            Self::Password(message) => MetadataError::Password { message },
        }
    }

    /// The same, for a call that names a lease.
    fn of_lease(self, call: &'static str, lease: LeaseId) -> MetadataError {
        match self {
            Self::Refused { refusal, .. } if refusal.is_lost_lease() => {
                MetadataError::LeaseLost { lease }
            }
            other => other.of(call),
        }
    }
}

/// Whose a refusal is: a server that fails, or a proxy before it, says nothing for the others.
fn failure(endpoint: &Endpoint, status: StatusCode, refusal: Refusal) -> Failure {
    if refusal.is_of_this_endpoint() || status.is_server_error() {
        return Failure::Endpoint(refusal.message);
    }
    Failure::Refused { endpoint: endpoint.to_string(), refusal }
}

/// The error that a stream of one line carries in place of its result.
fn stream_error(body: &[u8]) -> Option<Refusal> {
    if !body.starts_with(b"{\"error\"") {
        return None;
    }
    let line: StreamLine<serde_json::Value> = serde_json::from_slice(body).ok()?;
    line.error.map(|error| Refusal::from_value(&error))
}

fn parse<T: DeserializeOwned>(call: &'static str, reply: &Reply) -> Result<T, MetadataError> {
    serde_json::from_slice(&reply.body).map_err(|error| malformed(call, reply, &error.to_string()))
}

fn malformed(call: &'static str, reply: &Reply, error: &str) -> MetadataError {
    let message = format!("an answer of another form: {error}");
    MetadataError::Refused { endpoint: reply.endpoint.clone(), call, message }
}

impl Metadata for Etcd {
    type Changes = EtcdChanges;

    async fn read(&self) -> Result<Snapshot, MetadataError> {
        const CALL: &str = "reading the keys";
        let body = wire::range(&self.settings.prefix);
        let reply = self.call(path::RANGE, &body).await.map_err(|error| error.of(CALL))?;
        let answer: RangeAnswer = parse(CALL, &reply)?;
        let revision = answer.header.revision.unsigned();
        answer
            .snapshot(&self.settings.prefix, revision)
            .map_err(|error| malformed(CALL, &reply, &error))
    }

    async fn commit(&self, transaction: &Transaction) -> Result<Outcome, MetadataError> {
        const CALL: &str = "a transaction";
        let body = wire::txn(&self.settings.prefix, transaction);
        let lease = transaction.puts.iter().find_map(|put| put.lease);
        let reply = self.call(path::TXN, &body).await.map_err(|error| match lease {
            Some(lease) => error.of_lease(CALL, lease),
            None => error.of(CALL),
        })?;
        let answer: TxnAnswer = parse(CALL, &reply)?;
        if answer.succeeded {
            return Ok(Outcome::Done(answer.header.revision.unsigned()));
        }
        let snapshot = answer.snapshot(&self.settings.prefix);
        let snapshot = snapshot.map_err(|error| malformed(CALL, &reply, &error))?;
        Ok(Outcome::Refused(snapshot))
    }

    async fn grant(&self, lease: LeaseId, ttl: Duration) -> Result<Granted, MetadataError> {
        const CALL: &str = "a lease";
        let secs = ttl.as_secs() + u64::from(0 < ttl.subsec_nanos());
        match self.call(path::GRANT, &wire::grant(lease, secs)).await {
            Ok(reply) => {
                let answer: LeaseAnswer = parse(CALL, &reply)?;
                // etcd may give more than was asked for; what was asked for is enough.
                let given = Duration::from_secs(answer.ttl.unsigned());
                Ok(Granted { sent: reply.sent, ttl: given.min(ttl) })
            }
            // The first answer was lost.
            Err(CallError::Refused { refusal, .. }) if refusal.is_known_lease() => {
                self.keep_alive(lease).await
            }
            Err(error) => Err(error.of(CALL)),
        }
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Granted, MetadataError> {
        let answer = self.lease_call("keeping a lease", path::KEEP_ALIVE, lease).await?;
        let (sent, Some(ttl)) = answer else { return Err(MetadataError::LeaseLost { lease }) };
        Ok(Granted { sent, ttl })
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), MetadataError> {
        const CALL: &str = "the end of a lease";
        match self.call(path::REVOKE, &wire::lease(lease)).await {
            Ok(_) => Ok(()),
            Err(error) => match error.of_lease(CALL, lease) {
                MetadataError::LeaseLost { .. } => Ok(()),
                other => Err(other),
            },
        }
    }

    async fn remaining(&self, lease: LeaseId) -> Result<Option<Duration>, MetadataError> {
        let answer = self.lease_call("the time of a lease", path::REMAINING, lease).await?;
        Ok(answer.1)
    }

    async fn watch(&self, revision: u64) -> Result<EtcdChanges, MetadataError> {
        // Authentication, if there is any, is renewed by this; and a dead endpoint is left.
        self.read().await?;
        let body = wire::watch(&self.settings.prefix, revision);
        let token = self.token();
        let index = self.current.load(Ordering::Relaxed) % self.settings.endpoints.len();
        let endpoint = &self.settings.endpoints[index];
        let question = Question { path: path::WATCH, body: &body, token: token.as_deref() };
        let limit = self.settings.timeout;
        let unreachable = |message: String| broken(endpoint, &message);
        let lines = http::open(endpoint, question, limit).await.map_err(unreachable)?;
        let mut changes = EtcdChanges { endpoint: endpoint.clone(), lines };
        let created = tokio::time::timeout(limit, changes.line()).await;
        let created = created.unwrap_or_else(|_| Err(broken(endpoint, "no answer in time")))?;
        match created.created {
            true => Ok(changes),
            false => Err(changes.ended(&created)),
        }
    }
}

/// Changes as etcd tells them.
#[derive(Debug)]
pub struct EtcdChanges {
    endpoint: Endpoint,
    lines: Lines,
}

impl EtcdChanges {
    async fn line(&mut self) -> Result<WatchAnswer, MetadataError> {
        let line = self.lines.next().await.map_err(|error| broken(&self.endpoint, &error))?;
        let line: StreamLine<WatchAnswer> = serde_json::from_slice(&line)
            .map_err(|error| broken(&self.endpoint, &format!("no line of a watch: {error}")))?;
        match (line.result, line.error) {
            (Some(answer), _) => Ok(answer),
            (None, Some(error)) => {
                Err(broken(&self.endpoint, &Refusal::from_value(&error).message))
            }
            (None, None) => Err(broken(&self.endpoint, "an empty line")),
        }
    }

    fn ended(&self, answer: &WatchAnswer) -> MetadataError {
        match answer.compact_revision.unsigned() {
            0 => broken(&self.endpoint, &format!("the watch was ended: {}", answer.cancel_reason)),
            revision => MetadataError::Compacted { revision },
        }
    }
}

fn broken(endpoint: &Endpoint, message: &str) -> MetadataError {
    MetadataError::Unreachable { tried: vec![format!("{endpoint}: {message}")] }
}

impl Changes for EtcdChanges {
    async fn next(&mut self) -> Result<u64, MetadataError> {
        loop {
            let answer = self.line().await?;
            if answer.canceled {
                return Err(self.ended(&answer));
            }
            if !answer.events.is_empty() {
                return Ok(answer.header.revision.unsigned());
            }
        }
    }
}
