//! Tells the program the commit that it is built from; outside a git repository it has none.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=src");
    for file in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", file]) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    let describe = ["describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=-modified"];
    if let Some(commit) = git(&describe) {
        println!("cargo::rustc-env=RINGLANE_BENCH_COMMIT={commit}");
    }
}

/// What a git command prints; nothing if it fails, or if there is no git.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
