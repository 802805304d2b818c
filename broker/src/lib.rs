//! The Ringlane broker: MQTT clients on pinned cores.
//!
//! This crate puts the parts together: [`config`] says what is wanted, and the binary runs it.

#![forbid(unsafe_code)]

pub mod config;
mod connection;
mod delivery;
mod groups;
mod handlers;
pub mod mail;
pub mod metrics;
mod retained;
pub mod service;
pub mod session;
pub mod websocket;
