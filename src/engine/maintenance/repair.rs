//! From broken tasks to the rows and events that repair them. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use uuid::Uuid;

use crate::{
    domain::{
        attempt::{Failure, OutcomeKind},
        event::EventType,
        lease::Lease,
        repair::{Finding, Found, Repair},
        task::{TaskEvent, TaskState},
    },
    engine::{dispatch::message::CancelReason, plan::compiled::Plan},
    store::{
        pipeline::Event,
        repair::{Audited, AuditedStep, Corrections, PutBack, StartedAttempt},
    },
};

/// The broken tasks of a transaction, each with its findings.
#[derive(Default)]
pub(super) struct Diagnosis<'a> {
    broken: Vec<Broken<'a>>,
}

struct Broken<'a> {
    task: &'a Audited,
    /// `None` if the task's row is missing.
    template: Option<Arc<Plan>>,
    repair: Option<Repair>,
    findings: Vec<Finding>,
}

/// A finding, for the log.
pub(super) struct LoggedFinding {
    pub task_id: Uuid,
    pub correlation_id: String,
    pub step_name: Option<String>,
    pub finding: Finding,
}

/// The rows to write, and the notifications to send after the commit.
#[derive(Default)]
pub(super) struct Repairs {
    pub mending: Corrections,
    pub findings: Vec<LoggedFinding>,
    /// Attempts that a worker may still be running.
    pub dead: Vec<(Lease, CancelReason)>,
    /// The tasks, and whether each is final.
    pub tasks: Vec<(Uuid, bool)>,
    /// The lanes that gained waiting steps.
    pub lanes: BTreeSet<i32>,
}

/// An attempt that has started and that the history has no end of.
struct Running {
    attempt: i32,
    lease: Option<i64>,
    event: Event,
}

impl<'a> Diagnosis<'a> {
    /// Adds a task if it is broken.
    pub fn judge(&mut self, task: &'a Audited, template: Option<Arc<Plan>>) {
        let live: BTreeMap<u16, bool> = task
            .live
            .iter()
            .map(|row| (row.step.cast_unsigned(), row.wakes))
            .collect();
        let (repair, findings) = match (&task.row, &template) {
            (Some(row), Some(template)) => {
                let ended = task
                    .ended
                    .iter()
                    .map(|(step, state)| (step.cast_unsigned(), *state))
                    .collect();
                let found = Found {
                    progress: &row.progress,
                    has_end: row.has_end,
                    ended: &ended,
                    live: &live,
                };
                let repair = found.repair(&template.graph);
                let findings = repair.findings.clone();
                (Some(repair), findings)
            }
            _ => (None, live.into_keys().map(Finding::Stray).collect()),
        };
        if !findings.is_empty() {
            self.broken.push(Broken {
                task,
                template,
                repair,
                findings,
            });
        }
    }

    /// The tasks with attempts that only the history may know: their queue rows are missing or have
    /// no lease.
    pub fn unsure(&self) -> Vec<Uuid> {
        let is_unsure =
            |finding: &Finding| matches!(finding, Finding::Missing(_) | Finding::Asleep(_));
        self.broken
            .iter()
            .filter(|b| b.findings.iter().any(is_unsure))
            .map(|b| b.task.task_id)
            .collect()
    }

    /// Repairs all of them. `starts` are attempts of the [`unsure`](Self::unsure) tasks.
    pub fn repair(self, starts: &[StartedAttempt]) -> Repairs {
        let mut mended = Repairs::default();
        for broken in &self.broken {
            mended.take(broken, starts);
        }
        mended
    }
}

