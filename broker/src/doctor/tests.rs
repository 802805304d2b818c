//! Made-up hosts and what the doctor says of them.

use super::*;
use crate::config::{FileDriverSetting, MemberConfig, ReplicationTransport};
use ringlane_transport_rdma::{
    Gid, Library, LinkLayer, PortState, RdmaDevice, RdmaError, RdmaPort,
};
use ringlane_transport_uring::probe::{UringCapabilities, UringRefusal};
use std::sync::atomic::{AtomicU32, Ordering};

struct Root(PathBuf);

impl Root {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ringlane-doctor-{}-{number}", std::process::id());
        let root = Self(std::env::temp_dir().join(name));
        root.file("proc/self/status", "Name:\tx\nSeccomp:\t0\n");
        root.file("proc/meminfo", "MemTotal: 8388608 kB\nHugepagesize: 2048 kB\n");
        root.file("proc/sys/kernel/io_uring_disabled", "0\n");
        root.file("proc/sys/net/core/somaxconn", "4096\n");
        root.file("proc/sys/net/ipv4/tcp_max_syn_backlog", "8192\n");
        root.file("sys/devices/system/cpu/online", "0-3\n");
        root.file("sys/devices/system/cpu/isolated", "\n");
        root.file("sys/devices/system/node/online", "0\n");
        root.file("sys/devices/system/node/node0/cpulist", "0-3\n");
        let clock = "sys/devices/system/clocksource/clocksource0/current_clocksource";
        root.file(clock, "tsc\n");
        root.file("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
        root
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, text).expect("a file");
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn every_feature() -> UringCapabilities {
    UringCapabilities {
        multishot_accept: true,
        multishot_receive: true,
        buffer_rings: true,
        single_issuer: true,
        defer_taskrun: true,
        no_sqarray: true,
        msg_ring: true,
        send_zc: true,
        sendmsg_zc: true,
        napi: true,
        bundles: true,
        incremental_buffers: true,
        min_wait: true,
        receive_zc: true,
        ext_arg: true,
        cancel_fd: true,
    }
}

/// A host with nothing to complain about.
fn good(root: &Root) -> Facts {
    Facts {
        root: root.0.clone(),
        capabilities: Capabilities { kernel: "6.18.0".to_owned(), uring: Ok(every_feature()) },
        allowed: vec![0, 1, 2, 3],
        cores: Ok(vec![0, 1, 2, 3]),
        descriptors: (Some(1024), Some(1 << 20)),
        locked_bytes: (None, None),
        rdma: RdmaStatus { devices: Vec::new(), libraries: Vec::new() },
        carrier: Ok(Carrier::Tcp("there is no RDMA device".to_owned())),
        free_bytes: Some(100 << 30),
        message_bytes: 4 << 30,
        etcd: Vec::new(),
        config: Config::default(),
    }
}

fn find(report: &Report, name: &str) -> Check {
    let found = report.checks.iter().find(|check| check.name == name);
    found.cloned().unwrap_or_else(|| panic!("no check {name}: {}", report.text()))
}

#[test]
fn a_good_host_needs_nothing() {
    let root = Root::new();
    let report = check(&good(&root));
    let bad: Vec<&Check> =
        report.checks.iter().filter(|check| check.severity != Severity::Ok).collect();
    assert!(bad.is_empty(), "{bad:?}");
    assert!(!report.has_failures());
    assert!(report.text().contains("0 to improve, 0 failed"));
}

#[test]
fn each_shortcoming_is_named_with_its_remedy() {
    type Spoil = fn(&Root, &mut Facts);
    let cases: [(&str, Severity, &str, Spoil); 16] = [
        ("file driver of the commit log", Severity::Warn, "threads", |_, facts| {
            facts.capabilities.uring = Err(refusal());
            facts.config.commit_log.file_driver = FileDriverSetting::IoUring;
        }),
        ("kernel.io_uring_disabled", Severity::Warn, "sysctl -w", |root, _| {
            root.file("proc/sys/kernel/io_uring_disabled", "2\n");
        }),
        ("io_uring driver", Severity::Warn, "allow it", |_, facts| {
            facts.capabilities.uring = Err(refusal());
        }),
        ("io_uring driver", Severity::Fail, "allow it", |_, facts| {
            facts.capabilities.uring = Err(refusal());
            facts.config.runtime.transport = TransportSetting::Uring;
        }),
        ("io_uring driver", Severity::Warn, "kernel 6.1", |_, facts| {
            facts.capabilities.uring =
                Ok(UringCapabilities { defer_taskrun: false, ..every_feature() });
        }),
        ("seccomp", Severity::Warn, "seccomp profile", |root, facts| {
            root.file("proc/self/status", "Seccomp:\t2\n");
            facts.capabilities.uring = Err(refusal());
        }),
        ("runtime.cores", Severity::Fail, "auto", |_, facts| {
            facts.cores = Err("CPU 9 does not exist".to_owned());
        }),
        ("CPU quota", Severity::Warn, "CPUQuota=", |root, _| {
            root.file("proc/self/cgroup", "0::/system.slice/ringlane.service\n");
            root.file("sys/fs/cgroup/system.slice/ringlane.service/cpu.max", "150000 100000\n");
        }),
        ("isolated", Severity::Warn, "[2, 3]", |root, _| {
            root.file("sys/devices/system/cpu/isolated", "2-3\n");
        }),
        ("governor", Severity::Warn, "performance", |root, _| {
            root.file("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n");
        }),
        ("clock source", Severity::Warn, "tsc", |root, _| {
            let path = "sys/devices/system/clocksource/clocksource0/current_clocksource";
            root.file(path, "hpet\n");
        }),
        ("transparent huge pages", Severity::Warn, "madvise", |root, _| {
            root.file("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never");
        }),
        ("RLIMIT_NOFILE", Severity::Warn, "LimitNOFILE=", |_, facts| {
            facts.descriptors = (Some(1024), Some(4096));
        }),
        ("net.core.somaxconn", Severity::Warn, "net.core.somaxconn=4096", |root, _| {
            root.file("proc/sys/net/core/somaxconn", "128\n");
        }),
        ("listeners.tcp.bind", Severity::Warn, "authentication", |_, facts| {
            facts.config.listeners.tcp.bind = "0.0.0.0:1883".parse().expect("an address");
        }),
        ("data_dir ringlane-data", Severity::Warn, "room", |_, facts| {
            facts.free_bytes = Some(5 << 20);
        }),
    ];
    for (name, severity, remedy, spoil) in cases {
        let root = Root::new();
        let mut facts = good(&root);
        spoil(&root, &mut facts);
        let report = check(&facts);
        let found = find(&report, name);
        assert_eq!(found.severity, severity, "{found:?}");
        assert!(found.advice.contains(remedy), "{found:?}");
        assert_eq!(report.has_failures(), severity == Severity::Fail, "{name}");
    }
}

fn refusal() -> UringRefusal {
    UringRefusal { reason: "EPERM".to_owned(), remedy: "allow it".to_owned() }
}

#[test]
fn a_missing_feature_says_what_it_means_and_since_when_it_exists() {
    let root = Root::new();
    let mut facts = good(&root);
    facts.capabilities.uring = Ok(UringCapabilities { msg_ring: false, ..every_feature() });
    let report = check(&facts);
    let missing: Vec<&Check> =
        report.checks.iter().filter(|check| check.found.starts_with("no (kernel")).collect();
    assert_eq!(missing.len(), 1, "{missing:?}");
    assert!(missing[0].advice.contains("eventfd"), "{:?}", missing[0]);
    for (name, ..) in facts.capabilities.features() {
        assert_ne!(kernel::effect(name), "plain operations are used", "{name}");
    }
}

#[test]
fn a_quota_that_suffices_and_a_cpuset_are_shown() {
    let root = Root::new();
    root.file("proc/self/cgroup", "0::/\n");
    root.file("sys/fs/cgroup/cpu.max", "max 100000\n");
    root.file("sys/fs/cgroup/cpuset.cpus.effective", "0-1\n");
    let report = check(&good(&root));
    assert_eq!(find(&report, "CPU quota").found, "none");
    assert_eq!(find(&report, "cpuset").found, "0-1");
    root.file("sys/fs/cgroup/cpu.max", "400000 100000\n");
    assert_eq!(find(&check(&good(&root)), "CPU quota").found, "4.0 CPUs for 4 cores");
}

#[test]
fn rdma_devices_are_shown_and_want_their_libraries() {
    let root = Root::new();
    let mut facts = good(&root);
    facts.rdma = ringlane_transport_rdma::status_in(&root.0);
    let port = RdmaPort {
        number: 1,
        state: PortState::Active,
        link_layer: LinkLayer::Ethernet,
        rate: "100 Gb/sec".to_owned(),
        gids: Vec::new(),
    };
    let (node_type, firmware) = (String::new(), String::new());
    facts.rdma.devices =
        vec![RdmaDevice { name: "rxe0".to_owned(), node_type, firmware, ports: vec![port] }];
    facts.locked_bytes = (Some(8 << 20), Some(8 << 20));
    let report = check(&facts);
    assert!(find(&report, "RDMA rxe0/1").found.contains("active, Ethernet, 100 Gb/sec"));
    assert!(find(&report, "libibverbs.so.1").advice.contains("rdma-core"));
    let locked = find(&report, "RLIMIT_MEMLOCK");
    assert!(locked.advice.contains("LimitMEMLOCK") && locked.advice.contains("up to 24 MiB"));
    facts.locked_bytes = (Some(64 << 20), Some(64 << 20));
    assert_eq!(find(&check(&facts), "RLIMIT_MEMLOCK").severity, Severity::Ok, "for one link");
    facts.config.cluster.members = vec![MemberConfig::default(); 3];
    assert!(find(&check(&facts), "RLIMIT_MEMLOCK").advice.contains("up to 192 MiB"), "four cores");
}

/// A host with one port that carries data, and the library.
fn with_rdma() -> RdmaStatus {
    let gid = Gid {
        index: 3,
        address: "::ffff:10.0.0.1".parse().expect("an address"),
        kind: "RoCE v2".to_owned(),
        interface: "eth0".to_owned(),
    };
    let port = RdmaPort {
        number: 1,
        state: PortState::Active,
        link_layer: LinkLayer::Ethernet,
        rate: "100 Gb/sec".to_owned(),
        gids: vec![gid],
    };
    let (node_type, firmware) = (String::new(), String::new());
    let device = RdmaDevice { name: "mlx5_0".to_owned(), node_type, firmware, ports: vec![port] };
    let library = Library { name: "libibverbs.so.1", path: Some(PathBuf::from("/lib/x")) };
    RdmaStatus { devices: vec![device], libraries: vec![library] }
}

#[test]
fn what_carries_replication_is_said_with_its_reason() {
    type Spoil = fn(&mut Facts);
    let cases: [(ReplicationTransport, Spoil, Severity, &str); 8] = [
        (
            ReplicationTransport::Auto,
            |_| {},
            Severity::Ok,
            "auto takes rdma: device mlx5_0, port 1, gid_index 3",
        ),
        (ReplicationTransport::Rdma, |_| {}, Severity::Ok, "configured: rdma: device mlx5_0"),
        (ReplicationTransport::Tcp, |_| {}, Severity::Ok, "configured: tcp"),
        (
            ReplicationTransport::Auto,
            |facts| facts.rdma.devices.clear(),
            Severity::Ok,
            "auto takes tcp: there is no RDMA device",
        ),
        (
            ReplicationTransport::Rdma,
            |facts| facts.rdma.devices.clear(),
            Severity::Fail,
            "rdma cannot be had: there is no RDMA device",
        ),
        (
            ReplicationTransport::Auto,
            |facts| facts.rdma.libraries[0].path = None,
            Severity::Ok,
            "auto takes tcp: libibverbs.so.1 is not found",
        ),
        (
            ReplicationTransport::Auto,
            |facts| facts.rdma.devices[0].ports[0].state = PortState::Down,
            Severity::Ok,
            "auto takes tcp: no active port on RDMA device mlx5_0",
        ),
        (
            ReplicationTransport::Auto,
            |facts| facts.config.replication.rdma.gid_index = Some(7),
            Severity::Ok,
            "auto takes tcp: port 1 of RDMA device mlx5_0",
        ),
    ];
    for (transport, spoil, severity, expected) in cases {
        let root = Root::new();
        let mut facts = Facts { rdma: with_rdma(), ..good(&root) };
        facts.config.replication.transport = transport;
        spoil(&mut facts);
        facts.carrier = carrier(&facts.config.replication, &facts.rdma, |_, _| Ok(()));
        let report = check(&facts);
        let found = find(&report, "replication.transport");
        assert_eq!(found.severity, severity, "{found:?}");
        assert!(found.found.contains(expected), "{found:?}");
    }
}

#[test]
fn a_device_that_refuses_what_a_link_needs_is_not_taken() {
    let refusal = || RdmaError::Setting("no queue pair".to_owned());
    let cases = [
        (ReplicationTransport::Auto, Severity::Ok, "auto takes tcp: RDMA device mlx5_0 cannot"),
        (ReplicationTransport::Rdma, Severity::Fail, "rdma cannot be had: RDMA device mlx5_0"),
        (ReplicationTransport::Tcp, Severity::Ok, "configured: tcp: it is configured"),
    ];
    for (transport, severity, expected) in cases {
        let root = Root::new();
        let mut facts = Facts { rdma: with_rdma(), ..good(&root) };
        facts.config.replication.transport = transport;
        let replication = &facts.config.replication;
        facts.carrier = carrier(replication, &facts.rdma, |_, _| Err(refusal()));
        let report = check(&facts);
        let found = find(&report, "replication.transport");
        assert_eq!(found.severity, severity, "{found:?}");
        assert!(found.found.contains(expected), "{found:?}");
        let is_tried = transport != ReplicationTransport::Tcp;
        assert_eq!(found.found.contains("no queue pair"), is_tried, "{found:?}");
    }
}

#[test]
fn a_cluster_s_members_and_its_etcd_are_looked_at() {
    let root = Root::new();
    let alone = check(&good(&root));
    assert!(!alone.checks.iter().any(|check| check.name == "cluster.members"));
    let mut facts = good(&root);
    let member = |node: u16| MemberConfig {
        node,
        name: format!("n{node}"),
        address: format!("10.0.0.{node}:7883"),
        advertised_address: None,
    };
    facts.config.cluster.node = 2;
    facts.config.cluster.members = (1..4).map(member).collect();
    let works = ("http://a:2379".to_owned(), Ok("3.4.23".to_owned()));
    let hangs = ("http://b:2379".to_owned(), Err("no answer within 500ms".to_owned()));
    facts.etcd = vec![works, hangs.clone()];
    let report = check(&facts);
    assert_eq!(
        find(&report, "cluster.members").found,
        "3 nodes, this one is 2 (n2); 1 may be lost"
    );
    assert_eq!(find(&report, "replication.bind").found, "10.0.0.2:7883");
    assert_eq!(find(&report, "etcd http://a:2379").found, "version 3.4.23");
    assert_eq!(find(&report, "etcd http://b:2379").severity, Severity::Warn);
    facts.etcd = vec![hangs];
    facts.config.cluster.members.pop();
    facts.config.replication.bind = Some("0.0.0.0:7883".parse().expect("an address"));
    let report = check(&facts);
    assert_eq!(
        find(&report, "etcd http://b:2379").severity,
        Severity::Fail,
        "no other one answers"
    );
    assert!(
        find(&report, "cluster.members").advice.contains("one less, 1, survives as many losses")
    );
    assert!(find(&report, "replication.bind").advice.contains("nodes show no password"));
}

#[test]
fn both_forms_have_every_check() {
    let root = Root::new();
    let report = check(&good(&root));
    let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
    assert_eq!(json["checks"].as_array().unwrap().len(), report.checks.len());
    let text = report.text();
    for check in &report.checks {
        assert!(text.contains(&check.name), "{}", check.name);
        assert!(!check.found.is_empty(), "{}", check.name);
    }
}

#[test]
fn this_host_can_be_examined() {
    let report = examine(&Config::default());
    assert!(!find(&report, "kernel").found.is_empty());
    assert!(find(&report, "allowed").found != "none");
    assert!(find(&report, "data_dir ringlane-data").found.contains("MiB free"));
}
