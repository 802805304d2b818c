//! The client's side of the operator's socket.

use super::CtlError;
use super::rows::{ErrorRow, Request};
use crate::control::with_address;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::{fmt, io};

/// A broker that is reached through its socket.
#[derive(Debug)]
pub(super) struct Client<'a> {
    socket: &'a Path,
}

type OnLine<'a> = dyn FnMut(&str) -> Result<(), CtlError> + 'a;

impl<'a> Client<'a> {
    pub(super) fn new(socket: &'a Path) -> Self {
        Self { socket }
    }

    /// Asks, and takes the answer line by line.
    pub(super) fn ask(&self, request: &Request, on_line: &mut OnLine<'_>) -> Result<(), CtlError> {
        let stream = with_address(self.socket, |address| UnixStream::connect(address))
            .map_err(|error| self.unreachable(&error))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        let runtime = runtime.map_err(|error| self.broken(&error))?;
        runtime.block_on(self.exchange(stream, request, on_line))
    }

    async fn exchange(
        &self,
        stream: UnixStream,
        request: &Request,
        on_line: &mut OnLine<'_>,
    ) -> Result<(), CtlError> {
        stream.set_nonblocking(true).map_err(|error| self.broken(&error))?;
        let stream =
            tokio::net::UnixStream::from_std(stream).map_err(|error| self.broken(&error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(&error))?;
        // Its errors are those of the request, too.
        drop(tokio::spawn(connection));
        let body = serde_json::to_vec(request).map_err(|error| self.broken(&error))?;
        let request = hyper::Request::builder()
            .method(Method::POST)
            .uri("/ctl")
            .header(header::HOST, "ringlane")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| self.broken(&error))?;
        let response = sender.send_request(request).await.map_err(|error| self.broken(&error))?;
        self.read(response, on_line).await
    }

    async fn read(
        &self,
        response: Response<Incoming>,
        on_line: &mut OnLine<'_>,
    ) -> Result<(), CtlError> {
        let status = response.status();
        let (mut body, mut text) = (response.into_body(), Vec::new());
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.broken(&error))?;
            text.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
            if status == StatusCode::OK {
                take_lines(&mut text, on_line)?;
            }
        }
        if status == StatusCode::OK && text.is_empty() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&text);
        let message = format!("{status}: {}; is it of this release?", text.trim());
        Err(self.broken(&message))
    }

    fn unreachable(&self, error: &io::Error) -> CtlError {
        let socket = self.socket.display();
        let remedy = match error.kind() {
            io::ErrorKind::PermissionDenied => "run this as the broker's user, or as root",
            _ => "start it, or name its data with --data-dir, -c or --socket",
        };
        CtlError::Failed(format!("no broker answers at {socket} ({error}); {remedy}"))
    }

    fn broken(&self, error: &dyn fmt::Display) -> CtlError {
        let socket = self.socket.display();
        CtlError::Failed(format!("the broker at {socket} did not answer to the end: {error}"))
    }
}

/// Takes the whole lines out of `text`.
fn take_lines(text: &mut Vec<u8>, on_line: &mut OnLine<'_>) -> Result<(), CtlError> {
    let Some(end) = text.iter().rposition(|byte| *byte == b'\n') else { return Ok(()) };
    let lines: Vec<u8> = text.drain(..=end).collect();
    for line in String::from_utf8_lossy(&lines).lines() {
        if let Ok(ErrorRow { error }) = serde_json::from_str(line) {
            return Err(CtlError::Failed(error));
        }
        on_line(line)?;
    }
    Ok(())
}
