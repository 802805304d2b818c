//! The cluster: who its nodes are, and who leads.
//!
//! Ringlane writes no consensus of its own: etcd says who leads, one transaction per leadership,
//! whose revision is the epoch. [`metadata`] is the seam, [`etcd`] and [`memory`] implement it;
//! [`membership`] is what a node does with it, [`keeper`] keeps it there. All of it runs on the
//! control thread, and nothing that waits for a quorum waits for any of it.

mod ask_nodes;
pub mod boottime;
pub mod etcd;
pub(crate) mod files;
mod handing_over;
pub mod keeper;
pub mod keys;
pub mod membership;
pub mod memory;
pub mod metadata;
mod operate;
pub mod orders;
pub mod peers;
pub(crate) mod proxy;
pub(crate) mod reporting;
pub(crate) mod running;
pub(crate) mod show;
pub mod status;
pub mod streams;
pub mod transport;

#[cfg(test)]
mod tests;
