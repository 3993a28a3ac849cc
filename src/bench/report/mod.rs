//! The result of the bench: all measurements, and the quantities that follow from them.

mod json;
mod table;

use super::{
    audit::Audit,
    idle::Idle,
    latency::Latency,
    round::{PerStep, Round},
    subscribers::Received,
    turns::Turn,
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

impl Report {
    /// Whether no step was lost or done twice, no golden shape was wrong, and each subscriber
    /// received every event once.
    pub fn is_right(&self) -> bool {
        self.audit.lost_steps == 0
            && self.audit.duplicated_steps == 0
            && self.golden_problems.is_empty()
            && self.received().is_none_or(Received::is_all)
    }

    fn received(&self) -> Option<&Received> {
        self.subscribed.as_ref()?.received.as_ref()
    }

    fn mean(&self, of: impl Fn(&Round) -> f64) -> f64 {
        self.rounds.iter().map(of).sum::<f64>() / self.rounds.len().max(1) as f64
    }

    fn mean_of(&self, of: impl Fn(&Round) -> Option<f64>) -> Option<f64> {
        // One unknown value makes the mean unknown: a mean of the rest would pass for the whole.
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
        // By pairs, since the machine changes from one round to the next.
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
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

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
    fn report_of_several_rounds_contains_their_mean() {
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
    fn report_with_a_filled_database_contains_the_ratio_to_the_empty_one() {
        let mut report = report(&[100.0]);
        report.empty = Some(Round {
            steps_per_second: 125.0,
            ..Round::default()
        });
        assert_eq!(report.to_json()["filled_time_ratio"].to_string(), "1.250");
        assert!(report.rows().iter().any(|(_, value, _)| value == "1.25 x"));
    }

    #[test]
    fn report_with_an_event_missing_or_repeated_is_wrong() {
        for (each, is_right, said) in [
            ([7, 7], true, "7 each"),
            ([6, 7], false, "6 to 7"),
            ([7, 8], false, "7 to 8"),
            ([8, 8], false, "8 each"),
        ] {
            let mut report = report(&[1.0]);
            let received = Some(Received {
                written: 7,
                each: each.into(),
                behind: Duration::from_millis(300),
            });
            report.subscribed = Some(Round {
                received,
                ..Round::default()
            });
            assert_eq!(report.is_right(), is_right, "{each:?}");
            let row = report
                .rows()
                .into_iter()
                .find(|(what, ..)| what == "2 subscribers: received, of 7 events");
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
    fn report_with_subscribers_contains_the_median_ratio_of_the_turns() {
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
    fn report_with_a_step_lost_or_repeated_is_wrong() {
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
