//! The dependency graph of a template: who waits for whom, directly and transitively, and whether anybody waits for himself.

use super::{MAX_STEPS_PER_TEMPLATE, Template};

const _: () = assert!(MAX_STEPS_PER_TEMPLATE <= u16::MAX as usize + 1, "step indices are u16");

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

    fn from_dependencies<'t>(dependencies: impl Iterator<Item = &'t [usize]>) -> Graph {
        let parents = Adjacency::collect(dependencies.map(|parents| parents.iter().map(|parent| *parent as u16)));
        let children = parents.reversed();
        let ancestors = parents.closure(&children);
        let roots = (0..parents.len()).filter(|step| parents.of(*step).is_empty()).map(|step| step as u16).collect();
        Graph { parents, children, ancestors, roots }
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

    /// All the steps that end before `step` can start: its parents, their parents and so on, in ascending order.
    pub fn ancestors(&self, step: usize) -> &[u16] {
        self.ancestors.of(step)
    }

    /// The steps that wait for nothing, in ascending order.
    pub fn roots(&self) -> &[u16] {
        &self.roots
    }
}

/// For each step a list of steps, all lists in one allocation.
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

    /// Everything that can be reached along this relation from each step; `reversed` is its reverse.
    ///
    /// One bit per pair of steps: a step's set is the union of its parents' sets and the parents themselves, taken in an
    /// order in which parents come first.
    fn closure(&self, reversed: &Adjacency) -> Adjacency {
        let words = self.len().div_ceil(64);
        let mut reached = vec![0_u64; self.len() * words];
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
        Adjacency::collect(
            reached.chunks(words.max(1)).map(|row| {
                (0..self.len()).filter(|step| row[step / 64] >> (step % 64) & 1 == 1).map(|step| step as u16)
            }),
        )
    }
}

/// Finds the cycles of a graph given as, for each node, the nodes it points to.
///
/// Of each group of nodes that can all reach each other, one shortest cycle through its first node, as the nodes in
/// order without the first one repeated; a node that points to itself is a cycle of one. Linear in nodes and edges.
pub fn find_cycles(edges: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let group = strong_components(edges);
    let mut seen = vec![false; edges.len()];
    let mut cycles = Vec::new();
    for start in 0..edges.len() {
        if !std::mem::replace(&mut seen[group[start]], true) {
            cycles.extend(shortest_cycle(edges, &group, start));
        }
    }
    cycles
}

/// Breadth first from `start`, inside its group, until an edge leads back to it.
fn shortest_cycle(edges: &[Vec<usize>], group: &[usize], start: usize) -> Option<Vec<usize>> {
    let mut came_from = std::collections::HashMap::from([(start, start)]);
    let mut queue = std::collections::VecDeque::from([start]);
    while let Some(node) = queue.pop_front() {
        for next in edges[node].iter().copied().filter(|next| group[*next] == group[start]) {
            if next == start {
                let mut cycle = vec![node];
                while let Some(last) = cycle.last().filter(|last| **last != start) {
                    cycle.push(came_from[last]);
                }
                cycle.reverse();
                return Some(cycle);
            }
            came_from.entry(next).or_insert_with(|| {
                queue.push_back(next);
                node
            });
        }
    }
    None
}

/// For each node the number of its strongly connected component; an edge never leads to a component with a lower number.
///
/// Kosaraju's two passes, without recursion.
pub fn strong_components(edges: &[Vec<usize>]) -> Vec<usize> {
    let mut reversed = vec![Vec::new(); edges.len()];
    for (node, targets) in edges.iter().enumerate() {
        targets.iter().for_each(|target| reversed[*target].push(node));
    }
    let mut component = vec![usize::MAX; edges.len()];
    for (number, root) in finishing_order(edges).into_iter().rev().enumerate() {
        let mut stack = vec![root];
        while let Some(node) = stack.pop() {
            if component[node] == usize::MAX {
                component[node] = number;
                stack.extend(&reversed[node]);
            }
        }
    }
    component
}

/// The nodes in the order in which a depth-first search leaves them.
fn finishing_order(edges: &[Vec<usize>]) -> Vec<usize> {
    let mut entered = vec![false; edges.len()];
    let mut order = Vec::with_capacity(edges.len());
    for root in 0..edges.len() {
        let mut stack = vec![(root, 0)];
        while let Some((node, edge)) = stack.pop() {
            if edge == 0 && std::mem::replace(&mut entered[node], true) {
                continue;
            }
            match edges[node].get(edge) {
                Some(next) => stack.extend([(node, edge + 1), (*next, 0)]),
                None => order.push(node),
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(dependencies: &[&[usize]]) -> Graph {
        Graph::from_dependencies(dependencies.iter().copied())
    }

    #[test]
    fn a_diamond_has_one_root_and_shared_ancestors() {
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
    fn the_order_in_the_file_does_not_matter() {
        let graph = graph(&[&[2], &[0], &[], &[]]);
        assert_eq!(graph.roots(), [2, 3]);
        assert_eq!(graph.ancestors(1), [0, 2]);
        assert_eq!(graph.children(2), [0]);
    }

    #[test]
    fn the_largest_chain_fits() {
        let parents: Vec<Vec<usize>> =
            (0..MAX_STEPS_PER_TEMPLATE).map(|step| step.checked_sub(1).into_iter().collect()).collect();
        let graph = Graph::from_dependencies(parents.iter().map(Vec::as_slice));
        let ancestors = graph.ancestors(MAX_STEPS_PER_TEMPLATE - 1);
        assert!(ancestors.iter().copied().eq(0..999));
    }

    #[test]
    fn cycles_are_found_once_per_group() {
        let none: [Vec<usize>; 4] = [vec![], vec![0], vec![0, 1], vec![1, 2]];
        assert!(find_cycles(&none).is_empty());
        assert_eq!(find_cycles(&[vec![0]]), [[0]]);
        assert_eq!(find_cycles(&[vec![1], vec![2], vec![0]]), [[0, 1, 2]]);
        assert_eq!(find_cycles(&[vec![1, 2], vec![0], vec![0], vec![0]]), [[0, 1]]);
        assert_eq!(find_cycles(&[vec![1], vec![1], vec![3], vec![2, 1]]), [vec![1], vec![2, 3]]);
    }

    #[test]
    fn a_long_cycle_needs_no_stack() {
        let ring: Vec<Vec<usize>> = (0..100_000).map(|node| vec![(node + 1) % 100_000]).collect();
        assert_eq!(find_cycles(&ring)[0].len(), 100_000);
    }
}
