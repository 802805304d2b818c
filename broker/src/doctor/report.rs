//! The findings, and how they are shown.

use serde::Serialize;
use std::fmt::Write;

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be, or of no consequence.
    Ok,
    /// It works, and could work better.
    Warn,
    /// The broker does not start, or not as configured.
    Fail,
}

impl Severity {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

/// One finding.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Check {
    /// The group it belongs to.
    pub area: &'static str,
    /// What was looked at.
    pub name: String,
    /// How bad it is.
    pub severity: Severity,
    /// What was found.
    pub found: String,
    /// What it means and what to change; empty if nothing.
    pub advice: String,
}

/// All findings.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Report {
    /// In the order in which they are shown.
    pub checks: Vec<Check>,
}

impl Report {
    /// Adds a finding that needs nothing.
    pub(super) fn ok(&mut self, area: &'static str, name: &str, found: impl Into<String>) {
        self.add(area, name, Severity::Ok, found, "");
    }

    /// Adds a finding with advice.
    pub(super) fn add(
        &mut self,
        area: &'static str,
        name: &str,
        severity: Severity,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) {
        let (name, found, advice) = (name.to_owned(), found.into(), advice.into());
        self.checks.push(Check { area, name, severity, found, advice });
    }

    /// Whether anything keeps the broker from starting as configured.
    #[must_use]
    pub fn has_failures(&self) -> bool {
        0 < self.count(Severity::Fail)
    }

    fn count(&self, severity: Severity) -> usize {
        self.checks.iter().filter(|check| check.severity == severity).count()
    }

    /// For programs.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let width = self.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
        let mut area = "";
        for check in &self.checks {
            if check.area != area {
                area = check.area;
                let _ = writeln!(text, "{}{area}", if text.is_empty() { "" } else { "\n" });
            }
            let word = check.severity.word();
            let _ = writeln!(text, "  {word:<4}  {:width$}  {}", check.name, check.found);
            if !check.advice.is_empty() {
                let _ = writeln!(text, "{:>1$}  {2}", "->", width + 10, check.advice);
            }
        }
        let (warnings, failures) = (self.count(Severity::Warn), self.count(Severity::Fail));
        let _ = writeln!(
            text,
            "\n{} checks, {warnings} to improve, {failures} failed",
            self.checks.len()
        );
        text
    }
}
