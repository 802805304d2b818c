//! The HTTP routes of the control plane.

use super::accept::BoundedListener;
use super::ctl::CtlSocket;
use super::node::{LogHealth, Node, State};
use super::process::Process;
use super::{metrics_page, status};
use crate::config::ControlConfig;
use axum::Router;
use axum::extract::{RawQuery, State as Shared};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::watch;

/// Why the control plane did not start.
#[derive(Debug, Error)]
pub enum ControlError {
    /// No HTTP.
    #[error(
        "control plane: cannot listen on {address}: {error}; set control.bind, or control.enabled \
         = false"
    )]
    Http {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// No operator's socket.
    #[error(
        "cannot make the operator's socket {}: {error}; set control.socket to another path, or to \
         \"\" for none", path.display()
    )]
    Socket {
        /// Where.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// Opens the control plane's listener, unless it is off. Before the cores start, so that a wrong
/// address is an error at start.
///
/// # Errors
/// If the address cannot be had.
pub fn bind(config: &ControlConfig) -> Result<Option<(TcpListener, SocketAddr)>, ControlError> {
    if !config.enabled {
        return Ok(None);
    }
    let open = || -> io::Result<(TcpListener, SocketAddr)> {
        let listener = TcpListener::bind(config.bind)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    open().map(Some).map_err(|error| ControlError::Http { address: config.bind, error })
}

/// Makes the operator's socket, unless it is off.
///
/// # Errors
/// If it cannot be made.
pub fn bind_ctl(
    config: &ControlConfig,
    data_dir: &Path,
) -> Result<Option<CtlSocket>, ControlError> {
    let Some(path) = config.socket_path(data_dir) else { return Ok(None) };
    CtlSocket::open(&path).map(Some).map_err(|error| ControlError::Socket { path, error })
}

/// Serves on the current runtime until that ends.
pub(super) fn spawn(listener: TcpListener, shown: Shown) -> Result<(), ControlError> {
    let address = listener.local_addr().unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
    let listener = tokio::net::TcpListener::from_std(listener)
        .map_err(|error| ControlError::Http { address, error })?;
    // It ends only with the runtime, and its errors are those of single connections.
    drop(tokio::spawn(
        async move { axum::serve(BoundedListener::new(listener), routes(shown)).await },
    ));
    Ok(())
}

/// The node as it is now: where cores begin again, it is another one.
pub(super) type Shown = watch::Receiver<Arc<Node>>;

fn routes(shown: Shown) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/metrics", get(metrics))
        .route("/status", get(show_status))
        .route("/livez", get(alive))
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .with_state(shown)
}

const PLAIN: &str = "text/plain; charset=utf-8";

async fn index() -> &'static str {
    "ringlane\n\n\
     /metrics  counters for Prometheus\n\
     /status   the node at a glance (?format=json)\n\
     /livez    200 while the node works (also /healthz)\n\
     /readyz   200 while it takes clients, in a cluster for whoever leads\n"
}

async fn metrics(Shared(shown): Shared<Shown>) -> Response {
    let node = now(&shown);
    let page = metrics_page::render(&node, &Process::read());
    ([(CONTENT_TYPE, metrics_page::CONTENT_TYPE)], page).into_response()
}

async fn show_status(
    Shared(shown): Shared<Shown>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let node = now(&shown);
    let status = status::Status::of(&node, &Process::read());
    let code = code(node.state() != State::Failed);
    if wants_json(query.as_deref(), &headers) {
        (code, axum::Json(status)).into_response()
    } else {
        (code, [(CONTENT_TYPE, PLAIN)], status.text()).into_response()
    }
}

fn wants_json(query: Option<&str>, headers: &HeaderMap) -> bool {
    let mut pairs = query.unwrap_or_default().split('&');
    if let Some(format) = pairs.find_map(|pair| pair.strip_prefix("format=")) {
        return format == "json";
    }
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.contains("application/json"))
}

/// The node works: no core has failed. While it drains it is alive, so that it is not killed; a node
/// that follows says who leads.
async fn alive(Shared(shown): Shared<Shown>) -> (StatusCode, String) {
    let node = now(&shown);
    let state = node.state();
    let leader = node.cluster().map(|cluster| cluster.leader_text() + "\n").unwrap_or_default();
    (code(state != State::Failed), format!("{}\n{leader}", state.name()))
}

/// All cores run and listeners accept; in a cluster somebody leads, this node or one that clients are
/// passed on to, and a majority is heard. Partitions whose log is full or has failed are named; the
/// node is ready as long as it serves any.
async fn ready(Shared(shown): Shared<Shown>) -> (StatusCode, String) {
    let node = now(&shown);
    let state = node.state();
    let logs = LogHealth::of(&node);
    let serves = logs.poisoned < u64::from(node.facts.partitions);
    let cluster = node.cluster();
    let is_ready = match (state, &cluster) {
        (State::Ready, _) => true,
        // Who hears no majority cannot know whether the leader that it heard of last still leads.
        (State::Following, Some(cluster)) => {
            cluster.leader.is_some() && cluster.no_majority.is_none()
        }
        (State::Following | State::Starting | State::Draining | State::Failed, _) => false,
    };
    let cluster = cluster.map(|cluster| {
        let majority = cluster.no_majority.as_ref().map(|told| format!("{told}\n"));
        cluster.leader_text() + "\n" + &majority.unwrap_or_default()
    });
    let cluster = cluster.unwrap_or_default();
    (code(is_ready && serves), format!("{}\n{cluster}{}", state.name(), logs.text()))
}

fn now(shown: &Shown) -> Arc<Node> {
    Arc::clone(&shown.borrow())
}

fn code(good: bool) -> StatusCode {
    if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_given_to_those_who_ask_for_it() {
        let mut json = HeaderMap::new();
        json.insert(ACCEPT, "application/json".parse().unwrap());
        let none = HeaderMap::new();
        let cases = [
            (None, &none, false),
            (None, &json, true),
            (Some("format=json"), &none, true),
            (Some("a=b&format=json"), &none, true),
            (Some("format=text"), &json, false),
        ];
        for (query, headers, expected) in cases {
            assert_eq!(wants_json(query, headers), expected, "{query:?}");
        }
    }
}
