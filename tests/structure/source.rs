//! The Rust files of the repository, and their tokens without tests.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::token::{Token, lex};

pub struct Source {
    /// Below the root of the repository.
    pub path: PathBuf,
    pub text: String,
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The `src` folders of all crates.
pub fn crates() -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("src")];
    if let Ok(entries) = fs::read_dir(root().join("crates")) {
        let names = entries.flatten().map(|e| e.file_name());
        found.extend(names.map(|name| Path::new("crates").join(name).join("src")));
    }
    found.sort();
    found
}

/// All Rust files of a folder, without build results.
pub fn files(folder: &Path) -> Vec<Source> {
    let mut found = Vec::new();
    walk(&root().join(folder), &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn walk(folder: &Path, found: &mut Vec<Source>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for path in entries.flatten().map(|e| e.path()) {
        if path.is_dir() && !path.ends_with("target") {
            walk(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let path = path.strip_prefix(root()).unwrap().to_owned();
            found.push(Source { path, text });
        }
    }
}

impl Source {
    /// A file of tests beside the code that they test.
    pub fn is_test(&self) -> bool {
        self.path.file_name().is_some_and(|n| n == "tests.rs")
            || self.path.components().any(|c| c.as_os_str() == "tests")
    }

    /// The tokens, without modules of tests.
    pub fn tokens(&self) -> Vec<Token<'_>> {
        let mut tokens = lex(&self.text);
        while let Some((start, end)) = test_module(&tokens) {
            tokens.drain(start..end);
        }
        tokens
    }
}

/// The range of the first `#[cfg(test)] mod … { … }` or `#[cfg(test)] mod …;`.
fn test_module(tokens: &[Token]) -> Option<(usize, usize)> {
    const ATTRIBUTE: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let is_start = |window: &[Token]| window.iter().map(|t| t.text).eq(ATTRIBUTE);
    let starts = (0..tokens.len().saturating_sub(ATTRIBUTE.len()))
        .filter(|&at| is_start(&tokens[at..at + ATTRIBUTE.len()]));
    for start in starts {
        let item = start + ATTRIBUTE.len();
        let head = tokens[item..]
            .iter()
            .take_while(|t| t.text != "{" && t.text != ";");
        let names: Vec<&str> = head.map(|t| t.text).collect();
        if !names.contains(&"mod") {
            continue;
        }
        let open = item + names.len();
        return Some((start, closing(tokens, open).unwrap_or(open) + 1));
    }
    None
}

/// The place of the bracket that closes the one at `open`; none if there is no bracket.
pub fn closing(tokens: &[Token], open: usize) -> Option<usize> {
    let (left, right) = match tokens.get(open)?.text {
        "{" => ("{", "}"),
        "(" => ("(", ")"),
        "[" => ("[", "]"),
        _ => return None,
    };
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        if token.text == left {
            depth += 1;
        } else if token.text == right {
            depth -= 1;
            if depth == 0 {
                return Some(at);
            }
        }
    }
    None
}
