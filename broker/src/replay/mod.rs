//! Reading again: `SUBSCRIBE $replay/{from}/{filter}` (docs/replay.md).
//!
//! A replay is a tailing reader all its life. For each partition its owner holds a reader (`source`)
//! that begins where the subscription says, comes to the flushed mark, and goes on as the mark moves:
//! stored messages and then live ones, without a seam. What it reads it mails to the subscriber's core
//! under credit (`owner`, `mail`). There `part` keeps count of one partition, `subscription` merges
//! them, and `subscriber` hands messages to the client as fast as it takes them, behind all that its
//! session is owed otherwise; `pace` says how much of a turn all that takes. `name` and `token` are what clients write and get, `durable` what
//! outlives the broker.

mod durable;
mod line;
pub(crate) mod mail;
mod name;
mod outgoing;
mod owner;
mod pace;
mod part;
mod properties;
mod room;
mod source;
mod subscriber;
mod subscription;
mod table;
mod token;

pub(crate) use durable::ReplayState;
pub(crate) use name::is_replay;
pub(crate) use owner::Readings;
pub(crate) use pace::Pace;
pub(crate) use room::{READINGS_MAX, Room};
pub(crate) use table::{Replays, Ticket};
pub(crate) use token::Position;
