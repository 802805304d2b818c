//! Prints what this host gives the transport.

fn main() {
    let capabilities = ringlane_transport_uring::probe::probe();
    let mut lines = vec![format!("kernel {}", capabilities.kernel)];
    for (name, since, present) in capabilities.features() {
        lines.push(format!("{name:<28} {since:<5} {}", if present { "yes" } else { "no" }));
    }
    let choice = ringlane_transport_uring::TransportChoice::Auto;
    match ringlane_transport_uring::choose(choice, &capabilities) {
        Ok((kind, reason)) => lines.push(format!("auto takes {kind}: {reason}")),
        Err(error) => lines.push(error.to_string()),
    }
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    for line in lines {
        // A closed pipe ends the list, which is what its reader wanted.
        if writeln!(out, "{line}").is_err() {
            return;
        }
    }
}
