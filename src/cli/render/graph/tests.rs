//! Golden drawings, and a reader that recovers the edges of random graphs from their drawings.

use super::*;
use crate::cli::render::term::width;

/// `name: parent parent`, one node per line.
fn picture(graph: &str, term: &Term) -> String {
    let parsed: Vec<(&str, Vec<String>)> = graph
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .map(|l| l.split_once(':').expect("a colon"))
        .map(|(name, parents)| (name, parents.split_whitespace().map(Into::into).collect()))
        .collect();
    let nodes: Vec<Node<'_>> = parsed
        .iter()
        .map(|(name, depends_on)| Node {
            name,
            depends_on,
            sign: '○',
            style: style::PLAIN,
            label: (*name).into(),
        })
        .collect();
    draw(&nodes, term).join("\n")
}

fn draws(graph: &str, expected: &str) {
    let drawn = picture(graph, &Term::plain());
    let expected: Vec<&str> = expected
        .lines()
        .skip(1)
        .map(|l| l.trim().trim_start_matches(';'))
        .collect();
    let expected = expected.join("\n");
    assert_eq!(drawn.trim_end(), expected.trim_end(), "\n{drawn}\n");
}

#[test]
fn graph_without_nodes_draws_nothing() {
    assert_eq!(picture("", &Term::plain()), "");
}

#[test]
fn chain_is_drawn_in_one_column() {
    draws(
        "a: \n b: a\n c: b",
        "
        ;○  a
        ;│
        ;○  b
        ;│
        ;○  c",
    );
}

#[test]
fn user_registration_is_drawn() {
    draws(
        "create_user_account:
         setup_billing_profile: create_user_account
         initialize_preferences: create_user_account
         send_welcome_sequence: setup_billing_profile initialize_preferences
         update_user_status: send_welcome_sequence",
        "
        ;○      create_user_account
        ;├─○─┐  setup_billing_profile
        ;└─○─┤  initialize_preferences
        ;┌───┘
        ;○      send_welcome_sequence
        ;│
        ;○      update_user_status",
    );
}

#[test]
fn diamond_of_chains_is_drawn() {
    draws(
        "start: \n p1: start\n p2: start\n v1: p1\n v2: p2\n merge: v1 v2\n end: merge",
        "
        ;○      start
        ;├─○    p1
        ;│ │
        ;│ ○─┐  v1
        ;└─○ │  p2
        ;  │ │
        ;  ○─┤  v2
        ;┌───┘
        ;○      merge
        ;│
        ;○      end",
    );
}

#[test]
fn two_roots_with_a_common_child_are_joined() {
    draws(
        "a: \n b: \n c: a b",
        "
        ;○─┐  a
        ;○─┤  b
        ;  ○  c",
    );
}

#[test]
fn separate_roots_are_drawn_apart() {
    draws(
        "a: \n b: \n b1: b\n c: ",
        "
        ;○  a
        ;
        ;○  b
        ;│
        ;○  b1
        ;
        ;○  c",
    );
}

#[test]
fn wide_fan_out_takes_one_lane() {
    draws(
        "root: \n a: root\n b: root\n c: root\n d: root",
        "
        ;○    root
        ;├─○  a
        ;├─○  b
        ;├─○  c
        ;└─○  d",
    );
}

#[test]
fn tree_keeps_siblings_together() {
    draws(
        "root: \n a: root\n b: root\n a1: a\n a2: a\n b1: b",
        "
        ;○      root
        ;├─○    a
        ;│ ├─○  a1
        ;│ └─○  a2
        ;└─○    b
        ;  │
        ;  ○    b1",
    );
}

#[test]
fn shortcut_joins_the_longer_path() {
    draws(
        "a: \n b: a\n c: a b\n d: c",
        "
        ;○    a
        ;├─○  b
        ;├─┘
        ;○    c
        ;│
        ;○    d",
    );
}

#[test]
fn complete_bipartite_layers_are_drawn() {
    draws(
        "a: \n b: \n c: a b\n d: a b\n e: c d",
        "
        ;○─┐      a
        ;○─┤      b
        ;  ├─○─┐  c
        ;  └─○─┤  d
        ;┌─────┘
        ;○        e",
    );
}

#[test]
fn horizontal_line_passes_beneath_a_lane() {
    draws(
        "a: \n b: a\n b1: b\n c: a\n z: b1 b\n y: c z",
        "
        ;○      a
        ;├─○    b
        ;│ ├─○  b1
        ;│ ├─┘
        ;│ ○─┐  z
        ;└─○─┤  c
        ;┌───┘
        ;○      y",
    );
}

#[test]
fn graph_without_unicode_is_drawn_in_ascii() {
    let term = Term {
        unicode: false,
        ..Term::plain()
    };
    assert_eq!(
        picture("a: \n b: a\n c: a\n d: b c", &term).replace('○', "o"),
        "o      a\n+-o-.  b\n`-o-+  c\n.---'\no      d"
    );
}

#[test]
fn hundred_mappers_take_three_columns() {
    let mut graph = String::from("root:\n");
    let names: Vec<String> = (0..98).map(|i| format!("m{i}")).collect();
    for name in &names {
        graph += &format!("{name}: root\n");
    }
    graph += &format!("reduce: {}", names.join(" "));
    let drawn = picture(&graph, &Term::plain());
    assert_eq!(drawn.lines().count(), 101);
    assert!(drawn.lines().all(|l| width(l) <= 13), "{drawn}");
}

