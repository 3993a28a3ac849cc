//! Changes to the correct history, each with the kind of violation that it causes.

use super::*;

pub(super) const SERVICES: &[(&str, Change)] = &[
    ("StartedWhileShut", |h| {
        let from = attempt(h, DONE, 1, 1).started_at - 2 * SECOND;
        h.shut.push(Shut {
            service: 1,
            why: "its circuit is open".into(),
            from,
            until: from + 3 * SECOND,
        });
    }),
    ("LimitExceeded", |h| {
        h.limits.insert(1, 1);
        attempt(h, DONE, 1, 1).ended_at = 1_000 * SECOND;
    }),
];

pub(super) const PROMISES: &[(&str, Change)] = &[
    ("TaskLost", |h| forget(h, FAILED)),
    ("TooManyTasks", |h| {
        task(h, FAILED).correlation_id = format!("n-{DONE}");
    }),
    ("KeyWithTwoTasks", |h| {
        h.told.push(Told::Submitted {
            n: DONE,
            task: id(9),
            created: false,
        });
    }),
    ("KeyCreatedTwice", |h| {
        h.told.push(Told::Submitted {
            n: DONE,
            task: id(DONE),
            created: true,
        });
    }),
    ("TornBatch", |h| forget(h, BATCH[1])),
    ("StrangeTask", |h| {
        task(h, DONE).correlation_id = "else".into();
    }),
    ("StrangeTask", |h| {
        h.intents.get_mut(&DONE).unwrap().template = "t/other".into();
    }),
    ("EndChanged", |h| {
        h.told.push(Told::Ended {
            task: id(DONE),
            state: "error".into(),
        });
    }),
    ("Unanswered", |h| {
        h.told.push(Told::Nothing {
            what: "watch".into(),
            seconds: 30,
        });
    }),
    ("RefusedForNoReason", |h| {
        h.told.push(Told::Refused {
            what: "n-1".into(),
            code: "NotFound".into(),
            message: String::new(),
        });
    }),
    ("ContextChanged", |h| {
        task(h, DONE).context = "{\"n\":9007199254740992}".into();
    }),
];

pub(super) const STATES: &[(&str, Change)] = &[
    ("NotFinal", |h| task(h, DONE).state = "in_progress".into()),
    ("TaskStateWrong", |h| task(h, DONE).ended_at = None),
    ("TaskStateWrong", |h| {
        task(h, DONE).ended_at = Some(10 * SECOND);
    }),
    ("TaskStateWrong", |h| task(h, DONE).started_at = Some(0)),
    ("TaskStateWrong", |h| {
        h.steps.retain(|s| (s.task, s.step) != (id(FAILED), 3));
    }),
    ("TaskStateWrong", |h| {
        task(h, DONE).state = "error".into();
    }),
    ("StepStateWrong", |h| {
        task(h, FAILED).state = "complete".into();
    }),
    ("StepStateWrong", |h| {
        step(h, DONE, 3).state = "pending".into();
    }),
    ("StepStateWrong", |h| {
        step(h, CANCELLED, 3).state = "pending".into();
    }),
    ("StepStateWrong", |h| {
        step(h, FAILED, 1).error_code = Some("OTHER".into());
    }),
];

pub(super) const ATTEMPTS: &[(&str, Change)] = &[
    ("TwoSuccesses", |h| {
        attempt(h, DONE, 1, 1).outcome = "succeeded".into();
    }),
    ("AttemptsNotConsecutive", |h| {
        h.attempts
            .retain(|a| (a.task, a.step, a.attempt) != (id(DONE), 2, 2));
    }),
    ("AttemptsNotConsecutive", |h| step(h, DONE, 2).attempt = 4),
    ("WronglyCharged", |h| attempt(h, DONE, 2, 1).charged = true),
    ("WronglyCharged", |h| attempt(h, DONE, 1, 1).charged = false),
    ("ChargesMiscounted", |h| step(h, DONE, 1).charged = 0),
    ("OneTryTooMany", |h| {
        h.plans.get_mut(&TEMPLATE).unwrap().steps[1].retry_limit = 1;
    }),
    ("OneTryTooMany", |h| {
        attempt(h, DONE, 1, 1).outcome = "permanent_error".into();
    }),
    ("EndedTooEarly", |h| {
        attempt(h, FAILED, 1, 1).outcome = "retryable_error".into();
    }),
    ("EndedTooEarly", |h| {
        attempt(h, FAILED, 1, 1).outcome = "worker_lost".into();
    }),
    ("AttemptsOverlap", |h| {
        attempt(h, DONE, 2, 2).started_at -= 2 * SECOND;
    }),
    ("RetriedTooEarly", |h| {
        attempt(h, DONE, 1, 1).next_attempt_at = Some(1_000 * SECOND);
    }),
    ("RetriedTooEarly", |h| {
        attempt(h, DONE, 1, 1).retry_after = Some(60 * SECOND);
    }),
    ("TimedOutTooEarly", |h| {
        h.plans.get_mut(&TEMPLATE).unwrap().steps[2].timeout = 60 * SECOND;
    }),
    ("LostTooEarly", |h| {
        h.workers.get_mut(&WORKER).unwrap().lease_expires_at = 1_000 * SECOND;
    }),
    ("LeaseShared", |h| attempt(h, DONE, 2, 2).lease = 102),
];

