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

#[cfg(test)]
mod tests;

use std::collections::HashMap;

use super::term::{Style, Term, width};

/// A graph that needs more columns than this is listed in waves.
const MAX_COLUMNS: usize = 12;

/// A graph of at most this many nodes is drawn with room between the nodes of a chain.
const MAX_ROOMY_NODES: usize = 16;

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
            lines.push(term.paint(Style::Dim, &format!("wave {}", number + 1)));
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
                        Style::Dim,
                        &format!("  {arrow} {}", super::term::clean(&names.join(", "))),
                    ));
                }
                lines.push(line);
            }
        }
        lines
    }
}

/// A vertical line down to nodes that are not drawn yet.
struct Lane {
    targets: Vec<usize>,
    /// The number of targets at its start.
    fan: usize,
}

/// One line of the drawing: a cell for each column and for each gap between two columns.
struct Row {
    cells: Vec<char>,
    /// Column and index of the node on it.
    node: Option<(usize, usize)>,
}

impl Row {
    fn put(&mut self, column: usize, sign: char) {
        if self.cells.len() <= 2 * column {
            self.cells.resize(2 * column + 1, ' ');
        }
        self.cells[2 * column] = sign;
    }

    /// A line from column to column, beneath the lanes between them.
    fn horizontal(&mut self, a: usize, b: usize) {
        let (left, right) = (a.min(b), a.max(b));
        self.cells.resize(self.cells.len().max(2 * right + 1), ' ');
        for cell in self.cells[2 * left + 1..2 * right]
            .iter_mut()
            .filter(|c| **c == ' ')
        {
            *cell = '─';
        }
    }
}

/// A box character from the directions in which it has a line.
fn joint(up: bool, down: bool, left: bool, right: bool) -> char {
    match (up, down, left, right) {
        (true, true, true, true) => '┼',
        (true, true, true, false) => '┤',
        (true, true, false, true) => '├',
        (true, false, true, true) => '┴',
        (false, true, true, true) => '┬',
        (true, false, true, false) => '┘',
        (true, false, false, true) => '└',
        (false, true, true, false) => '┐',
        (false, true, false, true) => '┌',
        (_, _, false, false) => '│',
        (false, false, ..) => '─',
    }
}

/// The ASCII substitute, for locales without box characters.
fn ascii(c: char) -> char {
    match c {
        '│' => '|',
        '─' => '-',
        '├' | '┤' | '┼' | '┴' | '┬' => '+',
        '└' => '`',
        '┘' => '\'',
        '┌' | '┐' => '.',
        other => other,
    }
}

struct Drawing<'g> {
    graph: &'g Graph,
    /// By column.
    lanes: Vec<Option<Lane>>,
    rows: Vec<Row>,
    roomy: bool,
}

impl<'g> Drawing<'g> {
    /// `None` when the graph is too wide.
    fn of(graph: &'g Graph) -> Option<Self> {
        let roomy = graph.order.len() <= MAX_ROOMY_NODES;
        let mut drawing = Self {
            graph,
            lanes: Vec::new(),
            rows: Vec::new(),
            roomy,
        };
        for (position, node) in graph.order.iter().enumerate() {
            let column = drawing.enter(*node);
            drawing.leave(*node, column, &graph.order[position + 1..]);
            if drawing.lanes.len() > MAX_COLUMNS {
                return None;
            }
        }
        Some(drawing)
    }

    /// Places a node and draws the lines that lead to it. Returns its column.
    fn enter(&mut self, node: usize) -> usize {
        let feeds: Vec<usize> = (0..self.lanes.len())
            .filter(|c| {
                self.lanes[*c]
                    .as_ref()
                    .is_some_and(|l| l.targets.contains(&node))
            })
            .collect();
        let before = self.lanes_only();
        let mut ended = Vec::new();
        let mut chain = false;
        for column in &feeds {
            let lane = self.lanes[*column].as_mut().expect("feeds are lanes");
            lane.targets.retain(|t| *t != node);
            if lane.targets.is_empty() {
                chain = lane.fan == 1;
                ended.push(*column);
                self.lanes[*column] = None;
            }
        }
        match (&feeds[..], &ended[..]) {
            ([], _) => self.enter_root(node, before),
            ([only], [_]) if chain => self.enter_below(node, before, *only),
            ([_, .., _], [first, ..]) => self.enter_joined(node, before, &feeds, &ended, *first),
            _ => self.enter_beside(node, before, &feeds, &ended),
        }
    }

    /// A node without parents goes to the first free column.
    fn enter_root(&mut self, node: usize, mut row: Row) -> usize {
        let column = self.free_after(None);
        // Right under a leaf, the root would look like the leaf's child.
        let under_leaf = self
            .rows
            .last()
            .and_then(|r| r.node)
            .is_some_and(|(c, above)| c == column && self.graph.children[above].is_empty());
        if under_leaf {
            self.rows.push(self.lanes_only());
        }
        row.node = Some((column, node));
        self.rows.push(row);
        column
    }

    /// A node whose one parent or one shared lane ends in it stands on that lane, or further left
    /// if that saves room.
    fn enter_below(&mut self, node: usize, before: Row, lane: usize) -> usize {
        let mut column = self.leftmost_free(lane);
        if lane - column >= 2 {
            let mut shift = before;
            shift.horizontal(column, lane);
            shift.put(column, '┌');
            shift.put(lane, '┘');
            self.rows.push(shift);
        } else {
            column = lane;
            let under_node = self
                .rows
                .last()
                .and_then(|r| r.node)
                .is_some_and(|(c, _)| c == column);
            if self.roomy && under_node {
                self.rows.push(before);
            }
        }
        let mut row = self.lanes_only();
        row.node = Some((column, node));
        self.rows.push(row);
        column
    }