impl Repairs {
    fn take(&mut self, broken: &Broken<'_>, starts: &[StartedAttempt]) {
        let task_id = broken.task.task_id;
        let of_step = |step| {
            starts
                .iter()
                .filter(move |start| (start.task_id, start.step) == (task_id, step))
        };
        for finding in &broken.findings {
            self.say(broken, *finding);
            match *finding {
                Finding::Missing(step) => {
                    let step = step.cast_signed();
                    let start = of_step(step).max_by_key(|start| start.attempt);
                    let running = start.and_then(|start| {
                        broken.running(step, start.attempt, broken.of_start(start))
                    });
                    let past = broken.task.attempts.iter().filter(|a| a.step == step);
                    let known = past.clone().map(|a| a.attempt).max().unwrap_or_default();
                    let attempt = known.max(running.as_ref().map_or(0, |r| r.attempt));
                    self.end_attempt(broken, step, running);
                    let (charged, lost) = (
                        count(past.clone().map(|a| a.charged)),
                        count(past.map(|a| a.lost)),
                    );
                    self.put_back(broken, step, attempt, charged, lost);
                }
                Finding::Asleep(step) => {
                    let Some(row) = broken.row(step) else {
                        continue;
                    };
                    let start = of_step(row.step).find(|start| start.attempt == row.attempt);
                    let attempt =
                        start.map_or_else(|| broken.of_row(row), |start| broken.of_start(start));
                    self.mending.removed.push((task_id, row.step));
                    self.end_attempt(
                        broken,
                        row.step,
                        broken.running(row.step, row.attempt, attempt),
                    );
                    self.put_back(broken, row.step, row.attempt, row.charged, row.lost);
                }
                Finding::Stray(step) => {
                    let Some(row) = broken.row(step) else {
                        continue;
                    };
                    self.mending.removed.push((task_id, row.step));
                    self.end_stray(broken, row);
                }
                Finding::Miscounted | Finding::Mistimed | Finding::Unfinished => {}
            }
        }
        let Some(repair) = &broken.repair else {
            return self.tasks.push((task_id, true));
        };
        self.mending.tasks.push((task_id, repair.progress.clone()));
        for event in &repair.events {
            let kind = match event {
                TaskEvent::Start => EventType::TaskStarted,
                TaskEvent::Complete => EventType::TaskCompleted,
                TaskEvent::Fail => EventType::TaskFailed,
                TaskEvent::Cancel => EventType::TaskCancelled,
                TaskEvent::Resolve => EventType::TaskResolved,
                TaskEvent::Reopen => EventType::TaskReopened,
                TaskEvent::Expire => EventType::TaskFailed,
            };
            self.mending.events.push(broken.event(kind));
        }
        self.tasks.push((task_id, repair.progress.state.is_final()));
    }

    /// Adds a finding to the log and to the history.
    fn say(&mut self, broken: &Broken<'_>, finding: Finding) {
        let step_name = finding.step().and_then(|s| {
            Some(
                broken
                    .template
                    .as_ref()?
                    .step(s.cast_signed())?
                    .name
                    .clone(),
            )
        });
        self.mending.events.push(Event {
            step: finding.step().map(u16::cast_signed),
            failure: Some(Failure::of_server(finding.code(), finding.words())),
            ..broken.event(EventType::TaskRepaired)
        });
        let correlation_id = broken
            .task
            .row
            .as_ref()
            .map_or_else(String::new, |row| row.correlation_id.clone());
        self.findings.push(LoggedFinding {
            task_id: broken.task.task_id,
            correlation_id,
            step_name,
            finding,
        });
    }

    /// No result can find the attempt's row any more: the attempt is lost, uncharged.
    fn end_attempt(&mut self, broken: &Broken<'_>, step: i16, running: Option<Running>) {
        let Some(running) = running else { return };
        self.dead(broken, step, running.lease, CancelReason::LeaseLost);
        let failure = Failure::of_server(
            "WORKER_LOST",
            "the queue row of the attempt was invalid or absent",
        );
        self.mending.events.push(Event {
            failure: Some(failure),
            ..running.event
        });
    }

