//! The ledger of acknowledged writes against the real program: everything that was acknowledged
//! comes, in order, once where once is promised.

use crate::support::Transport;
use ringlane_bench::compare::Recipe;
use ringlane_bench::durability::{self, Fault, Options, RecipeHost};
use ringlane_mqtt::Version;
use std::net::TcpListener;

on_both_transports!(
    cut_connections_lose_nothing_with_mqtt_5,
    cut_connections_lose_nothing_with_mqtt_3_1_1,
    kills_lose_nothing_with_mqtt_5,
    kills_lose_nothing_with_mqtt_3_1_1,
    an_orderly_end_loses_nothing,
);

fn cut_connections_lose_nothing_with_mqtt_5(transport: Transport) {
    hold(transport, Options { fault: Fault::None, ..options(Version::V5, 30) });
}

fn cut_connections_lose_nothing_with_mqtt_3_1_1(transport: Transport) {
    hold(transport, Options { fault: Fault::None, ..options(Version::V311, 30) });
}

fn kills_lose_nothing_with_mqtt_5(transport: Transport) {
    hold(transport, options(Version::V5, 10));
}

fn kills_lose_nothing_with_mqtt_3_1_1(transport: Transport) {
    hold(transport, options(Version::V311, 10));
}

fn an_orderly_end_loses_nothing(transport: Transport) {
    hold(transport, Options { fault: Fault::Term, ..options(Version::V5, 5) });
}

fn options(version: Version, cycles: u32) -> Options {
    Options { version, cycles, seed: u64::from(std::process::id()), ..Options::default() }
}

/// Runs the ledger; a finding fails the test, with the seed.
fn hold(transport: Transport, options: Options) {
    let (seed, fault, level) = (options.seed, options.fault.name(), options.version.level());
    let room = format!("ringlane-ledger-test-{seed}-{}-{fault}-{level}", transport.name());
    let room = std::env::temp_dir().join(room);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its number").port();
    drop(listener);
    let mut host = RecipeHost::new("ringlane", recipe(transport), room.clone(), port, "0", None)
        .expect("a directory for the broker");
    let outcome = durability::run(&options, &mut host).expect("the broker runs");
    drop(host);
    std::fs::remove_dir(&room).expect("nothing else is there");
    assert!(outcome.findings.failed().is_empty(), "{options:?}: {:?}", outcome.findings);
    assert_eq!(outcome.cycles, options.cycles);
    assert!(outcome.acknowledged > u64::from(outcome.cycles) * 20, "{outcome:?}");
}

fn recipe(transport: Transport) -> Recipe {
    let program = env!("CARGO_BIN_EXE_ringlane");
    let command = format!(
        "{program} serve -c {{dir}}/ringlane.toml --cores 0 -p {{port}} --transport {}",
        transport.name()
    );
    let mut recipe = Recipe::of_command(&command);
    recipe.files.insert("ringlane.toml".into(), CONFIGURATION.into());
    recipe
}

const CONFIGURATION: &str = r#"
data_dir = "{dir}/data"

[listeners.websocket]
bind = "127.0.0.1:0"

[control]
bind = "127.0.0.1:0"

[log]
level = "warn"
"#;
