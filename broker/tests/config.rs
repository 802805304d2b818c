//! The configuration from outside: layers, errors with their places, the example file.

use proptest::prelude::*;
use ringlane::config::{
    Assignment, Config, Cores, FileDriverSetting, IdleChoice, Layers, Loaded, LogFormat, Source,
    StreamLevel, TransportSetting, WhenFull, known_keys, load,
};
use std::path::PathBuf;
use std::time::Duration;

const EXAMPLE: &str = include_str!("../ringlane.example.toml");

fn with_file(text: &str) -> Layers {
    Layers { file: Some((PathBuf::from("ringlane.toml"), text.to_owned())), ..Layers::default() }
}

fn with_environment(variables: &[(&str, &str)]) -> Layers {
    let environment =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Layers { environment: environment.collect(), ..Layers::default() }
}

fn errors(layers: &Layers) -> Vec<String> {
    let errors = load(layers).expect_err("something is wrong");
    errors.0.iter().map(ToString::to_string).collect()
}

fn loaded(layers: &Layers) -> Loaded {
    load(layers).unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn nothing_set_is_the_defaults() {
    let loaded = loaded(&Layers::default());
    assert_eq!(loaded.config, Config::default());
    assert!(known_keys().iter().all(|key| loaded.source(&key.name) == Source::Default));
}

#[test]
fn the_example_has_every_key_with_its_default() {
    let loaded = loaded(&with_file(EXAMPLE));
    assert_eq!(loaded.config, Config::default());
    for key in known_keys() {
        let source = loaded.source(&key.name);
        assert!(matches!(source, Source::File { .. }), "{} is not in the example", key.name);
    }
}

#[test]
fn the_example_explains_every_key() {
    let mut commented = false;
    for (number, line) in EXAMPLE.lines().enumerate() {
        let is_key = line.contains(" = ") && !line.starts_with('#');
        // A key may share the comment of the one above it.
        assert!(!is_key || commented, "line {} has no comment: {line}", number + 1);
        commented = line.starts_with('#') || is_key;
    }
}

#[test]
fn values_in_a_file_are_taken() {
    let text = r#"
data_dir = "/data"
[runtime]
cores = [2, 3, 6]
idle = "park"
spin = "1ms"
transport = "uring"
[mqtt]
max_packet_size = "2MiB"
max_connect_size = 1000
connect_timeout = 3
server_reference = "other:1883"
[listeners.tcp]
bind = "[::]:1884"
[log]
format = "json"
[commit_log]
segment_size = "16MiB"
file_driver = "io_uring"
[[stream]]
name = "alarms"
filters = ["+/alarm"]
retention_age = "30d"
[[stream]]
name = "default"
level = "memory"
when_full = "drop_oldest"
"#;
    let config = loaded(&with_file(text)).config;
    assert_eq!(config.data_dir, PathBuf::from("/data"));
    assert_eq!(config.runtime.cores, Cores::List(vec![2, 3, 6]));
    assert_eq!(config.runtime.idle, IdleChoice::Park);
    assert_eq!(config.runtime.spin, Duration::from_millis(1));
    assert_eq!(config.runtime.transport, TransportSetting::Uring);
    assert_eq!(config.mqtt.max_packet_size, 2 << 20);
    assert_eq!(config.mqtt.max_connect_size, 1000);
    assert_eq!(config.mqtt.connect_timeout, Duration::from_secs(3));
    assert_eq!(config.mqtt.server_reference.as_deref(), Some("other:1883"));
    assert_eq!(config.listeners.tcp.bind.to_string(), "[::]:1884");
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.commit_log.segment_size, 16 << 20);
    assert_eq!(config.commit_log.file_driver, FileDriverSetting::IoUring);
    let streams = config.streams();
    assert_eq!((streams[0].name.as_str(), streams[0].level), ("alarms", StreamLevel::LocalDisk));
    assert_eq!(
        (streams[1].level, streams[1].when_full),
        (StreamLevel::Memory, WhenFull::DropOldest)
    );
    assert!(config.listeners.websocket.enabled, "what is not named keeps its default");
}

