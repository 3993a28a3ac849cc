//! The report as a table.

use super::Report;
use crate::bench::{latency::Latency, round::Round, turns};

/// A row of the table: the quantity, its value, and its budget.
pub type Row = (String, String, &'static str);

impl Report {
    /// The report as rows for people.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows = self.throughput_rows();
        rows.extend(self.latency_rows());
        rows.extend(self.cost_rows());
        rows.extend(self.ratio_rows());
        rows.extend(self.idle_rows());
        rows.extend(self.subscriber_rows());
        rows.extend(self.audit_rows());
        rows
    }

    fn throughput_rows(&self) -> Vec<Row> {
        let per_second = |value: f64| format!("{value:.0}");
        vec![
            row(
                "steps per second",
                per_second(self.mean(|r| r.steps_per_second)),
                ">= 15000",
            ),
            row(
                "tasks per second",
                per_second(self.mean(|r| r.tasks_per_second)),
                "",
            ),
            row(
                "bare SQL, steps per second",
                per_second(self.mean(|r| r.ceiling.steps_per_second)),
                "",
            ),
            row(
                "share of bare SQL",
                format!("{:.0} %", 100.0 * self.mean(Round::ceiling_ratio)),
                ">= 60 %",
            ),
        ]
    }

    fn latency_rows(&self) -> Vec<Row> {
        self.latencies.iter().map(latency_row).collect()
    }

    fn cost_rows(&self) -> Vec<Row> {
        let cpu = self.cpu();
        let per_step = [
            (
                "Postgres under bare SQL",
                self.mean_of(|r| r.ceiling.cpu_per_step),
            ),
            ("Postgres", cpu.postgres),
            ("server", cpu.server),
            ("workers", cpu.workers),
            ("client", cpu.client),
            ("all", cpu.total()),
        ];
        let mut rows = vec![row(
            "commits per step",
            format!("{:.4}", self.mean(|r| r.commits_per_step)),
            "",
        )];
        rows.extend(
            per_step.map(|(who, us)| row(format!("CPU per step, {who}"), number(us, 1, " us"), "")),
        );
        let others = self.mean_of(|r| r.others_cpu_percent);
        rows.extend([
            row("CPU of others", number(others, 0, " % of a core"), ""),
            row(
                "server's memory",
                number(self.rss(), 0, " MiB"),
                "<= 150 MiB",
            ),
            row(
                "fdatasync of 8 KiB",
                number(self.fdatasync_us, 0, " us"),
                "",
            ),
        ]);
        rows
    }

    /// The costs of a filled database, a limit and subscribers.
    fn ratio_rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        if self.empty.is_some() {
            let what = format!(
                "{} finished, {} waiting: time per step",
                self.preloaded, self.waiting
            );
            rows.push(row(what, number(self.filled_ratio(), 2, " x"), "<= 1.3 x"));
            rows.push(row(
                "the same: CPU per step",
                number(self.filled_cpu_ratio(), 2, " x"),
                "<= 1.3 x",
            ));
        }
        if let Some(ratio) = self.limited_ratio() {
            rows.push(row(
                "throughput with a limit",
                format!("{ratio:.2} x"),
                ">= 0.9 x",
            ));
        }
        if let Some(ratio) = turns::ratio(&self.turns) {
            let value = format!(
                "{:.2} x, half of the turns {:.2} to {:.2}",
                ratio.median, ratio.lower, ratio.upper
            );
            rows.push(row("throughput with subscribers", value, ">= 0.9 x"));
        }
        rows
    }

    fn idle_rows(&self) -> Vec<Row> {
        let Some(idle) = self.idle else {
            return Vec::new();
        };
        vec![
            row(
                "idle, 50 workers: queries",
                format!("{:.1} /s", idle.queries_per_second),
                "<= 5 /s",
            ),
            row(
                "idle, 50 workers: server",
                number(idle.server_cpu_percent, 2, " % of a core"),
                "<= 1 %",
            ),
            row(
                "idle, 50 workers: Postgres",
                number(idle.postgres_cpu_percent, 2, " % of a core"),
                "",
            ),
        ]
    }

    fn subscriber_rows(&self) -> Vec<Row> {
        let Some(received) = self.received() else {
            return Vec::new();
        };
        let what = format!(
            "{} subscribers: received, of {} events",
            received.each.len(),
            received.written
        );
        vec![
            row(what, spread(&received.each), "all, once"),
            row(
                "the same: behind after the load",
                format!("{:.1} s", received.behind.as_secs_f64()),
                "",
            ),
        ]
    }

    fn audit_rows(&self) -> Vec<Row> {
        vec![
            row("lost steps", self.audit.lost_steps.to_string(), "0"),
            row(
                "duplicated steps",
                self.audit.duplicated_steps.to_string(),
                "0",
            ),
            row(
                "golden shapes wrong",
                self.golden_problems.len().to_string(),
                "0",
            ),
        ]
    }
}

fn latency_row(l: &Latency) -> Row {
    let budget = if l.clients == 1 {
        "p50 <= 4, p99 <= 12 ms"
    } else {
        ""
    };
    let value = if l.p50_ms.is_nan() {
        String::new()
    } else {
        format!(
            "p50 {:.1}, p99 {:.1} ms, {:.0}/s",
            l.p50_ms, l.p99_ms, l.chains_per_second
        )
    };
    row(format!("chains, {} at once", l.clients), value, budget)
}

fn row(what: impl Into<String>, value: String, budget: &'static str) -> Row {
    (what.into(), value, budget)
}

/// `7 each`, or `5 to 7`.
fn spread(counts: &[u64]) -> String {
    match (counts.iter().min(), counts.iter().max()) {
        (Some(least), Some(most)) if least < most => format!("{least} to {most}"),
        (least, _) => format!("{} each", least.copied().unwrap_or_default()),
    }
}

fn number(value: Option<f64>, digits: usize, unit: &str) -> String {
    value
        .map(|v| format!("{v:.digits$}{unit}"))
        .unwrap_or_default()
}
