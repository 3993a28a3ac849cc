//! `/metrics` in the text format of Prometheus. docs/metrics.md has a line for each name; a test
//! compares the two.

use std::{fmt, sync::Arc};

use axum::{
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeGaugeValue, MetricEncoder, NoLabelSet, prometheus_text},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use crate::{
    domain::circuit::CircuitState,
    engine::{
        Engine, Gauges, Histogram, Loop, MAX_LABEL_SETS, Metrics, OTHER, StepCounts, Waiting,
    },
};

pub async fn page(State(engine): State<Engine>) -> Response {
    // A registry for each scrape: the values stay in the engine's counters and are only collected
    // here.
    let mut registry = Registry::with_prefix("tasker");
    registry.register_collector(Box::new(Scrape::of(&engine).await));
    let mut text = String::new();
    match prometheus_text::encode(&mut text, &registry) {
        Ok(()) => ([(CONTENT_TYPE, prometheus_text::CONTENT_TYPE)], text).into_response(),
        Err(fmt::Error) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// All values of one scrape.
#[derive(Debug)]
struct Scrape {
    metrics: Arc<Metrics>,
    now: Gauges,
    /// Of the steps that wait, those with a series of their own.
    waiting: Vec<Waiting>,
}

impl Scrape {
    async fn of(engine: &Engine) -> Self {
        let now = engine.gauges().await;
        let waiting = now.waiting.as_deref().map(|waiting| bounded(waiting));
        Self {
            metrics: Arc::clone(engine.metrics()),
            waiting: waiting.unwrap_or_default(),
            now,
        }
    }
}

/// At most `MAX_LABEL_SETS` lanes; the others are combined in one.
fn bounded(waiting: &[Waiting]) -> Vec<Waiting> {
    // Each lane is a series in Prometheus, where an unbounded number would exhaust the memory.
    let (shown, rest) = waiting.split_at(waiting.len().min(MAX_LABEL_SETS));
    let mut all = shown.to_vec();
    if let Some(first) = rest.first() {
        let mut other = first.clone();
        (other.lane.namespace, other.lane.handler, other.lane.service) =
            (OTHER.into(), OTHER.into(), OTHER.into());
        other.steps = rest.iter().map(|w| w.steps).sum();
        other.oldest = rest.iter().map(|w| w.oldest).max().unwrap_or_default();
        all.push(other);
    }
    all
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Out(encoder);
        self.tasks(&mut out)?;
        self.steps(&mut out)?;
        self.queue(&mut out)?;
        self.workers(&mut out)?;
        self.events(&mut out)?;
        self.transactions(&mut out)?;
        self.edge(&mut out)?;
        self.server(&mut out)
    }
}

impl Scrape {
    fn tasks(&self, out: &mut Out<'_>) -> fmt::Result {
        let all = self.metrics.tasks.all();
        let labels = |of: &[String; 2]| labels(["namespace", "task_name"], of);
        out.counters(
            "tasks_submitted",
            "Tasks stored",
            all.iter().map(|(of, n)| (labels(of), n.submitted.get())),
        )?;
        let ended = all.iter().flat_map(|(of, n)| {
            n.ended()
                .map(|(state, n)| ([labels(of), vec![("state", state.to_string())]].concat(), n))
        });
        out.counters("tasks_ended", "Tasks that reached a final state", ended)
    }

    fn steps(&self, out: &mut Out<'_>) -> fmt::Result {
        let all = self.metrics.steps.all();
        let rows = |of: fn(&StepCounts) -> u64| {
            all.iter()
                .map(|(labels, n)| (lane(labels), of(n)))
                .collect::<Vec<_>>()
        };
        out.counters(
            "steps_completed",
            "Steps that succeeded",
            rows(|n| n.completed.get()),
        )?;
        out.counters(
            "steps_failed",
            "Steps that ended in error",
            rows(|n| n.failed.get()),
        )?;
        out.counters(
            "steps_skipped",
            "Steps skipped by a condition or an operator",
            rows(|n| n.skipped.get()),
        )?;
        out.counters(
            "steps_resolved",
            "Steps resolved by an operator",
            rows(|n| n.resolved.get()),
        )?;
        out.counters(
            "steps_retried",
            "Failed attempts that are retried",
            rows(|n| n.retried.get()),
        )?;
        let attempts = all.iter().flat_map(|(of, n)| {
            n.attempts().map(|(kind, n)| {
                (
                    [lane(of), vec![("outcome", kind.as_str().to_owned())]].concat(),
                    n,
                )
            })
        });
        out.counters("step_attempts", "Ended attempts", attempts)?;
        let run = all.iter().map(|(of, n)| (lane(of), &n.run));
        out.histograms(
            "step_run",
            "Time from the start of an attempt to its result or time-out",
            Some(&Unit::Seconds),
            run,
        )
    }

    fn queue(&self, out: &mut Out<'_>) -> fmt::Result {
        let all = &self.waiting;
        let of = |w: &Waiting| {
            lane(&[
                w.lane.namespace.clone(),
                w.lane.handler.clone(),
                w.lane.service.clone(),
            ])
        };
        let steps = all.iter().map(|w| (of(w), w.steps));
        out.gauges(
            "queue_ready_steps",
            "Steps that wait for a worker",
            None,
            steps,
        )?;
        let oldest = all.iter().map(|w| (of(w), w.oldest.as_secs_f64()));
        out.gauges(
            "queue_oldest_ready",
            "Age of the longest waiting step",
            Some(&Unit::Seconds),
            oldest,
        )
    }

    fn workers(&self, out: &mut Out<'_>) -> fmt::Result {
        out.number(
            "workers_connected",
            "Workers with a stream on this server",
            self.now.workers,
        )?;
        out.number(
            "slots_used",
            "Steps in progress on the workers of this server",
            self.now.slots_used,
        )?;
        out.number(
            "slots_free",
            "Free slots of the workers of this server",
            self.now.slots_free,
        )?;
        let stale = [(Vec::new(), self.metrics.results_stale.get())];
        out.counters(
            "results_stale",
            "Results that arrived after the end of their attempts, without effect",
            stale,
        )
    }

    fn events(&self, out: &mut Out<'_>) -> fmt::Result {
        out.number(
            "event_subscribers",
            "Event subscribers on this server",
            self.now.subscribers,
        )?;
        let lag = [(Vec::new(), self.now.event_lag.as_secs_f64())];
        out.gauges(
            "event_lag",
            "Age of the oldest event in the last delivery to subscribers",
            Some(&Unit::Seconds),
            lag,
        )
    }

    fn transactions(&self, out: &mut Out<'_>) -> fmt::Result {
        let of = |l: Loop| vec![("loop", l.as_str().to_owned())];
        let batches = Loop::ALL.map(|l| (of(l), &self.metrics.of_loop(l).batch));
        out.histograms(
            "transaction_inputs",
            "Inputs that share a transaction",
            None,
            batches,
        )?;
        let commits = Loop::ALL.map(|l| (of(l), &self.metrics.of_loop(l).commit));
        out.histograms(
            "commit",
            "Time of a transaction's writes and its commit",
            Some(&Unit::Seconds),
            commits,
        )?;
        let collisions = self
            .now
            .collisions
            .map(|(kind, n)| (vec![("kind", kind.to_owned())], n));
        out.counters(
            "collisions",
            "Transactions retried after a conflict with another one",
            collisions,
        )?;
        let judging = &self.metrics.judging;
        let time = [(Vec::new(), &judging.time)];
        out.histograms(
            "judging",
            "Duration of evaluations on the evaluation threads",
            Some(&Unit::Seconds),
            time,
        )?;
        let costly = [(Vec::new(), judging.too_costly.get())];
        out.counters(
            "judging_too_costly",
            "Inputs over the budget of an evaluation",
            costly,
        )?;
        let stuck = [(Vec::new(), judging.stuck.get())];
        out.counters(
            "judging_given_up",
            "Evaluations abandoned after their time limit",
            stuck,
        )?;
        out.number(
            "judging_waiting",
            "Inputs that wait for an evaluation",
            self.now.judging,
        )?;
        let stalled = [(Vec::new(), self.now.stalled.as_secs_f64())];
        let help = "Longest time without progress of a loop that has work";
        out.gauges("loop_stalled", help, Some(&Unit::Seconds), stalled)?;
        let untold = [(Vec::new(), self.metrics.untold.get())];
        out.counters(
            "transactions_untold",
            "Transactions whose spans and log lines were dropped under load",
            untold,
        )
    }

    fn edge(&self, out: &mut Out<'_>) -> fmt::Result {
        let edge = &self.metrics.edge;
        out.number(
            "connections_open",
            "Connections to this server's port",
            edge.connections(),
        )?;
        let not_accepted = [(Vec::new(), edge.not_accepted.get())];
        out.counters(
            "connections_not_accepted",
            "Failed accepts of connections",
            not_accepted,
        )?;
        let refused = edge
            .refusals()
            .map(|(why, n)| (vec![("reason", why.as_str().to_owned())], n));
        out.counters(
            "refused",
            "Connections and requests refused before an rpc",
            refused,
        )
    }

    fn server(&self, out: &mut Out<'_>) -> fmt::Result {
        let [found, repaired, standing] = self.now.audits;
        out.counters(
            "liveness_found",
            "Liveness violations that the auditor found",
            [(Vec::new(), found)],
        )?;
        out.counters(
            "liveness_repaired",
            "Liveness violations that the auditor repaired",
            [(Vec::new(), repaired)],
        )?;
        out.gauges(
            "liveness_violations",
            "Liveness violations that the auditor cannot repair",
            None,
            [(Vec::new(), standing)],
        )?;
        // A series for each state, of which one is 1: a query needs no numbers for the states.
        let circuits = self.now.circuits.iter().flat_map(|(of, state)| {
            CircuitState::ALL.map(CircuitState::as_str).map(|name| {
                let mut labels = labels(["namespace", "service"], of);
                labels.push(("state", name.to_owned()));
                (labels, u32::from(name == *state))
            })
        });
        out.gauges(
            "circuit_state",
            "1 for the current state of a service's circuit",
            None,
            circuits,
        )?;
        out.counters(
            "service_rows_read",
            "Rows of services that were read from the database",
            [(Vec::new(), self.now.service_rows_read)],
        )?;
        out.number(
            "database_up",
            "1 if the database answers",
            usize::from(!self.now.health.database_away),
        )?;
        out.number(
            "draining",
            "1 from the start of a shutdown",
            usize::from(self.now.health.draining),
        )?;
        let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        out.gauges(
            "build_info",
            "The version of the server",
            None,
            [(version, 1_u32)],
        )
    }
}

type Labels = Vec<(&'static str, String)>;

fn labels<const N: usize>(names: [&'static str; N], values: &[String; N]) -> Labels {
    names.into_iter().zip(values.iter().cloned()).collect()
}

fn lane(values: &[String; 3]) -> Labels {
    labels(["namespace", "handler", "service"], values)
}

/// Writes one metric after another, each with its help and its type.
struct Out<'a>(DescriptorEncoder<'a>);

impl Out<'_> {
    fn counters(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (Labels, u64)>,
    ) -> fmt::Result {
        let mut metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in rows {
            metric
                .encode_family(&labels)?
                .encode_counter::<NoLabelSet, _, f64>(&value, None)?;
        }
        Ok(())
    }

    fn gauges<V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        rows: impl IntoIterator<Item = (Labels, V)>,
    ) -> fmt::Result {
        let mut metric = self
            .0
            .encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (labels, value) in rows {
            let mut one: MetricEncoder<'_> = metric.encode_family(&labels)?;
            one.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn number(&mut self, name: &str, help: &str, value: usize) -> fmt::Result {
        self.0
            .encode_descriptor(name, help, None, MetricType::Gauge)?
            .encode_gauge(&value)
    }

    fn histograms<'h>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        rows: impl IntoIterator<Item = (Labels, &'h Histogram)>,
    ) -> fmt::Result {
        let mut metric = self
            .0
            .encode_descriptor(name, help, unit, MetricType::Histogram)?;
        for (labels, histogram) in rows {
            let (sum, buckets) = histogram.read();
            // From the same read as the buckets, so that the count cannot disagree with their sum.
            let count = buckets.iter().map(|(_, n)| n).sum();
            metric
                .encode_family(&labels)?
                .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }
}