/// Files with keys that do not exist, and what is said after the file's name.
const WRONG_KEYS: [(&str, &str); 7] = [
    (
        "[mqtt]\nmax_paket_size = 1",
        "2:1: unknown key \"max_paket_size\" in [mqtt] (did you mean \"max_packet_size\"?)",
    ),
    ("[mqtt]\nzebra = 1", "2:1: unknown key \"zebra\" in [mqtt]"),
    ("[mqt]\nx = 1", "1:2: unknown section [mqt] (did you mean [mqtt]?)"),
    (
        "[listeners.websockets]\nenabled = true",
        "1:12: unknown section [listeners.websockets] (did you mean [listeners.websocket]?)",
    ),
    (
        "max_packet_size = 1",
        "1:1: unknown key \"max_packet_size\" outside of any section (did you mean \
         \"max_packet_size\" in [mqtt]?)",
    ),
    (
        "dta_dir = 'x'",
        "1:1: unknown key \"dta_dir\" outside of any section (did you mean \"data_dir\"?)",
    ),
    ("mqtt = 1", "1:1: mqtt is a section; write [mqtt]"),
];

/// The same for values of a wrong type.
const WRONG_VALUES: [(&str, &str); 7] = [
    (
        "[mqtt]\nmax_packet_size = 'big'",
        "2:19: mqtt.max_packet_size: invalid value: string \"big\", expected a size in bytes \
         such as 65536, \"64KiB\", \"1MiB\" or \"1GiB\"",
    ),
    (
        "[mqtt]\nmax_packet_size = -1",
        "2:19: mqtt.max_packet_size: invalid value: integer `-1`, expected a size in bytes such \
         as 65536, \"64KiB\", \"1MiB\" or \"1GiB\"",
    ),
    (
        "[mqtt]\nmax_packet_size = '5GiB'",
        "2:19: mqtt.max_packet_size: invalid value: integer `5368709120`, expected a size that \
         fits into 32 bits",
    ),
    (
        "[mqtt]\nreceive_maximum = 70000",
        "2:19: mqtt.receive_maximum: invalid value: integer `70000`, expected u16",
    ),
    (
        "[runtime]\ncores = 'all'",
        "2:9: runtime.cores: \"all\" is no CPU number or range; write auto, 2,3,6 or 0-3",
    ),
    (
        "[sys]\nenabled = 'yes'",
        "2:11: sys.enabled: invalid type: string \"yes\", expected a boolean",
    ),
    ("[control]\nbind = '127.0.0.1'", "2:8: control.bind: invalid socket address syntax"),
];

