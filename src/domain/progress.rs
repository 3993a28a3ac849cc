//! The progress of a task: which steps are complete, how many are in play, and what the end of a
//! step unlocks.

use tasker_template::{Graph, StepIndex};

use super::{
    attempt::Failure,
    task::{TaskEvent, TaskState},
};

/// A set of step positions, one bit each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepSet(Vec<u8>);

impl StepSet {
    /// The empty set for a task of `steps` steps.
    pub fn empty(steps: usize) -> Self {
        Self(vec![0; steps.div_ceil(8)])
    }

    /// From the bytes of [`StepSet::as_bytes`].
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn contains(&self, step: u16) -> bool {
        self.0
            .get(usize::from(step / 8))
            .is_some_and(|byte| byte & (1 << (step % 8)) != 0)
    }

    /// Adds a step; a position beyond the task's steps is ignored.
    pub fn insert(&mut self, step: u16) {
        if let Some(byte) = self.0.get_mut(usize::from(step / 8)) {
            *byte |= 1 << (step % 8);
        }
    }

    pub fn len(&self) -> usize {
        self.0.iter().map(|byte| byte.count_ones() as usize).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The decision about a step whose last parent is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The step comes into play.
    Runs,
    /// The step is skipped, which counts as done.
    Skipped,
    /// The step's condition could not be judged, so the step fails.
    Fails(Failure),
}

/// Decides the [`Fate`] of a step, given the set of done steps.
pub type FateOf<'f> = dyn FnMut(&StepSet, u16) -> Fate + 'f;

/// The fields that the engine reads under the task's row lock, changes, and writes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    pub state: TaskState,
    /// Steps that count as done for their children.
    pub done: StepSet,
    /// Number of steps in play: ready, in progress, or waiting for a retry.
    pub live: u16,
    /// The first step that failed for good.
    pub failed_step: Option<u16>,
    /// An operator paused the task: none of its steps starts.
    pub paused: bool,
}

impl Progress {
    /// The progress of a submitted task, with the fate of each root and of each step that a skipped
    /// one unlocks.
    pub fn new(graph: &Graph, steps: usize, fate: &mut FateOf<'_>) -> (Self, Vec<(u16, Fate)>) {
        let state = TaskState::Pending;
        let mut progress = Self {
            state,
            done: StepSet::empty(steps),
            live: 0,
            failed_step: None,
            paused: false,
        };
        // A skipped root unlocks its children at once, so a task may be complete when it is
        // submitted.
        let roots = graph.roots().iter().copied().map(u16::from).collect();
        let fates = progress.unlock(graph, roots, fate);
        (progress, fates)
    }

    /// Records that a step has ended, whether it was in play or not: `is_done`, or failed for good.
    /// Returns the fates of the steps that its end unlocks.
    pub fn step_ended(
        &mut self,
        graph: &Graph,
        step: u16,
        is_done: bool,
        fate: &mut FateOf<'_>,
    ) -> Vec<(u16, Fate)> {
        if !is_done {
            // The first failure stays the task's: a later one may be its consequence.
            self.failed_step.get_or_insert(step);
            return Vec::new();
        }
        // Before the children are looked up, since a child is free only if this step is done.
        self.done.insert(step);
        self.unlock(graph, self.freed_by(graph, step), fate)
    }

    /// The children of a step whose parents are all done.
    fn freed_by(&self, graph: &Graph, step: u16) -> Vec<u16> {
        let Ok(step) = StepIndex::try_from(step) else {
            return Vec::new();
        };
        let is_done = |step: &StepIndex| self.done.contains(u16::from(*step));
        // An operator may have set a child before its turn; it must not come into play again.
        let is_free =
            |child: &StepIndex| !is_done(child) && graph.parents(*child).iter().all(is_done);
        graph
            .children(step)
            .iter()
            .copied()
            .filter(is_free)
            .map(u16::from)
            .collect()
    }

    fn unlock(
        &mut self,
        graph: &Graph,
        mut free: Vec<u16>,
        fate: &mut FateOf<'_>,
    ) -> Vec<(u16, Fate)> {
        let mut fates = Vec::with_capacity(free.len());
        // The stack is filled in reverse, so that steps are decided in the graph's order and a
        // skipped step's children directly after it, with the skipped step in `done`.
        free.reverse();
        while let Some(step) = free.pop() {
            let decided = fate(&self.done, step);
            match &decided {
                Fate::Runs => self.live += 1,
                Fate::Skipped => {
                    self.done.insert(step);
                    free.extend(self.freed_by(graph, step).into_iter().rev());
                }
                // Its children stay pending: the task fails once nothing else is in play.
                Fate::Fails(_) => drop(self.failed_step.get_or_insert(step)),
            }
            fates.push((step, decided));
        }
        fates
    }

