//! The state that a task must have, given how its steps ended, and the differences of its rows from
//! that state.
//!
//! The rows of ended steps are authoritative, as each is written once: these rows and the graph
//! determine the steps that must be in play, and those determine the state of the task. A task
//! whose rows only the engine wrote has no findings.

use std::collections::{BTreeMap, BTreeSet};

use tasker_template::{Graph, StepIndex};

use super::{
    progress::{Progress, StepSet},
    step::StepState,
    task::TaskEvent,
};

/// One inconsistency of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A step that must be in play is not.
    Missing(u16),
    /// A step is in play although its task is final or removed, it has ended, or a parent has not.
    Stray(u16),
    /// A step is in play, but it is not claimable and neither a time nor a worker would wake it.
    Asleep(u16),
    /// The task's counts and sets of its steps are wrong.
    Miscounted,
    /// The task's time of end contradicts its state.
    Mistimed,
    /// No step of the task can go on, and the task is not final.
    Unfinished,
}

impl Finding {
    /// The step concerned; `None` for the task itself.
    pub fn step(self) -> Option<u16> {
        match self {
            Self::Missing(step) | Self::Stray(step) | Self::Asleep(step) => Some(step),
            Self::Miscounted | Self::Mistimed | Self::Unfinished => None,
        }
    }

    /// The error code in the history.
    pub fn code(self) -> &'static str {
        match self {
            Self::Missing(_) => "STEP_MISSING",
            Self::Stray(_) => "STEP_STRAY",
            Self::Asleep(_) => "STEP_ASLEEP",
            Self::Miscounted => "TASK_MISCOUNTED",
            Self::Mistimed => "TASK_MISTIMED",
            Self::Unfinished => "TASK_UNFINISHED",
        }
    }

    /// The inconsistency and its repair, in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Missing(_) => {
                "its parents are complete and it was not in play: it is ready again"
            }
            Self::Stray(_) => "it was in play without a right to: it is out of play",
            Self::Asleep(_) => "it was in play and could make no progress: it is ready again",
            Self::Miscounted => "its counts of steps were wrong: they are counted again",
            Self::Mistimed => "its end contradicted its state: the end follows the state",
            Self::Unfinished => {
                "none of its steps could make progress and it was not final: it is final now"
            }
        }
    }
}

/// The rows of a task as the auditor read them.
#[derive(Clone, Debug)]
pub struct Found<'a> {
    pub progress: &'a Progress,
    /// Whether its row has a time of end.
    pub has_end: bool,
    /// The steps that have ended.
    pub ended: &'a BTreeMap<u16, StepState>,
    /// The steps in play, and whether each is claimable, has a time, or has a worker with a
    /// deadline.
    pub live: &'a BTreeMap<u16, bool>,
}

/// The findings about a task, and its repaired progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    pub findings: Vec<Finding>,
    pub progress: Progress,
    /// The task's events that the repair causes.
    pub events: Vec<TaskEvent>,
}

