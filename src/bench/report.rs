//! The result, as one JSON object and as rows for people.

use serde_json::{Map, Number, Value, json};

use super::{
    audit::Audit,
    idle::Idle,
    latency::Latency,
    round::{PerStep, Round},
    subscribers::Heard,
    turns::{self, Turn},
};

/// All measurements.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub fdatasync_us: Option<f64>,
    /// Before the database was filled.
    pub empty: Option<Round>,
    pub preloaded: i64,
    pub waiting: i64,
    pub rounds: Vec<Round>,
    /// Each follows the round of the same index, with a limit as high as the workers' slots.
    pub limited: Vec<Round>,
    /// Pairs of parts without and with subscribers.
    pub turns: Vec<Turn>,
    /// A whole round with subscribers, each of which must receive every event.
    pub subscribed: Option<Round>,
    pub latencies: Vec<Latency>,
    pub golden_problems: Vec<String>,
    pub audit: Audit,
    pub idle: Option<Idle>,
}

/// A row of the table: the quantity, its value, and its budget.
pub type Row = (String, String, &'static str);

impl Report {
    /// Whether no step was lost or done twice, no golden shape was wrong, and each subscriber
    /// received every event once.
    pub fn is_right(&self) -> bool {
        self.audit.lost_steps == 0
            && self.audit.duplicated_steps == 0
            && self.golden_problems.is_empty()
            && self.heard().is_none_or(Heard::is_all)
    }

    fn heard(&self) -> Option<&Heard> {
        self.subscribed.as_ref()?.heard.as_ref()
    }

    fn mean(&self, of: impl Fn(&Round) -> f64) -> f64 {
        self.rounds.iter().map(of).sum::<f64>() / self.rounds.len().max(1) as f64
    }

    fn mean_of(&self, of: impl Fn(&Round) -> Option<f64>) -> Option<f64> {
        let known: Option<Vec<f64>> = self.rounds.iter().map(of).collect();
        known
            .filter(|k| !k.is_empty())
            .map(|k| k.iter().sum::<f64>() / k.len() as f64)
    }

    fn cpu(&self) -> PerStep {
        PerStep {
            postgres: self.mean_of(|r| r.cpu.postgres),
            server: self.mean_of(|r| r.cpu.server),
            workers: self.mean_of(|r| r.cpu.workers),
            client: self.mean_of(|r| r.cpu.client),
        }
    }

    fn rss(&self) -> Option<f64> {
        let idle = self.idle.and_then(|i| i.server_rss_mib);
        self.rounds
            .iter()
            .filter_map(|r| r.server_rss_mib)
            .chain(idle)
            .reduce(f64::max)
    }

    /// The throughput with a limit, relative to the round before it.
    fn limited_ratio(&self) -> Option<f64> {
        let pairs = self.limited.iter().zip(&self.rounds);
        let ratios: Vec<f64> = pairs
            .map(|(with, without)| with.steps_per_second / without.steps_per_second)
            .collect();
        (!ratios.is_empty()).then(|| ratios.iter().sum::<f64>() / ratios.len() as f64)
    }

    /// How many times as long a step takes in the filled database.
    fn filled_ratio(&self) -> Option<f64> {
        self.empty
            .as_ref()
            .map(|empty| empty.steps_per_second / self.mean(|r| r.steps_per_second))
    }

    /// How many times as much processor time a step takes in the filled database.
    fn filled_cpu_ratio(&self) -> Option<f64> {
        Some(self.cpu().total()? / self.empty.as_ref()?.cpu.total()?)
    }

    /// The report as one JSON object.
    pub fn to_json(&self) -> Value {
        let by_clients = |of: fn(&Latency) -> f64| -> Value {
            self.latencies
                .iter()
                .map(|l| (l.clients.to_string(), rounded(of(l), 2)))
                .collect::<Map<_, _>>()
                .into()
        };
        let cpu = self.cpu();
        json!({
            "steps_per_second": rounded(self.mean(|r| r.steps_per_second), 0),
            "tasks_per_second": rounded(self.mean(|r| r.tasks_per_second), 0),
            "sql_ceiling_steps_per_second": rounded(self.mean(|r| r.ceiling.steps_per_second), 0),
            "sql_ceiling_postgres_cpu_us_per_step": opt(self.mean_of(|r| r.ceiling.cpu_per_step), 1),
            "ceiling_ratio": rounded(self.mean(Round::ceiling_ratio), 3),
            "chain_p50_ms": by_clients(|l| l.p50_ms),
            "chain_p99_ms": by_clients(|l| l.p99_ms),
            "chains_per_second": by_clients(|l| l.chains_per_second),
            "commits_per_step": rounded(self.mean(|r| r.commits_per_step), 4),
            "postgres_cpu_us_per_step": opt(cpu.postgres, 1),
            "server_cpu_us_per_step": opt(cpu.server, 1),
            "worker_cpu_us_per_step": opt(cpu.workers, 1),
            "client_cpu_us_per_step": opt(cpu.client, 1),
            "others_cpu_percent": opt(self.mean_of(|r| r.others_cpu_percent), 0),
            "server_rss_mib": opt(self.rss(), 1),
            "fdatasync_us": opt(self.fdatasync_us, 0),
            "lost_steps": self.audit.lost_steps,
            "duplicated_steps": self.audit.duplicated_steps,
            "repeated_steps": self.audit.repeated_steps,
            "golden_problems": self.golden_problems,
            "preloaded_tasks": self.preloaded,
            "waiting_tasks": self.waiting,
            "filled_time_ratio": opt(self.filled_ratio(), 3),
            "filled_cpu_ratio": opt(self.filled_cpu_ratio(), 3),
            "limited_ratio": opt(self.limited_ratio(), 3),
            "subscribed_ratio": opt(turns::ratio(&self.turns).map(|r| r.median), 3),
            "idle_queries_per_second": opt(self.idle.map(|i| i.queries_per_second), 2),
            "idle_cpu_percent": opt(self.idle.and_then(|i| i.server_cpu_percent), 2),
            "idle_postgres_cpu_percent": opt(self.idle.and_then(|i| i.postgres_cpu_percent), 2),
            "empty_round": self.empty.as_ref().map(Round::to_json),
            "rounds": self.rounds.iter().map(Round::to_json).collect::<Vec<_>>(),
            "subscribed_turns": self.turns.iter().map(Turn::to_json).collect::<Vec<_>>(),
            "subscribed_round": self.subscribed.as_ref().map(Round::to_json),
        })
    }

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
        let of = |l: &Latency| {
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
        };
        self.latencies.iter().map(of).collect()
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
        let Some(heard) = self.heard() else {
            return Vec::new();
        };
        let what = format!(
            "{} subscribers: heard of {} events",
            heard.each.len(),
            heard.written
        );
        vec![
            row(what, spread(&heard.each), "all, once"),
            row(
                "the same: behind after the load",
                format!("{:.1} s", heard.behind.as_secs_f64()),
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

/// A number with this many decimals; null if it is not finite.
pub fn rounded(value: f64, digits: usize) -> Value {
    let text = format!("{value:.digits$}");
    text.parse::<Number>().map_or(Value::Null, Value::Number)
}

/// The same for a value that may be unknown.
pub fn opt(value: Option<f64>, digits: usize) -> Value {
    value.map_or(Value::Null, |v| rounded(v, digits))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench::ceiling::Ceiling;

    fn report(rates: &[f64]) -> Report {
        let ceiling = Ceiling {
            steps_per_second: 200.0,
            cpu_per_step: None,
        };
        let round = |rate: &f64| Round {
            steps_per_second: *rate,
            ceiling,
            ..Round::default()
        };
        Report {
            rounds: rates.iter().map(round).collect(),
            ..Report::default()
        }
    }

    #[test]
    fn the_report_is_the_mean_of_its_rounds() {
        let mut report = report(&[100.0, 120.0]);
        report.latencies.push(Latency {
            clients: 16,
            p50_ms: 1.234,
            p99_ms: f64::NAN,
            chains_per_second: 9.0,
        });
        let json = report.to_json();
        assert_eq!(json["steps_per_second"].to_string(), "110");
        assert_eq!(json["ceiling_ratio"].to_string(), "0.550");
        assert_eq!(json["chain_p50_ms"].to_string(), r#"{"16":1.23}"#);
        assert_eq!(json["chain_p99_ms"]["16"], Value::Null);
        assert_eq!(json["filled_time_ratio"], Value::Null);
        assert_eq!(json["rounds"].as_array().map(Vec::len), Some(2));
    }

    #[test]
    fn a_filled_database_is_compared_with_the_empty_one() {
        let mut report = report(&[100.0]);
        report.empty = Some(Round {
            steps_per_second: 125.0,
            ..Round::default()
        });
        assert_eq!(report.to_json()["filled_time_ratio"].to_string(), "1.250");
        assert!(report.rows().iter().any(|(_, value, _)| value == "1.25 x"));
    }

    #[test]
    fn an_event_too_few_or_too_many_is_wrong() {
        for (each, is_right, said) in [
            ([7, 7], true, "7 each"),
            ([6, 7], false, "6 to 7"),
            ([7, 8], false, "7 to 8"),
            ([8, 8], false, "8 each"),
        ] {
            let mut report = report(&[1.0]);
            let heard = Some(Heard {
                written: 7,
                each: each.into(),
                behind: Duration::from_millis(300),
            });
            report.subscribed = Some(Round {
                heard,
                ..Round::default()
            });
            assert_eq!(report.is_right(), is_right, "{each:?}");
            let row = report
                .rows()
                .into_iter()
                .find(|(what, ..)| what == "2 subscribers: heard of 7 events");
            assert_eq!(row.map(|(_, value, _)| value).as_deref(), Some(said));
            let json = report.to_json();
            assert_eq!(json["subscribed_round"]["events_heard"], json!(each));
        }
        assert_eq!(
            report(&[1.0]).to_json()["rounds"][0]["events_written"],
            Value::Null
        );
    }

    #[test]
    fn subscribers_are_compared_with_what_was_beside_them() {
        let round = |rate| Round {
            steps_per_second: rate,
            ..Round::default()
        };
        let mut report = report(&[1.0]);
        assert_eq!(report.to_json()["subscribed_ratio"], Value::Null);
        report.turns = [(100.0, 80.0), (300.0, 300.0), (100.0, 94.0)]
            .map(|(a, b)| Turn {
                without: round(a),
                with: round(b),
            })
            .into();
        let json = report.to_json();
        assert_eq!(json["subscribed_ratio"].to_string(), "0.940");
        assert_eq!(json["subscribed_turns"][0]["ratio"].to_string(), "0.800");
        let row = report
            .rows()
            .into_iter()
            .find(|(what, ..)| what == "throughput with subscribers");
        assert_eq!(
            row.map(|(_, value, _)| value).as_deref(),
            Some("0.94 x, half of the turns 0.87 to 0.97")
        );
    }

    #[test]
    fn one_step_too_few_or_too_many_is_wrong() {
        assert!(report(&[1.0]).is_right());
        for audit in [
            Audit {
                lost_steps: 1,
                ..Audit::default()
            },
            Audit {
                duplicated_steps: 1,
                ..Audit::default()
            },
        ] {
            assert!(
                !Report {
                    audit,
                    ..report(&[1.0])
                }
                .is_right()
            );
        }
        assert!(
            !Report {
                golden_problems: vec!["x".into()],
                ..report(&[1.0])
            }
            .is_right()
        );
    }
}
