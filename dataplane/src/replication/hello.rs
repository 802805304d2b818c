//! The first message of a link, in both directions: who calls whom, and by which way they can talk
//! (docs/formats/replication.md, "Hello").
//!
//! Who calls sends its [`Hello`] at once, who is called answers with its own, and each believes nothing
//! before it has read the other's and [`Expected::check`] has found that it belongs here. A hello is [`HELLO_BYTES`] long, so that its
//! reader needs no more than that many bytes of memory for a caller that it does not know yet.

use super::bytes::{Put, Reader};
use crate::ids::{CoreId, Lane, NODES_MAX, NodeId};
use crate::log::format::DirectoryId;
use core::fmt;

/// The first bytes of a hello.
pub const HELLO_MAGIC: [u8; 8] = *b"RLNGLNK\x01";
/// The version of everything that is said on a link. Both ends must have the same.
pub const VERSION: u16 = 1;
/// Bytes of a hello.
pub const HELLO_BYTES: usize = 104;

const CRC_AT: usize = 12;

/// The ways by which a node can talk on a link.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Transports(pub u16);

impl Transports {
    /// The connection that the hello came by.
    pub const TCP: Self = Self(1);
    /// RDMA writes into the ring that [`RdmaEnd`] names.
    pub const RDMA: Self = Self(2);

    /// Either of both.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is in it.
    #[must_use]
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// What both ends can: RDMA before TCP. Both ends find the same.
    #[must_use]
    pub fn choose(self, theirs: Self) -> Option<Self> {
        [Self::RDMA, Self::TCP].into_iter().find(|one| self.has(*one) && theirs.has(*one))
    }
}

/// One end of a reliable connection of RDMA, and the ring that its owner reads from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RdmaEnd {
    /// The number of the queue pair, 24 bits.
    pub queue_pair: u32,
    /// The first packet sequence number that it sends, 24 bits, random.
    pub packet_sequence: u32,
    /// The address of its port: a GID.
    pub gid: [u8; 16],
    /// Bytes of a packet's payload, at most (path MTU): 256 to 4,096. The smaller one of both ends is used.
    pub path_mtu: u16,
    /// The remote key of the ring.
    pub ring_key: u32,
    /// The address of the ring, as the key counts.
    pub ring_address: u64,
    /// Bytes of the ring.
    pub ring_bytes: u64,
}

/// The first bytes of the random identity that a node's data directory has for itself: they tell the directory that
/// counts for a number from one that had the number before and was replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DirectoryTag(pub [u8; 6]);

/// Who calls, whom, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The cluster, which is the identity of each node's data directory.
    pub cluster: DirectoryId,
    /// Who says this.
    pub from: NodeId,
    /// Who it is for.
    pub to: NodeId,
    /// The core that the link ends at.
    pub from_core: CoreId,
    /// The core that it is for.
    pub to_core: CoreId,
    /// How many cores the sender has: which partitions the link carries follows from both numbers.
    pub cores: u16,
    /// How many partitions the cluster has.
    pub partitions: u32,
    /// Bytes of the longest message that the sender takes.
    pub message_bytes_max: u32,
    /// How it can talk.
    pub transports: Transports,
    /// Which data directory the sender has, of those that its number may have had; zeros if that is not known.
    pub directory: DirectoryTag,
    /// Its end for RDMA, which must be there if it offers that; zeros if it does not.
    pub rdma: RdmaEnd,
}

/// Why bytes are no hello.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HelloError {
    /// There are fewer than [`HELLO_BYTES`].
    Short,
    /// They begin with something else: whoever calls is no node.
    Magic,
    /// The other end has another version.
    Version(u16),
    /// The checksum does not fit.
    Checksum,
    /// A number in it is impossible.
    Value,
}

impl fmt::Display for HelloError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short => f.write_str("the connection ended before it had said who it is"),
            Self::Magic => f.write_str("whoever calls is no node of a Ringlane cluster"),
            Self::Version(found) => write!(
                f,
                "it speaks version {found} of the replication protocol and this node version \
                 {VERSION}: install the same release on all nodes"
            ),
            Self::Checksum => f.write_str("the checksum of its hello does not fit"),
            Self::Value => f.write_str("a number in its hello is impossible"),
        }
    }
}

