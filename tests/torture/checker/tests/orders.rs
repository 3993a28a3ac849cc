//! An operator's orders about two failed tasks, and the violations that may occur with them.

use tasker::domain::order::Order;

use super::{Change, DONE, FAILED, SECOND, Story, attempt, event, id, intent, start, step};
use crate::{
    checker::history::{Held, History, Told},
    ledger::Digest,
    operator::FRESH,
};

/// A task that is paused, retried, and has two steps set by hand.
const MENDED: u64 = 6;
/// A task that is resolved as it is.
const SETTLED: u64 = 7;

impl Story {
    fn ordered(&mut self, n: u64, order: Order) {
        self.history.told.push(Told::Ordered { task: id(n), order });
    }

    fn pause(&mut self, n: u64) {
        self.event(n, "task.paused", None, None);
        self.ordered(n, Order::Pause);
        let (from, until) = (self.tick(), self.tick());
        for held in [
            Held::Task(id(n)),
            Held::Templates("t/diamond".into()),
            Held::Templates("t/".into()),
        ] {
            self.history.told.push(Told::Paused { held, from, until });
        }
        self.event(n, "task.resumed", None, None);
        self.ordered(n, Order::Resume);
    }

    fn reopen(&mut self, n: u64, step: i16) {
        self.tick();
        self.event(n, "task.reopened", None, None);
        self.event(n, "step.reopened", Some((step, 0)), None);
        self.history.events.last_mut().unwrap().detail = Some(FRESH.into());
        let row = self.row(n, step);
        (row.state, row.charged, row.error_code, row.ended_at) = ("pending".into(), 0, None, None);
        self.ordered(
            n,
            Order::Retry {
                step: Some("a".into()),
                fresh: true,
            },
        );
    }

    fn set(&mut self, n: u64, step: i16, state: &str, order: Order) {
        let now = self.tick();
        let (kind, result) = match &order {
            Order::ResolveStep { result, .. } => ("step.resolved", Some(result.clone())),
            _ => ("step.skipped", None),
        };
        self.event(n, kind, Some((step, 0)), None);
        let row = self.row(n, step);
        (row.state, row.result, row.ended_at) = (state.into(), result, Some(now));
        self.ordered(n, order);
    }
}

pub fn add(story: &mut Story) {
    story.task(MENDED, intent(None, None), "complete");
    story.pause(MENDED);
    story.attempt(MENDED, 0, "permanent_error", "step.failed");
    story.event(MENDED, "task.failed", None, None);
    story.history.told.push(Told::Ended {
        task: id(MENDED),
        state: "error".into(),
    });
    story.reopen(MENDED, 0);
    story.attempt(MENDED, 0, "succeeded", "step.completed");
    story.attempt(MENDED, 1, "permanent_error", "step.failed");
    let resolve = Order::ResolveStep {
        step: "b".into(),
        result: "7".into(),
    };
    story.set(MENDED, 1, "resolved_manually", resolve);
    story.attempt(MENDED, 2, "retryable_error", "step.retrying");
    story.set(MENDED, 2, "skipped", Order::Skip { step: "c".into() });
    story.attempt(MENDED, 3, "succeeded", "step.completed");
    story.end(MENDED, "task.completed");
    story.task(SETTLED, intent(None, None), "resolved_manually");
    story.attempt(SETTLED, 0, "permanent_error", "step.failed");
    story.end(SETTLED, "task.failed");
    story.event(SETTLED, "task.resolved", None, None);
    story.ordered(SETTLED, Order::ResolveTask);
}

fn pauses(h: &mut History) -> impl Iterator<Item = (&mut Held, &mut i64)> {
    h.told.iter_mut().filter_map(|told| match told {
        Told::Paused { held, until, .. } => Some((held, until)),
        _ => None,
    })
}

fn order(h: &mut History, n: u64, order: Order) {
    h.told.push(Told::Ordered { task: id(n), order });
}

