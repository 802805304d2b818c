//! The command line from outside: commands, exit codes, what goes where.

#![allow(clippy::print_stdout, reason = "a test that cannot run says so")]

use crate::support::run_program;
use std::path::PathBuf;
use std::process::Command;

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

struct ConfigFile(PathBuf);

impl ConfigFile {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ringlane-cli-{}-{name}", std::process::id()));
        std::fs::write(&path, text).expect("a file");
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }
}

impl Drop for ConfigFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn the_version_is_printed_for_people_and_for_programs() {
    let output = run_program(&["version"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).starts_with(concat!("ringlane ", env!("CARGO_PKG_VERSION"))));
    let output = run_program(&["version", "--json"]);
    let version: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(version["name"], "ringlane");
}

#[test]
fn wrong_usage_ends_with_2() {
    for arguments in [
        ["--no-such-flag"].as_slice(),
        &["no-such-command"],
        &["serve", "--transport", "dpdk"],
        &["serve", "-p", "65536"],
        &["serve", "--cores", "one"],
    ] {
        let output = run_program(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", text(&output.stderr));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_wrong_configuration_ends_with_3_and_names_the_line() {
    let file = ConfigFile::new("wrong.toml", "[mqtt]\nmax_paket_size = 1\n");
    for command in ["serve", "check-config", "doctor"] {
        let output = run_program(&[command, "-c", file.path()]);
        assert_eq!(output.status.code(), Some(3), "{command}");
        let expected = format!(
            "Error: {}:2:1: unknown key \"max_paket_size\" in [mqtt] \
             (did you mean \"max_packet_size\"?)\n",
            file.path()
        );
        assert_eq!(text(&output.stderr), expected, "{command}");
        assert!(output.stdout.is_empty(), "{command}");
    }
}

#[test]
fn a_file_that_is_missing_ends_with_3() {
    let output = run_program(&["check-config", "-c", "/nowhere/ringlane.toml"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("/nowhere/ringlane.toml: cannot read it"));
}

#[test]
fn check_config_shows_where_values_come_from() {
    let file = ConfigFile::new("right.toml", "[mqtt]\nmax_packet_size = \"2MiB\"\n");
    let output = run_program(&["check-config", "-c", file.path(), "-p", "2000"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let shown = text(&output.stdout);
    assert!(shown.contains(&format!("# {}:2:19", file.path())), "{shown}");
    assert!(shown.contains("bind = \"127.0.0.1:2000\""), "{shown}");
    assert!(shown.contains("# flag --port"), "{shown}");
}

#[test]
fn cores_that_cannot_be_had_end_with_3_and_list_the_others() {
    let output = run_program(&["serve", "--cores", "0,4000", "--data-dir", "/nowhere"]);
    assert_eq!(output.status.code(), Some(3));
    let error = text(&output.stderr);
    assert!(
        error.contains("CPU 4000 does not exist on this host; these may be used: 0"),
        "{error}"
    );
}

#[test]
fn cores_outside_of_the_cpuset_end_with_3_and_list_those_inside() {
    let program = env!("CARGO_BIN_EXE_ringlane");
    // taskset(1) narrows what the broker may use to CPU 0; CPU 1 exists all the same.
    let script = format!("exec taskset -c 0 {program} serve --cores 1 --data-dir /nowhere");
    let output = Command::new("sh").args(["-c", &script]).output().expect("sh runs");
    let error = text(&output.stderr);
    if error.contains("does not exist") || error.contains("taskset") {
        println!("NOT RUN: this needs CPUs 0 and 1, and taskset: {error}");
        return;
    }
    assert_eq!(output.status.code(), Some(3), "{error}");
    assert!(error.contains("CPU 1 is not allowed to this process"), "{error}");
    assert!(error.trim_end().ends_with("these may be used: 0"), "{error}");
}

#[test]
fn the_doctor_reports_in_both_forms() {
    let output = run_program(&["doctor"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    assert!(text(&output.stdout).contains("Kernel and io_uring"));
    let output = run_program(&["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    assert!(20 < checks.len());
    for check in checks {
        assert!(["ok", "warn"].contains(&check["severity"].as_str().unwrap()), "{check}");
    }
}

#[test]
fn the_doctor_ends_with_1_if_the_broker_would_not_start() {
    let output = run_program(&["doctor", "--cores", "4000"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("FAIL  runtime.cores"), "{}", text(&output.stdout));
}

#[test]
fn help_names_the_commands() {
    let output = run_program(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = text(&output.stdout);
    for word in ["serve", "check-config", "doctor", "version", "--data-dir", "--transport"] {
        assert!(help.contains(word), "{word}: {help}");
    }
}
