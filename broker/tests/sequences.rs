//! The sequence catalogue against the running broker: cases where the state decides and not the
//! bytes. Each test names its case and its normative statements; each runs on both transports.
//!
//! Q19 is in `websocket.rs`.

#[path = "sequences/connections.rs"]
mod connections;
#[path = "sequences/deliveries.rs"]
mod deliveries;
#[path = "sequences/exchanges.rs"]
mod exchanges;
#[path = "sequences/streams.rs"]
mod streams;
#[path = "sequences/subscriptions.rs"]
mod subscriptions;

use crate::support::{Client, Packet};

/// The topics and texts of the PUBLISH packets among these.
fn messages(packets: &[Packet]) -> Vec<String> {
    packets.iter().map(|packet| packet.publish().text()).collect()
}

/// Nothing but one message comes, which must be this one.
fn expect_text(client: &mut Client, text: &str) {
    assert_eq!(client.receive_and_acknowledge().text(), text);
}
