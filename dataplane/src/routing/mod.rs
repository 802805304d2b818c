//! Routing: which filters match a topic, which cores want it, and which core owns what.
//!
//! Nothing here is shared between cores. Each core has a [`FilterTree`] of its own sessions'
//! filters and [`RemoteFilters`] that say what the other cores want; the owner of a topic keeps
//! its retained message in a [`RetainedStore`]; [`Placement`] says who the owner is. A
//! [`TopicCache`] remembers what was found.

pub mod filter_tree;
pub mod matching;
pub mod placement;
pub mod retained;
pub mod summary;
pub mod topic_cache;

pub use filter_tree::FilterTree;
pub use matching::{is_wildcard, matches};
pub use placement::{Placement, default_partitions};
pub use retained::{QueryProgress, RecordId, RetainedStore, SetOutcome};
pub use summary::{CoreSet, RemoteFilters};
pub use topic_cache::{TopicCache, TopicHash};