#[test]
fn graph_over_the_width_is_listed_in_waves() {
    // Every pair of 25 roots has a child of its own, so that no lane can be shared.
    let mut graph: String = (0..25).map(|i| format!("r{i}:\n")).collect();
    for i in 0..25 {
        graph += &format!("c{i}: r{i} r{}\n", (i + 12) % 25);
    }
    graph += &format!(
        "z: {}",
        (0..25).map(|i| format!("c{i} ")).collect::<String>()
    );
    let drawn = picture(&graph, &Term::plain());
    assert!(drawn.starts_with("wave 1\n  ○ r0\n"), "{drawn}");
    assert!(
        drawn.contains("wave 2\n  ○ c0  ↳ after r0, r12\n"),
        "{drawn}"
    );
    assert!(
        drawn.ends_with("wave 3\n  ○ z  ↳ after c0, c1, c2, c3, 21 more"),
        "{drawn}"
    );
}

#[test]
fn nodes_with_unknown_parents_or_cycles_are_drawn() {
    let drawn = picture("a: a ghost\n b: c\n c: b\n d: b a", &Term::plain());
    for name in ["a", "b", "c", "d"] {
        assert_eq!(
            drawn
                .lines()
                .filter(|l| l.ends_with(&format!("  {name}")))
                .count(),
            1,
            "{drawn}"
        );
    }
}

/// The edges read back from drawings of random graphs are the graph's: none missing, none invented.
#[test]
fn random_graphs_are_drawn_with_exactly_their_edges() {
    let mut seed = 7_u64;
    let mut random = |bound: usize| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).expect("31 bits") % bound
    };
    for round in 0..2_000 {
        let count = 1 + random(9);
        let mut graph = String::new();
        let mut edges = Vec::new();
        for child in 0..count {
            graph += &format!("n{child}:");
            for parent in (0..child).filter(|_| random(3) == 0).collect::<Vec<_>>() {
                graph += &format!(" n{parent}");
                edges.push((parent, child));
            }
            graph += "\n";
        }
        let drawn = picture(&graph, &Term::plain());
        let sheet = Sheet(drawn.lines().map(|l| l.chars().collect()).collect());
        assert_eq!(sheet.edges(), edges, "round {round}\n{graph}\n{drawn}\n");
    }
}

/// A drawing, read the way an eye follows its lines.
struct Sheet(Vec<Vec<char>>);

impl Sheet {
    fn at(&self, row: usize, column: usize) -> char {
        self.0
            .get(row)
            .and_then(|r| r.get(column))
            .copied()
            .unwrap_or(' ')
    }

    fn node(&self, row: usize) -> Option<usize> {
        self.0.get(row)?.iter().position(|c| *c == '○')
    }

    fn name(&self, row: usize) -> usize {
        let text: String = self.0[row].iter().collect();
        text.rsplit('n')
            .next()
            .and_then(|n| n.parse().ok())
            .expect("a node's row")
    }

    /// The column that a sideways line leads to, at the left of the row's node or on a row without
    /// one.
    fn sink(&self, row: usize) -> usize {
        let below = self
            .node(row + 1)
            .filter(|c| "├┤┼┬┌┐".contains(self.at(row, *c)));
        let leftmost = || {
            self.0[row]
                .iter()
                .position(|c| "├┌".contains(*c))
                .expect("a corner")
        };
        self.node(row).or(below).unwrap_or_else(leftmost)
    }

    /// The nodes that a line reaches from this cell downwards.
    fn down(&self, row: usize, column: usize, reached: &mut Vec<usize>) {
        let here = self.at(row, column);
        if here == '○' {
            if column == 0 || self.at(row, column - 1) != '─' {
                reached.push(self.name(row));
            }
            return;
        }
        if "│├┤┼".contains(here) {
            self.down(row + 1, column, reached);
        }
        let joins_a_lane = self.node(row).is_some_and(|c| c < column);
        if "├┤┼└┘┴".contains(here) && !joins_a_lane {
            let sink = self.sink(row);
            if self.node(row) == Some(sink) {
                reached.push(self.name(row));
            } else if sink != column {
                self.down(row + 1, sink, reached);
            }
        }
    }

    fn edges(&self) -> Vec<(usize, usize)> {
        let mut edges = Vec::new();
        for (row, column) in (0..self.0.len()).filter_map(|r| Some((r, self.node(r)?))) {
            let mut reached = Vec::new();
            // A node has one line out: to the right, or else down.
            if self.at(row, column + 1) == '─' {
                let turn = (column + 1..)
                    .find(|c| "┤┐".contains(self.at(row, *c)))
                    .expect("a corner");
                self.down(row + 1, turn, &mut reached);
            } else {
                self.down(row + 1, column, &mut reached);
            }
            edges.extend(reached.into_iter().map(|child| (self.name(row), child)));
        }
        edges.sort_unstable_by_key(|(parent, child)| (*child, *parent));
        edges.dedup();
        edges
    }
}
