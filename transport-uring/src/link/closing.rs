//! The end of a link: what is in flight is stopped, then it is closed, then the core is told.

use super::peer::{Peer, Phase};
use super::table::{Ready, TcpLinks};
use crate::engine::Engine;
use crate::sys;
use core::time::Duration;
use ringlane_dataplane::ids::ConnectionId;
use ringlane_dataplane::link::{LinkDown, LinkId};
use ringlane_dataplane::net::Output;
use std::os::fd::AsFd;

impl TcpLinks {
    /// The core ends a link: nothing that has come is delivered.
    pub(super) fn revoke<E: Engine>(&mut self, engine: &mut E, link: LinkId) {
        let Some(peer) = self.of_link(link) else { return };
        let id = peer.id;
        peer.assembly.clear();
        self.finish(engine, id, LinkDown::Revoked);
    }

    /// Ends a link now.
    pub(super) fn finish<E: Engine>(&mut self, engine: &mut E, id: ConnectionId, cause: LinkDown) {
        let Some(peer) = self.peer(id) else { return };
        if peer.closing.is_some() {
            return;
        }
        peer.closing = Some(cause);
        if peer.connecting {
            peer.connecting = !engine.stop_connect(id);
        }
        if peer.receiving {
            peer.receiving = !engine.stop_receive(id);
        }
        if peer.send_in_flight {
            peer.send_in_flight = !engine.stop_send(id, &peer.sending);
        }
        self.settle(engine, id);
    }

    /// Closes a link that ends, once nothing is in flight.
    pub(super) fn settle<E: Engine>(&mut self, engine: &mut E, id: ConnectionId) {
        let Some(peer) = self.peer(id) else { return };
        let Some(cause) = peer.closing else { return };
        if peer.is_in_flight() {
            return;
        }
        let Some(mut peer) = self.remove(id) else { return };
        // Batches go back on the thread that made them.
        drop(peer.sending.restart(Output::default()));
        if let Some(socket) = peer.socket.take() {
            engine.remove(id, socket.as_fd());
            if peer.phase == Phase::Up {
                // What the peer was sent and has not read is of no use to it: it begins anew.
                sys::reset_on_close(socket.as_fd());
            }
        }
        self.forgive(&peer);
        match peer.link {
            Some(link) => self.ready.push_back(Ready::Down(link, cause)),
            None => self.turned_away(peer.address, cause),
        }
    }

    /// A peer that was there for a while is dialed again without a delay.
    fn forgive(&mut self, peer: &Peer) {
        let longest = self.config.as_ref().map_or(Duration::MAX, |config| config.backoff_max);
        if let (Some(_), Some(own)) = (&peer.dial, &peer.own)
            && self.now.since(peer.up_since) > longest
        {
            self.backoffs.forget(peer.address, own.to_core);
        }
    }
}
