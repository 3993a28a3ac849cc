//! The Rust files that documents name exist.

use std::fs;
use std::path::{Path, PathBuf};

use crate::source::root;

/// Folders of the program whose files are named without `src/`.
const FOLDERS: [&str; 9] = [
    "bench/", "cli/", "domain/", "engine/", "grpc/", "http/", "json/", "proto/", "store/",
];

/// The paths of Rust files between backticks, such as `engine/mod.rs`.
fn paths(text: &str) -> Vec<&str> {
    let spans = text.split('`').skip(1).step_by(2);
    spans
        .filter(|span| span.ends_with(".rs") && span.contains('/'))
        .filter(|span| !span.contains(|c: char| c.is_whitespace() || "{}*…".contains(c)))
        .collect()
}

fn exists(path: &str) -> bool {
    let below_src = FOLDERS.iter().any(|folder| path.starts_with(folder));
    root().join(path).exists() || (below_src && root().join("src").join(path).exists())
}

/// The documents at the top, and those below `docs`.
fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root().join("docs")];
    while let Some(folder) = open.pop() {
        for path in fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
            if path.is_dir() {
                open.push(path);
            } else if is_document(&path) {
                found.push(path);
            }
        }
    }
    let top = fs::read_dir(root()).unwrap().map(|e| e.unwrap().path());
    found.extend(top.filter(|path| is_document(path)));
    found
}

fn is_document(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "md")
}

#[test]
fn documents_name_only_files_that_exist() {
    let mut missing = Vec::new();
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        // A block of code has backticks of its own.
        for part in text.split("\n```").step_by(2) {
            let absent = paths(part).into_iter().filter(|path| !exists(path));
            missing.extend(absent.map(|path| format!("{}: {path}", document.display())));
        }
    }
    assert!(missing.is_empty(), "no such files: {missing:#?}");
}
