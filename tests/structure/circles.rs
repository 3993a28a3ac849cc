//! No circle of imports between the modules of a folder.
//!
//! The nodes are the modules of one parent, each together with all modules below it. A module
//! depends on a sibling if one of its files names an item of the sibling: by `use`, by a path, or
//! by a name that their parent imports. A parent and its child are one unit: a child may use the
//! items of its parent.

use std::collections::{BTreeMap, BTreeSet};

use crate::imports::{Crate, Module};
use crate::source::crates;

/// For each module of a folder, the siblings that it names.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// The graphs of all folders of a crate, by the parent module.
fn graphs(one: &Crate) -> BTreeMap<Module, Graph> {
    let mut graphs: BTreeMap<Module, Graph> = BTreeMap::new();
    for (module, paths) in &one.modules {
        for target in paths.iter().map(|path| one.target(path)) {
            let common = module
                .iter()
                .zip(&target)
                .take_while(|(a, b)| a == b)
                .count();
            if let (Some(from), Some(to)) = (module.get(common), target.get(common)) {
                let graph = graphs.entry(module[..common].to_vec()).or_default();
                graph.entry(from.clone()).or_default().insert(to.clone());
            }
        }
    }
    graphs
}

fn reachable(graph: &Graph, from: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![from.to_owned()];
    while let Some(next) = open.pop() {
        for to in graph.get(&next).into_iter().flatten() {
            if found.insert(to.clone()) {
                open.push(to.clone());
            }
        }
    }
    found
}

/// The groups of modules that reach one another.
fn circles(graph: &Graph) -> BTreeSet<Vec<String>> {
    let reach: BTreeMap<&String, BTreeSet<String>> = graph
        .keys()
        .map(|from| (from, reachable(graph, from)))
        .collect();
    let circle_of = |one: &String| {
        let others = reach[one]
            .iter()
            .filter(|o| reach.get(o).is_some_and(|r| r.contains(one)));
        others.cloned().collect::<Vec<_>>()
    };
    graph
        .keys()
        .map(circle_of)
        .filter(|circle| !circle.is_empty())
        .collect()
}

#[test]
fn imports_between_modules_of_a_folder_have_no_circle() {
    let mut found = BTreeSet::new();
    for src in crates() {
        for (parent, graph) in graphs(&Crate::read(&src)) {
            let folder = src.join(parent.join("/")).to_string_lossy().into_owned();
            for circle in circles(&graph) {
                for from in &circle {
                    let to = graph[from].iter().filter(|to| circle.contains(to));
                    let to: Vec<_> = to.map(String::as_str).collect();
                    println!("{folder}: {from} imports {}", to.join(", "));
                }
                found.insert((folder.clone(), circle));
            }
        }
    }
    println!("circles of imports: {}", found.len());
    assert!(found.is_empty(), "circles of imports: {found:#?}");
}

#[test]
fn circles_of_a_graph_with_two_groups_gives_both_and_no_other_module() {
    let edges = [
        ("a", "b"),
        ("b", "a"),
        ("b", "c"),
        ("c", "d"),
        ("d", "e"),
        ("e", "c"),
        ("f", "a"),
    ];
    let mut graph = Graph::new();
    for (from, to) in edges {
        graph.entry(from.into()).or_default().insert(to.into());
    }
    let found: Vec<String> = circles(&graph).iter().map(|c| c.concat()).collect();
    assert_eq!(found, ["ab", "cde"]);
}
