//! Who on this core asked the disk for something: the upper half of a token says it.

use ringlane_dataplane::disk::DiskToken;

/// What a command of the disk is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DiskUser {
    /// The log of a partition; the number is its place in the table of its core.
    Log,
    /// A checkpoint in the making.
    Checkpoint,
    /// Reading what sessions are owed.
    Fetch,
    /// Reading again for subscriptions.
    Replay,
    /// A replica of a partition, in a cluster; the number is that of its place times
    /// [`HOST_TAGS`](ringlane_dataplane::replication::host::HOST_TAGS), and what it counts from there.
    Host,
}

/// Bits of a tag that number what belongs to one kind of user.
const NUMBER_BITS: u32 = 29;
/// Numbers that a kind of user can give, from 0 on.
pub(crate) const DISK_NUMBERS: u32 = 1 << NUMBER_BITS;

impl DiskUser {
    /// The upper half of the tokens of the user with this number, below [`DISK_NUMBERS`].
    pub(crate) const fn tag(self, number: u32) -> u32 {
        let kind = match self {
            Self::Log => 0,
            Self::Checkpoint => 1,
            Self::Fetch => 2,
            Self::Replay => 3,
            Self::Host => 4,
        };
        kind << NUMBER_BITS | (number % DISK_NUMBERS)
    }

    /// Whom a token belongs to.
    pub(crate) const fn of(token: DiskToken) -> (Self, u32) {
        let tag = (token.0 >> 32) as u32;
        let user = match tag >> NUMBER_BITS {
            0 => Self::Log,
            1 => Self::Checkpoint,
            2 => Self::Fetch,
            3 => Self::Replay,
            _ => Self::Host,
        };
        (user, tag % DISK_NUMBERS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_whose_it_is() {
        for user in
            [DiskUser::Log, DiskUser::Checkpoint, DiskUser::Fetch, DiskUser::Replay, DiskUser::Host]
        {
            for number in [0, 7, DISK_NUMBERS - 1] {
                let token = DiskToken(u64::from(user.tag(number)) << 32 | 0xffff_ffff);
                assert_eq!(DiskUser::of(token), (user, number));
            }
        }
    }
}
