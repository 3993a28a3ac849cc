//! Each task has an owner that ends it, or waits for its end: the loops of the engine, a
//! `TaskTracker`, or a `JoinSet`. A bare spawn needs a reason.

use std::{collections::BTreeSet, path::Path};

use crate::source::{Source, files};
use crate::token::Token;

/// Folders whose tasks end with the process.
const OWNED_BY_THE_PROCESS: &[&str] = &["src/bench", "src/cli"];

/// Files that spawn without an owner, and why. A file that no longer does must be removed here.
const BARE: &[(&str, &str)] = &[
    (
        "src/engine/cache/templates.rs",
        "the caller waits for the blocking thread",
    ),
    (
        "src/engine/cache/templates/reader.rs",
        "the caller waits for the blocking thread",
    ),
    (
        "src/store/connect.rs",
        "the driver of a connection ends with its client",
    ),
    (
        "src/store/deadline.rs",
        "`drop` cannot wait; the query ends within the time limit of statements",
    ),
];

/// The lines with a spawn that is not a method of an owner: a function of a runtime, or a method of
/// its handle.
fn bare_spawns(tokens: &[Token]) -> Vec<usize> {
    const FUNCTIONS: [&str; 3] = ["spawn", "spawn_blocking", "spawn_local"];
    let is_bare = |at: usize| {
        let text = tokens[at].text;
        let before = at.checked_sub(1).map_or("", |before| tokens[before].text);
        // `fn spawn` declares an owner's method.
        let is_function = FUNCTIONS.contains(&text) && before != "." && before != "fn";
        is_function || text == "spawn_on" || text == "Handle"
    };
    (0..tokens.len())
        .filter(|&at| is_bare(at))
        .map(|at| tokens[at].line)
        .collect()
}

fn spawns(source: &Source) -> Vec<usize> {
    let tokens: Vec<Token> = source.tokens();
    let code: Vec<Token> = tokens.into_iter().filter(|t| !t.is_comment()).collect();
    bare_spawns(&code)
}

#[test]
fn spawned_tasks_have_an_owner_or_a_reason() {
    let is_checked = |source: &Source| {
        let owned = |folder: &&str| source.path.starts_with(folder);
        !source.is_test() && !OWNED_BY_THE_PROCESS.iter().any(owned)
    };
    let mut bare = BTreeSet::new();
    for source in files(Path::new("src")).iter().filter(|s| is_checked(s)) {
        for line in spawns(source) {
            let path = source.path.to_string_lossy().into_owned();
            println!("{path}:{line}: a bare spawn");
            bare.insert(path);
        }
    }
    let listed: BTreeSet<String> = BARE.iter().map(|(path, _)| (*path).to_owned()).collect();
    let new: Vec<_> = bare.difference(&listed).collect();
    assert!(new.is_empty(), "tasks without an owner: {new:#?}");
    let gone: Vec<_> = listed.difference(&bare).collect();
    assert!(gone.is_empty(), "remove from BARE: {gone:#?}");
}

#[test]
fn bare_spawns_are_those_of_no_owner() {
    let source = "
        fn spawn() {}
        tokio::spawn(a);
        set.spawn(b);
        self.loops.spawn(c);
        use tokio::task::{spawn_blocking};
        Handle::current();
    ";
    assert_eq!(bare_spawns(&crate::token::lex(source)), [3, 6, 7]);
}
