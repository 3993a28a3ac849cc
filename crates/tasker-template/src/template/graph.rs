//! The dependency graph of a template: the direct and transitive dependencies of each step.

use super::Template;
use crate::limits::MAX_STEPS_PER_TEMPLATE;

const _: () = assert!(
    MAX_STEPS_PER_TEMPLATE <= u16::MAX as usize + 1,
    "step indices are u16"
);

/// Parents, children and ancestors of each step, by step index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graph {
    parents: Adjacency,
    children: Adjacency,
    ancestors: Adjacency,
    roots: Vec<u16>,
}

impl Graph {
    /// The graph of a template that [`Template::parse`] accepted.
    pub fn of(template: &Template) -> Graph {
        Graph::from_dependencies(template.steps.iter().map(|step| step.depends_on.as_slice()))
    }

    pub(super) fn from_dependencies<'t>(dependencies: impl Iterator<Item = &'t [usize]>) -> Graph {
        let parents = Adjacency::collect(
            dependencies.map(|parents| parents.iter().map(|parent| *parent as u16)),
        );
        let children = parents.reversed();
        let ancestors = parents.closure(&children);
        let roots = (0..parents.len())
            .filter(|step| parents.of(*step).is_empty())
            .map(|step| step as u16)
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

    /// The steps that `step` waits for, in ascending order.
    pub fn parents(&self, step: usize) -> &[u16] {
        self.parents.of(step)
    }

    /// The steps that wait for `step`, in ascending order.
    pub fn children(&self, step: usize) -> &[u16] {
        self.children.of(step)
    }

    /// All steps that end before `step` can start: its parents, their parents and so on, in
    /// ascending order.
    pub fn ancestors(&self, step: usize) -> &[u16] {
        self.ancestors.of(step)
    }

    /// The steps without parents, in ascending order.
    pub fn roots(&self) -> &[u16] {
        &self.roots
    }
}

/// A list of steps for each step, all lists in one allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Adjacency {
    /// List `i` is `targets[starts[i]..starts[i + 1]]`.
    starts: Vec<u32>,
    targets: Vec<u16>,
}

impl Adjacency {
    fn collect(lists: impl Iterator<Item = impl IntoIterator<Item = u16>>) -> Adjacency {
        let (mut starts, mut targets) = (vec![0], Vec::new());
        for list in lists {
            targets.extend(list);
            starts.push(targets.len() as u32);
        }
        Adjacency { starts, targets }
    }

    fn len(&self) -> usize {
        self.starts.len() - 1
    }

    fn of(&self, step: usize) -> &[u16] {
        &self.targets[self.starts[step] as usize..self.starts[step + 1] as usize]
    }

    fn reversed(&self) -> Adjacency {
        let mut lists = vec![Vec::new(); self.len()];
        for step in 0..self.len() {
            for target in self.of(step) {
                lists[usize::from(*target)].push(step as u16);
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
        let mut missing: Vec<usize> = (0..self.len()).map(|step| self.of(step).len()).collect();
        let mut ready: Vec<usize> = (0..self.len()).filter(|step| missing[*step] == 0).collect();
        while let Some(step) = ready.pop() {
            for parent in self.of(step).iter().map(|parent| usize::from(*parent)) {
                for word in 0..words {
                    reached[step * words + word] |= reached[parent * words + word];
                }
                reached[step * words + parent / 64] |= 1 << (parent % 64);
            }
            for child in reversed.of(step).iter().map(|child| usize::from(*child)) {
                missing[child] -= 1;
                if missing[child] == 0 {
                    ready.push(child);
                }
            }
        }
        Adjacency::collect(reached.chunks(words.max(1)).map(|row| {
            (0..self.len())
                .filter(|step| row[step / 64] >> (step % 64) & 1 == 1)
                .map(|step| step as u16)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(dependencies: &[&[usize]]) -> Graph {
        Graph::from_dependencies(dependencies.iter().copied())
    }

    #[test]
    fn diamond_has_one_root_and_shared_ancestors() {
        let graph = graph(&[&[], &[0], &[0], &[1, 2], &[3]]);
        assert_eq!(graph.len(), 5);
        assert_eq!(graph.roots(), [0]);
        assert_eq!(graph.parents(3), [1, 2]);
        assert_eq!(graph.children(0), [1, 2]);
        assert!(graph.children(4).is_empty());
        assert!(graph.ancestors(0).is_empty());
        assert_eq!(graph.ancestors(3), [0, 1, 2]);
        assert_eq!(graph.ancestors(4), [0, 1, 2, 3]);
    }

    #[test]
    fn graph_is_independent_of_the_order_in_the_file() {
        let graph = graph(&[&[2], &[0], &[], &[]]);
        assert_eq!(graph.roots(), [2, 3]);
        assert_eq!(graph.ancestors(1), [0, 2]);
        assert_eq!(graph.children(2), [0]);
    }

    #[test]
    fn chain_of_the_maximum_length_is_accepted() {
        let parents: Vec<Vec<usize>> = (0..MAX_STEPS_PER_TEMPLATE)
            .map(|step| step.checked_sub(1).into_iter().collect())
            .collect();
        let graph = Graph::from_dependencies(parents.iter().map(Vec::as_slice));
        let ancestors = graph.ancestors(MAX_STEPS_PER_TEMPLATE - 1);
        assert!(ancestors.iter().copied().eq(0..999));
    }
}