impl Found<'_> {
    /// Compares the task with its expected state.
    pub fn repair(&self, graph: &Graph) -> Repair {
        let mut findings = Vec::new();
        let mut events = Vec::new();
        let mut after = self.progress.clone();
        // A final task has no step in play, whatever its counts are.
        let must = if after.state.is_final() {
            BTreeSet::new()
        } else {
            self.count(graph, &mut after)
        };
        after.live = u16::try_from(must.len()).unwrap_or(u16::MAX);
        findings.extend(
            must.iter()
                .filter(|step| !self.live.contains_key(step))
                .map(|step| Finding::Missing(*step)),
        );
        findings.extend(
            self.live
                .iter()
                .filter_map(|(step, wakes)| match must.contains(step) {
                    false => Some(Finding::Stray(*step)),
                    true => (!wakes).then_some(Finding::Asleep(*step)),
                }),
        );
        if after.state.is_final() != self.has_end {
            findings.push(Finding::Mistimed);
        }
        if !after.state.is_final() {
            // A step has ended, so the start was lost; the state machine concludes only a started
            // task.
            let starts = !self.ended.is_empty() && after.state.after(TaskEvent::Start).is_ok();
            events.extend(starts.then_some(TaskEvent::Start));
            // After the start: the state machine has no way from pending to complete.
            events.extend(after.conclusion(graph.len()));
        }
        // The comparison comes before the events are applied: it is about the counts alone, and the
        // state that the events lead to is the repair itself.
        if !after.state.is_final() && after.live == 0 {
            findings.push(Finding::Unfinished);
        } else if after != *self.progress {
            findings.push(Finding::Miscounted);
        }
        for event in &events {
            after.state = after.state.after(*event).unwrap_or(after.state);
        }
        Repair {
            findings,
            progress: after,
            events,
        }
    }

    /// Recomputes the counts of a task that is not final, and returns the steps that must be in
    /// play.
    fn count(&self, graph: &Graph, progress: &mut Progress) -> BTreeSet<u16> {
        progress.done = StepSet::empty(graph.len());
        let done = self.ended.iter().filter(|(_, state)| state.is_done());
        done.for_each(|(step, _)| progress.done.insert(*step));
        let failed = self
            .ended
            .iter()
            .find(|(_, state)| !state.is_done())
            .map(|(step, _)| *step);
        // The recorded step is kept, since the rows do not tell which failure came first.
        progress.failed_step = progress.failed_step.or(failed);
        let unlocked = |step: &StepIndex| {
            graph
                .parents(*step)
                .iter()
                .all(|parent| progress.done.contains(u16::from(*parent)))
        };
        // After the counts above: a step must be in play if its parents are done by the rows.
        let unlocked = graph.steps().filter(unlocked).map(u16::from);
        unlocked
            .filter(|step| !self.ended.contains_key(step))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        progress::{Fate, tests::graph},
        task::TaskState::{self, Cancelled, Complete, Error, InProgress, Pending},
    };

    const DIAMOND: &str = "a b:a c:a d:bc";

    /// `ended` and `live` are steps by name; a capital letter means a failed step in `ended` and a
    /// sleeping one in `live`.
    fn repair(state: TaskState, count: u16, ended: &str, live: &str) -> Repair {
        let graph = graph(DIAMOND);
        let steps = |text: &str| -> Vec<(u16, bool)> {
            text.bytes()
                .map(|b| {
                    (
                        u16::from(b.to_ascii_lowercase() - b'a'),
                        b.is_ascii_lowercase(),
                    )
                })
                .collect()
        };
        let state_of = |well| {
            if well {
                StepState::Complete
            } else {
                StepState::Error
            }
        };
        let mut progress = Progress {
            state,
            done: StepSet::empty(4),
            live: count,
            failed_step: None,
            paused: false,
        };
        for (step, well) in steps(ended) {
            if well {
                progress.done.insert(step);
            } else {
                progress.failed_step = Some(step);
            }
        }
        let ended = steps(ended)
            .into_iter()
            .map(|(step, well)| (step, state_of(well)))
            .collect();
        let live = steps(live).into_iter().collect();
        Found {
            progress: &progress,
            has_end: state.is_final(),
            ended: &ended,
            live: &live,
        }
        .repair(&graph)
    }

    #[test]
    fn state_of_a_new_task_needs_no_repair() {
        for (state, count, ended, live) in [
            (Pending, 1, "", "a"),
            (InProgress, 2, "a", "bc"),
            (InProgress, 1, "ab", "c"),
            (InProgress, 1, "aB", "c"),
            (InProgress, 1, "abc", "d"),
            (Complete, 0, "abcd", ""),
            (Error, 0, "aBc", ""),
            (Cancelled, 0, "a", ""),
        ] {
            let repair = repair(state, count, ended, live);
            assert_eq!(
                (repair.findings, repair.events),
                (vec![], vec![]),
                "{state} {ended} {live}"
            );
            assert_eq!(
                (repair.progress.state, repair.progress.live),
                (state, count)
            );
        }
    }

    /// Walks a diamond through each order of ends and expects no finding at any point.
    #[test]
    fn state_of_any_run_needs_no_repair() {
        fn go_on(
            graph: &Graph,
            progress: &Progress,
            ended: &BTreeMap<u16, StepState>,
            live: &BTreeMap<u16, bool>,
        ) -> u32 {
            let found = Found {
                progress,
                has_end: false,
                ended,
                live,
            }
            .repair(graph);
            if live.is_empty() {
                assert_eq!(
                    found.findings,
                    [Finding::Unfinished],
                    "only its end is still to be written"
                );
                return 1;
            }
            assert_eq!(
                found,
                Repair {
                    findings: vec![],
                    progress: progress.clone(),
                    events: vec![]
                }
            );
            let mut ends = 0;
            for step in live.keys() {
                for state in [StepState::Complete, StepState::Error] {
                    let (mut progress, mut ended, mut live) =
                        (progress.clone(), ended.clone(), live.clone());
                    live.remove(step);
                    ended.insert(*step, state);
                    progress.live -= 1;
                    let unlocked =
                        progress.step_ended(graph, *step, state.is_done(), &mut |_, _| Fate::Runs);
                    live.extend(unlocked.into_iter().map(|(child, _)| (child, true)));
                    ends += go_on(graph, &progress, &ended, &live);
                }
            }
            ends
        }
        let graph = graph(DIAMOND);
        let progress = Progress {
            state: InProgress,
            ..Progress::new(&graph, 4, &mut |_, _| Fate::Runs).0
        };
        let ends = go_on(
            &graph,
            &progress,
            &BTreeMap::new(),
            &BTreeMap::from([(0, true)]),
        );
        assert_eq!(
            ends, 11,
            "one failure of a, and two orders of b and c with each outcome"
        );
    }

    #[test]
    fn damage_of_each_kind_is_found_alone() {
        use Finding as F;
        for (state, count, ended, live, findings) in [
            (InProgress, 2, "a", "b", vec![F::Missing(2)]),
            (InProgress, 1, "a", "b", vec![F::Missing(2), F::Miscounted]),
            (Pending, 1, "", "", vec![F::Missing(0)]),
            (InProgress, 2, "a", "bC", vec![F::Asleep(2)]),
            (InProgress, 3, "a", "bc", vec![F::Miscounted]),
            (InProgress, 0, "a", "bc", vec![F::Miscounted]),
            (InProgress, 2, "a", "bcd", vec![F::Stray(3)]),
            (InProgress, 2, "a", "abc", vec![F::Stray(0)]),
            (Complete, 0, "abcd", "D", vec![F::Stray(3)]),
            (Cancelled, 0, "a", "bC", vec![F::Stray(1), F::Stray(2)]),
            (Complete, 1, "abcd", "", vec![F::Miscounted]),
        ] {
            let repair = repair(state, count, ended, live);
            assert_eq!(repair.findings, findings, "{state} {count} {ended} {live}");
            assert_eq!((repair.progress.state, repair.events), (state, vec![]));
        }
    }

    #[test]
    fn task_without_steps_in_play_is_concluded() {
        let end = |state, ended| {
            let repair = repair(state, 1, ended, "");
            assert_eq!(repair.findings, [Finding::Unfinished]);
            (
                repair.progress.state,
                repair.progress.live,
                repair.progress.failed_step,
                repair.events,
            )
        };
        assert_eq!(
            end(InProgress, "abcd"),
            (Complete, 0, None, vec![TaskEvent::Complete])
        );
        assert_eq!(
            end(InProgress, "aBc"),
            (Error, 0, Some(1), vec![TaskEvent::Fail])
        );
        assert_eq!(
            end(Pending, "A"),
            (Error, 0, Some(0), vec![TaskEvent::Start, TaskEvent::Fail]),
            "it has started first"
        );
    }

    #[test]
    fn repair_trusts_the_rows_of_ended_steps() {
        let graph = graph(DIAMOND);
        let progress = Progress {
            state: InProgress,
            done: StepSet::from_bytes(vec![0b1110]),
            live: 7,
            failed_step: None,
            paused: false,
        };
        let ended = BTreeMap::from([(0, StepState::Complete), (1, StepState::Error)]);
        let repair = Found {
            progress: &progress,
            has_end: true,
            ended: &ended,
            live: &BTreeMap::new(),
        }
        .repair(&graph);
        assert_eq!(
            repair.findings,
            [Finding::Missing(2), Finding::Mistimed, Finding::Miscounted]
        );
        let after = repair.progress;
        assert_eq!(
            (after.done.as_bytes(), after.live, after.failed_step),
            (&[0b0001][..], 1, Some(1))
        );
    }

    #[test]
    fn description_names_the_step_or_none() {
        assert_eq!(
            (Finding::Missing(3).step(), Finding::Unfinished.step()),
            (Some(3), None)
        );
        let all = [
            Finding::Missing(0),
            Finding::Stray(0),
            Finding::Asleep(0),
            Finding::Miscounted,
            Finding::Mistimed,
        ];
        let codes: BTreeSet<_> = all
            .iter()
            .chain([&Finding::Unfinished])
            .map(|f| (f.code(), f.words()))
            .collect();
        assert_eq!(codes.len(), 6);
    }
}
