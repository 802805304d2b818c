//! What the nodes of a cluster say of themselves, through their control planes.
//!
//! A node tells etcd where its control plane is. It may be one that only its own host reaches, where
//! another node of the same host, or none, answers: who answers is looked at.

use super::keys::{NodeRecord, View};
use super::status::ClusterStatus;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Bytes of an answer, at most: some hundred for each of 65,536 partitions.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A node's own words, or why there are none.
pub(super) type Answer = Result<ClusterStatus, String>;

/// Asks all nodes that run, one after the other.
pub(super) async fn ask_nodes(view: &View) -> Vec<(u16, Answer)> {
    let mut answers = Vec::new();
    for present in &view.nodes {
        answers.push((present.record.node, ask(&present.record).await));
    }
    answers
}

async fn ask(record: &NodeRecord) -> Answer {
    let Some(address) = &record.control else {
        return Err("its control plane is off".to_owned());
    };
    let unreached = |why: String| format!("{address}: {why}");
    let answer = timeout(PATIENCE, exchange(address)).await;
    let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")));
    let status = answer.map_err(unreached)?;
    if status.node != record.node {
        return Err(unreached(format!("node {} answers there", status.node)));
    }
    Ok(status)
}

async fn exchange(address: &str) -> Answer {
    #[derive(Deserialize)]
    struct Status {
        cluster: Option<ClusterStatus>,
    }
    let stream = TcpStream::connect(address).await;
    let stream = stream.map_err(|error| format!("cannot connect: {error}"))?;
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) =
        handshake.map_err(|error| format!("cannot speak HTTP: {error}"))?;
    // Its errors are those of the request, too, and it ends with the runtime.
    drop(tokio::spawn(connection));
    let request = Request::get("/status?format=json").header(HOST, address);
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    if response.status() != StatusCode::OK {
        return Err(format!("it answers {}", response.status()));
    }
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| format!("the answer breaks off: {error}"))?.to_bytes();
    let status: Status = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
    status.cluster.ok_or_else(|| "it is no node of a cluster".to_owned())
}
