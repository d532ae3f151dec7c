// SPDX-License-Identifier: EUPL-1.2
//! What a run of the suite found, as a table.

use std::fmt;

use super::check::{Failure, Outcome};

/// What a run of the suite found. Displays as a table, with the failures below it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    device: String,
    rows: Vec<Row>,
    failures: Vec<Failure>,
}

/// What was found of one operation or property.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The operation's name, or the property's.
    pub area: &'static str,
    /// How many cases were tried.
    pub cases: usize,
    /// How many of them failed.
    pub failed: usize,
    /// The largest of each figure over the cases that passed; `None` for a property, which has none.
    pub worst: Option<Outcome>,
}

impl Report {
    pub(super) fn new(device: String) -> Report {
        Report { device, ..Report::default() }
    }

    fn row(&mut self, area: &'static str) -> &mut Row {
        let at = self.rows.iter().position(|row| row.area == area).unwrap_or_else(|| {
            self.rows.push(Row { area, cases: 0, failed: 0, worst: None });
            self.rows.len() - 1
        });
        &mut self.rows[at]
    }

    /// Adds how a case of an operation went.
    pub(super) fn outcome(&mut self, area: &'static str, outcome: Result<Outcome, Failure>) {
        match outcome {
            Err(failure) => self.failure(failure),
            Ok(outcome) => {
                let row = self.row(area);
                row.cases += 1;
                let worst = row.worst.get_or_insert_default();
                worst.error = worst.error.max(outcome.error);
                worst.tolerance_used = worst.tolerance_used.max(outcome.tolerance_used);
                worst.decomposition = match (worst.decomposition, outcome.decomposition) {
                    (Some(a), Some(b)) => Some(a.max(b)),
                    (a, b) => a.or(b),
                };
            }
        }
    }

    /// Adds whether a case of a property holds.
    pub(super) fn property(&mut self, area: &'static str, case: impl fmt::Display, holds: Result<(), String>) {
        match holds {
            Ok(()) => self.row(area).cases += 1,
            Err(what) => self.failure(Failure { area, case: case.to_string(), what }),
        }
    }

    fn failure(&mut self, failure: Failure) {
        let row = self.row(failure.area);
        row.cases += 1;
        row.failed += 1;
        self.failures.push(failure);
    }

    /// One row for each operation and property, in the order they were tried.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Every failure, in the order they were found.
    pub fn failures(&self) -> &[Failure] {
        &self.failures
    }

    /// Whether nothing failed.
    pub fn passed(&self) -> bool {
        self.failures.is_empty()
    }

    /// For a test: that nothing failed.
    ///
    /// # Panics
    /// If something did, with the report.
    #[track_caller]
    pub fn assert_passed(&self) {
        assert!(self.passed(), "{self}");
    }
}

/// How many failures the table lists in full.
const LISTED: usize = 40;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cases: usize = self.rows.iter().map(|row| row.cases).sum();
        writeln!(f, "{}: {cases} cases, {} failed", self.device, self.failures.len())?;
        writeln!(
            f,
            "{:<28} {:>6} {:>6}  {:>9} {:>12} {:>13}",
            "", "cases", "failed", "ulps off", "of tolerance", "decomposition"
        )?;
        for Row { area, cases, failed, worst } in &self.rows {
            write!(f, "{area:<28} {cases:>6} {failed:>6}")?;
            if let Some(Outcome { error, tolerance_used, decomposition }) = worst {
                write!(f, "  {error:>9.2} {:>11.0}%", 100.0 * tolerance_used)?;
                if let Some(decomposition) = decomposition {
                    write!(f, " {decomposition:>13.2}")?;
                }
            }
            writeln!(f)?;
        }
        for failure in self.failures.iter().take(LISTED) {
            writeln!(f, "{failure}")?;
        }
        if self.failures.len() > LISTED {
            writeln!(f, "… and {} more", self.failures.len() - LISTED)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_keep_the_largest_figures_good() {
        let mut report = Report::new("somewhere".into());
        let outcome = |error, decomposition| Outcome { error, tolerance_used: error, decomposition };
        report.outcome("linear", Ok(outcome(0.25, None)));
        report.outcome("linear", Ok(outcome(0.125, Some(0.5))));
        report.property("memory", "a limit", Ok(()));
        let worst = Some(outcome(0.25, Some(0.5)));
        assert_eq!(report.rows()[0], Row { area: "linear", cases: 2, failed: 0, worst });
        assert_eq!(report.rows()[1].worst, None);
        report.assert_passed();
        assert!(report.to_string().contains("somewhere: 3 cases, 0 failed"), "{report}");
    }

    #[test]
    #[should_panic(expected = "memory: it leaks\n    in a limit")]
    fn a_failure_fails_the_test_bad() {
        let mut report = Report::new("somewhere".into());
        report.property("memory", "a limit", Err("it leaks".into()));
        assert_eq!((report.rows()[0].cases, report.rows()[0].failed), (1, 1));
        report.assert_passed();
    }
}
