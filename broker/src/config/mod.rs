//! The configuration: what an operator may set, where each value came from, and what is wrong
//! with it.
//!
//! One value passes through four layers, the later one wins: defaults, the TOML file, environment
//! variables (`RINGLANE_SECTION__KEY`), flags. [`load()`] merges them and checks the result;
//! [`Loaded::render`] prints it with the source of every value.

mod cluster;
mod cluster_rules;
mod error;
mod keys;
mod layers;
mod levels;
mod load;
mod model;
mod optional;
mod streams;
mod units;
mod validate;

pub use cluster::{
    ClusterConfig, EtcdConfig, MemberConfig, RdmaConfig, Redirect, ReplicationConfig,
    ReplicationTransport,
};
pub use error::{ConfigError, ConfigErrors};
pub use keys::{Key, known_keys, nearest};
pub use layers::{Assignment, Layers, Source};
pub(crate) use levels::{LevelInUse, levels_in_use};
pub use load::{Loaded, load};
pub use model::{
    Config, ControlConfig, Cores, IdleChoice, LimitsConfig, ListenersConfig, LogConfig, LogFormat,
    LogLevel, MqttConfig, RetainedConfig, RuntimeConfig, SessionConfig, SysConfig,
    TcpListenerConfig, TransportSetting, WebSocketListenerConfig,
};
pub use streams::{
    CommitLogConfig, DEFAULT_STREAM, FileDriverSetting, StreamConfig, StreamLevel, WhenFull,
};
pub(crate) use units::parse_duration;