impl core::error::Error for HelloError {}

impl Hello {
    /// The bytes of it.
    #[must_use]
    pub fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut bytes = Vec::with_capacity(HELLO_BYTES);
        bytes.put(&HELLO_MAGIC);
        bytes.put_u16(VERSION);
        bytes.put_u16(HELLO_BYTES as u16);
        bytes.put_u32(0);
        bytes.put(&self.cluster.0);
        bytes.put_u16(self.from.0);
        bytes.put_u16(self.to.0);
        bytes.put_u16(self.from_core.0);
        bytes.put_u16(self.to_core.0);
        bytes.put_u16(self.cores);
        bytes.put_u16(self.transports.0);
        bytes.put_u32(self.partitions);
        bytes.put_u32(self.message_bytes_max);
        self.rdma.put(self.directory, &mut bytes);
        let mut array = [0; HELLO_BYTES];
        array.copy_from_slice(&bytes);
        let crc = checksum(&array);
        array[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        array
    }

    /// Reads the hello that begins with `bytes`.
    ///
    /// # Errors
    /// [`HelloError`]: there is none. Magic and version are looked at first, also where the rest is
    /// not there yet, so that a caller that is no node is refused at once.
    pub fn decode(bytes: &[u8]) -> Result<Self, HelloError> {
        let begin = bytes.len().min(HELLO_MAGIC.len());
        if bytes[..begin] != HELLO_MAGIC[..begin] {
            return Err(HelloError::Magic);
        }
        if let Some(&[low, high]) = bytes.get(8..10)
            && u16::from_le_bytes([low, high]) != VERSION
        {
            return Err(HelloError::Version(u16::from_le_bytes([low, high])));
        }
        let bytes = bytes.first_chunk::<HELLO_BYTES>().ok_or(HelloError::Short)?;
        let mut reader = Reader(&bytes[CRC_AT..]);
        if reader.u32() != Some(checksum(bytes)) {
            return Err(HelloError::Checksum);
        }
        let hello = Self::read(&mut reader).ok_or(HelloError::Value)?;
        let length = Reader(&bytes[10..]).u16();
        if length == Some(HELLO_BYTES as u16) && hello.is_possible() {
            Ok(hello)
        } else {
            Err(HelloError::Value)
        }
    }

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let cluster = DirectoryId(reader.array()?);
        let (from, to) = (NodeId(reader.u16()?), NodeId(reader.u16()?));
        let (from_core, to_core) = (CoreId(reader.u16()?), CoreId(reader.u16()?));
        let (cores, transports) = (reader.u16()?, Transports(reader.u16()?));
        let (partitions, message_bytes_max) = (reader.u32()?, reader.u32()?);
        let (rdma, directory) = RdmaEnd::read(reader)?;
        Some(Self {
            cluster,
            from,
            to,
            from_core,
            to_core,
            cores,
            partitions,
            message_bytes_max,
            transports,
            directory,
            rdma,
        })
    }

    fn is_possible(&self) -> bool {
        let nodes = 1..=NODES_MAX as u16;
        let offers_rdma = self.transports.has(Transports::RDMA);
        nodes.contains(&self.from.0)
            && nodes.contains(&self.to.0)
            && self.from != self.to
            && self.from_core.0 < self.cores
            && self.partitions > 0
            && self.message_bytes_max >= super::wire::HEAD_BYTES_MAX as u32
            && self.rdma.is_possible(offers_rdma)
    }

    /// The link as the node sees it that reads this.
    #[must_use]
    pub fn lane(&self) -> Lane {
        Lane { core: self.to_core, peer: self.from, peer_core: self.from_core }
    }
}

impl RdmaEnd {
    /// The directory stands where the fields of the end leave room.
    fn put(&self, directory: DirectoryTag, bytes: &mut Vec<u8>) {
        bytes.put_u32(self.queue_pair);
        bytes.put(&self.gid);
        bytes.put_u32(self.packet_sequence);
        bytes.put_u32(self.ring_key);
        bytes.put_u16(self.path_mtu);
        bytes.put(&directory.0);
        bytes.put_u64(self.ring_address);
        bytes.put_u64(self.ring_bytes);
    }

