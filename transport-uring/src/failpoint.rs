//! Named places at which a test ends the process, as a kill at that very moment would.
//!
//! With the feature `failpoints` the environment variable `RINGLANE_FAILPOINT` names one of
//! [`NAMES`], and after a colon which visit of it is meant, from 1. Without the feature, which is
//! how the program is shipped, nothing is compiled.

/// All places.
pub const NAMES: [&str; 26] = [
    "epoch.before",
    "epoch.before-rename",
    "epoch.after",
    "append.before",
    "append.after",
    "write.before",
    "write.after",
    "sync.before",
    "sync.after",
    "segment.before-rename",
    "segment.after-rename",
    "segment.made",
    "file.before-rename",
    "file.after-rename",
    "checkpoint.taken",
    "checkpoint.before-rename",
    "checkpoint.after-rename",
    "remove.before",
    "remove.after",
    "puback.before",
    "pubrec.before",
    "pubrec.after",
    "pubrel.before",
    "pubrel.after",
    "pubcomp.before",
    "pubcomp.after",
];

/// Ends the process (SIGABRT) if this is the place and the visit that the environment names.
#[cfg(feature = "failpoints")]
pub fn hit(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static PLAN: OnceLock<Option<(String, AtomicU64)>> = OnceLock::new();
    debug_assert!(NAMES.contains(&name), "{name} is listed");
    let plan = PLAN.get_or_init(|| {
        let text = std::env::var("RINGLANE_FAILPOINT").ok()?;
        let (name, visit) = text.split_once(':').unwrap_or((&text, "1"));
        let visit = visit.parse().ok().filter(|visit| 0 < *visit);
        let visit: u64 = visit.expect("RINGLANE_FAILPOINT: a visit is a number from 1");
        assert!(NAMES.contains(&name), "RINGLANE_FAILPOINT: {name} is none of {NAMES:?}");
        Some((name.to_owned(), AtomicU64::new(visit)))
    });
    if let Some((planned, left)) = plan
        && planned == name
        && left.fetch_sub(1, Ordering::SeqCst) == 1
    {
        std::process::abort();
    }
}

/// Nothing.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn hit(_name: &str) {}
