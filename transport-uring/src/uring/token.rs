//! The number that ties a completion to its operation.
//!
//! 32 bits of generation, 4 bits of kind, 28 bits of slot, from the top. A completion that comes
//! after its slot was used again carries an older generation and is dropped.

use ringlane_dataplane::ids::{ConnectionId, CoreId};

const SLOT_BITS: u32 = 28;
const SLOT_MASK: u64 = (1 << SLOT_BITS) - 1;
const KIND_MASK: u64 = 0xF;
const GENERATION_SHIFT: u32 = 32;

/// Connections whose slot a token can carry: 268 million per core.
pub(crate) const SLOTS_MAX: u32 = 1 << SLOT_BITS;

/// What an operation was started for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Token {
    /// The accept of a listener.
    Accept { listener: u32 },
    /// The receive of a connection.
    Receive(ConnectionId),
    /// The send of a connection.
    Send(ConnectionId),
    /// A zero-copy send, by its place among those.
    ZeroCopy { index: u32 },
    /// The watch on our own event counter.
    Watch,
    /// A message from another ring.
    Woken,
    /// A message to another ring, which failed.
    Message { target: CoreId },
    /// A file operation, by its place among those.
    File { index: u32 },
    /// The connect of a link.
    Connect(ConnectionId),
    /// The watch on a descriptor of somebody else's, by its place among those.
    WatchOther { index: u32 },
    /// Nobody waits for it.
    Ignored,
}

impl Token {
    /// As the kernel carries it.
    pub(crate) fn pack(self) -> u64 {
        let (kind, slot, generation) = match self {
            Self::Accept { listener } => (1, listener, 0),
            Self::Receive(id) => (2, id.slot, id.generation),
            Self::Send(id) => (3, id.slot, id.generation),
            Self::ZeroCopy { index } => (4, index, 0),
            Self::Watch => (5, 0, 0),
            Self::Woken => (6, 0, 0),
            Self::Message { target } => (7, u32::from(target.0), 0),
            Self::Ignored => (8, 0, 0),
            Self::File { index } => (9, index, 0),
            Self::Connect(id) => (10, id.slot, id.generation),
            Self::WatchOther { index } => (11, index, 0),
        };
        debug_assert!(slot < SLOTS_MAX);
        u64::from(generation) << GENERATION_SHIFT | kind << SLOT_BITS | u64::from(slot)
    }

    /// As it was packed; a number that no token packs to is nobody's.
    pub(crate) fn unpack(packed: u64) -> Self {
        let slot = (packed & SLOT_MASK) as u32;
        let id = ConnectionId { slot, generation: (packed >> GENERATION_SHIFT) as u32 };
        match packed >> SLOT_BITS & KIND_MASK {
            1 => Self::Accept { listener: slot },
            2 => Self::Receive(id),
            3 => Self::Send(id),
            4 => Self::ZeroCopy { index: slot },
            5 => Self::Watch,
            6 => Self::Woken,
            7 => Self::Message { target: CoreId(slot as u16) },
            9 => Self::File { index: slot },
            10 => Self::Connect(id),
            11 => Self::WatchOther { index: slot },
            _ => Self::Ignored,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_as_they_went_in() {
        let id = ConnectionId { slot: SLOTS_MAX - 1, generation: u32::MAX };
        let tokens = [
            Token::Accept { listener: 3 },
            Token::Receive(id),
            Token::Send(id),
            Token::Send(ConnectionId { slot: 0, generation: 0 }),
            Token::ZeroCopy { index: 70_000 },
            Token::Watch,
            Token::Woken,
            Token::Message { target: CoreId(127) },
            Token::Ignored,
            Token::File { index: 3 },
            Token::Connect(id),
            Token::WatchOther { index: 1 },
        ];
        for token in tokens {
            assert_eq!(Token::unpack(token.pack()), token);
        }
        assert_eq!(Token::unpack(u64::MAX), Token::Ignored);
    }

    #[test]
    fn generations_differ_in_the_token() {
        let old = Token::Receive(ConnectionId { slot: 5, generation: 1 });
        let new = Token::Receive(ConnectionId { slot: 5, generation: 2 });
        assert_ne!(old.pack(), new.pack());
    }
}
