//! What each level that streams are at means, and what it does not survive.

use super::{Facts, Report};
use crate::config::levels_in_use;

pub(super) fn check(facts: &Facts, report: &mut Report) {
    if !facts.config.commit_log.enabled {
        return;
    }
    for used in levels_in_use(&facts.config) {
        let found = format!("{}: {}", used.streams, used.means);
        report.ok("Levels", used.level, found);
    }
}
