//! The opening handshake: an HTTP request becomes a WebSocket connection, or is answered and ended.
//!
//! Source: RFC 6455 section 4.2; MQTT 5 section 6.

use super::base64;
use httparse::{Header, Request, Status};
use sha1::{Digest, Sha1};

/// Largest request head that is read, in bytes; above it the answer is 431.
pub const HEAD_BYTES_MAX: usize = 8 * 1024;

/// Most header fields of a request; above it the answer is 431. Browsers send about 20.
const HEADERS_MAX: usize = 64;

/// What every server appends to the key before hashing it (RFC 6455 section 1.3).
const KEY_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The subprotocols that are spoken, the preferred one first [MQTT-6.0.0-3]. `mqttv3.1` is what
/// clients of MQTT 3.1 offer.
const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// What became of the bytes received so far.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Upgrade {
    /// The request head is not complete; call again with more bytes behind the same ones.
    Incomplete,
    /// The connection speaks WebSocket from here on.
    Accepted {
        /// Bytes of the input that the request took; frames follow them.
        consumed: usize,
        /// The answer to send.
        response: Vec<u8>,
    },
    /// The connection ends after the answer.
    Refused {
        /// A whole HTTP error response to send.
        response: Vec<u8>,
    },
}

/// Reads an opening handshake from everything received so far on a connection.
///
/// `path` is compared with the request's path, without its query. `allowed_origins` lists the
/// origins that a browser's request may name (`https://example.org`); empty allows any, and a
/// request without an Origin does not come from a browser and is allowed.
///
/// The answers: 101; 400 for a request that is no HTTP or no handshake, or does not offer
/// `mqtt` [MQTT-6.0.0-3]; 403 for the origin; 404 for the path; 405 for the method; 426 for a
/// plain request and for other versions of WebSocket than 13; 431 above [`HEAD_BYTES_MAX`]; 505
/// for HTTP before 1.1.
///
/// Source: RFC 6455 section 4.2.1 (checks), 4.2.2 (answers), 4.4 (versions).
#[must_use]
pub fn upgrade(input: &[u8], path: &str, allowed_origins: &[String]) -> Upgrade {
    let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = Request::new(&mut fields);
    let window = &input[..input.len().min(HEAD_BYTES_MAX)];
    let consumed = match request.parse(window) {
        Ok(Status::Complete(consumed)) => consumed,
        Ok(Status::Partial) if input.len() < HEAD_BYTES_MAX => return Upgrade::Incomplete,
        Ok(Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Refusal::HeadTooLarge.answer();
        }
        Err(_) => return Refusal::BadRequest("this is not an HTTP request").answer(),
    };
    match check(&request, path, allowed_origins) {
        Ok(accepted) => Upgrade::Accepted { consumed, response: accepted.response() },
        Err(refusal) => refusal.answer(),
    }
}

struct Accepted<'a> {
    key: &'a [u8],
    subprotocol: &'static str,
}

fn check<'a>(
    request: &Request<'_, 'a>,
    path: &str,
    allowed_origins: &[String],
) -> Result<Accepted<'a>, Refusal> {
    let fields = Fields(request.headers);
    if request.method != Some("GET") {
        return Err(Refusal::MethodNotAllowed);
    }
    if path_of(request.path.unwrap_or_default()) != path {
        return Err(Refusal::NotFound);
    }
    if request.version != Some(1) {
        return Err(Refusal::VersionNotSupported);
    }
    if !fields.has_token("Upgrade", "websocket") || !fields.has_token("Connection", "upgrade") {
        return Err(Refusal::UpgradeRequired("connect with a WebSocket client"));
    }
    if fields.single("Sec-WebSocket-Version")? != Some(b"13".as_slice()) {
        return Err(Refusal::UpgradeRequired("Sec-WebSocket-Version must be 13"));
    }
    if fields.single("Host")?.is_none() {
        return Err(Refusal::BadRequest("Host is missing"));
    }
    check_no_body(fields)?;
    let key = fields.single("Sec-WebSocket-Key")?.filter(|key| base64::is_sixteen_bytes(key));
    let key = key.ok_or(Refusal::BadRequest("Sec-WebSocket-Key must be 16 bytes in base64"))?;
    check_origin(fields, allowed_origins)?;
    let subprotocol = SUBPROTOCOLS
        .into_iter()
        .find(|name| fields.tokens("Sec-WebSocket-Protocol").any(|token| token == name.as_bytes()))
        .ok_or(Refusal::BadRequest("Sec-WebSocket-Protocol must offer mqtt"))?;
    Ok(Accepted { key, subprotocol })
}

