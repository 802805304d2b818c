//! What the tests of the running broker share: the process, raw clients, a healthy pair beside.
//!
//! The clients write and read bytes with their own small encoder, so that they can send what a
//! correct client never would, and so that an error of the broker's codec does not hide itself.
//!
//! Environment:
//! - `RINGLANE_TEST_TRANSPORTS`: a list such as `epoll`; tests on other transports say NOT RUN.
//! - `RINGLANE_TEST_BROKER`: a path to mosquitto, for checking the tests themselves against
//!   another broker. Its differences from the specification are then findings of the tests.
//! - `RINGLANE_TEST_KEEP`: set to anything, a failing test leaves the directories of its brokers.

#![allow(
    dead_code,
    unused_imports,
    clippy::print_stderr,
    clippy::print_stdout,
    unreachable_pub,
    missing_docs,
    reason = "each test binary uses a part of this module, and none has a public interface"
)]

pub mod broker;
pub mod client;
pub mod cluster;
pub mod etcd;
pub mod held;
pub mod hex;
pub mod packets;
pub mod properties;
pub mod websocket;
pub mod witness;

pub use broker::{Broker, Options, Transport, run_program};
pub use client::{Client, Gone};
pub use held::Held;
pub use hex::{hex, show};
pub use packets::{Connect, Kind, Packet, Publish, Received, Version, Will};
pub use properties::Properties;
pub use witness::Witness;

use std::time::Duration;

/// How long a test waits for what must come. Reached only by a failing test.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Says that a test cannot run here.
pub fn not_run(why: &str) {
    println!("NOT RUN: {why}");
}

/// Makes a test of each named function for each transport: `fn name(transport: Transport)`.
#[macro_export]
macro_rules! on_both_transports {
    ($($name:ident),* $(,)?) => {
        mod uring {
            $(#[test] fn $name() {
                $crate::support::Transport::Uring.run(super::$name);
            })*
        }
        mod epoll {
            $(#[test] fn $name() {
                $crate::support::Transport::Epoll.run(super::$name);
            })*
        }
    };
}
