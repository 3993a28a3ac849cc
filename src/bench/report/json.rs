//! The report as one JSON object.

use serde_json::{Map, Number, Value, json};

use super::Report;
use crate::bench::{
    latency::Latency,
    round::Round,
    turns::{self, Turn},
};

impl Report {
    /// The report as one JSON object.
    pub fn to_json(&self) -> Value {
        let latencies = &self.latencies;
        let cpu = self.cpu();
        json!({
            "steps_per_second": rounded(self.mean(|r| r.steps_per_second), 0),
            "tasks_per_second": rounded(self.mean(|r| r.tasks_per_second), 0),
            "sql_ceiling_steps_per_second": rounded(self.mean(|r| r.ceiling.steps_per_second), 0),
            "sql_ceiling_postgres_cpu_us_per_step": opt(self.mean_of(|r| r.ceiling.cpu_per_step), 1),
            "ceiling_ratio": rounded(self.mean(Round::ceiling_ratio), 3),
            "chain_p50_ms": by_clients(latencies, |l| l.p50_ms),
            "chain_p99_ms": by_clients(latencies, |l| l.p99_ms),
            "chains_per_second": by_clients(latencies, |l| l.chains_per_second),
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
            "empty_round": self.empty.as_ref().map(round),
            "rounds": self.rounds.iter().map(round).collect::<Vec<_>>(),
            "subscribed_turns": self.turns.iter().map(turn).collect::<Vec<_>>(),
            "subscribed_round": self.subscribed.as_ref().map(round),
        })
    }
}

/// One measure of the latencies, by the number of clients.
fn by_clients(latencies: &[Latency], measure: fn(&Latency) -> f64) -> Value {
    let measured = latencies
        .iter()
        .map(|l| (l.clients.to_string(), rounded(measure(l), 2)));
    Value::Object(measured.collect::<Map<_, _>>())
}

fn round(round: &Round) -> Value {
    json!({
        "sql_ceiling_steps_per_second": rounded(round.ceiling.steps_per_second, 0),
        "sql_ceiling_postgres_cpu_us_per_step": opt(round.ceiling.cpu_per_step, 1),
        "steps_per_second": rounded(round.steps_per_second, 0),
        "ceiling_ratio": rounded(round.ceiling_ratio(), 3),
        "commits_per_step": rounded(round.commits_per_step, 4),
        "postgres_cpu_us_per_step": opt(round.cpu.postgres, 1),
        "server_cpu_us_per_step": opt(round.cpu.server, 1),
        "worker_cpu_us_per_step": opt(round.cpu.workers, 1),
        "client_cpu_us_per_step": opt(round.cpu.client, 1),
        "others_cpu_percent": opt(round.others_cpu_percent, 0),
        "refused_submits": round.refused_submits,
        "events_written": round.received.as_ref().map(|h| h.written),
        "events_heard": round.received.as_ref().map(|h| &h.each),
        "events_behind_seconds": opt(round.received.as_ref().map(|h| h.behind.as_secs_f64()), 2),
    })
}

fn turn(turn: &Turn) -> Value {
    json!({ "ratio": rounded(turn.ratio(), 3), "without": part(&turn.without), "with": part(&turn.with) })
}

fn part(part: &Round) -> Value {
    json!({
        "steps_per_second": rounded(part.steps_per_second, 0),
        "postgres_cpu_us_per_step": opt(part.cpu.postgres, 1),
        "server_cpu_us_per_step": opt(part.cpu.server, 1),
        "worker_cpu_us_per_step": opt(part.cpu.workers, 1),
        "client_cpu_us_per_step": opt(part.cpu.client, 1),
    })
}

/// A number with this many decimals; null if it is not finite.
fn rounded(value: f64, digits: usize) -> Value {
    // By way of the text, since a rounded `f64` would print more digits again.
    let text = format!("{value:.digits$}");
    text.parse::<Number>().map_or(Value::Null, Value::Number)
}

/// The same for a value that may be unknown.
fn opt(value: Option<f64>, digits: usize) -> Value {
    value.map_or(Value::Null, |v| rounded(v, digits))
}
