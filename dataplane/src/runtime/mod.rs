//! The core runtime: one thread per core, turns that are bounded in every phase, nothing shared.
//!
//! A core is a [`CoreLoop`]: below it a socket [`Driver`](crate::net::Driver), above it a
//! [`Service`]. Cores talk by [`mailbox`]es that [`mesh`] builds before they start; a core that has
//! nothing to do waits as [`Idle`] says and until the next deadline of its [`TimerWheel`].

pub mod core_loop;
pub mod idle;
pub mod long_turns;
pub mod mailbox;
pub mod mesh;
pub mod service;
pub mod stats;
mod sync;
pub mod timer;

pub use core_loop::{CoreLoop, TurnLimits};
pub use idle::Idle;
pub use long_turns::ThreadUsage;
pub use mesh::{Endpoint, Mesh};
pub use service::{After, Service, Turn};
pub use stats::{CoreStats, Counter, Log2Histogram};
pub use timer::{TimerId, TimerWheel};