pub const SEEDS: &[(&str, Change)] = &[
    ("StartedWhilePaused", |h| {
        *pauses(h)
            .find(|(held, _)| matches!(held, Held::Task(_)))
            .unwrap()
            .1 += 3 * SECOND;
    }),
    ("StartedWhilePaused", |h| {
        *pauses(h)
            .find(|(held, _)| **held == Held::Templates("t/diamond".into()))
            .unwrap()
            .1 += 3 * SECOND;
    }),
    ("StartedWhilePaused", |h| {
        *pauses(h)
            .find(|(held, _)| **held == Held::Templates("t/".into()))
            .unwrap()
            .1 += 3 * SECOND;
    }),
    ("StartedWhilePaused", |h| {
        let at = event(h, MENDED, "task.resumed");
        h.events.swap(at, at + 1);
    }),
    ("PausedTwice", |h| {
        let at = event(h, MENDED, "task.paused");
        h.events.insert(at, h.events[at].clone());
    }),
    ("StartedAfterSet", |h| {
        let set_at = step(h, MENDED, 1).ended_at.unwrap();
        attempt(h, MENDED, 1, 1).started_at = set_at + SECOND;
    }),
    ("SetAndSettled", |h| {
        attempt(h, MENDED, 1, 1).outcome = "succeeded".into();
    }),
    ("SetAndSettled", |h| {
        attempt(h, MENDED, 2, 1).outcome = "cancelled".into();
    }),
    ("OrderForgotten", |h| order(h, DONE, Order::Cancel)),
    ("OrderForgotten", |h| order(h, DONE, Order::Pause)),
    ("OrderForgotten", |h| {
        order(
            h,
            DONE,
            Order::Retry {
                step: None,
                fresh: false,
            },
        );
    }),
    ("OrderForgotten", |h| order(h, FAILED, Order::ResolveTask)),
    ("OrderForgotten", |h| {
        order(h, DONE, Order::Skip { step: "a".into() });
    }),
    ("OrderForgotten", |h| {
        step(h, MENDED, 1).result = Some("7.0".into());
    }),
    ("OneTryTooMany", |h| {
        drop(h.events.remove(event(h, MENDED, "step.reopened")));
    }),
    ("EndedTooEarly", |h| {
        attempt(h, MENDED, 0, 1).outcome = "retryable_error".into();
    }),
    ("ChargesMiscounted", |h| {
        let at = event(h, MENDED, "step.reopened");
        h.events[at].detail = None;
    }),
    ("InputChanged", |h| {
        let results = [("a", "{\"step\": 0}"), ("b", "7")];
        start(h, MENDED, 3, 1).results = Digest::of_all(results);
    }),
    ("EndChanged", |h| {
        h.told.push(Told::Ended {
            task: id(SETTLED),
            state: "complete".into(),
        });
    }),
    ("EventsMiscounted", |h| {
        drop(h.events.remove(event(h, MENDED, "task.reopened")));
    }),
    ("EventsMiscounted", |h| {
        // The step neither started nor failed between the two.
        let at = event(h, MENDED, "step.reopened");
        h.events.insert(at, h.events[at].clone());
    }),
    ("EventsMiscounted", |h| {
        drop(h.events.remove(event(h, SETTLED, "task.resolved")));
    }),
    ("EventsMiscounted", |h| {
        drop(h.events.remove(event(h, MENDED, "step.resolved")));
    }),
    ("EventsMiscounted", |h| {
        // The handler's success is accepted after the step was skipped.
        let at = event(h, MENDED, "step.skipped");
        h.events[at].kind = "step.completed".into();
    }),
    ("EventsOutOfOrder", |h| {
        let at = event(h, SETTLED, "task.failed");
        h.events.swap(at, at - 1);
    }),
    ("StepStateWrong", |h| {
        step(h, SETTLED, 1).state = "ready".into();
    }),
    ("TaskStateWrong", |h| {
        step(h, SETTLED, 0).state = "pending".into();
    }),
];