pub(super) const RUNS: &[(&str, Change)] = &[
    ("RanUnasked", |h| {
        h.attempts
            .retain(|a| (a.task, a.step, a.attempt) != (id(CANCELLED), 1, 1));
    }),
    ("RanUnasked", |h| start(h, DONE, 1, 2).attempt = 1),
    ("RanUnasked", |h| start(h, DONE, 1, 2).step = "c".into()),
    ("RanTwice", |h| {
        let again = Line::Start(start(h, DONE, 3, 1).clone());
        h.lines.push(again);
    }),
    ("WrongKey", |h| start(h, DONE, 1, 2).key = "k".into()),
    ("RanAtOnce", |h| {
        // The second attempt's start moves before the first one's end.
        let (first, second) = (token(DONE, 1, 1), token(DONE, 1, 2));
        let at = |h: &History, is: &dyn Fn(&Line) -> bool| h.lines.iter().position(is).unwrap();
        let from = at(h, &|l| matches!(l, Line::Start(s) if s.lease == second));
        let line = h.lines.remove(from);
        let to = at(h, &|l| matches!(l, Line::End(e) if e.lease == first));
        h.lines.insert(to, line);
    }),
    ("OutcomeMadeUp", |h| {
        h.lines
            .retain(|l| !matches!(l, Line::End(e) if e.lease == token(DONE, 3, 1)));
    }),
    ("OutcomeMadeUp", |h| {
        end(h, DONE, 3, 1).said = Said::RetryableError;
    }),
    ("AcceptedAndLost", |h| {
        let lease = token(DONE, 2, 2);
        h.lines.push(Line::End(End {
            lease: lease.clone(),
            said: Said::Success,
            result: None,
        }));
        ack(h, DONE, 2, 2).accepted = true;
    }),
    ("StaleAndApplied", |h| ack(h, DONE, 3, 1).accepted = false),
    ("AckFromNowhere", |h| {
        ack(h, DONE, 3, 1).lease = token(DONE, 3, 9);
    }),
];

pub(super) const DOCUMENTS: &[(&str, Change)] = &[
    ("ResultChanged", |h| {
        step(h, DONE, 3).result = Some("{\"step\":3}".into());
    }),
    ("InputChanged", |h| {
        start(h, DONE, 3, 1).context = Digest::of("{}");
    }),
    ("InputChanged", |h| {
        start(h, DONE, 3, 1).results = Digest::of_all([]);
    }),
];

pub(super) const ORDER: &[(&str, Change)] = &[
    ("StartedBeforeParent", |h| {
        attempt(h, DONE, 3, 1).started_at = 2 * SECOND;
    }),
    ("StartedBeforeParent", |h| {
        let (line, from) = (token(DONE, 3, 1), token(DONE, 2, 3));
        let at = |h: &History, is: &dyn Fn(&Line) -> bool| h.lines.iter().position(is).unwrap();
        let moved = at(h, &|l| matches!(l, Line::Start(s) if s.lease == line));
        let line = h.lines.remove(moved);
        let to = at(h, &|l| matches!(l, Line::End(e) if e.lease == from));
        h.lines.insert(to, line);
    }),
    ("EventsMiscounted", |h| {
        drop(h.events.remove(event(h, DONE, "task.submitted")));
    }),
    ("EventsMiscounted", |h| {
        drop(h.events.remove(event(h, DONE, "step.retrying")));
    }),
    ("EventsMiscounted", |h| {
        let again = h.events[event(h, FAILED, "step.failed")].clone();
        h.events.push(again);
    }),
    ("EventsMiscounted", |h| {
        let at = event(h, FAILED, "task.failed");
        h.events[at].kind = "task.completed".into();
    }),
    ("EventsMiscounted", |h| {
        let mut late = h.events[event(h, DONE, "step.retrying")].clone();
        (late.kind, late.outcome) = ("step.answered_late".into(), None);
        h.events.extend([late.clone(), late]);
    }),
    ("EventsMiscounted", |h| {
        let mut late = h.events[event(h, DONE, "step.retrying")].clone();
        (late.kind, late.attempt) = ("step.answered_late".into(), Some(99));
        h.events.push(late);
    }),
    ("EventsMiscounted", |h| {
        let mut stray = h.events[0].clone();
        stray.task = id(77);
        h.events.push(stray);
    }),
    ("EventsOutOfOrder", |h| {
        let at = event(h, DONE, "step.completed");
        h.events.swap(at, at - 1);
    }),
    ("EventsOutOfOrder", |h| {
        let at = event(h, DONE, "task.completed");
        h.events.swap(at, at - 1);
    }),
    ("EventsOutOfOrder", |h| {
        let at = event(h, DONE, "task.submitted");
        h.events.swap(at, at + 1);
    }),
    ("EventsOutOfOrder", |h| {
        // A child's start moves before its parent's end.
        let at = event(h, DONE, "step.completed");
        h.events.swap(at, at + 1);
    }),
    ("EventTimesOutOfOrder", |h| {
        let at = event(h, DONE, "step.completed");
        h.events[at].at = 0;
    }),
    ("EventTimesOutOfOrder", |h| {
        let at = event(h, DONE, "task.completed");
        h.events[at].at = 10 * SECOND;
    }),
];
