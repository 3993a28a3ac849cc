//! The lines and the nodes of the drawing, cell by cell.

use super::{Graph, Node};
use crate::cli::render::term::{Term, style, width};

/// A graph that needs more columns than this is listed in waves.
const MAX_COLUMNS: usize = 12;

/// A graph of at most this many nodes is drawn with room between the nodes of a chain.
const MAX_ROOMY_NODES: usize = 16;

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
        // Lanes in between stay visible, as the line passes beneath them.
        for cell in self.cells[2 * left + 1..2 * right]
            .iter_mut()
            .filter(|c| **c == ' ')
        {
            *cell = '─';
        }
    }

    fn line(&self, columns: usize, nodes: &[Node<'_>], term: &Term) -> String {
        let Some((column, index)) = self.node else {
            return paint(&self.cells, term).trim_end().to_owned();
        };
        let node = &nodes[index];
        // The sign of the node takes the place of the lane's in its column.
        let split = (2 * column).min(self.cells.len());
        let mut left = self.cells[..split].to_vec();
        left.resize(2 * column, ' ');
        let right = self.cells.get(2 * column + 1..).unwrap_or_default();
        let mut line = paint(&left, term)
            + &term.paint(node.style, &node.sign.to_string())
            + &paint(right, term);
        // All labels begin in the same column, two beyond the widest row.
        line.extend(std::iter::repeat_n(' ', columns - width(&line) + 2));
        line.push_str(&node.label);
        line
    }
}

/// Lines without a node, in the characters of the terminal.
fn paint(cells: &[char], term: &Term) -> String {
    let text: String = cells
        .iter()
        .map(|c| if term.unicode { *c } else { ascii(*c) })
        .collect();
    match text.trim().is_empty() {
        true => text,
        false => term.paint(style::DIM, &text),
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

pub struct Drawing<'g> {
    graph: &'g Graph,
    /// By column.
    lanes: Vec<Option<Lane>>,
    rows: Vec<Row>,
    roomy: bool,
}

impl<'g> Drawing<'g> {
    /// `None` when the graph is too wide.
    pub fn of(graph: &'g Graph) -> Option<Self> {
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
            // Checked at each node: the lanes of a wide graph need not all be drawn to see that it
            // is too wide.
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
        // The lanes above the node, before those that end in it are removed.
        let before = self.lanes_only();
        let mut ended = Vec::new();
        let mut chain = false;
        for column in &feeds {
            let lane = self.lanes[*column].as_mut().expect("feeds are lanes");
            lane.targets.retain(|t| *t != node);
            if lane.targets.is_empty() {
                // A lane that led to other nodes too needs a joint where it ends.
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
            // Without a line in between, two nodes of a chain would look like a list.
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
        // The columns of the lanes that ended are free for the node.
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
        // Only a lane that has led to exactly these children from its start: one that shrank to
        // them has other edges above.
        let same = self.lanes.iter().position(|l| {
            l.as_ref()
                .is_some_and(|l| l.targets == *children && l.fan == children.len())
        });
        let lane = Some(Lane {
            targets: children.clone(),
            fan: children.len(),
        });
        let row = self.rows.last_mut().expect("the node's row");
        match same {
            Some(target) if target > column => {
                row.horizontal(column, target);
                row.put(target, '┤');
            }
            // The line that leads to the node may come from the left, so the way to a lane there
            // takes a row of its own.
            Some(target) => {
                let mut back = self.lanes_only();
                back.horizontal(target, column);
                back.put(target, '├');
                back.put(column, '┘');
                self.rows.push(back);
            }
            // Beside the node, so that the later nodes with the same children can join it.
            None if later.iter().any(|n| self.graph.children[*n] == *children) => {
                let target = (column + 1..)
                    .find(|c| self.lanes.get(*c).is_none_or(Option::is_none))
                    .expect("unbounded");
                row.horizontal(column, target);
                row.put(target, '┐');
                self.put_lane(target, lane);
            }
            None => self.put_lane(column, lane),
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

    pub fn lines(&self, nodes: &[Node<'_>], term: &Term) -> Vec<String> {
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
