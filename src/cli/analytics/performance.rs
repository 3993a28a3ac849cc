//! `tasker analytics performance`.

use super::{OK, Which, duration, failed, percent, say};
use crate::{
    cli::{
        Session,
        error::CliError,
        render::{table::Table, term::clean},
    },
    json,
    proto::{GetPerformanceRequest, Ledger, TemplatePerformance, Times},
};

/// How often tasks and steps succeed, how long they take, and what they wait for
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  tasker analytics performance --namespace user_management
  tasker analytics performance --task-name user_registration --since 7d --timeout 15
  tasker analytics performance --json | jq '.templates[].steps[] | {step, ledger}'

ELAPSED is the time from the completion of a step's parents to its end; the line of a template is the time from submit to end, along the critical path. The causes are means, and sum to the mean of ELAPSED. OVER is the number of attempts that succeeded after --timeout.")]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// Count the successful attempts that a time-out of this many seconds would have failed
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0)]
    timeout: f64,
}

pub async fn run(args: Args, session: &Session) -> Result<u8, CliError> {
    let request = GetPerformanceRequest {
        namespace: args.which.namespace.unwrap_or_default(),
        task_name: args.which.task_name.unwrap_or_default(),
        version: args.which.version.unwrap_or_default(),
        window_seconds: args.which.window,
        max_tasks: args.which.max_tasks,
        timeout_seconds: args.timeout,
    };
    let response = session
        .connect()
        .await?
        .analytics
        .get_performance(request)
        .await;
    let found = response.map_err(|s| failed(&s))?.into_inner();
    if session.json() {
        session.term.json(&json::value(&found))?;
        return Ok(OK);
    }
    session
        .term
        .data(&table(&found.templates).render(&session.term))?;
    say(found.examined, session);
    Ok(OK)
}

fn table(templates: &[TemplatePerformance]) -> Table {
    let mut table = Table::new([
        "NAME",
        "COUNT",
        "OK",
        "RETRIED",
        "ELAPSED",
        "P50",
        "P95",
        "P99",
        "RUN",
        "BACKOFF",
        "CIRCUIT",
        "PAUSE",
        "LIMIT",
        "NO WORKER",
        "DISPATCH",
        "OVER",
    ]);
    for t in templates {
        let name = clean(&format!("{}/{}@{}", t.namespace, t.task_name, t.version));
        // A task has no attempts of its own.
        let over = t.steps.iter().map(|step| step.successes_over_timeout).sum();
        row(
            &mut table,
            name,
            t.count,
            [t.success_rate, t.retry_rate],
            &t.elapsed,
            &t.ledger,
            over,
        );
        for s in &t.steps {
            let rates = [s.success_rate, s.retry_rate];
            let name = format!("  {}", clean(&s.step));
            row(
                &mut table,
                name,
                s.count,
                rates,
                &s.elapsed,
                &s.ledger,
                s.successes_over_timeout,
            );
        }
    }
    table
}

/// A mean as text; empty if it is zero.
fn mean(sum: Option<prost_types::Duration>, count: i32) -> String {
    let sum = sum
        .and_then(|d| std::time::Duration::try_from(d).ok())
        .unwrap_or_default();
    // A template without tasks has no mean.
    let mean = sum
        .checked_div(u32::try_from(count).unwrap_or_default())
        .unwrap_or_default();
    match mean.is_zero() {
        true => String::new(),
        false => duration(mean.try_into().ok()),
    }
}

fn row(
    table: &mut Table,
    name: String,
    count: i32,
    rates: [f64; 2],
    times: &Option<Times>,
    ledger: &Option<Ledger>,
    over: i32,
) {
    let (t, l) = (times.unwrap_or_default(), ledger.unwrap_or_default());
    let mut cells = vec![name, count.to_string()];
    cells.extend(rates.map(percent));
    cells.extend([t.mean, t.p50, t.p95, t.p99].map(duration));
    cells.extend(
        [
            l.run,
            l.backoff,
            l.circuit,
            l.pause,
            l.limit,
            l.no_worker,
            l.dispatch,
        ]
        .map(|sum| mean(sum, count)),
    );
    cells.push(over.to_string());
    table.row(cells);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cli::render::term::Term, proto::StepPerformance};

    #[test]
    fn table_shows_means_of_causes_and_a_dash_for_absent_ones() {
        let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        let step = StepPerformance {
            step: "mail".into(),
            count: 10,
            success_rate: 1.0,
            retry_rate: 0.021,
            elapsed: Some(Times {
                mean: seconds(15),
                ..Times::default()
            }),
            ledger: Some(Ledger {
                run: seconds(30),
                pause: seconds(120),
                wall: seconds(150),
                ..Ledger::default()
            }),
            successes_over_timeout: 3,
            ..Default::default()
        };
        let template = TemplatePerformance {
            namespace: "n".into(),
            task_name: "t".into(),
            steps: vec![step],
            ..Default::default()
        };
        let text = table(&[template]).render(&Term::plain());
        let line: Vec<&str> = text
            .lines()
            .last()
            .unwrap_or_default()
            .split("  ")
            .filter(|c| !c.is_empty())
            .map(str::trim)
            .collect();
        assert_eq!(
            line,
            [
                "mail", "10", "100.0%", "2.1%", "15 s", "0 ms", "0 ms", "0 ms", "3.0 s", "-", "-",
                "12 s", "-", "-", "-", "3"
            ]
        );
    }
}
