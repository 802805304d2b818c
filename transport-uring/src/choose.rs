//! Which driver runs, and why.

use crate::config::{TransportChoice, TransportError, TransportKind};
use crate::probe::Capabilities;

/// Decides between the drivers; the text is the reason, in one line.
///
/// # Errors
/// [`TransportError::UringMissing`] if io_uring was asked for and this host cannot run it.
pub fn choose(
    choice: TransportChoice,
    capabilities: &Capabilities,
) -> Result<(TransportKind, String), TransportError> {
    if choice == TransportChoice::Epoll {
        return Ok((TransportKind::Epoll, String::from("asked for by the configuration")));
    }
    let Some((reason, remedy)) = obstacle(capabilities) else {
        let reason = match choice {
            TransportChoice::Auto => "this kernel has every feature that the driver needs",
            _ => "asked for by the configuration",
        };
        return Ok((TransportKind::Uring, String::from(reason)));
    };
    if choice == TransportChoice::Uring {
        return Err(TransportError::UringMissing { reason, remedy });
    }
    Ok((TransportKind::Epoll, format!("no io_uring: {reason}; {remedy}")))
}

fn obstacle(capabilities: &Capabilities) -> Option<(String, String)> {
    if let Err(refusal) = &capabilities.uring {
        return Some((refusal.reason.clone(), refusal.remedy.clone()));
    }
    let missing = capabilities.missing_for_uring();
    if missing.is_empty() {
        return None;
    }
    let reason = format!("kernel {} lacks {}", capabilities.kernel, missing.join(", "));
    Some((reason, String::from("kernel 6.1 or later has them all")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::{UringCapabilities, UringRefusal};

    fn host(uring: Result<UringCapabilities, UringRefusal>) -> Capabilities {
        Capabilities { kernel: String::from("6.1.0"), uring }
    }

    fn full() -> UringCapabilities {
        UringCapabilities {
            multishot_accept: true,
            multishot_receive: true,
            buffer_rings: true,
            single_issuer: true,
            defer_taskrun: true,
            ext_arg: true,
            ..UringCapabilities::default()
        }
    }

    fn denied() -> UringRefusal {
        UringRefusal { reason: String::from("EPERM"), remedy: String::from("allow it") }
    }

    #[test]
    fn auto_takes_io_uring_only_if_all_of_it_is_there() {
        let chosen = |uring| choose(TransportChoice::Auto, &host(uring)).unwrap();
        assert_eq!(chosen(Ok(full())).0, TransportKind::Uring);
        let (kind, reason) = chosen(Ok(UringCapabilities { defer_taskrun: false, ..full() }));
        assert_eq!(kind, TransportKind::Epoll);
        assert!(reason.contains("lacks DEFER_TASKRUN"), "{reason}");
        let (kind, reason) = chosen(Err(denied()));
        assert_eq!(kind, TransportKind::Epoll);
        assert!(reason.contains("EPERM; allow it"), "{reason}");
    }

    #[test]
    fn io_uring_asked_for_and_missing_is_an_error_with_a_remedy() {
        let error = choose(TransportChoice::Uring, &host(Err(denied()))).unwrap_err().to_string();
        assert!(error.contains("EPERM; allow it"), "{error}");
        let old = UringCapabilities { multishot_receive: false, ..full() };
        let error = choose(TransportChoice::Uring, &host(Ok(old))).unwrap_err().to_string();
        assert!(error.contains("multishot receive"), "{error}");
        assert!(error.contains("6.1"), "{error}");
    }

    #[test]
    fn epoll_asked_for_is_epoll() {
        let (kind, _) = choose(TransportChoice::Epoll, &host(Ok(full()))).unwrap();
        assert_eq!(kind, TransportKind::Epoll);
    }
}
