//! The audit: no step is lost and none is done twice. It compares the runs of the workers with the
//! records of the database.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use super::{child::Run, shapes::CHAIN_STEPS, stage::Stage};
use crate::store::{StoreError, bench::probes};

/// The findings of the audit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Steps of accepted chains that are not complete, and attempts on record that no worker ran.
    pub lost_steps: u64,
    /// Runs of an attempt beyond the first, and runs of attempts that are not on record.
    pub duplicated_steps: u64,
    /// Attempts at chains beyond the first of their step: their lease was lost, though nothing
    /// failed.
    pub repeated_steps: u64,
}

/// Compares. `chains` are all chains that the server accepted, `runs` all runs of the workers.
pub async fn audit(stage: &Stage, chains: &[Uuid], runs: &[Run]) -> Result<Audit, StoreError> {
    let templates = &stage.templates;
    let complete = probes::complete_tasks(&stage.db, templates.chain, stage.first_id)
        .await?
        .into_iter()
        .collect();
    let mut of_interest = templates.golden.clone();
    of_interest.push(templates.chain);
    let attempts = probes::attempts(&stage.db, &of_interest, stage.first_id).await?;
    Ok(compare(chains, &complete, &attempts, runs))
}

/// The steps of a chain that are not complete.
fn undone(chain: &Uuid, complete: &HashMap<Uuid, i64>) -> u64 {
    let steps = complete.get(chain).map_or(0, |steps| steps.unsigned_abs());
    (CHAIN_STEPS as u64).saturating_sub(steps)
}

fn compare(
    chains: &[Uuid],
    complete: &HashMap<Uuid, i64>,
    attempts: &[(Uuid, String, i32)],
    runs: &[Run],
) -> Audit {
    let mut audit = Audit {
        lost_steps: chains.iter().map(|id| undone(id, complete)).sum(),
        ..Audit::default()
    };
    let mut open: BTreeMap<(Uuid, &str, i32), u32> = BTreeMap::new();
    for (task, step, attempt) in attempts {
        *open.entry((*task, step, *attempt)).or_default() += 1;
        audit.repeated_steps += u64::from(*attempt > 1 && complete.contains_key(task));
    }
    for run in runs {
        // Each record covers one run; further runs of the same attempt are duplicates.
        let recorded = open
            .remove(&(run.task_id, run.step.as_str(), run.attempt))
            .unwrap_or_default();
        audit.duplicated_steps += u64::from(run.times.saturating_sub(recorded.min(1)));
    }
    audit.lost_steps += open.len() as u64;
    audit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(task: u128, step: &str, attempt: i32, times: u32) -> Run {
        Run {
            task_id: Uuid::from_u128(task),
            step: step.into(),
            attempt,
            times,
        }
    }

    fn on_record(task: u128, step: &str, attempt: i32) -> (Uuid, String, i32) {
        (Uuid::from_u128(task), step.into(), attempt)
    }

    #[test]
    fn audit_of_a_complete_record_finds_nothing() {
        let (chains, complete) = (
            [Uuid::from_u128(1)],
            HashMap::from([(Uuid::from_u128(1), 5)]),
        );
        let attempts = [
            on_record(1, "a", 1),
            on_record(2, "b", 1),
            on_record(2, "b", 2),
        ];
        let runs = [run(1, "a", 1, 1), run(2, "b", 1, 1), run(2, "b", 2, 1)];
        assert_eq!(
            compare(&chains, &complete, &attempts, &runs),
            Audit::default()
        );
    }

    #[test]
    fn audit_finds_steps_missing_on_either_side() {
        // The second chain ended after three steps, the third is unknown.
        let chains = [1, 2, 3].map(Uuid::from_u128);
        let complete = HashMap::from([(chains[0], 5), (chains[1], 3)]);
        // On record: an attempt that no worker ran, and a repetition.
        let attempts = [
            on_record(1, "a", 1),
            on_record(1, "b", 1),
            on_record(1, "b", 2),
        ];
        // Run: one attempt three times, and one that is not on record.
        let runs = [run(1, "a", 1, 3), run(1, "b", 2, 1), run(1, "c", 1, 1)];
        let audit = compare(&chains, &complete, &attempts, &runs);
        assert_eq!(
            audit,
            Audit {
                lost_steps: 2 + 5 + 1,
                duplicated_steps: 2 + 1,
                repeated_steps: 1
            }
        );
    }
}
