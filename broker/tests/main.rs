//! The tests of the running broker in one binary: what they share is compiled and linked once.
//!
//! A file beside this one is a module here; `scripts/tidy.py` misses none. Those that count
//! allocations have a binary of their own, because the allocator is its.

#[macro_use]
mod support;
mod load;
mod loopback;

mod attacks_connect;
mod attacks_publish;
mod attacks_subscribe;
mod catalogue;
mod catch_up;
mod churn;
mod cli;
mod cluster;
mod cluster_control;
mod cluster_learners;
mod cluster_levels;
mod cluster_operate;
mod commit_log;
mod config;
mod cores_model;
mod ctl;
mod durable;
mod etcd;
mod exactly_once;
#[cfg(feature = "failpoints")]
mod failpoints;
mod full_disk;
mod ledger;
mod log_faults;
mod log_tool;
mod open_loop;
mod ops;
mod owed;
#[cfg(feature = "parquet")]
mod parquet;
mod pressure;
mod proxied;
mod real_disks;
mod replay;
mod replay_pace;
mod sequences;
mod shared_groups;
mod suites;
mod suites_flow;
mod takeover;
mod trimming;
mod two_cores;
mod upkeep;
mod websocket;
