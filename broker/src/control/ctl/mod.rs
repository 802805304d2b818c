//! The operator's socket: requests of `ringlane ctl`, answered as lines of JSON.
//!
//! It is a Unix socket that only the broker's own user, and root, can open: whoever can reads and
//! deletes what clients left here. It speaks HTTP/1.1: `POST /ctl` with a
//! [`Request`] as JSON, one per connection; an answer that ends early has an [`ErrorRow`] as its last line.

mod answers;
mod ask;
mod delete;
mod listener;

pub(super) use ask::Asks;
pub use listener::CtlSocket;
pub(crate) use listener::with_address;

use super::http::Shown;
use crate::config::StreamConfig;
use crate::ctl::rows::{ErrorRow, Request};
use ask::{Asker, Failed};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State as Shared;
use axum::http::header::{CONNECTION, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http_body_util::BodyExt;
use http_body_util::channel::{Channel, Sender};
use ringlane_dataplane::routing::Placement;
use serde::Serialize;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Pieces of an answer that wait for the operator to read on.
const PIECES_WAITING: usize = 2;

/// What answers are made of.
#[derive(Clone, Debug)]
pub(super) struct Answerer {
    asker: Asker,
    streams: Arc<Vec<StreamConfig>>,
    shown: Shown,
}

/// Where the lines of an answer go.
#[derive(Debug)]
struct Lines(Sender<Bytes, Infallible>);

impl Lines {
    /// Sends a piece of an answer, once there is room for it.
    async fn send<T: Serialize>(&mut self, rows: &[T]) -> Result<(), Failed> {
        let mut bytes = Vec::new();
        for row in rows {
            serde_json::to_writer(&mut bytes, row).map_err(|_| Failed::Unreadable)?;
            bytes.push(b'\n');
        }
        if bytes.is_empty() {
            return Ok(());
        }
        self.0.send_data(bytes.into()).await.map_err(|_| Failed::Gone)
    }
}

/// Serves on the current runtime until that ends.
///
/// # Errors
/// If the runtime does not take the socket.
pub(super) fn spawn(
    socket: &CtlSocket,
    placement: Placement,
    streams: Vec<StreamConfig>,
    shown: Shown,
) -> std::io::Result<Asks> {
    let (asker, asks) = ask::channel(placement);
    let answerer = Answerer { asker, streams: Arc::new(streams), shown };
    let listener = socket.listener()?;
    // It ends only with the runtime, and its errors are those of single connections.
    drop(tokio::spawn(async move { axum::serve(listener, routes(answerer)).await }));
    Ok(asks)
}

fn routes(answerer: Answerer) -> Router {
    let routes = Router::new().route("/ctl", post(answer)).with_state(answerer);
    routes.layer(map_response(end_connection))
}

/// One answer per connection: others wait for it.
async fn end_connection(mut response: Response) -> Response {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

async fn answer(Shared(answerer): Shared<Answerer>, body: Bytes) -> Response {
    let request: Request = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => {
            return (StatusCode::BAD_REQUEST, format!("no request: {error}\n")).into_response();
        }
    };
    if let Some(elsewhere) = answerer.shown.borrow().elsewhere() {
        let row = serde_json::to_string(&ErrorRow { error: elsewhere }).unwrap_or_default();
        return ([(CONTENT_TYPE, "application/x-ndjson")], row + "\n").into_response();
    }
    let (sender, body) = Channel::new(PIECES_WAITING);
    let (connection, gone) = oneshot::channel::<Infallible>();
    tokio::spawn(async move {
        let mut lines = Lines(sender);
        let answered = tokio::select! {
            answered = answerer.answer(request, &mut lines) => answered,
            // Nothing more is asked for somebody who has hung up.
            _ = gone => return,
        };
        if let Err(failed) = answered {
            // Whoever asked may have gone; that is one of the failures.
            let _ = lines.send(&[ErrorRow { error: failed.to_string() }]).await;
        }
    });
    // The body goes with its connection, and this with the body.
    let body = body.map_frame(move |frame| {
        let _ = &connection;
        frame
    });
    ([(CONTENT_TYPE, "application/x-ndjson")], Body::new(body)).into_response()
}
