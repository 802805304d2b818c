//! Questions to cores: mailed by the control thread, answered through a channel of their own.

use crate::admin::{Ask, Question, Reply};
use crate::mail::ControlMail;
use ringlane_dataplane::ids::CoreId;
use ringlane_dataplane::routing::Placement;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// Questions that wait for the control thread.
const ASKS_WAITING: usize = 16;

/// How long a core may take: what is deleted waits for the disk.
const PATIENCE: Duration = Duration::from_secs(30);

/// Questions on their way to cores.
pub(crate) type Asks = mpsc::Receiver<(CoreId, ControlMail)>;

/// Why an answer is not whole.
#[derive(Debug, Error)]
pub(super) enum Failed {
    #[error("core {0} does not answer: it is stopping, or its disk does not take what is deleted")]
    Silent(CoreId),
    #[error("the broker is stopping")]
    Stopping,
    #[error("nobody reads the answer")]
    Gone,
    #[error("an answer has no form in JSON")]
    Unreadable,
    #[error("{0}")]
    Wrong(String),
}

/// Asks the cores.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    pub(super) placement: Placement,
    asks: mpsc::Sender<(CoreId, ControlMail)>,
}

pub(super) fn channel(placement: Placement) -> (Asker, Asks) {
    let (asks, questions) = mpsc::channel(ASKS_WAITING);
    (Asker { placement, asks }, questions)
}

impl Asker {
    /// The cores that own something.
    pub(super) fn cores(&self) -> impl Iterator<Item = CoreId> + use<> {
        (0..self.placement.cores).map(CoreId)
    }

    /// Asks a core, and waits for its answer.
    pub(super) async fn ask<T>(
        &self,
        core: CoreId,
        question: impl FnOnce(Reply<T>) -> Question,
    ) -> Result<T, Failed> {
        let (reply, answer) = oneshot::channel();
        let mail = ControlMail::Ask(Ask(question(reply)));
        self.asks.send((core, mail)).await.map_err(|_| Failed::Stopping)?;
        match timeout(PATIENCE, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(Failed::Stopping),
            Err(_) => Err(Failed::Silent(core)),
        }
    }
}
