//! Protection of services: no step starts while its service is shut, and never more steps run at
//! once than its limit.

use std::collections::BTreeMap;

use super::{
    history::{Attempt, History, Micros},
    index::{Index, at},
    violation::Violation,
};

/// The recorded time of an opened circuit or a pause is a moment before its commit; until the
/// commit, other transactions admit steps.
const COMMIT: Micros = 1_000_000;

pub fn check(index: &Index<'_>, found: &mut Vec<Violation>) {
    let mut of_service: BTreeMap<i32, Vec<&Attempt>> = BTreeMap::new();
    for attempt in &index.history.attempts {
        let plan = index
            .tasks
            .get(&attempt.task)
            .and_then(|task| index.plan(task));
        let Some(step) = plan.and_then(|plan| plan.steps.get(at(attempt.step))) else {
            continue;
        };
        of_service.entry(step.service).or_default().push(attempt);
    }
    for (service, attempts) in of_service {
        shut(index.history, service, &attempts, found);
        if let Some(limit) = index.history.limits.get(&service) {
            let most = most_at_once(&attempts);
            if most > *limit {
                found.push(Violation::LimitExceeded {
                    service,
                    limit: *limit,
                    most,
                });
            }
        }
    }
}

fn shut(history: &History, service: i32, attempts: &[&Attempt], found: &mut Vec<Violation>) {
    for shut in history.shut.iter().filter(|shut| shut.service == service) {
        let inside = |a: &&&Attempt| a.started_at > shut.from + COMMIT && a.started_at < shut.until;
        found.extend(
            attempts
                .iter()
                .filter(inside)
                .map(|a| Violation::StartedWhileShut {
                    task: a.task,
                    step: a.step,
                    attempt: a.attempt,
                    why: shut.why.clone(),
                }),
        );
    }
}

/// By the database's times; an attempt that ends at the time another starts makes room for it.
fn most_at_once(attempts: &[&Attempt]) -> usize {
    let mut moments: Vec<(Micros, i32)> = attempts
        .iter()
        .flat_map(|a| [(a.started_at, 1), (a.ended_at, -1)])
        .collect();
    moments.sort_unstable();
    let (mut running, mut most) = (0, 0);
    for (_, change) in moments {
        running += change;
        most = most.max(running);
    }
    usize::try_from(most).unwrap_or_default()
}
