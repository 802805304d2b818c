//! A cluster of nodes in one process, on virtual time: replicas, logs and recovery are the broker's own code;
//! disks, the network, clocks, etcd and the clients are models. Everything follows from one seed.
//!
//! [`run::run`] runs one seed: [`faults`] draws what goes wrong, [`cluster`] has it happen, and
//! [`ledger`] holds the rules at every step: nothing acknowledged is lost, one leader per epoch, and
//! logs agree below the high watermark. [`trace`] makes one number of all that happened, so that two
//! runs can be told to be the same. With the feature `brokers`, `brokers` runs clusters of whole brokers with
//! clients, which have their own faults and rules.
#![forbid(unsafe_code)]

#[cfg(feature = "brokers")]
pub mod brokers;
pub mod cluster;
pub mod core;
pub mod counters;
pub mod etcd;
pub mod faults;
pub mod ledger;
pub mod node;
pub mod run;
pub mod trace;
pub mod wires;
