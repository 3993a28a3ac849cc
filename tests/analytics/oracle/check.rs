//! Compares every number of an answer with the same number by other means.

use std::collections::{BTreeMap, BTreeSet};

use tasker::proto;

use super::{
    Oracle, Us, micros,
    parts::{Parts, same},
    rows::{Step, Task},
};

impl Oracle {
    /// Compares every number of an answer about all tasks. Where a rate limit cuts a wait, two
    /// floating-point computations may differ by a microsecond each time. Returns the total time of
    /// each cause.
    pub fn check(&self, found: &proto::GetPerformanceResponse, timeout_seconds: f64) -> Parts {
        let mut all = Parts::default();
        for template in &found.templates {
            let (id, (parsed, _)) = self
                .graphs
                .iter()
                .find(|(_, (known, _))| is_version(known, template))
                .unwrap();
            let tasks: Vec<&Task> = self
                .tasks
                .values()
                .filter(|task| task.template == *id)
                .collect();
            let paths: Vec<BTreeSet<i16>> =
                tasks.iter().map(|task| self.critical_path(task)).collect();
            let ledgers: Vec<BTreeMap<i16, Parts>> = tasks
                .iter()
                .map(|task| {
                    task.steps
                        .iter()
                        .map(|(n, step)| (*n, self.ledger(task, *n, step)))
                        .collect()
                })
                .collect();
            let critical: Us = ledgers
                .iter()
                .zip(&paths)
                .flat_map(|(ledger, path)| {
                    path.iter().map(|n| ledger[n].sum() - ledger[n].dependency)
                })
                .sum();
            self.check_template(template, &tasks, &ledgers, &paths);
            for (n, named) in parsed.steps.iter().enumerate() {
                let n = i16::try_from(n).unwrap();
                let seen = template.steps.iter().find(|s| s.step == named.name);
                let of: Vec<(&Task, &Step, Parts)> = tasks
                    .iter()
                    .zip(&ledgers)
                    .filter_map(|(task, ledger)| Some((*task, task.steps.get(&n)?, ledger[&n])))
                    .collect();
                let Some(seen) = seen else {
                    assert!(of.is_empty(), "{} is missing", named.name);
                    continue;
                };
                let on_path: Us = ledgers
                    .iter()
                    .zip(&paths)
                    .filter(|(_, path)| path.contains(&n))
                    .map(|(ledger, _)| ledger[&n].sum() - ledger[&n].dependency)
                    .sum();
                close(
                    seen.critical_share,
                    if critical > 0 {
                        on_path as f64 / critical as f64
                    } else {
                        0.0
                    },
                );
                all.add(&check_step(seen, &of, timeout_seconds));
            }
        }
        all
    }

    fn check_template(
        &self,
        seen: &proto::TemplatePerformance,
        tasks: &[&Task],
        ledgers: &[BTreeMap<i16, Parts>],
        paths: &[BTreeSet<i16>],
    ) {
        let ended: Vec<usize> = (0..tasks.len())
            .filter(|i| tasks[*i].ended.is_some())
            .collect();
        let count = |state: &str| ended.iter().filter(|i| tasks[**i].state == state).count();
        assert_eq!(
            (
                seen.count,
                seen.complete,
                seen.failed,
                seen.cancelled,
                seen.resolved
            ),
            (
                int(ended.len()),
                int(count("complete")),
                int(count("error")),
                int(count("cancelled")),
                int(count("resolved_manually"))
            )
        );
        let mut sum = Parts::default();
        let (mut elapsed, mut run) = (Vec::new(), Vec::new());
        for i in &ended {
            let mut path = Parts::default();
            paths[*i].iter().for_each(|n| path.add(&ledgers[*i][n]));
            path.dependency = 0;
            sum.add(&path);
            elapsed.push(tasks[*i].ended.unwrap() - tasks[*i].submitted);
            run.push(path.run);
        }
        let wait = elapsed.iter().zip(&run).map(|(e, r)| e - r).collect();
        same(
            &Parts::of(seen.ledger.as_ref().unwrap()),
            &sum,
            ended.len() * 10,
        );
        assert_eq!(micros(seen.ledger.as_ref().unwrap().wall), sum.sum());
        times(&seen.elapsed, elapsed);
        times(&seen.run, run);
        times(&seen.wait, wait);
        let again = ended
            .iter()
            .filter(|i| tasks[**i].steps.values().any(tried_again))
            .count();
        close(seen.retry_rate, per(again, ended.len()));
        close(
            seen.success_rate,
            per(count("complete"), count("complete") + count("error")),
        );
    }
}

fn tried_again(step: &Step) -> bool {
    step.tries.iter().any(|t| t.charged && t.again)
}

