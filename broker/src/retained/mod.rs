//! Retained messages: kept by the core that owns their topic, pulled by new subscriptions.

mod owner;
mod priming;
mod probe;

pub(crate) use owner::RetainedTasks;
pub(crate) use priming::Priming;