/// A handshake has no body; one that claims a body would hide its bytes among the frames.
fn check_no_body(fields: Fields<'_, '_>) -> Result<(), Refusal> {
    let length = fields.single("Content-Length")?;
    if fields.single("Transfer-Encoding")?.is_some() || length.is_some_and(|length| length != b"0")
    {
        return Err(Refusal::BadRequest("a handshake has no body"));
    }
    Ok(())
}

fn check_origin(fields: Fields<'_, '_>, allowed_origins: &[String]) -> Result<(), Refusal> {
    let Some(origin) = fields.single("Origin")? else { return Ok(()) };
    let allowed = |allowed: &String| allowed.as_bytes().eq_ignore_ascii_case(origin);
    if allowed_origins.is_empty() || allowed_origins.iter().any(allowed) {
        Ok(())
    } else {
        Err(Refusal::Forbidden)
    }
}

/// The path of a request target in origin form or absolute form (RFC 9112 section 3.2), without
/// its query.
fn path_of(target: &str) -> &str {
    let target = target.split(['?', '#']).next().unwrap_or_default();
    let Some((_, rest)) = target.split_once("://").filter(|_| !target.starts_with('/')) else {
        return target;
    };
    rest.find('/').map_or("/", |start| &rest[start..])
}

/// The header fields of a request; names are compared without case.
#[derive(Clone, Copy)]
struct Fields<'h, 'a>(&'h [Header<'a>]);

impl<'h, 'a> Fields<'h, 'a> {
    fn all(self, name: &'static str) -> impl Iterator<Item = &'a [u8]> + use<'h, 'a> {
        let named = move |field: &&Header<'a>| field.name.eq_ignore_ascii_case(name);
        self.0.iter().filter(named).map(|field| field.value.trim_ascii())
    }

    /// The value of a field that may stand once at most.
    fn single(self, name: &'static str) -> Result<Option<&'a [u8]>, Refusal> {
        let mut values = self.all(name);
        let value = values.next();
        if values.next().is_some() {
            return Err(Refusal::BadRequest("a header field stands twice"));
        }
        Ok(value)
    }

    /// The members of a comma-separated list, which may be spread over several fields.
    fn tokens(self, name: &'static str) -> impl Iterator<Item = &'a [u8]> + use<'h, 'a> {
        self.all(name).flat_map(|value| value.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
    }

    fn has_token(self, name: &'static str, token: &str) -> bool {
        self.tokens(name).any(|value| value.eq_ignore_ascii_case(token.as_bytes()))
    }
}

impl Accepted<'_> {
    fn response(&self) -> Vec<u8> {
        let digest = Sha1::new().chain_update(self.key).chain_update(KEY_SUFFIX).finalize();
        let mut response = Vec::with_capacity(192);
        response.extend_from_slice(
            b"HTTP/1.1 101 Switching Protocols\r\n\
              Upgrade: websocket\r\n\
              Connection: Upgrade\r\n\
              Sec-WebSocket-Accept: ",
        );
        base64::encode(&digest, &mut response);
        response.extend_from_slice(b"\r\nSec-WebSocket-Protocol: ");
        response.extend_from_slice(self.subprotocol.as_bytes());
        response.extend_from_slice(b"\r\n\r\n");
        response
    }
}

/// Why a request is not answered with 101.
#[derive(Clone, Copy, Debug)]
enum Refusal {
    BadRequest(&'static str),
    Forbidden,
    NotFound,
    MethodNotAllowed,
    UpgradeRequired(&'static str),
    HeadTooLarge,
    VersionNotSupported,
}

impl Refusal {
    fn answer(self) -> Upgrade {
        let (status, fields, text) = self.parts();
        let response = format!(
            "HTTP/1.1 {status}\r\n{fields}Connection: close\r\n\
             Content-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\r\n{text}\n",
            text.len() + 1,
        );
        Upgrade::Refused { response: response.into_bytes() }
    }

    fn parts(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::BadRequest(text) => ("400 Bad Request", "", text),
            Self::Forbidden => ("403 Forbidden", "", "this origin is not allowed"),
            Self::NotFound => ("404 Not Found", "", "MQTT is not served at this path"),
            Self::MethodNotAllowed => {
                ("405 Method Not Allowed", "Allow: GET\r\n", "a handshake is a GET")
            }
            Self::UpgradeRequired(text) => (
                "426 Upgrade Required",
                "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
                text,
            ),
            Self::HeadTooLarge => {
                ("431 Request Header Fields Too Large", "", "the request head is too large")
            }
            Self::VersionNotSupported => {
                ("505 HTTP Version Not Supported", "", "HTTP/1.1 is needed")
            }
        }
    }
}

#[cfg(test)]
#[path = "upgrade_tests.rs"]
mod tests;
