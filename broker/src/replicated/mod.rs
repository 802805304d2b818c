//! What a core of a cluster does: its replicas, following, and how it comes to lead.
//!
//! A core begins as a [`node_core::NodeCore`] that follows (`following`): it serves no client and applies what
//! its `replicas` commit. Core 0 elects for all cores (`elect`); when all replicas of the node lead, their
//! state goes to the control thread, and comes back as that of a broker, which the core becomes in place
//! (`leading`). There is no way back: a node that leads no more says so, ends its cores, and begins again.
//!
//! What its followers lack a leader sends them, or a checkpoint; followers write their own (`checkpoints`).
//! What no majority confirms is done under the lease of the node alone (`lease`).
//!
//! `setup` is what such a core is made of, `control_mail` what it and the control thread say to each
//! other, `mail` what the cores do.

mod around;
mod asks;
mod checkpoints;
pub(crate) mod control_mail;
mod elect;
mod following;
mod leading;
pub(crate) mod lease;
pub(crate) mod mail;
pub(crate) mod node_core;
mod progress;
mod replicas;
mod rights;
pub(crate) mod setup;
mod standing;
#[cfg(any(test, feature = "simulation"))]
#[cfg_attr(not(test), allow(dead_code, reason = "some of it is for tests alone"))]
pub(crate) mod tests;
mod warm;

pub(crate) use replicas::Replicas;