    /// The task's final event once no step is in play.
    pub fn conclusion(&self, steps: usize) -> Option<TaskEvent> {
        // A failure concludes the task only when no step is in play: other branches go on to their
        // end.
        match self.live {
            0 if self.done.len() == steps => Some(TaskEvent::Complete),
            0 => Some(TaskEvent::Fail),
            _ => None,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use tasker_template::Template;

    /// `steps` is a list of names, each with its parents after a colon.
    pub fn graph(steps: &str) -> Graph {
        let step = |text: &str| {
            let (name, parents) = text.split_once(':').unwrap_or((text, ""));
            let parents = parents
                .chars()
                .map(String::from)
                .collect::<Vec<_>>()
                .join(", ");
            format!("  - {{name: {name}, handler_class: h, depends_on_steps: [{parents}]}}\n")
        };
        let steps: String = steps.split(' ').map(step).collect();
        Graph::of(
            &Template::parse(
                &format!("task_name: t\nversion: 1.0.0\nstep_templates:\n{steps}"),
                "",
            )
            .unwrap(),
        )
    }

    fn new(graph: &Graph) -> Progress {
        Progress::new(graph, graph.len(), &mut |_, _| Fate::Runs).0
    }

    /// Ends a step in play and returns the steps that come into play.
    fn ends(progress: &mut Progress, graph: &Graph, step: u16, is_done: bool) -> Vec<u16> {
        progress.live -= 1;
        let fates = progress.step_ended(graph, step, is_done, &mut |_, _| Fate::Runs);
        fates.into_iter().map(|(step, _)| step).collect()
    }

    #[test]
    fn step_is_unlocked_by_its_last_parent() {
        let graph = graph("a b:a c:a d:bc");
        let mut p = new(&graph);
        assert_eq!(
            (p.live, p.state, p.conclusion(4)),
            (1, TaskState::Pending, None)
        );
        assert_eq!(ends(&mut p, &graph, 0, true), [1, 2]);
        assert_eq!(p.live, 2);
        assert_eq!(ends(&mut p, &graph, 2, true), [0u16; 0]);
        assert_eq!(ends(&mut p, &graph, 1, true), [3]);
        assert_eq!((p.live, p.conclusion(4)), (1, None));
        assert_eq!(ends(&mut p, &graph, 3, true), [0u16; 0]);
        assert_eq!(
            (p.live, p.conclusion(4), p.failed_step),
            (0, Some(TaskEvent::Complete), None)
        );
    }

    #[test]
    fn failure_blocks_only_its_descendants() {
        let graph = graph("a b c:a d:b e:cd");
        let mut p = new(&graph);
        assert_eq!(ends(&mut p, &graph, 0, false), [0u16; 0]);
        assert_eq!(
            (p.live, p.conclusion(5)),
            (1, None),
            "the other branch goes on"
        );
        assert_eq!(ends(&mut p, &graph, 1, true), [3]);
        assert_eq!(ends(&mut p, &graph, 3, false), [0u16; 0]);
        assert_eq!(
            (p.conclusion(5), p.failed_step),
            (Some(TaskEvent::Fail), Some(0)),
            "the first failure is the one"
        );
    }

    /// Skips the steps in `text`.
    fn skips(text: &'static str) -> impl FnMut(&StepSet, u16) -> Fate {
        move |_, step| {
            if text.bytes().any(|b| u16::from(b - b'a') == step) {
                Fate::Skipped
            } else {
                Fate::Runs
            }
        }
    }

    #[test]
    fn skipped_step_unlocks_its_children_and_a_skipped_chain_ends_the_task() {
        let graph = graph("a b:a c:a d:bc e:d");
        let (mut p, fates) = Progress::new(&graph, 5, &mut skips("ac"));
        assert_eq!(
            fates,
            [(0, Fate::Skipped), (1, Fate::Runs), (2, Fate::Skipped)]
        );
        assert_eq!(
            (p.live, p.done.len(), p.conclusion(5)),
            (1, 2, None),
            "d waits for b"
        );
        p.live -= 1;
        let fates = p.step_ended(&graph, 1, true, &mut skips("de"));
        assert_eq!(fates, [(3, Fate::Skipped), (4, Fate::Skipped)]);
        assert_eq!(p.conclusion(5), Some(TaskEvent::Complete));
        let (p, fates) = Progress::new(&graph, 5, &mut skips("abcde"));
        assert_eq!(
            (p.live, p.conclusion(5), fates.len()),
            (0, Some(TaskEvent::Complete), 5)
        );
    }

    #[test]
    fn step_done_before_its_parents_is_not_unlocked_again() {
        let graph = graph("a b:a c:b");
        let mut p = new(&graph);
        let fates = p.step_ended(&graph, 1, true, &mut |_, _| Fate::Runs);
        assert_eq!(
            (fates, p.live),
            (vec![(2, Fate::Runs)], 2),
            "resolved by hand while it waited for a"
        );
        assert_eq!(ends(&mut p, &graph, 0, true), [0u16; 0]);
    }

    #[test]
    fn step_whose_condition_fails_to_evaluate_ends_in_error() {
        let graph = graph("a b:a");
        let mut p = new(&graph);
        p.live -= 1;
        p.step_ended(&graph, 0, true, &mut |_, _| {
            Fate::Fails(Failure::of_server("X", "no such field"))
        });
        assert_eq!(
            (p.conclusion(2), p.failed_step),
            (Some(TaskEvent::Fail), Some(1))
        );
    }

    #[test]
    fn step_set_round_trips_and_ignores_unknown_steps() {
        let mut set = StepSet::empty(9);
        assert!(set.is_empty());
        for step in [0, 7, 8, 16, u16::MAX] {
            set.insert(step);
        }
        assert_eq!(set.as_bytes(), [0b1000_0001, 1]);
        let set = StepSet::from_bytes(set.as_bytes().to_vec());
        assert_eq!(
            (
                set.len(),
                set.contains(8),
                set.contains(9),
                set.contains(u16::MAX)
            ),
            (3, true, false, false)
        );
    }
}