    /// Several lanes lead to the node, and some end: they meet in a row of their own, and the node
    /// stands below it.
    fn enter_joined(
        &mut self,
        node: usize,
        mut row: Row,
        feeds: &[usize],
        ended: &[usize],
        first: usize,
    ) -> usize {
        let column = self.leftmost_free(first);
        let (left, right) = (feeds[0].min(column), feeds[feeds.len() - 1]);
        row.horizontal(left, right);
        for c in feeds.iter().copied().chain([column]) {
            let (up, down) = (feeds.contains(&c), !ended.contains(&c) || c == column);
            row.put(c, joint(up, down, c > left, c < right));
        }
        self.rows.push(row);
        let mut row = self.lanes_only();
        row.node = Some((column, node));
        self.rows.push(row);
        column
    }

    /// The node branches off: it stands at the right of the lanes that lead to it.
    fn enter_beside(
        &mut self,
        node: usize,
        mut row: Row,
        feeds: &[usize],
        ended: &[usize],
    ) -> usize {
        let column = self.free_after(feeds.last().copied());
        row.horizontal(feeds[0], column);
        for c in feeds {
            row.put(*c, joint(true, !ended.contains(c), *c > feeds[0], true));
        }
        row.node = Some((column, node));
        self.rows.push(row);
        column
    }

    /// Begins the lane to the node's children, or joins the one that leads to the same children.
    fn leave(&mut self, node: usize, column: usize, later: &[usize]) {
        let children = &self.graph.children[node];
        if children.is_empty() {
            return;
        }
        let same = self.lanes.iter().position(|l| {
            l.as_ref()
                .is_some_and(|l| l.targets == *children && l.fan == children.len())
        });
        let lane = || {
            Some(Lane {
                targets: children.clone(),
                fan: children.len(),
            })
        };
        let row = self.rows.last_mut().expect("the node's row");
        match same {
            Some(target) if target > column => {
                row.horizontal(column, target);
                row.put(target, '┤');
            }
            Some(target) => {
                let mut back = self.lanes_only();
                back.horizontal(target, column);
                back.put(target, '├');
                back.put(column, '┘');
                self.rows.push(back);
            }
            None if later.iter().any(|n| self.graph.children[*n] == *children) => {
                let target = (column + 1..)
                    .find(|c| self.lanes.get(*c).is_none_or(Option::is_none))
                    .expect("unbounded");
                row.horizontal(column, target);
                row.put(target, '┐');
                self.put_lane(target, lane());
            }
            None => self.put_lane(column, lane()),
        }
    }

    fn put_lane(&mut self, column: usize, lane: Option<Lane>) {
        if self.lanes.len() <= column {
            self.lanes.resize_with(column + 1, || None);
        }
        self.lanes[column] = lane;
    }

    /// A row with nothing but the lanes as they are.
    fn lanes_only(&self) -> Row {
        let mut row = Row {
            cells: Vec::new(),
            node: None,
        };
        for (column, _) in self
            .lanes
            .iter()
            .enumerate()
            .filter(|(_, lane)| lane.is_some())
        {
            row.put(column, '│');
        }
        row
    }

    fn free_after(&self, column: Option<usize>) -> usize {
        let from = column.map_or(0, |c| c + 1);
        (from..)
            .find(|c| self.lanes.get(*c).is_none_or(Option::is_none))
            .expect("unbounded")
    }

    /// The first of the free columns that lie side by side up to `column`.
    fn leftmost_free(&self, column: usize) -> usize {
        let taken = self.lanes[..column.min(self.lanes.len())]
            .iter()
            .rposition(Option::is_some);
        taken.map_or(0, |c| c + 1)
    }

    fn lines(&self, nodes: &[Node<'_>], term: &Term) -> Vec<String> {
        let columns = self
            .rows
            .iter()
            .map(|r| r.cells.len().max(r.node.map_or(0, |(c, _)| 2 * c + 1)))
            .max()
            .unwrap_or(0);
        self.rows
            .iter()
            .map(|row| row.line(columns, nodes, term))
            .collect()
    }
}

impl Row {
    fn line(&self, columns: usize, nodes: &[Node<'_>], term: &Term) -> String {
        let lines = |cells: &[char]| {
            let text: String = cells
                .iter()
                .map(|c| if term.unicode { *c } else { ascii(*c) })
                .collect();
            if text.trim().is_empty() {
                text
            } else {
                term.paint(Style::Dim, &text)
            }
        };
        let Some((column, index)) = self.node else {
            return lines(&self.cells[..]).trim_end().to_owned();
        };
        let node = &nodes[index];
        let split = (2 * column).min(self.cells.len());
        let mut left = self.cells[..split].to_vec();
        left.resize(2 * column, ' ');
        let right = self.cells.get(2 * column + 1..).unwrap_or_default();
        let mut line =
            lines(&left) + &term.paint(node.style, &node.sign.to_string()) + &lines(right);
        line.extend(std::iter::repeat_n(' ', columns - width(&line) + 2));
        line.push_str(&node.label);
        line
    }
}
