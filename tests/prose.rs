//! The wording of comments and documents: how often they use words that hide the subject of a sentence.

use std::path::{Path, PathBuf};

/// Words, and how often each group may occur in 10,000 words.
const LIMITS: [(&str, &[&str], f64); 3] = [
    (
        "a person in place of a mechanism",
        &["nobody", "somebody", "whoever", "anybody", "everybody"],
        8.0,
    ),
    ("a clause in place of a noun", &["what"], 10.0),
    (
        "a program that speaks",
        &["said", "told", "heard", "tells", "hears"],
        5.0,
    ),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `folder` with this extension.
fn files(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, extension, found);
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
}

/// The comments of a source file.
fn comments(source: &str) -> String {
    let lines = source.lines().filter_map(|line| {
        let comment = line.trim_start().strip_prefix("//")?;
        Some(comment.trim_start_matches(['/', '!']))
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The prose of a document: without blocks of code.
fn prose(document: &str) -> String {
    let parts = document.split("\n```").enumerate();
    parts
        .filter(|(n, _)| n % 2 == 0)
        .map(|(_, part)| part)
        .collect()
}

/// The words of a text, in lower case, without code spans.
fn words(text: &str) -> Vec<String> {
    let spans = text.split('`').enumerate();
    let outside = spans.filter(|(n, _)| n % 2 == 0).map(|(_, part)| part);
    outside
        .flat_map(|part| part.split(|c: char| !c.is_alphanumeric() && c != '\''))
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect()
}

/// Panics with the files that use a group of words most, if that is too often.
fn check(kind: &str, texts: &[(PathBuf, String)]) {
    let read: Vec<(&PathBuf, Vec<String>)> = texts
        .iter()
        .map(|(path, text)| (path, words(text)))
        .collect();
    let all: usize = read.iter().map(|(_, words)| words.len()).sum();
    assert!(all > 5_000, "{kind}: {all} words are too few to count");
    for (habit, group, limit) in LIMITS {
        let mut counts: Vec<(usize, &PathBuf)> = read
            .iter()
            .map(|(path, words)| {
                let is_one = |word: &&String| group.contains(&word.as_str());
                (words.iter().filter(is_one).count(), *path)
            })
            .filter(|(count, _)| *count > 0)
            .collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let found: usize = counts.iter().map(|(count, _)| count).sum();
        let rate = found as f64 * 10_000.0 / all as f64;
        println!("{kind}: {habit}: {rate:.1} in 10,000 words");
        counts.truncate(5);
        assert!(
            rate <= limit,
            "{kind}: {habit} ({}): {rate:.1} in 10,000 words, at most {limit}; most in {counts:#?}",
            group.join(", ")
        );
    }
}

#[test]
fn comments_stay_within_the_limits_of_wording() {
    let mut paths = Vec::new();
    for folder in ["src", "crates", "tests", "examples"] {
        files(&root().join(folder), "rs", &mut paths);
    }
    let texts: Vec<_> = paths
        .into_iter()
        .map(|path| {
            let source = std::fs::read_to_string(&path).unwrap();
            (path, comments(&source))
        })
        .collect();
    check("comments", &texts);
}

#[test]
fn documents_stay_within_the_limits_of_wording() {
    let mut paths = Vec::new();
    files(&root().join("docs"), "md", &mut paths);
    for entry in std::fs::read_dir(root()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "md") {
            paths.push(path);
        }
    }
    let texts: Vec<_> = paths
        .into_iter()
        .map(|path| {
            let document = std::fs::read_to_string(&path).unwrap();
            (path, prose(&document))
        })
        .collect();
    check("documents", &texts);
}