/// The same for values that are out of range, or do not go together.
const OUT_OF_RANGE: [(&str, &str); 15] = [
    (
        "[runtime]\ntransport = 'epoll'\n[commit_log]\nfile_driver = 'io_uring'",
        "4:15: commit_log.file_driver = \"io_uring\" needs the io_uring transport",
    ),
    (
        "[[stream]]\nname = 'a'\nfilters = ['a']\nlevel = 'quorum_disk'",
        "1:1: stream \"a\": level \"quorum_disk\" needs a cluster, and cluster.members is empty; \
         choose \"local_disk\", which promises the same for this node alone, or name the members",
    ),
    (
        "[commit_log]\nsegment_size = '1MiB'",
        "2:16: commit_log.segment_size is 1048576; with this mqtt.max_packet_size it must be at \
         least 2162688",
    ),
    ("[[stream]]\nfilters = ['a']", "1:1: a [[stream]] without a name; add name = \"...\""),
    ("[mqtt]\n\n  receive_maximum = 0", "3:21: mqtt.receive_maximum is 0; it must be at least 1"),
    (
        "[mqtt]\nmax_client_id_length = 22",
        "2:24: mqtt.max_client_id_length is 22; it must be at least 23",
    ),
    (
        "[mqtt]\nmax_keep_alive = '1500ms'",
        "2:18: mqtt.max_keep_alive is 1.5s; it must be in whole seconds",
    ),
    ("[runtime]\ncores = [1, 1]", "2:9: runtime.cores names CPU 1 twice"),
    (
        "[runtime]\ncores = []",
        "2:9: runtime.cores is empty; write \"auto\" or name at least one CPU",
    ),
    ("[runtime]\nreceive_buffers = 1000", "2:19: runtime.receive_buffers must be a power of two"),
    ("[runtime]\nmailbox_slots = 1", "2:17: runtime.mailbox_slots is 1; it must be at least 2"),
    (
        "[control]\nbind = '127.0.0.1:1883'",
        "2:8: listeners.tcp.bind and control.bind are both 127.0.0.1:1883",
    ),
    (
        "[limits]\nwrite_buffer_high = '8MiB'",
        "2:21: limits.write_buffer_max must not be below limits.write_buffer_high",
    ),
    ("[listeners.websocket]\npath = 'mqtt'", "2:8: listeners.websocket.path must begin with \"/\""),
    (
        "[listeners]\ntcp.enabled = false\nwebsocket.enabled = false",
        "2:15: no listener is enabled, so that no client could connect",
    ),
];

#[test]
fn a_wrong_file_is_told_with_line_column_and_what_was_meant() {
    let tables = [WRONG_KEYS.as_slice(), &WRONG_VALUES, &OUT_OF_RANGE];
    for (text, expected) in tables.concat() {
        let expected = format!("ringlane.toml:{expected}");
        assert_eq!(errors(&with_file(text)), [expected], "{text}");
    }
}

#[test]
fn wrong_values_of_an_enumeration_name_the_right_ones() {
    let found = errors(&with_file("[runtime]\nidle = 'sleep'"));
    assert!(found[0].starts_with("ringlane.toml:2:8: runtime.idle: unknown variant"), "{found:?}");
    assert!(found[0].contains("spin-then-park"), "{found:?}");
}

#[test]
fn text_that_is_no_toml_is_told_with_its_place() {
    for (text, place) in [("[mqtt\n", "ringlane.toml:1:"), ("a = \n", "ringlane.toml:1:5: ")] {
        let found = errors(&with_file(text));
        assert!(found[0].starts_with(place), "{found:?}");
    }
}

#[test]
fn everything_wrong_is_told_at_once() {
    let found = errors(&with_file("[mqtt]\nx = 1\nreceive_maximum = 'a'\n[log]\nlevel = 'loud'"));
    assert_eq!(found.len(), 3, "{found:?}");
}