    fn read(reader: &mut Reader<'_>) -> Option<(Self, DirectoryTag)> {
        let queue_pair = reader.u32()?;
        let gid = reader.array()?;
        let packet_sequence = reader.u32()?;
        let ring_key = reader.u32()?;
        let path_mtu = reader.u16()?;
        let directory = DirectoryTag(reader.array()?);
        let (ring_address, ring_bytes) = (reader.u64()?, reader.u64()?);
        let end =
            Self { queue_pair, packet_sequence, gid, path_mtu, ring_key, ring_address, ring_bytes };
        Some((end, directory))
    }

    fn is_possible(&self, is_offered: bool) -> bool {
        if !is_offered {
            return *self == Self::default();
        }
        let is_mtu = (256..=4096).contains(&self.path_mtu) && self.path_mtu.is_power_of_two();
        is_mtu
            && self.queue_pair < 1 << 24
            && self.packet_sequence < 1 << 24
            && self.ring_bytes > 0
            && self.ring_address.checked_add(self.ring_bytes).is_some()
    }
}

/// CRC-32C of all bytes but the checksum's own.
fn checksum(bytes: &[u8; HELLO_BYTES]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..CRC_AT]), &bytes[CRC_AT + 4..])
}

/// What a node knows of those that may call it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expected {
    /// Its cluster.
    pub cluster: DirectoryId,
    /// Its own number.
    pub node: NodeId,
    /// How many cores it has.
    pub cores: u16,
    /// How many partitions the cluster has.
    pub partitions: u32,
}

/// Why a hello is not for this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// It comes from another cluster.
    Cluster,
    /// It is for another node: an address in the configuration is wrong.
    Node(NodeId),
    /// Its cluster has another number of partitions.
    Partitions(u32),
    /// It is for a core that this node does not have.
    Core(CoreId),
    /// Nothing is known by which both can talk.
    Transports,
    /// It is not from the node, or the core, that was called.
    Lane(Lane),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster => f.write_str(
                "it belongs to another cluster: compare `cluster` in the configurations",
            ),
            Self::Node(node) => write!(
                f,
                "it looks for node {node}: an address under `cluster.members` is of the wrong node"
            ),
            Self::Partitions(found) => {
                write!(f, "its cluster has {found} partitions, which is not what this one has")
            }
            Self::Core(core) => write!(f, "it looks for core {core}, which this node has not"),
            Self::Transports => {
                f.write_str("both can talk by no common transport: compare `replication.transport`")
            }
            Self::Lane(lane) => {
                write!(f, "core {} of node {} answers instead", lane.peer_core, lane.peer)
            }
        }
    }
}

impl core::error::Error for Refused {}

impl Expected {
    /// Whether a hello is for this node, from a node of its cluster.
    ///
    /// # Errors
    /// [`Refused`]: the link is to be closed.
    pub fn check(&self, theirs: &Hello, transports: Transports) -> Result<(), Refused> {
        if theirs.cluster != self.cluster {
            return Err(Refused::Cluster);
        }
        if theirs.to != self.node {
            return Err(Refused::Node(theirs.to));
        }
        if theirs.partitions != self.partitions {
            return Err(Refused::Partitions(theirs.partitions));
        }
        if theirs.to_core.0 >= self.cores {
            return Err(Refused::Core(theirs.to_core));
        }
        transports.choose(theirs.transports).map(|_| ()).ok_or(Refused::Transports)
    }

    /// As [`Expected::check`], for the answer of a node that was called on `lane`.
    ///
    /// # Errors
    /// [`Refused`]: the link is to be closed.
    pub fn check_answer(
        &self,
        theirs: &Hello,
        transports: Transports,
        lane: Lane,
    ) -> Result<(), Refused> {
        self.check(theirs, transports)?;
        if theirs.lane() == lane { Ok(()) } else { Err(Refused::Lane(theirs.lane())) }
    }
}

#[cfg(test)]
#[path = "hello_tests.rs"]
mod tests;
