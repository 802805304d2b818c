//! What a client of MQTT 5 is told before it is left: where the leader is, or that its leader has gone.

use ringlane_mqtt::{ConnackProperties, ReasonCode, Version, encode};
use rustix::net::{Shutdown, shutdown};
use std::io;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// After the last word, what a client still says is thrown away for so long: a socket that is
/// closed over unread bytes is reset, and what is on its way to the client may be lost with it.
pub(super) const LINGER: Duration = Duration::from_secs(1);

/// The answer to a CONNECT: the server has moved [MQTT5 §3.2.2.2], with its reference if the packet is not
/// larger than the client takes then [MQTT-3.1.2-24].
pub(super) fn moved(reference: &str, packet_bytes_max: usize) -> Vec<u8> {
    let connack = |server_reference| {
        let mut out = Vec::new();
        let properties = ConnackProperties { server_reference, ..ConnackProperties::default() };
        encode::connack(&mut out, Version::V5, false, ReasonCode::SERVER_MOVED, &properties);
        out
    };
    let whole = connack(Some(reference));
    if whole.len() <= packet_bytes_max { whole } else { connack(None) }
}

/// DISCONNECT of a client whose leader has gone, in as many bytes as it takes at most: the reference is that
/// of the next one, if it is to go there itself.
pub(super) fn gone(reference: Option<&str>, packet_bytes_max: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let reason = match reference {
        Some(_) => ReasonCode::SERVER_MOVED,
        None => ReasonCode::SERVER_SHUTTING_DOWN,
    };
    encode::disconnect(&mut out, Version::V5, reason, None, reference, None);
    if reference.is_some() && packet_bytes_max < out.len() {
        gone(None, packet_bytes_max)
    } else {
        out
    }
}

/// Says it, if the client takes it in time, and nothing more.
pub(super) async fn say(client: &TcpStream, bytes: &[u8]) {
    let said = timeout(LINGER, async {
        if write(client, bytes).await.is_ok() {
            finish(client);
            drain(client).await;
        }
    });
    // Who does not listen is closed all the same.
    let _ = said.await;
}

async fn write(client: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        client.writable().await?;
        match client.try_write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Throws away what a client says until it ends.
async fn drain(client: &TcpStream) {
    let mut buffer = [0; 4096];
    while client.readable().await.is_ok() {
        match client.try_read(&mut buffer) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// Tells the other side that nothing more comes. It fails where that side has gone, which shows in
/// what it says.
pub(super) fn finish(socket: &TcpStream) {
    let _ = shutdown(socket, Shutdown::Write);
}
