// SPDX-License-Identifier: EUPL-1.2
//! What a run of the suite found, as a table.

use std::fmt;

use super::check::{Failure, Outcome};

/// What a run of the suite found. Displays as a table, with the failures below it.
///
/// The most that an operation is off the reference may look large: there are cases where the formula itself
/// cancels (GELU of −50) or the operands may be rounded first (a linear layer with bf16 weights). The tolerance
/// knows, case by case; the median tells of the ordinary.
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
    /// How the others went; of a property, which has no figures, nothing.
    pub outcomes: Vec<Outcome>,
}

impl Report {
    pub(super) fn new(device: String) -> Report {
        Report { device, ..Report::default() }
    }

    fn row(&mut self, area: &'static str) -> &mut Row {
        let at = self.rows.iter().position(|row| row.area == area).unwrap_or_else(|| {
            self.rows.push(Row { area, cases: 0, failed: 0, outcomes: vec![] });
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
                row.outcomes.push(outcome);
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

/// The median and the largest of some figures, if there are any.
fn spread(figures: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    Some((*figures.get(figures.len() / 2)?, *figures.last()?))
}

/// How many failures the table lists in full.
const LISTED: usize = 40;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cases: usize = self.rows.iter().map(|row| row.cases).sum();
        writeln!(f, "{}: {cases} cases, {} failed", self.device, self.failures.len())?;
        writeln!(
            f,
            "{:<20} {:>6} {:>6} {:>22} {:>26}",
            "", "", "", "ulps off the reference", "ulps off the decomposition"
        )?;
        writeln!(
            f,
            "{:<20} {:>6} {:>6} {:>11} {:>10} {:>15} {:>10}",
            "", "cases", "failed", "median", "most", "median", "most"
        )?;
        for Row { area, cases, failed, outcomes } in &self.rows {
            write!(f, "{area:<20} {cases:>6} {failed:>6}")?;
            if let Some((median, most)) = spread(outcomes.iter().map(|outcome| outcome.error)) {
                write!(f, " {median:>11.2} {most:>10.2}")?;
            }
            if let Some((median, most)) = spread(outcomes.iter().filter_map(|outcome| outcome.decomposition)) {
                write!(f, " {median:>15.2} {most:>10.2}")?;
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
    fn rows_tell_the_median_and_the_most_good() {
        let mut report = Report::new("somewhere".into());
        for error in [0.25, 1.5, 0.5] {
            report.outcome("linear", Ok(Outcome { error, decomposition: (error > 1.0).then_some(2.0) }));
        }
        report.property("memory", "a limit", Ok(()));
        report.assert_passed();
        let table = report.to_string();
        let row = table.lines().find(|line| line.starts_with("linear")).unwrap();
        let figures: Vec<&str> = row.split_whitespace().skip(1).collect();
        assert_eq!(figures, ["3", "0", "0.50", "1.50", "2.00", "2.00"]);
        let row = table.lines().find(|line| line.starts_with("memory")).unwrap();
        assert_eq!(row.split_whitespace().collect::<Vec<_>>(), ["memory", "1", "0"]);
        assert!(table.contains("somewhere: 4 cases, 0 failed"), "{table}");
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
