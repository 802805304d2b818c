//! Devices and libraries found below a made-up root.

use ringlane_transport_rdma::{LinkLayer, PortState, status_in};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

struct Root(PathBuf);

impl Root {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("rdma-root-{}-{number}", std::process::id()));
        fs::create_dir_all(&root).expect("a temporary directory");
        Self(root)
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, text).expect("a file");
    }

    /// A soft-RoCE device as kernel 6.1 shows it.
    fn device(&self, name: &str, state: &str) {
        let device = format!("sys/class/infiniband/{name}");
        self.file(&format!("{device}/node_type"), "1: CA\n");
        let port = format!("{device}/ports/1");
        self.file(&format!("{port}/state"), &format!("{state}\n"));
        self.file(&format!("{port}/link_layer"), "Ethernet\n");
        self.file(&format!("{port}/rate"), "2.5 Gb/sec (1X SDR)\n");
        self.file(&format!("{port}/gids/0"), "fe80:0000:0000:0000:5054:00ff:fe12:3456\n");
        self.file(&format!("{port}/gids/1"), "0000:0000:0000:0000:0000:ffff:0a00:0002\n");
        self.file(&format!("{port}/gids/10"), "0000:0000:0000:0000:0000:0000:0000:0000\n");
        self.file(&format!("{port}/gid_attrs/types/1"), "RoCE v2\n");
        self.file(&format!("{port}/gid_attrs/ndevs/1"), "eth0\n");
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_host_without_rdma_has_nothing() {
    let root = Root::new();
    let status = status_in(&root.0);
    assert!(status.devices.is_empty());
    assert!(status.libraries.iter().all(|library| library.path.is_none()));
    assert!(!status.is_usable());
}

#[test]
fn a_device_is_shown_with_its_ports_and_addresses() {
    let root = Root::new();
    root.device("rxe1", "1: DOWN");
    root.device("rxe0", "4: ACTIVE");
    let devices = status_in(&root.0).devices;
    let names: Vec<&str> = devices.iter().map(|device| device.name.as_str()).collect();
    assert_eq!(names, ["rxe0", "rxe1"]);
    assert_eq!(devices[0].node_type, "1: CA");
    assert_eq!(devices[0].firmware, "");
    let port = &devices[0].ports[0];
    assert_eq!((port.number, &port.state), (1, &PortState::Active));
    assert_eq!(port.link_layer, LinkLayer::Ethernet);
    assert_eq!(port.rate, "2.5 Gb/sec (1X SDR)");
    let gids: Vec<(u16, String)> =
        port.gids.iter().map(|gid| (gid.index, gid.address.to_string())).collect();
    let expected = [(0, "fe80::5054:ff:fe12:3456"), (1, "::ffff:10.0.0.2")];
    assert_eq!(gids, expected.map(|(index, address)| (index, address.to_owned())));
    assert_eq!((port.gids[1].kind.as_str(), port.gids[1].interface.as_str()), ("RoCE v2", "eth0"));
    assert_eq!(devices[1].ports[0].state, PortState::Down);
}

#[test]
fn states_and_link_layers_that_are_unknown_keep_their_name() {
    let root = Root::new();
    root.device("x", "2: INIT");
    root.file("sys/class/infiniband/x/ports/1/link_layer", "Smoke\n");
    root.file("sys/class/infiniband/x/ports/odd/state", "4: ACTIVE\n");
    let device = status_in(&root.0).devices.remove(0);
    assert_eq!(device.ports.len(), 1);
    assert_eq!(device.ports[0].state.to_string(), "INIT");
    assert_eq!(device.ports[0].link_layer.to_string(), "Smoke");
}

#[test]
fn libraries_are_found_where_the_linker_looks() {
    let root = Root::new();
    root.file("etc/ld.so.conf", "# local\ninclude /etc/ld.so.conf.d/*.conf\ninclude missing/*\n");
    root.file("etc/ld.so.conf.d/ofed.conf", "/opt/ofed/lib # vendor\n");
    root.file("etc/ld.so.conf.d/ofed.txt", "/opt/wrong\n");
    root.file("opt/wrong/libibverbs.so.1", "");
    root.device("rxe0", "4: ACTIVE");
    assert_eq!(status_in(&root.0).libraries[0].path, None);
    assert!(!status_in(&root.0).is_usable());
    root.file("usr/lib64/libibverbs.so.1", "");
    let plain = Some(root.0.join("usr/lib64/libibverbs.so.1"));
    assert_eq!(status_in(&root.0).libraries[0].path, plain);
    root.file("opt/ofed/lib/libibverbs.so.1", "");
    let status = status_in(&root.0);
    assert_eq!(status.libraries[0].path, Some(root.0.join("opt/ofed/lib/libibverbs.so.1")));
    assert!(status_in(&root.0).is_usable());
}

#[test]
fn configuration_files_that_include_themselves_end() {
    let root = Root::new();
    root.file("etc/ld.so.conf", "include /etc/ld.so.conf\n");
    assert_eq!(status_in(&root.0).libraries.len(), 1);
}
