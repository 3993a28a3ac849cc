//! The dependency graph of a template: the direct and transitive dependencies of each step.

use super::Template;
use crate::step_index::StepIndex;

/// Parents, children and ancestors of each step, by step index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graph {
    parents: Adjacency,
    children: Adjacency,
    ancestors: Adjacency,
    roots: Vec<StepIndex>,
}

impl Graph {
    /// The graph of a template that [`Template::parse`] accepted.
    pub fn of(template: &Template) -> Graph {
        Graph::from_dependencies(template.steps.iter().map(|step| step.depends_on.as_slice()))
    }

    pub(super) fn from_dependencies<'t>(
        dependencies: impl Iterator<Item = &'t [StepIndex]>,
    ) -> Graph {
        let parents = Adjacency::collect(dependencies.map(|parents| parents.iter().copied()));
        let children = parents.reversed();
        let ancestors = parents.closure(&children);
        let roots = StepIndex::all(parents.len())
            .filter(|step| parents.of(*step).is_empty())
            .collect();
        Graph {
            parents,
            children,
            ancestors,
            roots,
        }
    }

    /// Number of steps.
    pub fn len(&self) -> usize {
        self.parents.len()
    }

    /// True for a graph without steps, which no template has.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All steps, in ascending order.
    pub fn steps(&self) -> impl DoubleEndedIterator<Item = StepIndex> + ExactSizeIterator + use<> {
        StepIndex::all(self.len())
    }

    /// The steps that `step` waits for, in ascending order.
    pub fn parents(&self, step: StepIndex) -> &[StepIndex] {
        self.parents.of(step)
    }

    /// The steps that wait for `step`, in ascending order.
    pub fn children(&self, step: StepIndex) -> &[StepIndex] {
        self.children.of(step)
    }

    /// All steps that end before `step` can start: its parents, their parents and so on, in
    /// ascending order.
    pub fn ancestors(&self, step: StepIndex) -> &[StepIndex] {
        self.ancestors.of(step)
    }

    /// Whether `step` can start only after `other` has ended.
    pub fn precedes(&self, other: StepIndex, step: StepIndex) -> bool {
        self.ancestors(step).binary_search(&other).is_ok()
    }

    /// The steps without parents, in ascending order.
    pub fn roots(&self) -> &[StepIndex] {
        &self.roots
    }
}

/// A list of steps for each step, all lists in one allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Adjacency {
    /// List `i` is `targets[starts[i]..starts[i + 1]]`.
    starts: Vec<usize>,
    targets: Vec<StepIndex>,
}

impl Adjacency {
    fn collect(lists: impl Iterator<Item = impl IntoIterator<Item = StepIndex>>) -> Adjacency {
        let (mut starts, mut targets) = (vec![0], Vec::new());
        for list in lists {
            targets.extend(list);
            starts.push(targets.len());
        }
        Adjacency { starts, targets }
    }

    fn len(&self) -> usize {
        self.starts.len() - 1
    }

    fn steps(&self) -> impl Iterator<Item = StepIndex> + use<> {
        StepIndex::all(self.len())
    }

    /// The list of a step; empty for a step of a larger template.
    fn of(&self, step: StepIndex) -> &[StepIndex] {
        let step = usize::from(step);
        match (self.starts.get(step), self.starts.get(step + 1)) {
            (Some(start), Some(end)) => &self.targets[*start..*end],
            _ => &[],
        }
    }

    fn reversed(&self) -> Adjacency {
        let mut lists = vec![Vec::new(); self.len()];
        for step in self.steps() {
            for target in self.of(step) {
                lists[usize::from(*target)].push(step);
            }
        }
        Adjacency::collect(lists.into_iter())
    }

    /// All steps that are reachable along this relation from each step; `reversed` is its reverse.
    ///
    /// One bit per pair of steps: a step's set is the union of its parents' sets and the parents
    /// themselves, computed in an order in which parents come first.
    fn closure(&self, reversed: &Adjacency) -> Adjacency {
        let words = self.len().div_ceil(64);
        let mut reached = vec![0_u64; self.len() * words];
        // The steps of a cycle never become ready, and have no ancestors; the caller has reported
        // them.
        let mut missing: Vec<usize> = self.steps().map(|step| self.of(step).len()).collect();
        let mut ready: Vec<StepIndex> = self
            .steps()
            .filter(|step| self.of(*step).is_empty())
            .collect();
        while let Some(step) = ready.pop() {
            let row = usize::from(step) * words;
            for parent in self.of(step).iter().map(|parent| usize::from(*parent)) {
                for word in 0..words {
                    reached[row + word] |= reached[parent * words + word];
                }
                reached[row + parent / 64] |= 1 << (parent % 64);
            }
            for child in reversed.of(step) {
                let missing = &mut missing[usize::from(*child)];
                *missing -= 1;
                if *missing == 0 {
                    ready.push(*child);
                }
            }
        }
        Adjacency::collect(reached.chunks(words.max(1)).map(|row| {
            self.steps().filter(|step| {
                let step = usize::from(*step);
                row[step / 64] >> (step % 64) & 1 == 1
            })
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::MAX_STEPS_PER_TEMPLATE;

    fn at(index: usize) -> StepIndex {
        StepIndex::try_from(index).expect("a step")
    }

    fn graph(dependencies: &[&[usize]]) -> Graph {
        let lists: Vec<Vec<StepIndex>> = dependencies
            .iter()
            .map(|parents| parents.iter().map(|parent| at(*parent)).collect())
            .collect();
        Graph::from_dependencies(lists.iter().map(Vec::as_slice))
    }

    #[test]
    fn diamond_has_one_root_and_shared_ancestors() {
        let graph = graph(&[&[], &[0], &[0], &[1, 2], &[3]]);
        assert_eq!(graph.len(), 5);
        assert_eq!(graph.roots(), [0]);
        assert_eq!(graph.parents(at(3)), [1, 2]);
        assert_eq!(graph.children(at(0)), [1, 2]);
        assert!(graph.children(at(4)).is_empty());
        assert!(graph.ancestors(at(0)).is_empty());
        assert_eq!(graph.ancestors(at(3)), [0, 1, 2]);
        assert_eq!(graph.ancestors(at(4)), [0, 1, 2, 3]);
    }

    #[test]
    fn graph_is_independent_of_the_order_in_the_file() {
        let graph = graph(&[&[2], &[0], &[], &[]]);
        assert_eq!(graph.roots(), [2, 3]);
        assert_eq!(graph.ancestors(at(1)), [0, 2]);
        assert_eq!(graph.children(at(2)), [0]);
    }

    #[test]
    fn chain_of_the_maximum_length_is_accepted() {
        let parents: Vec<Vec<StepIndex>> = (0..MAX_STEPS_PER_TEMPLATE)
            .map(|step| step.checked_sub(1).map(at).into_iter().collect())
            .collect();
        let graph = Graph::from_dependencies(parents.iter().map(Vec::as_slice));
        let last = at(MAX_STEPS_PER_TEMPLATE - 1);
        let ancestors = graph.ancestors(last);
        assert!(ancestors.iter().copied().eq(StepIndex::all(999)));
        assert!(graph.precedes(at(0), last) && !graph.precedes(last, last));
    }
}
