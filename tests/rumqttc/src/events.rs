//! What a client's event loop reports, in order of arrival, to be asked for by kind.

use crate::patience;
use std::collections::VecDeque;
use std::fmt::Debug;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Incoming packets of one connection, and the task that polls it.
#[derive(Debug)]
pub struct Events<P, E> {
    incoming: mpsc::UnboundedReceiver<Result<P, E>>,
    held: VecDeque<P>,
    task: JoinHandle<()>,
}

impl<P: Debug, E: Debug> Events<P, E> {
    /// Takes the receiving end of what `task` reports. The queue is as long as one test's packets.
    pub fn new(incoming: mpsc::UnboundedReceiver<Result<P, E>>, task: JoinHandle<()>) -> Self {
        Self { incoming, held: VecDeque::new(), task }
    }

    /// The first packet that `pick` takes, now or within the bound; others are kept for later.
    ///
    /// Panics naming `what` when the bound has passed or the connection has ended.
    pub async fn take<T>(&mut self, what: &str, pick: impl Fn(&P) -> Option<T>) -> T {
        if let Some(index) = self.held.iter().position(|packet| pick(packet).is_some()) {
            let packet = self.held.remove(index).expect("the position was just found");
            return pick(&packet).expect("it was picked a line ago");
        }
        let wait = async {
            loop {
                match self.incoming.recv().await {
                    Some(Ok(packet)) => match pick(&packet) {
                        Some(picked) => return picked,
                        None => self.held.push_back(packet),
                    },
                    Some(Err(error)) => panic!("{what}: the connection ended: {error:?}"),
                    None => panic!("{what}: the connection has ended"),
                }
            }
        };
        let bounded = tokio::time::timeout(patience(), wait).await;
        bounded.unwrap_or_else(|_| panic!("{what} did not come in time"))
    }

    /// Waits for the end of the connection and returns its cause; packets before it are dropped.
    pub async fn end(&mut self) -> E {
        let wait = async {
            loop {
                match self.incoming.recv().await {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return error,
                    None => panic!("the end was already taken"),
                }
            }
        };
        tokio::time::timeout(patience(), wait).await.expect("the connection ends in time")
    }

    /// Drops the socket without DISCONNECT: aborting the task drops the event loop that owns it.
    pub async fn kill(self) {
        self.task.abort();
        // The task's result is "cancelled"; awaiting it makes sure that the socket is closed.
        let _ = self.task.await;
    }
}
