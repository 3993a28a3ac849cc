//! The table of both runs beside the article's claims.

use std::fmt::{self, Write as _};

use serde::Serialize;

use crate::{
    audit::{Audit, Quantiles},
    outage::Outage,
};

/// Both runs under one seed, and the outage after them.
#[derive(Debug, Serialize)]
pub struct Report {
    pub seed: u64,
    pub naive: Audit,
    pub tasker: Audit,
    /// None if it was not played.
    pub outage: Option<Outage>,
}

impl Report {
    /// Whether every registration through Tasker has a known end with nothing half done, and the
    /// outage caused no problems.
    pub fn is_clean(&self) -> bool {
        let survived = self
            .outage
            .as_ref()
            .is_none_or(|outage| outage.problems().is_empty());
        self.tasker.partial == 0 && self.tasker.unknown == 0 && survived
    }
}

const HEAD: [&str; 4] = ["", "naive", "through Tasker", "the article"];

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (naive, tasker) = (&self.naive, &self.tasker);
        let row = |name: &'static str, cell: &dyn Fn(&Audit) -> String, article: &'static str| {
            [
                name.to_owned(),
                cell(naive),
                cell(tasker),
                article.to_owned(),
            ]
        };
        let rows = [
            HEAD.map(str::to_owned),
            row("registrations asked", &|a| a.asked.to_string(), ""),
            row("completed", &|a| share(a.completed, a.asked), ""),
            row("failed", &|a| share(a.failed, a.asked), "40 % → 2 %"),
            row(
                "  refused, with nothing created",
                &|a| a.refused.to_string(),
                "",
            ),
            row(
                "users left in a partial state",
                &|a| share(a.partial, a.asked),
                "",
            ),
            row(
                "users in an unknown state",
                &|a| share(a.unknown, a.asked),
                "",
            ),
            row("users mailed twice", &|a| a.mailed_twice.to_string(), ""),
            row("service hiccups met", &|a| a.hiccups.to_string(), ""),
            row(
                "  recovered automatically",
                &|a| share(a.recovered, a.hiccups),
                "90 %",
            ),
            row("caller waits, p50 / p95", &|a| times(&a.answer), ""),
            row("registered after, p50 / p95", &|a| times(&a.duration), ""),
        ];
        f.write_str(&table(&rows))?;
        writeln!(f)?;
        f.write_str(
            "partial: the services hold some parts of the registration and lack others\n\
             unknown: the last call got no answer, the task did not end, or it contradicts the services\n\
             (one user can be both)\n\
             recovered: the step succeeded on a later attempt, within its limit; no hiccup here lasts longer than that\n\
             registered after: of the completed ones; through Tasker, the waits between attempts included\n",
        )
    }
}

/// Names aligned left, numbers aligned right, a rule under the head.
pub fn table<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let mut line = format!("{:<1$}", row[0], widths[0]);
        for (cell, width) in row[1..].iter().zip(&widths[1..]) {
            // Writing to a String cannot fail.
            let _ = write!(line, "   {cell:>width$}");
        }
        text.push_str(line.trim_end());
        text.push('\n');
        if number == 0 {
            text.push_str(&"─".repeat(widths.iter().sum::<usize>() + 3 * (COLUMNS - 1)));
            text.push('\n');
        }
    }
    text
}

pub fn share(part: usize, whole: usize) -> String {
    if whole == 0 {
        return part.to_string();
    }
    format!("{part} ({:.1} %)", part as f64 * 100.0 / whole as f64)
}

fn times(quantiles: &Quantiles) -> String {
    format!("{} / {}", time(quantiles.p50_ms), time(quantiles.p95_ms))
}

fn time(ms: f64) -> String {
    if ms < 1000.0 {
        format!("{ms:.0} ms")
    } else {
        format!("{:.1} s", ms / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_columns_are_aligned() {
        let naive = Audit {
            asked: 300,
            completed: 180,
            failed: 120,
            partial: 90,
            hiccups: 110,
            ..Audit::default()
        };
        let tasker = Audit {
            asked: 300,
            completed: 294,
            failed: 6,
            hiccups: 200,
            recovered: 200,
            ..Audit::default()
        };
        let report = Report {
            seed: 42,
            naive,
            tasker,
            outage: None,
        };
        let text = report.to_string();
        assert!(
            text.contains("120 (40.0 %)        6 (2.0 %)    40 % → 2 %"),
            "{text}"
        );
        assert!(
            text.contains("0 (0.0 %)    200 (100.0 %)          90 %"),
            "{text}"
        );
        assert!(report.is_clean());
    }
}
