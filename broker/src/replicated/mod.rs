//! What a core of a cluster does: its replicas, following, and how it comes to lead.
//!
//! `setup` is what such a core is made of, `control_mail` what it and the control thread say to each
//! other.

pub(crate) mod control_mail;
pub(crate) mod setup;
