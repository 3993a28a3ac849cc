//! The handlers' ledger: every start and every end of an attempt, and the acknowledgements of the
//! servers.
//!
//! All worker processes append to one file, each line with one write, so the order of the lines is
//! the order of the events, whatever the clocks of the processes show.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{self, Write as _},
    path::Path,
    sync::Mutex,
};

use serde::{Deserialize, Serialize};

use crate::seed::digest;

/// A handler's answer, or its end without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    Success,
    RetryableError,
    PermanentError,
    Released,
    Panicked,
    /// Stopped before it answered.
    Dropped,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    Start(Start),
    End(End),
    Ack(Ack),
}

/// A handler begins, with these inputs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    pub worker: String,
    pub lease: String,
    pub key: String,
    pub task: String,
    pub step: String,
    pub attempt: i32,
    /// Digests of the task's context and of the ancestors' results.
    pub context: Digest,
    pub results: Digest,
}

/// A handler ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    pub lease: String,
    pub said: Said,
    /// Digest of the result's JSON text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Digest>,
}

/// The server's acknowledgement of a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    pub lease: String,
    pub accepted: bool,
}

/// The digest of a document. Text, as some readers of JSON lose precision of 64-bit numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest(pub String);

impl Digest {
    pub fn of(document: &str) -> Self {
        Self(format!("{:016x}", digest(document.as_bytes())))
    }

    /// The digest of documents by name.
    pub fn of_all<'a>(documents: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut all: Vec<_> = documents.into_iter().collect();
        all.sort_unstable();
        let mut text = String::new();
        for (name, json) in all {
            text.push_str(name);
            text.push('\0');
            text.push_str(json);
            text.push('\0');
        }
        Self::of(&text)
    }
}

/// The file, open for appending.
pub struct Ledger(Mutex<File>);

impl Ledger {
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(Mutex::new(
            OpenOptions::new().create(true).append(true).open(path)?,
        )))
    }

    /// The line is in the file when this returns, unless the machine crashes. A failed write ends
    /// the process, since every action of a handler must be recorded.
    pub fn write(&self, line: &Line) {
        let mut bytes = serde_json::to_vec(line).unwrap();
        bytes.push(b'\n');
        let written = self.0.lock().unwrap().write(&bytes);
        assert!(
            matches!(written, Ok(n) if n == bytes.len()),
            "the ledger cannot be written: {written:?}"
        );
    }
}

/// All lines of the file, and the number of unreadable ones.
pub fn read(path: &Path) -> (Vec<Line>, usize) {
    let text = std::fs::read(path).unwrap_or_default();
    let mut unreadable = 0;
    let lines = text
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    let lines = lines
        .filter_map(|line| {
            serde_json::from_slice(line)
                .inspect_err(|_| unreadable += 1)
                .ok()
        })
        .collect();
    (lines, unreadable)
}

/// Number of lines by kind: starts, ends and acknowledgements.
pub fn summary(lines: &[Line]) -> HashMap<&'static str, usize> {
    let mut counts = HashMap::new();
    for line in lines {
        let what = match line {
            Line::Start(_) => "started",
            Line::End(End {
                said: Said::Dropped,
                ..
            }) => "dropped",
            Line::End(_) => "ended",
            Line::Ack(Ack { accepted: true, .. }) => "accepted",
            Line::Ack(_) => "stale",
        };
        *counts.entry(what).or_default() += 1;
    }
    counts
}

#[test]
fn ledger_round_trips() {
    let path = std::env::temp_dir().join(format!("torture-ledger-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let lines = vec![
        Line::Start(Start {
            worker: "w".into(),
            lease: "l".into(),
            key: "t/s".into(),
            task: "t".into(),
            step: "s".into(),
            attempt: 3,
            context: Digest::of("{}"),
            results: Digest::of_all([("b", "1"), ("a", "2")]),
        }),
        Line::End(End {
            lease: "l".into(),
            said: Said::Success,
            result: Some(Digest::of("1")),
        }),
        Line::Ack(Ack {
            lease: "l".into(),
            accepted: true,
        }),
    ];
    // Two processes at once.
    let (one, two) = (Ledger::open(&path).unwrap(), Ledger::open(&path).unwrap());
    one.write(&lines[0]);
    two.write(&lines[1]);
    one.write(&lines[2]);
    assert_eq!(read(&path), (lines.clone(), 0));
    std::fs::write(&path, "{\"start\":").unwrap();
    assert_eq!(read(&path), (vec![], 1));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(summary(&lines)["started"], 1);
    assert_eq!(
        Digest::of_all([("b", "1"), ("a", "2")]),
        Digest::of_all([("a", "2"), ("b", "1")])
    );
    assert!(Digest::of_all([("a", "12")]) != Digest::of_all([("a1", "2")]));
}
