//! The flags of `floor`.

use clap::Args;
use std::net::IpAddr;

#[derive(Args, Debug)]
pub(crate) struct FloorArgs {
    /// Address to listen on.
    #[arg(short = 'h', long, default_value = "127.0.0.1")]
    pub(crate) host: IpAddr,
    /// Port to listen on; 0 is the kernel's choice.
    #[arg(short, long, default_value_t = 1883)]
    pub(crate) port: u16,
    /// Pin this program to a CPU.
    #[arg(long)]
    pub(crate) cpu: Option<usize>,
    /// A write for each packet and output: what a fan-out costs at least if nothing is batched.
    #[arg(long)]
    pub(crate) unbatched: bool,
}
