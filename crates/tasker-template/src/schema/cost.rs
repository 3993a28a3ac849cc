//! Refuses schemas whose compilation could take forever or exhaust the stack, and those whose cost
//! doubles with each level of a document. The cost of all others is counted per document (`walk`).

use std::collections::HashMap;

use super::SchemaProblem;
use super::keywords::Role;
use super::message::cut;
use super::survey::{Place, Survey};
use crate::cycles::{find_cycles, strong_components};

/// The most paths through a schema from its top to its ends. Without references it is the number of
/// subschemas; two references to the same definition from one place double the paths behind it.
pub const MAX_SCHEMA_PATHS: u64 = 20_000;
/// Largest nesting depth of subschemas, with references followed.
pub const MAX_SCHEMA_DEPTH: usize = 500;
/// Largest nesting depth of schemas for one value (`allOf`, `$ref` and their like). A recursive
/// schema goes through all of them at each level of a context, on the stack.
pub const MAX_SAME_VALUE_DEPTH: usize = 12;

pub(super) fn check(survey: &Survey, problems: &mut Vec<SchemaProblem>) {
    let places = &survey.places;
    let same_value = edges(places, |role| role == Role::SameValue);
    for cycle in find_cycles(&same_value) {
        problems.push(loop_problem(places, &cycle));
    }
    // The figures below assume a graph without loops for one value and with all its edges.
    if !problems.is_empty() {
        return;
    }
    let all = edges(places, |_| true);
    let group = strong_components(&all);
    let branching = places
        .iter()
        .enumerate()
        .filter(|(index, place)| recursive_branches(place, group[*index], &group) > 1);
    problems.extend(branching.map(|(_, place)| SchemaProblem {
        pointer: place.pointer.clone(),
        message: "the schema contains itself in more than one way that can apply to the same value, so its cost would double \
                  with each level of a context; expected at most one"
            .into(),
    }));
    let whole = measure(&all);
    let message = if whole.paths > MAX_SCHEMA_PATHS {
        format!("with its references followed, the schema has more than {MAX_SCHEMA_PATHS} parts")
    } else if whole.depth > MAX_SCHEMA_DEPTH {
        format!(
            "with its references followed, the schema is nested deeper than {MAX_SCHEMA_DEPTH} levels"
        )
    } else if measure(&same_value).depth > MAX_SAME_VALUE_DEPTH {
        format!(
            "more than {MAX_SAME_VALUE_DEPTH} schemas lead from one to the next for the same value"
        )
    } else {
        return;
    };
    problems.push(SchemaProblem {
        pointer: String::new(),
        message,
    });
}

fn edges(places: &[Place], wanted: impl Fn(Role) -> bool) -> Vec<Vec<usize>> {
    let targets = |place: &Place| {
        place
            .edges
            .iter()
            .filter(|edge| wanted(edge.role))
            .map(|edge| edge.to)
            .collect()
    };
    places.iter().map(targets).collect()
}

fn loop_problem(places: &[Place], cycle: &[usize]) -> SchemaProblem {
    let steps: Vec<String> = cycle
        .iter()
        .chain(cycle.first())
        .map(|place| format!("#{}", places[*place].pointer))
        .collect();
    let message = format!(
        "the schema refers to itself without reaching a value: {}",
        steps.join(" → ")
    );
    SchemaProblem {
        pointer: places[cycle[0]].pointer.clone(),
        message: cut(&message),
    }
}

/// The number of edges back to this place that can apply to one and the same value.
fn recursive_branches(place: &Place, own: usize, group: &[usize]) -> usize {
    let mut count: HashMap<&str, usize> = HashMap::new();
    for edge in place.edges.iter().filter(|edge| group[edge.to] == own) {
        match edge.role {
            Role::SameValue => *count.entry("same").or_default() += 1,
            // Two properties, or two items, are two values.
            Role::Property => drop(count.insert("property", 1)),
            Role::Item => drop(count.insert("item", 1)),
            Role::SharedProperty => *count.entry("shared property").or_default() += 1,
            Role::SharedItem => *count.entry("shared item").or_default() += 1,
            Role::Aside => {}
        }
    }
    let of = |kind: &str| count.get(kind).copied().unwrap_or(0);
    // A value is an object or an array, never both.
    of("same") + (of("property") + of("shared property")).max(of("item") + of("shared item"))
}

/// The size of a graph of places, counted by strongly connected components from the top down.
#[derive(Default)]
struct GraphSize {
    /// Number of paths from the top to all places; a recursion counts once.
    paths: u64,
    /// Longest path, in places.
    depth: usize,
}

fn measure(edges: &[Vec<usize>]) -> GraphSize {
    let group = strong_components(edges);
    let mut order: Vec<usize> = (0..edges.len()).collect();
    order.sort_by_key(|place| group[*place]); // No edge leads to a lower number.
    let (mut ways, mut above) = (vec![0_u64; edges.len()], vec![0_usize; edges.len()]);
    let mut size = GraphSize::default();
    for members in order.chunk_by(|a, b| group[*a] == group[*b]) {
        // The validator compiles a definition without references to it, too, so it counts once.
        let entering = members
            .iter()
            .fold(0_u64, |sum, place| sum.saturating_add(ways[*place]))
            .max(1);
        let depth = members.iter().map(|place| above[*place]).max().unwrap_or(0) + members.len();
        size.depth = size.depth.max(depth);
        for place in members {
            size.paths = size.paths.saturating_add(entering);
            for target in edges[*place]
                .iter()
                .filter(|target| group[**target] != group[*place])
            {
                ways[*target] = ways[*target].saturating_add(entering);
                above[*target] = above[*target].max(depth);
            }
        }
    }
    size
}
