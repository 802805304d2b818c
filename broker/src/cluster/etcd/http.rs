//! One request to one endpoint, over HTTP/1.1.
//!
//! Each request has a connection of its own: there are a few per lease, and one that was left open
//! may be dead without anybody having said so.

use super::Endpoint;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::timeout;

/// Bytes of an answer, and of a line of a stream, at most: there are some twenty small keys.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// An answer that came to its end.
#[derive(Debug)]
pub(super) struct Answer {
    /// The status of HTTP.
    pub(super) status: StatusCode,
    pub(super) body: Vec<u8>,
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    /// Such as `/v3/kv/range`.
    pub(super) path: &'a str,
    /// JSON.
    pub(super) body: &'a str,
    /// What etcd gave for name and password.
    pub(super) token: Option<&'a str>,
}

/// Asks, and takes the whole answer.
///
/// # Errors
/// What did not work.
pub(super) async fn ask(
    endpoint: &Endpoint,
    question: Question<'_>,
    limit: Duration,
) -> Result<Answer, String> {
    let exchange = async {
        let (response, _connection) = send(endpoint, question).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| format!("the answer breaks off: {error}"))?;
        Ok(Answer { status, body: body.to_bytes().to_vec() })
    };
    within(limit, exchange).await
}

/// Asks for a stream of lines.
///
/// # Errors
/// What did not work.
pub(super) async fn open(
    endpoint: &Endpoint,
    question: Question<'_>,
    limit: Duration,
) -> Result<Lines, String> {
    let (response, connection) = within(limit, send(endpoint, question)).await?;
    Ok(Lines { body: response.into_body(), text: Vec::new(), _connection: connection })
}

async fn within<T>(
    limit: Duration,
    exchange: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    timeout(limit, exchange).await.unwrap_or_else(|_| Err(format!("no answer within {limit:?}")))
}

async fn send(
    endpoint: &Endpoint,
    question: Question<'_>,
) -> Result<(Response<Incoming>, Connection), String> {
    let request = request(endpoint, question)?;
    let stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await;
    let stream = stream.map_err(|error| format!("cannot connect: {error}"))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| format!("cannot speak HTTP: {error}"))?;
    // Its errors are those of the request, too.
    let connection = Connection(tokio::spawn(async move { drop(connection.await) }).abort_handle());
    let response = sender.send_request(request).await;
    let response = response.map_err(|error| format!("the request breaks off: {error}"))?;
    Ok((response, connection))
}

fn request(endpoint: &Endpoint, question: Question<'_>) -> Result<Request<Full<Bytes>>, String> {
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(question.path)
        .header(HOST, &endpoint.authority)
        .header(CONTENT_TYPE, "application/json");
    if let Some(token) = question.token {
        request = request.header(AUTHORIZATION, token);
    }
    let body = Full::new(Bytes::copy_from_slice(question.body.as_bytes()));
    request.body(body).map_err(|error| format!("no request can be made: {error}"))
}

/// The task that moves the bytes of a connection; it ends with what it is moved for.
#[derive(Debug)]
struct Connection(AbortHandle);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An answer that goes on, line by line.
#[derive(Debug)]
pub(super) struct Lines {
    body: Incoming,
    text: Vec<u8>,
    _connection: Connection,
}

impl Lines {
    /// The next line. Nothing is lost if the caller does not wait to the end.
    ///
    /// # Errors
    /// The stream has ended, or broken off.
    pub(super) async fn next(&mut self) -> Result<Vec<u8>, String> {
        loop {
            if let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let line = self.text.drain(..=end).collect();
                return Ok(line);
            }
            if ANSWER_BYTES_MAX < self.text.len() {
                return Err("a line without an end".to_owned());
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    self.text.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
                }
                Some(Err(error)) => return Err(format!("the stream breaks off: {error}")),
                None => return Err("the stream has ended".to_owned()),
            }
        }
    }
}
