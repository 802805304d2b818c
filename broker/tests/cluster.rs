//! A cluster of three processes and a real etcd: nodes are killed, stopped and paused under load.

mod support;

use support::broker::{Place, ringlane};
use support::cluster::member;
use support::etcd::EtcdServer;
use support::{Options, Transport};

#[test]
fn the_configurations_of_all_nodes_are_accepted() {
    let etcd = EtcdServer::start();
    let places: Vec<Place> = (0..3).map(|_| Place::new()).collect();
    for (node, place) in places.iter().enumerate() {
        let options = member(&Options::new(Transport::Uring).cores(1), &places, node, &etcd);
        let output = ringlane(&options, place, "check-config").output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::remove_dir_all(&place.directory).expect("a directory");
    }
}
