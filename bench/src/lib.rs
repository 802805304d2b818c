//! Load and measurement for MQTT brokers: many clients on one thread, every message checked.
//!
//! The library is what the `ringlane-bench` binary and the broker's own tests are made of. It
//! shares nothing with the broker but the codec; [`log_append`] alone drives the broker's own log.
#![forbid(unsafe_code)]

pub mod arrivals;
pub mod broker_version;
pub mod churn;
pub mod compare;
pub mod connect_storm;
pub mod distribution;
pub mod document;
pub mod durability;
pub mod environment;
pub mod fleet;
pub mod floor;
pub mod flow;
pub mod hgrm;
pub mod html;
pub mod idle;
pub mod kernel_memory;
pub mod ledger;
pub mod limits;
pub mod link;
pub mod log_append;
pub mod login;
pub mod meter;
pub mod metrics_page;
pub mod payload;
pub mod probe;
pub mod process;
pub mod progress;
pub mod publishers;
pub mod report;
pub mod retained_storm;
pub mod search;
pub mod shared;
pub mod sources;
pub mod statistics;
pub mod swarm;
pub mod takeover;
pub mod wildcards;