/// Whether the performance is that of this template.
fn is_version(t: &tasker_template::Template, template: &proto::TemplatePerformance) -> bool {
    (
        t.namespace.as_str(),
        t.task_name.as_str(),
        t.version.to_string(),
    ) == (
        &template.namespace,
        &template.task_name,
        template.version.clone(),
    )
}

fn count(of: &[(&Task, &Step, Parts)], state: &str) -> usize {
    of.iter().filter(|(_, step, _)| step.state == state).count()
}

/// Compares the number of steps in each state.
fn check_states(seen: &proto::StepPerformance, of: &[(&Task, &Step, Parts)]) {
    assert_eq!(
        (seen.count, seen.complete, seen.failed, seen.cancelled),
        (
            int(of.len()),
            int(count(of, "complete")),
            int(count(of, "error")),
            int(count(of, "cancelled"))
        ),
        "{}",
        seen.step
    );
    assert_eq!(
        (seen.skipped, seen.resolved),
        (
            int(count(of, "skipped")),
            int(count(of, "resolved_manually"))
        ),
        "{}",
        seen.step
    );
}

fn check_step(
    seen: &proto::StepPerformance,
    of: &[(&Task, &Step, Parts)],
    timeout_seconds: f64,
) -> Parts {
    check_states(seen, of);
    let mut sum = Parts::default();
    let (mut elapsed, mut run, mut wait) = (Vec::new(), Vec::new(), Vec::new());
    let (mut charged, mut free) = (0, 0);
    let mut successes = vec![0];
    for (task, step, parts) in of {
        assert_eq!(
            parts.sum(),
            step.ended - task.submitted,
            "the parts of {} sum to its wall time",
            seen.step
        );
        sum.add(parts);
        elapsed.push(parts.sum() - parts.dependency);
        run.push(parts.run);
        wait.push(parts.sum() - parts.dependency - parts.run);
        let counted = int(step.tries.iter().filter(|t| t.charged).count());
        charged += counted;
        free += step.attempt - counted - i32::from(step.state == "complete");
        if step.state == "complete" {
            successes.push(step.ended - step.started.unwrap());
        }
    }
    let ledger = seen.ledger.as_ref().unwrap();
    assert_eq!(
        Parts::of(ledger).sum(),
        micros(ledger.wall),
        "the parts of {} sum to the wall time",
        seen.step
    );
    assert_eq!(micros(ledger.wall), sum.sum(), "{}", seen.step);
    same(&Parts::of(ledger), &sum, of.len() * 10);
    times(&seen.elapsed, elapsed);
    times(&seen.run, run);
    times(&seen.wait, wait);
    assert_eq!(
        (seen.charged_attempts, seen.free_attempts),
        (charged, free),
        "{}",
        seen.step
    );
    close(
        seen.retry_rate,
        per(
            of.iter().filter(|(_, step, _)| tried_again(step)).count(),
            of.len(),
        ),
    );
    close(
        seen.success_rate,
        per(
            count(of, "complete"),
            count(of, "complete") + count(of, "error"),
        ),
    );
    assert_eq!(
        micros(seen.longest_success),
        *successes.iter().max().unwrap()
    );
    let over = successes
        .iter()
        .filter(|s| timeout_seconds > 0.0 && **s as f64 > timeout_seconds * 1e6)
        .count();
    assert_eq!(seen.successes_over_timeout, int(over), "{}", seen.step);
    sum
}

fn int(n: usize) -> i32 {
    i32::try_from(n).unwrap()
}

fn per(part: usize, whole: usize) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

fn close(a: f64, b: f64) {
    assert!((a - b).abs() < 1e-6, "{a} is not {b}");
}

fn times(seen: &Option<proto::Times>, mut values: Vec<Us>) {
    let seen = seen.as_ref();
    if values.is_empty() {
        return;
    }
    let seen = seen.unwrap();
    values.sort_unstable();
    let at = |share: f64| {
        let place = share * (values.len() - 1) as f64;
        let (low, high) = (
            values[place.floor() as usize] as f64,
            values[place.ceil() as usize] as f64,
        );
        low + (high - low) * place.fract()
    };
    let mean = values.iter().sum::<Us>() as f64 / values.len() as f64;
    let pairs = [
        (seen.mean, mean),
        (seen.p50, at(0.5)),
        (seen.p95, at(0.95)),
        (seen.p99, at(0.99)),
        (seen.max, *values.last().unwrap() as f64),
    ];
    for (seen, expected) in pairs {
        assert!(
            (micros(seen) as f64 - expected).abs() <= 1.0,
            "{seen:?} is not {expected} us"
        );
    }
}
