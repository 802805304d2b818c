//! Tests of the hello: what goes in comes out, and what does not belong here is refused.

use super::*;
use proptest::prelude::*;

fn rdma() -> RdmaEnd {
    RdmaEnd {
        queue_pair: 0x00AB_CDEF,
        packet_sequence: 0x0012_3456,
        gid: [9; 16],
        path_mtu: 1024,
        ring_key: 77,
        ring_address: 0x7000_0000_0000,
        ring_bytes: 1 << 21,
    }
}

fn hello() -> Hello {
    Hello {
        cluster: DirectoryId([1; 16]),
        from: NodeId(2),
        to: NodeId(1),
        from_core: CoreId(3),
        to_core: CoreId(0),
        cores: 4,
        partitions: 16,
        message_bytes_max: 1 << 20,
        transports: Transports::TCP.with(Transports::RDMA),
        directory: DirectoryTag([1, 2, 3, 4, 5, 6]),
        rdma: rdma(),
    }
}

fn expected() -> Expected {
    Expected { cluster: DirectoryId([1; 16]), node: NodeId(1), cores: 2, partitions: 16 }
}

#[test]
fn what_is_said_is_heard() {
    let bytes = hello().encode();
    assert_eq!(Hello::decode(&bytes), Ok(hello()));
    let plain = Hello { transports: Transports::TCP, rdma: RdmaEnd::default(), ..hello() };
    assert_eq!(Hello::decode(&plain.encode()), Ok(plain));
    let lane = Lane { core: CoreId(0), peer: NodeId(2), peer_core: CoreId(3) };
    assert_eq!(plain.lane(), lane);
}

#[test]
fn every_changed_bit_is_seen() {
    let mut bytes = hello().encode();
    for bit in 0..HELLO_BYTES * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(Hello::decode(&bytes).is_err(), "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn a_caller_that_is_no_node_is_known_by_its_first_bytes() {
    let bytes = hello().encode();
    for end in 0..HELLO_BYTES {
        assert_eq!(Hello::decode(&bytes[..end]), Err(HelloError::Short), "{end}");
    }
    assert_eq!(Hello::decode(b"GET "), Err(HelloError::Magic));
    let mut newer = bytes;
    newer[8] = 2;
    assert_eq!(Hello::decode(&newer[..10]), Err(HelloError::Version(2)));
}

#[test]
fn impossible_numbers_are_refused() {
    let changes: [fn(&mut Hello); 9] = [
        |hello| hello.from = NodeId(0),
        |hello| hello.to = NodeId(8),
        |hello| hello.to = hello.from,
        |hello| hello.from_core = CoreId(4),
        |hello| hello.partitions = 0,
        |hello| hello.message_bytes_max = 10,
        |hello| hello.rdma.path_mtu = 1500,
        |hello| hello.rdma.ring_address = u64::MAX,
        |hello| hello.transports = Transports::TCP,
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut changed = hello();
        change(&mut changed);
        assert_eq!(Hello::decode(&changed.encode()), Err(HelloError::Value), "change {index}");
    }
}

#[test]
fn what_belongs_elsewhere_is_refused_by_name() {
    let both = Transports::TCP.with(Transports::RDMA);
    let check = |change: fn(&mut Hello)| {
        let mut changed = hello();
        change(&mut changed);
        expected().check(&changed, both)
    };
    assert_eq!(check(|_| ()), Ok(()));
    assert_eq!(check(|hello| hello.cluster.0[3] = 9), Err(Refused::Cluster));
    assert_eq!(check(|hello| hello.to = NodeId(3)), Err(Refused::Node(NodeId(3))));
    assert_eq!(check(|hello| hello.partitions = 8), Err(Refused::Partitions(8)));
    assert_eq!(check(|hello| hello.to_core = CoreId(2)), Err(Refused::Core(CoreId(2))));
    assert_eq!(check(|hello| hello.transports.0 = 4), Err(Refused::Transports));
    let lane = hello().lane();
    assert_eq!(expected().check_answer(&hello(), both, lane), Ok(()));
    let other = Lane { peer: NodeId(3), ..lane };
    assert_eq!(expected().check_answer(&hello(), both, other), Err(Refused::Lane(lane)));
}

#[test]
fn both_ends_choose_the_same_transport() {
    let both = Transports::TCP.with(Transports::RDMA);
    assert_eq!(both.choose(both), Some(Transports::RDMA));
    assert_eq!(both.choose(Transports::TCP), Some(Transports::TCP));
    assert_eq!(Transports::TCP.choose(both), Some(Transports::TCP));
    assert_eq!(Transports::TCP.choose(Transports::RDMA), None);
}

proptest! {
    #[test]
    fn any_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Hello::decode(&bytes).is_err());
    }
}
