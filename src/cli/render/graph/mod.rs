//! Draws a DAG in the terminal, one row per node and every edge once.
//!
//! Time runs downwards. Each column holds at most one *lane*: a vertical line from one or more
//! nodes to the children that these nodes have in common. Nodes with the same children share a
//! lane, so a fan-out of a hundred leaves takes one column, a map-and-reduce over a hundred nodes
//! takes three, and a diamond looks like one:
//!
//! ```text
//! ✓      create_user_account
//! ├─✓─┐  setup_billing_profile
//! └─✓─┤  initialize_preferences
//! ┌───┘
//! ●      send_welcome_sequence
//! │
//! ○      update_user_status
//! ```
//!
//! A node is fed either by the line above it or by the line at its left, never by both. A sideways
//! line leads to the node on its row or right below it, and passes beneath every `│` in between. A
//! graph that needs too many columns is listed in waves instead, with the parents named.

mod drawing;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use anstyle::Style;

use self::drawing::Drawing;
use super::term::{Term, clean, style};

/// In a listing, at most this many parents are named.
const MAX_NAMED_PARENTS: usize = 4;

/// One step of the drawing.
#[derive(Debug, Clone)]
pub struct Node<'a> {
    /// Unique in the graph.
    pub name: &'a str,
    /// Names of the parents; unknown ones are ignored.
    pub depends_on: &'a [String],
    /// One terminal column wide.
    pub sign: char,
    /// The sign's colour.
    pub style: Style,
    /// Text beside the sign, safe for the terminal.
    pub label: String,
}

/// The graph as lines, nodes in an order in which they can run.
pub fn draw(nodes: &[Node<'_>], term: &Term) -> Vec<String> {
    let graph = Graph::new(nodes);
    match Drawing::of(&graph) {
        Some(drawing) => drawing.lines(nodes, term),
        None => graph.waves(nodes, term),
    }
}

/// The edges, as indices into the nodes.
struct Graph {
    /// Parents before children, families together.
    order: Vec<usize>,
    /// Sorted and without duplicates.
    children: Vec<Vec<usize>>,
    parents: Vec<Vec<usize>>,
}

impl Graph {
    fn new(nodes: &[Node<'_>]) -> Self {
        let index: HashMap<&str, usize> =
            nodes.iter().enumerate().map(|(i, n)| (n.name, i)).collect();
        let mut graph = Self {
            order: Vec::with_capacity(nodes.len()),
            children: vec![Vec::new(); nodes.len()],
            parents: vec![Vec::new(); nodes.len()],
        };
        for (child, node) in nodes.iter().enumerate() {
            for parent in node
                .depends_on
                .iter()
                .filter_map(|p| index.get(p.as_str()).copied())
            {
                // Edges are counted in `sort`, so one that is named twice must be stored once.
                if parent != child && !graph.parents[child].contains(&parent) {
                    graph.parents[child].push(parent);
                    graph.children[parent].push(child);
                }
            }
        }
        graph.sort();
        graph
    }

    /// Fills `order`, depth first: the children that a node unlocks follow right after it, which
    /// keeps few lanes open.
    fn sort(&mut self) {
        let mut missing: Vec<usize> = self.parents.iter().map(Vec::len).collect();
        // A stack, so reversed: the first root is taken first, and below the first child.
        let mut ready: Vec<usize> = (0..missing.len())
            .rev()
            .filter(|n| missing[*n] == 0)
            .collect();
        while let Some(node) = ready.pop() {
            self.order.push(node);
            for child in self.children[node].iter().rev() {
                missing[*child] -= 1;
                if missing[*child] == 0 {
                    ready.push(*child);
                }
            }
        }
        // No server stores a cycle. If an answer contained one, its nodes would be drawn without
        // the edges between them.
        let cyclic: Vec<bool> = missing.iter().map(|m| *m > 0).collect();
        self.order.extend((0..cyclic.len()).filter(|n| cyclic[*n]));
        for n in 0..cyclic.len() {
            self.children[n].retain(|c| !cyclic[*c]);
            if cyclic[n] {
                self.parents[n].clear();
            }
        }
    }

    /// The fallback for wide graphs: nodes that can run side by side are listed in one wave.
    fn waves(&self, nodes: &[Node<'_>], term: &Term) -> Vec<String> {
        let mut wave = vec![0_usize; nodes.len()];
        // Parents come first in the order, so their waves are known.
        for n in &self.order {
            wave[*n] = self.parents[*n]
                .iter()
                .map(|p| wave[*p] + 1)
                .max()
                .unwrap_or(0);
        }
        let arrow = if term.unicode {
            "↳ after"
        } else {
            "<- after"
        };
        let mut lines = Vec::new();
        for number in 0..=wave.iter().copied().max().unwrap_or(0) {
            lines.push(term.paint(style::DIM, &format!("wave {}", number + 1)));
            for (i, node) in nodes.iter().enumerate().filter(|(i, _)| wave[*i] == number) {
                let mut line = format!(
                    "  {} {}",
                    term.paint(node.style, &node.sign.to_string()),
                    node.label
                );
                let parents = &self.parents[i];
                if !parents.is_empty() {
                    let mut names: Vec<&str> = parents
                        .iter()
                        .take(MAX_NAMED_PARENTS)
                        .map(|p| nodes[*p].name)
                        .collect();
                    let more = format!("{} more", parents.len() - names.len());
                    if parents.len() > names.len() {
                        names.push(&more);
                    }
                    line.push_str(&term.paint(
                        style::DIM,
                        &format!("  {arrow} {}", clean(&names.join(", "))),
                    ));
                }
                lines.push(line);
            }
        }
        lines
    }
}
