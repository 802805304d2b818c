//! `floor`: the relay that other brokers are compared with. Runs until it is ended by a signal.

use crate::cli::floor::FloorArgs;
use anyhow::{Context, Result};
use ringlane_bench::floor::Floor;
use std::io::{self, Write};
use std::net::SocketAddr;

pub(crate) fn run(args: &FloorArgs) -> Result<()> {
    let address = SocketAddr::new(args.host, args.port);
    let mut floor = Floor::bind(address, args.unbatched)
        .with_context(|| format!("cannot listen on {address}"))?;
    writeln!(io::stdout(), "floor: relaying on {}", floor.local_address()?)?;
    floor.run(&mut io::stderr())?;
    Ok(())
}
