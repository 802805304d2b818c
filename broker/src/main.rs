//! The `ringlane` program; see [`ringlane::cli`].

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    ringlane::cli::run()
}
