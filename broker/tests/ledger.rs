//! The ledger of acknowledged writes against the real program: everything that was acknowledged
//! comes, in order, once where once is promised.

use crate::support::{self, Broker, Transport};
use ringlane_bench::compare::Recipe;
use ringlane_bench::durability::{self, Check, Fault, Options, OutsideHost, RecipeHost};
use ringlane_mqtt::Version;
use std::net::TcpListener;
use std::time::Duration;

on_both_transports!(
    cut_connections_lose_nothing_with_mqtt_5,
    cut_connections_lose_nothing_with_mqtt_3_1_1,
    kills_lose_nothing_with_mqtt_5,
    kills_lose_nothing_with_mqtt_3_1_1,
    an_orderly_end_loses_nothing,
    what_runs_elsewhere_is_struck_by_commands,
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

fn what_runs_elsewhere_is_struck_by_commands(transport: Transport) {
    let broker = Broker::start(&support::Options::new(transport).cores(2));
    let options = Options {
        fault: Fault::Command,
        is_shared: true,
        silence: Duration::from_secs(1),
        ..options(Version::V5, 4)
    };
    let [strike, heal] = ["STOP", "CONT"].map(|signal| format!("kill -{signal} {}", broker.pid()));
    let patience = options.patience;
    let mut host = OutsideHost::new(vec![broker.tcp], Some(strike), Some(heal), patience);
    let outcome = durability::run(&options, &mut host).expect("the broker runs");
    assert!(outcome.findings.failed().is_empty(), "{options:?}: {:?}", outcome.findings);
    assert_eq!(outcome.cycles, 4);
    let mut host = OutsideHost::new(vec![broker.tcp], Some("exit 3".into()), None, patience);
    let outcome = durability::run(&options, &mut host).expect("the broker runs");
    assert_eq!(outcome.cycles, 1, "a fault that does not come ends the run");
    assert_eq!(outcome.findings.count(Check::Stuck), 1, "and is not passed over");
    broker.stop();
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
