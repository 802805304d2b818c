//! The Ringlane broker: MQTT clients on pinned cores.
//!
//! This crate puts the parts together. [`config`] says what is wanted, [`startup`] builds the
//! cores, [`service`] is the broker of one core, [`control`] is the one thread beside them.
//!
//! Reading order: [`service`], [`mail`], `connection`, `handlers`, `delivery`, [`session`],
//! `retained`, `groups`; then [`startup`] and [`control`].

#![forbid(unsafe_code)]

mod admin;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod config;
mod connection;
pub mod control;
mod ctl;
mod delivery;
pub mod doctor;
mod durable;
mod groups;
mod handlers;
mod lazy;
mod log_tool;
pub mod logging;
pub mod mail;
pub mod metrics;
mod proxy_protocol;
mod replay;

mod replicated;
mod retained;
pub mod service;
pub mod session;
#[cfg(any(test, feature = "simulation"))]
pub mod simulation {
    //! Whole clusters from seeds, for the simulator: what runs on the cores of nodes, on virtual time.
    pub use crate::replicated::tests::seeds::{Demand, Figures, run};
}
pub mod startup;
pub mod sys_topics;
mod system_random;
pub mod websocket;
