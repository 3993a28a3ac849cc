//! How far a task has come: which steps are complete, how many are in play, and what follows when one ends.

use super::{
    step::StepEvent,
    task::{TaskEvent, TaskState},
    template::Graph,
};

/// A set of step positions, one bit each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepSet(Vec<u8>);

impl StepSet {
    /// The empty set for a task of `steps` steps.
    pub fn empty(steps: usize) -> Self {
        Self(vec![0; steps.div_ceil(8)])
    }

    /// From the bytes that [`StepSet::as_bytes`] gave.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn contains(&self, step: u16) -> bool {
        self.0.get(usize::from(step / 8)).is_some_and(|byte| byte & (1 << (step % 8)) != 0)
    }

    /// Adds a step; positions beyond the task's steps are ignored.
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

/// What the engine reads under the task's row lock, changes, and writes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    pub state: TaskState,
    pub done: StepSet,
    /// Steps in play: ready, in progress, or waiting for a retry.
    pub live: u16,
    /// The step that failed for good first.
    pub failed_step: Option<u16>,
}

impl Progress {
    /// Of a task just submitted: its roots are in play.
    pub fn new(graph: &Graph, steps: usize) -> Self {
        let live = u16::try_from(graph.roots().len()).unwrap_or(u16::MAX);
        Self { state: TaskState::Pending, done: StepSet::empty(steps), live, failed_step: None }
    }

    /// Records that a step in play left play for good (`Succeed` or `Fail`) and returns the steps that became ready.
    pub fn step_ended(&mut self, graph: &Graph, step: u16, event: StepEvent) -> Vec<u16> {
        self.live = self.live.saturating_sub(1);
        if event == StepEvent::Fail {
            self.failed_step.get_or_insert(step);
            return Vec::new();
        }
        self.done.insert(step);
        let unlocked: Vec<u16> = graph
            .children(usize::from(step))
            .iter()
            .copied()
            .filter(|child| graph.parents(usize::from(*child)).iter().all(|parent| self.done.contains(*parent)))
            .collect();
        self.live += u16::try_from(unlocked.len()).unwrap_or(u16::MAX);
        unlocked
    }

    /// What happens to the task itself once nothing is in play.
    pub fn conclusion(&self, steps: usize) -> Option<TaskEvent> {
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
    use crate::domain::template::Template;

    /// `steps` is a list of names, each with its parents after a colon.
    pub fn graph(steps: &str) -> Graph {
        let step = |text: &str| {
            let (name, parents) = text.split_once(':').unwrap_or((text, ""));
            let parents = parents.chars().map(String::from).collect::<Vec<_>>().join(", ");
            format!("  - {{name: {name}, handler_class: h, depends_on_steps: [{parents}]}}\n")
        };
        let steps: String = steps.split(' ').map(step).collect();
        Graph::of(&Template::parse(&format!("task_name: t\nversion: 1.0.0\nstep_templates:\n{steps}")).unwrap())
    }

    fn ends(progress: &mut Progress, graph: &Graph, step: u16, event: StepEvent) -> Vec<u16> {
        progress.step_ended(graph, step, event)
    }

    #[test]
    fn a_step_comes_into_play_with_its_last_parent() {
        let graph = graph("a b:a c:a d:bc");
        let mut p = Progress::new(&graph, 4);
        assert_eq!((p.live, p.state, p.conclusion(4)), (1, TaskState::Pending, None));
        assert_eq!(ends(&mut p, &graph, 0, StepEvent::Succeed), [1, 2]);
        assert_eq!(p.live, 2);
        assert_eq!(ends(&mut p, &graph, 2, StepEvent::Succeed), [0u16; 0]);
        assert_eq!(ends(&mut p, &graph, 1, StepEvent::Succeed), [3]);
        assert_eq!((p.live, p.conclusion(4)), (1, None));
        assert_eq!(ends(&mut p, &graph, 3, StepEvent::Succeed), [0u16; 0]);
        assert_eq!((p.live, p.conclusion(4), p.failed_step), (0, Some(TaskEvent::Complete), None));
    }

    #[test]
    fn a_failure_holds_back_its_children_and_nobody_else() {
        let graph = graph("a b c:a d:b e:cd");
        let mut p = Progress::new(&graph, 5);
        assert_eq!(ends(&mut p, &graph, 0, StepEvent::Fail), [0u16; 0]);
        assert_eq!((p.live, p.conclusion(5)), (1, None), "the other branch goes on");
        assert_eq!(ends(&mut p, &graph, 1, StepEvent::Succeed), [3]);
        assert_eq!(ends(&mut p, &graph, 3, StepEvent::Fail), [0u16; 0]);
        assert_eq!((p.conclusion(5), p.failed_step), (Some(TaskEvent::Fail), Some(0)), "the first failure is the one");
    }

    #[test]
    fn the_set_survives_its_bytes_and_ignores_what_is_not_there() {
        let mut set = StepSet::empty(9);
        assert!(set.is_empty());
        for step in [0, 7, 8, 16, u16::MAX] {
            set.insert(step);
        }
        assert_eq!(set.as_bytes(), [0b1000_0001, 1]);
        let set = StepSet::from_bytes(set.as_bytes().to_vec());
        assert_eq!((set.len(), set.contains(8), set.contains(9), set.contains(u16::MAX)), (3, true, false, false));
    }
}
