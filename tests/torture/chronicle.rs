//! The record of a run: faults by kind, a timeline for a reader, and the violations that the run
//! itself found.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write as _,
    path::Path,
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::checker::violation::{Seconds, Violation};

pub struct Chronicle {
    started: Instant,
    timeline: Mutex<File>,
    faults: Mutex<BTreeMap<&'static str, usize>>,
    violations: Mutex<Vec<Violation>>,
    samples: Mutex<(usize, usize)>,
}

impl Chronicle {
    pub fn new(dir: &Path) -> Self {
        Self {
            started: Instant::now(),
            timeline: Mutex::new(File::create(dir.join("timeline.txt")).unwrap()),
            faults: Mutex::default(),
            violations: Mutex::default(),
            samples: Mutex::default(),
        }
    }

    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Adds a line to the timeline.
    pub fn note(&self, what: &str) {
        let _ = writeln!(
            self.timeline.lock().unwrap(),
            "{:8.3} {what}",
            self.elapsed().as_secs_f64()
        );
    }

    /// Counts an inflicted fault and adds it to the timeline.
    pub fn fault(&self, kind: &'static str, what: &str) {
        *self.faults.lock().unwrap().entry(kind).or_default() += 1;
        self.note(&format!("{kind}: {what}"));
    }

    pub fn violation(&self, violation: Violation) {
        self.note(&format!("VIOLATION: {violation}"));
        self.violations.lock().unwrap().push(violation);
    }

    /// Counts a look at the invariants; `None` when the database did not answer.
    pub fn sample(&self, broken: Option<Vec<String>>) {
        let Some(broken) = broken else {
            self.samples.lock().unwrap().1 += 1;
            return;
        };
        self.samples.lock().unwrap().0 += 1;
        for sentence in broken {
            let seconds = Seconds(self.elapsed().as_secs_f64());
            self.violation(Violation::InvariantBroken { seconds, sentence });
        }
    }

    pub fn faults(&self) -> BTreeMap<&'static str, usize> {
        self.faults.lock().unwrap().clone()
    }

    pub fn violations(&self) -> Vec<Violation> {
        self.violations.lock().unwrap().clone()
    }

    /// Number of looks at the invariants, and number of looks at which the database was away.
    pub fn samples(&self) -> (usize, usize) {
        *self.samples.lock().unwrap()
    }
}
