//! Finds cycles in graphs that must be acyclic: the steps of a template, the references of a
//! schema.

use std::collections::{HashMap, VecDeque};

/// Finds the cycles of a graph in which `edges` lists the targets of each node.
///
/// For each strongly connected component the result has one shortest cycle through its first node:
/// the nodes in order, with the first one not repeated; a node with an edge to itself is a cycle of
/// one. Linear in nodes and edges.
pub fn find_cycles(edges: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let group = strong_components(edges);
    let mut seen = vec![false; edges.len()];
    let mut cycles = Vec::new();
    for start in 0..edges.len() {
        // One cycle per component: a dense one has exponentially many.
        if !std::mem::replace(&mut seen[group[start]], true) {
            cycles.extend(shortest_cycle(edges, &group, start));
        }
    }
    cycles
}

/// Searches breadth first from `start`, inside its component, for the first edge back to `start`.
fn shortest_cycle(edges: &[Vec<usize>], group: &[usize], start: usize) -> Option<Vec<usize>> {
    let mut came_from = HashMap::from([(start, start)]);
    let mut queue = VecDeque::from([start]);
    while let Some(node) = queue.pop_front() {
        // Only edges inside the component can lead back to `start`.
        for next in edges[node]
            .iter()
            .copied()
            .filter(|next| group[*next] == group[start])
        {
            if next == start {
                let mut cycle = vec![node];
                while let Some(last) = cycle.last().filter(|last| **last != start) {
                    cycle.push(came_from[last]);
                }
                cycle.reverse();
                return Some(cycle);
            }
            // The first visit comes by a shortest path, so later ones are ignored.
            came_from.entry(next).or_insert_with(|| {
                queue.push_back(next);
                node
            });
        }
    }
    None
}

/// The number of each node's strongly connected component; an edge never leads to a component with
/// a lower number.
///
/// Kosaraju's two passes, without recursion.
pub fn strong_components(edges: &[Vec<usize>]) -> Vec<usize> {
    let mut reversed = vec![Vec::new(); edges.len()];
    for (node, targets) in edges.iter().enumerate() {
        targets
            .iter()
            .for_each(|target| reversed[*target].push(node));
    }
    let mut component = vec![usize::MAX; edges.len()];
    // Only roots give their number to a component, so the numbers have gaps; only their order
    // matters.
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
            // Several edges may push a node before the search enters it.
            if edge == 0 && std::mem::replace(&mut entered[node], true) {
                continue;
            }
            match edges[node].get(edge) {
                // The node goes back below its target, so that the search leaves it after the
                // target.
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

    #[test]
    fn cycles_are_reported_once_per_group() {
        let none: [Vec<usize>; 4] = [vec![], vec![0], vec![0, 1], vec![1, 2]];
        assert!(find_cycles(&none).is_empty());
        assert_eq!(find_cycles(&[vec![0]]), [[0]]);
        assert_eq!(find_cycles(&[vec![1], vec![2], vec![0]]), [[0, 1, 2]]);
        assert_eq!(
            find_cycles(&[vec![1, 2], vec![0], vec![0], vec![0]]),
            [[0, 1]]
        );
        assert_eq!(
            find_cycles(&[vec![1], vec![1], vec![3], vec![2, 1]]),
            [vec![1], vec![2, 3]]
        );
    }

    #[test]
    fn long_cycle_is_found_without_recursion() {
        let ring: Vec<Vec<usize>> = (0..100_000)
            .map(|node| vec![(node + 1) % 100_000])
            .collect();
        assert_eq!(find_cycles(&ring)[0].len(), 100_000);
    }
}