#[test]
fn the_environment_sets_values_of_every_type() {
    let config = loaded(&with_environment(&[
        ("RINGLANE_MQTT__MAX_PACKET_SIZE", "2MiB"),
        ("RINGLANE_MQTT__RECEIVE_MAXIMUM", "7"),
        ("RINGLANE_mqtt__connect_timeout", "500ms"),
        ("RINGLANE_LISTENERS__TCP__BIND", "0.0.0.0:1999"),
        ("RINGLANE_LISTENERS__WEBSOCKET__ENABLED", "false"),
        ("RINGLANE_LISTENERS__WEBSOCKET__ALLOWED_ORIGINS", r#"["https://a", "https://b"]"#),
        ("RINGLANE_RUNTIME__CORES", "0-1,4"),
        ("RINGLANE_DATA_DIR", "/d"),
        ("RINGLANE_MQTT__SERVER_REFERENCE", "12345"),
        ("RINGLANE_SERVICE_PORT", "tcp://10.0.0.1:1883"),
        ("RINGLANE_CONFIG", "elsewhere"),
        ("PATH", "/bin"),
    ]))
    .config;
    assert_eq!(config.mqtt.max_packet_size, 2 << 20);
    assert_eq!(config.mqtt.receive_maximum, 7);
    assert_eq!(config.mqtt.connect_timeout, Duration::from_millis(500));
    assert_eq!(config.listeners.tcp.bind.port(), 1999);
    assert!(!config.listeners.websocket.enabled);
    assert_eq!(config.listeners.websocket.allowed_origins, ["https://a", "https://b"]);
    assert_eq!(config.runtime.cores, Cores::List(vec![0, 1, 4]));
    assert_eq!(config.data_dir, PathBuf::from("/d"));
    assert_eq!(config.mqtt.server_reference.as_deref(), Some("12345"));
}

#[test]
fn a_single_core_can_be_named_as_a_number() {
    let layers = with_environment(&[("RINGLANE_RUNTIME__CORES", "3")]);
    assert_eq!(loaded(&layers).config.runtime.cores, Cores::List(vec![3]));
}

#[test]
fn wrong_variables_are_named() {
    let cases = [
        (
            ("RINGLANE_MQTT__MAX_PAKET_SIZE", "1"),
            "environment variable RINGLANE_MQTT__MAX_PAKET_SIZE: no such key \
             (did you mean RINGLANE_MQTT__MAX_PACKET_SIZE?)",
        ),
        (("RINGLANE_X__Y", "1"), "environment variable RINGLANE_X__Y: no such key"),
        (
            ("RINGLANE_MQTT__RECEIVE_MAXIMUM", "many"),
            "environment variable RINGLANE_MQTT__RECEIVE_MAXIMUM: mqtt.receive_maximum: \
             invalid type: string \"many\", expected u16",
        ),
    ];
    for (variable, expected) in cases {
        assert_eq!(errors(&with_environment(&[variable])), [expected]);
    }
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let mut layers =
        with_file("[log]\nlevel = 'debug'\nformat = 'json'\n[mqtt]\nmax_subscriptions = 5");
    layers.environment = with_environment(&[
        ("RINGLANE_LOG__LEVEL", "warn"),
        ("RINGLANE_LOG__FORMAT", "text"),
        ("STATE_DIRECTORY", "/var/lib/ringlane:/other"),
    ])
    .environment;
    layers.flags = vec![Assignment {
        key: "log.level".to_owned(),
        value: toml::Value::String("error".to_owned()),
        source: Source::Flag("--log-level"),
    }];
    layers.port = Some(2000);
    let loaded = loaded(&layers);
    let shown = |key: &str| loaded.source(key).to_string();
    assert_eq!(loaded.config.log.level.to_string(), "error");
    assert_eq!(shown("log.level"), "flag --log-level");
    assert_eq!(loaded.config.log.format, LogFormat::Text);
    assert_eq!(shown("log.format"), "environment variable RINGLANE_LOG__FORMAT");
    assert_eq!(shown("mqtt.max_subscriptions"), "ringlane.toml:5:21");
    assert_eq!(loaded.config.listeners.tcp.bind.to_string(), "127.0.0.1:2000");
    assert_eq!(shown("listeners.tcp.bind"), "flag --port");
    assert_eq!(loaded.config.data_dir, PathBuf::from("/var/lib/ringlane"));
    assert_eq!(shown("data_dir"), "environment variable STATE_DIRECTORY");
    assert_eq!(shown("sys.interval"), "default");
}

#[test]
fn the_directory_of_the_unit_gives_way_to_the_file() {
    let mut layers = with_file("data_dir = '/mine'");
    layers.environment = with_environment(&[("STATE_DIRECTORY", "/var/lib/ringlane")]).environment;
    assert_eq!(loaded(&layers).config.data_dir, PathBuf::from("/mine"));
}

#[test]
fn what_is_printed_can_be_read_again() {
    let mut layers = with_file("[mqtt]\nmax_packet_size = 1000\n[runtime]\ncores = [4, 5]\n");
    layers.environment = with_environment(&[("RINGLANE_SYS__INTERVAL", "1h")]).environment;
    let first = loaded(&layers);
    let printed = first.render();
    assert_eq!(loaded(&with_file(&printed)).config, first.config);
    let line = printed.lines().find(|line| line.starts_with("max_packet_size")).unwrap();
    assert!(line.starts_with("max_packet_size = 1000 ") && line.ends_with("# ringlane.toml:2:19"));
    let line = printed.lines().find(|line| line.starts_with("interval")).unwrap();
    assert!(line.ends_with("# environment variable RINGLANE_SYS__INTERVAL"), "{line}");
    for key in known_keys() {
        let last = key.name.rsplit('.').next().unwrap();
        assert!(printed.lines().any(|line| line.starts_with(&format!("{last} = "))), "{last}");
    }
}

proptest! {
    /// Whatever stands in a file, it is a configuration or an error that names the file.
    #[test]
    fn any_text_is_answered(text in "[ -~\n\t]{0,200}") {
        answered(&text)?;
    }

    /// The same for the example with a piece cut out and another one put in: much closer to what
    /// people do.
    #[test]
    fn a_damaged_example_is_answered(
        at in 0..EXAMPLE.len(),
        cut in 0..40_usize,
        put in "[ -~\n]{0,20}",
    ) {
        let end = (at + cut).min(EXAMPLE.len());
        answered(&format!("{}{put}{}", &EXAMPLE[..at], &EXAMPLE[end..]))?;
    }

    #[test]
    fn any_variable_is_answered(name in "[A-Z_]{0,30}", value in "\\PC{0,30}") {
        let variable = (format!("RINGLANE_{name}"), value);
        let layers = Layers { environment: vec![variable.clone()], ..Layers::default() };
        if let Err(errors) = load(&layers) {
            prop_assert!(errors.to_string().contains(&variable.0), "{errors}");
        }
    }
}

fn answered(text: &str) -> Result<(), TestCaseError> {
    if let Err(errors) = load(&with_file(text)) {
        for error in errors.0 {
            let shown = error.to_string();
            prop_assert!(shown.starts_with("ringlane.toml:"), "{shown}");
        }
    }
    Ok(())
}

/// The configuration of a node of three, before `more`.
fn of_three(more: &str) -> String {
    format!(
        r#"{more}
[[stream]]
name = "default"
[cluster]
node = 1
members = [
  {{ node = 1, name = "a", address = "10.0.0.1:7883", advertised_address = "a.example:1883" }},
  {{ node = 2, name = "b", address = "10.0.0.2:7883" }},
  {{ node = 3, name = "c", address = "c.example:7883" }},
]
[cluster.etcd]
endpoints = ["http://10.0.0.9:2379", "http://[::1]:2379"]
"#
    )
}

#[test]
fn a_cluster_is_read_and_shown_with_its_sources() {
    let loaded = loaded(&with_file(&of_three("")));
    let cluster = &loaded.config.cluster;
    assert!(cluster.is_set());
    assert_eq!(cluster.own().map(|own| own.name.as_str()), Some("a"));
    assert_eq!(cluster.members[2].address, "c.example:7883");
    assert!(!Config::default().cluster.is_set());
    let again = load(&with_file(&loaded.render())).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(again.config, loaded.config);
    let text = loaded.render();
    assert!(text.contains("[cluster.etcd]") && text.contains("# ringlane.toml:"), "{text}");
}

#[test]
fn members_may_come_from_the_environment() {
    let layers = with_environment(&[
        ("RINGLANE_CLUSTER__NODE", "1"),
        ("RINGLANE_CLUSTER__MEMBERS", r#"[{ node = 1, name = "a", address = "10.0.0.1:7883" }]"#),
        ("RINGLANE_CLUSTER__ETCD__ENDPOINTS", r#"["http://10.0.0.9:2379"]"#),
        ("RINGLANE_REPLICATION__RDMA__GID_INDEX", "3"),
    ]);
    let config = loaded(&layers).config;
    assert_eq!(config.cluster.members.len(), 1);
    assert_eq!(config.replication.rdma.gid_index, Some(3));
}

#[test]
fn what_is_wrong_with_a_cluster_says_what_would_be_right() {
    let cases = [
        (
            "node = 1\n",
            "node = 4\n",
            "cluster.node is 4, which is none of cluster.members (1, 2, 3)",
        ),
        ("node = 2, name", "node = 1, name", "node = 1 is taken by entry 1"),
        ("node = 2, name", "node = 0, name", "number them from 1"),
        ("name = \"b\"", "name = \"a\"", "name = \"a\" is taken by entry 1"),
        ("name = \"b\"", "name = \"\"", "name is missing"),
        ("10.0.0.2:7883", "10.0.0.1:7883", "address = \"10.0.0.1:7883\" is taken by entry 1"),
        ("10.0.0.2:7883", "10.0.0.2", "write a host and a port"),
        ("a.example:1883", "a.example:0", "advertised_address is \"a.example:0\""),
        ("10.0.0.1:7883", "a.example:7883", "set replication.bind"),
        (
            "10.0.0.1:7883",
            "127.0.0.1:1883",
            "which listeners.tcp.bind = 127.0.0.1:1883 has already",
        ),
        ("http://10.0.0.9:2379", "https://10.0.0.9:2379", "TLS to etcd is not built yet"),
        ("http://10.0.0.9:2379", "10.0.0.9:2379", "write http://HOST:PORT"),
        ("[\"http://10.0.0.9:2379\", \"http://[::1]:2379\"]", "[]", "needs the client URLs"),
        ("[cluster]\n", "[cluster]\nname = \"a b\"\n", "cluster.name is \"a b\""),
        ("[cluster.etcd]\n", "[cluster.etcd]\nprefix = \"/\"\n", "cluster.etcd.prefix is \"/\""),
        ("[cluster.etcd]\n", "[cluster.etcd]\nusername = \"u\"\n", "password_file is not"),
        ("[cluster.etcd]\n", "[cluster.etcd]\ntimeout = \"2s\"\n", "one that hangs would cost"),
        ("[cluster]\n", "[cluster]\nnodes = 3\n", "did you mean"),
        (
            "[cluster]\n",
            "[cluster]\nredirect = \"server-reference\"\n",
            "has no advertised_address to send clients to",
        ),
        ("[cluster]\n", "[commit_log]\nenabled = false\n[cluster]\n", "copy the log"),
    ];
    for (from, to, expected) in cases {
        let text = of_three("");
        assert!(text.contains(from), "{from}");
        let found = errors(&with_file(&text.replacen(from, to, 1)));
        assert!(found.iter().any(|error| error.contains(expected)), "{to}: {found:?}");
    }
}

#[test]
fn what_is_wrong_with_replication_says_what_would_be_right() {
    let cases = [
        ("suspect_after = \"100ms\"", "at least three times replication.heartbeat"),
        ("lease = \"1s\"", "replication.lease is 1s; it must be at least 2s"),
        ("lease = \"2500ms\"", "whole seconds"),
        ("bind = \"10.0.0.1\"", "an address with its port"),
        ("transport = \"udp\"", "auto"),
        ("rdma.mtu = 1500", "write \"auto\", 256"),
        ("rdma.retry = 8", "at most 7"),
        ("rdma.gid_index = -1", "small number that is not negative"),
        ("rdma.port = 0", "numbered from 1"),
    ];
    for (line, expected) in cases {
        let found = errors(&with_file(&format!("[replication]\n{line}\n")));
        assert!(found.iter().any(|error| error.contains(expected)), "{line}: {found:?}");
    }
    let alone = errors(&with_file("[cluster]\nnode = 1\n"));
    assert!(alone[0].contains("cluster.members is empty; add the members"), "{alone:?}");
}