    fn end_stray(&mut self, broken: &Broken<'_>, row: &AuditedStep) {
        let running = broken.running(row.step, row.attempt, broken.of_row(row));
        let is_over = broken.state().is_none_or(TaskState::is_final);
        if !is_over {
            return self.end_attempt(broken, row.step, running);
        }
        self.dead(broken, row.step, row.lease, CancelReason::TaskCancelled);
        // The step is cancelled, like the other steps of its task when that ended.
        if broken.state().is_some() && broken.task.ended.iter().all(|(step, _)| *step != row.step) {
            let event = match running {
                Some(running) => Event {
                    outcome: Some(OutcomeKind::Cancelled),
                    ..running.event
                },
                None => Event {
                    step: Some(row.step),
                    attempt: Some(row.attempt),
                    ..broken.event(EventType::StepCancelled)
                },
            };
            self.mending.events.push(Event {
                kind: EventType::StepCancelled,
                ..event
            });
            self.mending
                .cancelled
                .push((broken.task.task_id, row.clone()));
        }
    }

    fn put_back(&mut self, broken: &Broken<'_>, step: i16, attempt: i32, charged: i16, lost: i16) {
        let (Some(row), Some(template)) = (&broken.task.row, &broken.template) else {
            return;
        };
        let lane_id = template.lane(step.cast_unsigned());
        self.lanes.insert(lane_id);
        self.mending.put_back.push(PutBack {
            task_id: broken.task.task_id,
            step,
            template_id: row.template_id,
            lane_id,
            priority: row.priority,
            attempt,
            charged,
            lost,
        });
    }

    fn dead(&mut self, broken: &Broken<'_>, step: i16, lease: Option<i64>, reason: CancelReason) {
        let lease = lease.map(|nonce| Lease {
            task_id: broken.task.task_id,
            step,
            nonce,
        });
        self.dead.extend(lease.map(|lease| (lease, reason)));
    }
}

impl Broken<'_> {
    fn state(&self) -> Option<TaskState> {
        self.task.row.as_ref().map(|row| row.progress.state)
    }

    fn row(&self, step: u16) -> Option<&AuditedStep> {
        self.task
            .live
            .iter()
            .find(|row| row.step == step.cast_signed())
    }

    fn event(&self, kind: EventType) -> Event {
        let row = self.task.row.as_ref().map(|row| row.template_id);
        let template_id = row.or_else(|| self.task.live.first().map(|live| live.template_id));
        Event {
            template_id,
            ..Event::of_task(kind, 0, self.task.task_id)
        }
    }

    /// The attempt, unless the history has its end.
    fn running(&self, step: i16, attempt: i32, event: Event) -> Option<Running> {
        let has_ended = self
            .task
            .attempts
            .iter()
            .any(|a| (a.step, a.attempt) == (step, attempt));
        (attempt > 0 && !has_ended).then_some(Running {
            attempt,
            lease: event.lease,
            event,
        })
    }

    fn of_row(&self, row: &AuditedStep) -> Event {
        Event {
            step: Some(row.step),
            attempt: Some(row.attempt),
            worker_id: row.worker_id,
            outcome: Some(OutcomeKind::WorkerLost),
            charged: Some(false),
            lease: row.lease,
            ready_at: Some(row.ready_at),
            started_at: row.started_at,
            ..self.event(EventType::StepRetrying)
        }
    }

    fn of_start(&self, start: &StartedAttempt) -> Event {
        Event {
            step: Some(start.step),
            attempt: Some(start.attempt),
            worker_id: start.worker_id,
            outcome: Some(OutcomeKind::WorkerLost),
            charged: Some(false),
            lease: start.lease,
            ready_at: start.ready_at,
            started_at: Some(start.at),
            ..self.event(EventType::StepRetrying)
        }
    }
}

fn count(marked: impl Iterator<Item = bool>) -> i16 {
    i16::try_from(marked.filter(|m| *m).count()).unwrap_or(i16::MAX)
}
