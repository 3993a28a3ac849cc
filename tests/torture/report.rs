//! The figures of a run.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use crate::{
    checker::{history::History, violation::Violation},
    chronicle::Chronicle,
    ledger::{self, Line},
};

pub struct Report<'a> {
    pub seed: u64,
    pub seconds: f64,
    pub settled: f64,
    pub skipped: &'a [&'static str],
    pub chronicle: &'a Chronicle,
    pub calls: BTreeMap<&'static str, usize>,
    pub history: &'a History,
    pub violations: &'a [Violation],
}

impl Report<'_> {
    pub fn text(&self) -> String {
        let mut text = format!(
            "torture: seed {}, {:.0} s, settled in {:.1} s\n",
            self.seed, self.seconds, self.settled
        );
        let faults = self.chronicle.faults();
        let total: usize = faults.values().sum();
        let _ = writeln!(
            text,
            "  faults     {total} of {} kinds: {}",
            faults.len(),
            list(faults.iter())
        );
        for skipped in self.skipped {
            let _ = writeln!(text, "  skipped    {skipped}");
        }
        let mut states: BTreeMap<&str, usize> = BTreeMap::new();
        self.history
            .tasks
            .iter()
            .for_each(|task| *states.entry(&task.state).or_default() += 1);
        let _ = writeln!(
            text,
            "  tasks      {}: {}",
            self.history.tasks.len(),
            list(states.iter())
        );
        let mut outcomes: BTreeMap<&str, usize> = BTreeMap::new();
        self.history
            .attempts
            .iter()
            .for_each(|a| *outcomes.entry(&a.outcome).or_default() += 1);
        let ended = self
            .history
            .steps
            .iter()
            .filter(|s| matches!(s.state.as_str(), "complete" | "error"))
            .count();
        let _ = writeln!(text, "  steps      {ended} ended");
        let _ = writeln!(
            text,
            "  attempts   {}: {}",
            self.history.attempts.len(),
            list(outcomes.iter())
        );
        let lines = ledger::summary(&self.history.lines);
        let lines: BTreeMap<_, _> = lines.iter().collect();
        let _ = writeln!(
            text,
            "  handlers   {}",
            list(lines.iter().map(|(what, n)| (*what, *n)))
        );
        let _ = writeln!(text, "  clients    {}", list(self.calls.iter()));
        let (looks, missed) = self.chronicle.samples();
        let _ = writeln!(
            text,
            "  invariants looked at {looks} times, {missed} times the database was away"
        );
        let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
        self.violations
            .iter()
            .for_each(|violation| *kinds.entry(violation.kind()).or_default() += 1);
        let _ = writeln!(
            text,
            "  violations {}: {}",
            self.violations.len(),
            list(kinds.iter())
        );
        text
    }
}

fn list<'a, K: std::fmt::Display + 'a>(counts: impl Iterator<Item = (K, &'a usize)>) -> String {
    let words: Vec<String> = counts.map(|(what, n)| format!("{n} {what}")).collect();
    words.join(", ")
}

/// Writes all rows and lines about the tasks that the violations name, for diagnosis.
pub fn stories(history: &History, violations: &[Violation], file: &Path) {
    let mut tasks: Vec<uuid::Uuid> = violations
        .iter()
        .filter_map(|v| named(&v.to_string()))
        .collect();
    tasks.sort_unstable();
    tasks.dedup();
    tasks.truncate(30);
    let mut text = String::new();
    for violation in violations.iter().take(1_000) {
        let _ = writeln!(text, "{violation}");
    }
    for id in tasks {
        let _ = writeln!(text, "\n== task {id}");
        let of_task: Vec<_> = history.tasks.iter().filter(|t| t.id == id).collect();
        let plan = of_task
            .first()
            .and_then(|task| history.plans.get(&task.template));
        tell(&mut text, of_task.iter());
        tell(&mut text, plan.iter());
        tell(
            &mut text,
            history.steps.iter().filter(|step| step.task == id),
        );
        tell(
            &mut text,
            history.attempts.iter().filter(|attempt| attempt.task == id),
        );
        tell(
            &mut text,
            history.events.iter().filter(|event| event.task == id),
        );
        tell(
            &mut text,
            history
                .told
                .iter()
                .filter(|told| format!("{told:?}").contains(&id.to_string())),
        );
        let mut leases = std::collections::BTreeSet::new();
        for (place, line) in history.lines.iter().enumerate() {
            let is_its_own = match line {
                Line::Start(start) if start.task == id.to_string() => {
                    leases.insert(start.lease.as_str());
                    true
                }
                Line::Start(_) => false,
                Line::End(end) => leases.contains(end.lease.as_str()),
                Line::Ack(ack) => leases.contains(ack.lease.as_str()),
            };
            if is_its_own {
                let _ = writeln!(text, "line {place}: {line:?}");
            }
        }
    }
    std::fs::write(file, text).unwrap();
}

/// Writes a line for each row.
fn tell<T: std::fmt::Debug>(text: &mut String, rows: impl Iterator<Item = T>) {
    rows.for_each(|row| text.push_str(&format!("{row:?}\n")));
}

/// The first task id in a text.
fn named(text: &str) -> Option<uuid::Uuid> {
    text.split(|c: char| !c.is_ascii_hexdigit() && c != '-')
        .find_map(|word| uuid::Uuid::parse_str(word).ok())
}
