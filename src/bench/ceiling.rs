//! The SQL ceiling: only the row changes of chains, by the engine's own write statements on one
//! connection. The gap between the whole system and the ceiling is the cost of everything but
//! writing.

use std::time::{Duration, Instant, SystemTime};

use uuid::Uuid;

use super::{
    shapes::{CHAIN_STEPS, CONTEXT, Templates},
    stage::Stage,
};
use crate::{
    domain::{
        attempt::OutcomeKind, event::EventType, progress::StepSet, size::DEFAULT_ASSIGNMENT_BYTES,
        step::StepState, task::TaskState, worker::Registration,
    },
    store::{
        StoreError,
        pipeline::{
            Changes, Ended, EndedAttempt, Event, Grant, Kept, NewLive, NewTask, Pipeline,
            TaskUpdate, WantedInputs,
        },
        worker::{self, NewWorker},
    },
};

/// Chains that advance through their steps together.
const BATCH: usize = 100;
const RESULT: &str = r#"{"ok":true}"#;

/// The result of bare SQL.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ceiling {
    pub steps_per_second: f64,
    /// Of Postgres, in µs.
    pub cpu_per_step: Option<f64>,
}

/// Runs bare SQL for about `time`.
pub async fn measure(stage: &Stage, time: Duration) -> Result<Ceiling, StoreError> {
    let hot = Pipeline::connect(&stage.db).await?;
    let worker_id = hold(stage, time).await?;
    // After the registration, which is not part of the measured writes.
    let (started, before) = (Instant::now(), stage.processes().cpu());
    let mut steps = 0.0;
    while started.elapsed() < time {
        Batch::new(&stage.templates, worker_id).run(&hot).await?;
        steps += (BATCH * CHAIN_STEPS) as f64;
    }
    let cpu = stage.processes().cpu() - before;
    let ceiling = Ceiling {
        steps_per_second: steps / started.elapsed().as_secs_f64(),
        cpu_per_step: cpu.postgres.map(|t| t.as_secs_f64() * 1e6 / steps),
    };
    // Ended at once: the worker would otherwise stay in the lists until its lease runs out.
    worker::end(&stage.db, &[worker_id]).await?;
    Ok(ceiling)
}

/// Registers a worker that owns the attempts, or the server would give them to others.
async fn hold(stage: &Stage, time: Duration) -> Result<Uuid, StoreError> {
    let worker_id = Uuid::new_v4();
    let new = NewWorker {
        worker_id,
        server_id: Uuid::nil(),
        registration: Registration {
            name: "bare SQL".into(),
            build_id: String::new(),
            namespaces: Vec::new(),
            handlers: vec!["bench.bare".into()],
            max_concurrent_steps: 1,
            max_assignment_bytes: DEFAULT_ASSIGNMENT_BYTES,
            labels: "{}".into(),
            previous: None,
            held: Vec::new(),
        },
    };
    worker::register(&stage.db, &new, 2 * time + Duration::from_secs(60)).await?;
    Ok(worker_id)
}

struct Batch<'a> {
    templates: &'a Templates,
    worker_id: Uuid,
    tasks: Vec<Uuid>,
    done: StepSet,
}

impl<'a> Batch<'a> {
    fn new(templates: &'a Templates, worker_id: Uuid) -> Self {
        let mut tasks: Vec<Uuid> = (0..BATCH).map(|_| Uuid::now_v7()).collect();
        // The statements lock rows in the order of the ids, as the engine does.
        tasks.sort_unstable();
        Self {
            templates,
            worker_id,
            tasks,
            done: StepSet::empty(CHAIN_STEPS),
        }
    }

    /// One transaction stores the chains; one more per step ends it and starts the next.
    async fn run(mut self, hot: &Pipeline) -> Result<(), StoreError> {
        let mut started_at = self.commit(hot, Self::submit).await?;
        for step in 0..CHAIN_STEPS {
            started_at = self
                .commit(hot, |batch| batch.end(step, started_at))
                .await?;
        }
        Ok(())
    }

    async fn commit(
        &mut self,
        hot: &Pipeline,
        changes: impl FnOnce(&mut Self) -> Changes,
    ) -> Result<SystemTime, StoreError> {
        // Without keys and lanes this is only BEGIN and the time.
        let now = hot.begin_intake(&[], &[]).await?.now;
        let changes = changes(self);
        hot.commit(&changes, &WantedInputs::default(), now).await?;
        Ok(now)
    }

    fn submit(&mut self) -> Changes {
        let mut changes = Changes::default();
        for task_id in &self.tasks {
            changes.new_tasks.push(NewTask {
                task_id: *task_id,
                template_id: self.templates.bare,
                state: TaskState::InProgress,
                priority: 0,
                steps_total: small(CHAIN_STEPS),
                steps_live: 1,
                steps_done: self.done.as_bytes().to_vec(),
                correlation_id: task_id.to_string(),
                traceparent: None,
                annotations: "{}".into(),
                context: CONTEXT.into(),
                failed_step: None,
                settings: None,
                not_before: None,
                expires_at: None,
                bytes: 0,
            });
            changes.events.push(Event::of_task(
                EventType::TaskSubmitted,
                self.templates.bare,
                *task_id,
            ));
            changes.events.push(Event::of_task(
                EventType::TaskStarted,
                self.templates.bare,
                *task_id,
            ));
            self.begin(&mut changes, *task_id, 0);
        }
        changes
    }

    fn begin(&self, changes: &mut Changes, task_id: Uuid, step: usize) {
        let nonce = nonce(task_id, step);
        changes.new_live.push(NewLive {
            task_id,
            step: small(step),
            template_id: self.templates.bare,
            lane_id: self.templates.bare_lane,
            priority: 0,
            past: None,
            timeout: None,
            expires_at: None,
            not_before: None,
            paused: false,
            bytes: 0,
            revision: 0,
            // Claimed with its insertion, as by a server with a free slot: the ceiling has no queue
            // scan.
            grant: Some(Grant {
                worker_id: self.worker_id,
                nonce,
                timeout: Duration::from_secs(300),
                share_id: None,
            }),
        });
        changes.events.push(Event {
            step: Some(small(step)),
            attempt: Some(1),
            worker_id: Some(self.worker_id),
            lease: Some(nonce),
            ..Event::of_task(EventType::StepStarted, self.templates.bare, task_id)
        });
    }

    fn end(&mut self, step: usize, started_at: SystemTime) -> Changes {
        self.done.insert(u16::try_from(step).unwrap_or(u16::MAX));
        let last = step + 1 == CHAIN_STEPS;
        let mut changes = Changes::default();
        for task_id in &self.tasks {
            let attempt = EndedAttempt {
                task_id: *task_id,
                step: small(step),
                template_id: self.templates.bare,
                attempt: 1,
                lease: nonce(*task_id, step),
                worker_id: self.worker_id,
                outcome: OutcomeKind::Succeeded,
                charged: false,
                failure: None,
                retry_after: None,
                ready_at: started_at,
                started_at,
            };
            changes
                .events
                .push(Event::of_attempt(EventType::StepCompleted, &attempt));
            changes.ended.push(Ended {
                task_id: *task_id,
                step: attempt.step,
                lease: Some(attempt.lease),
                state: StepState::Complete,
                attempt: 1,
                charged: 0,
                result: Some(RESULT.into()),
                failure: None,
                ready_at: started_at,
                started_at: Some(started_at),
            });
            changes.tasks.push(TaskUpdate {
                task_id: *task_id,
                state: if last {
                    TaskState::Complete
                } else {
                    TaskState::InProgress
                },
                steps_live: i16::from(!last),
                steps_done: self.done.as_bytes().to_vec(),
                failed_step: None,
                cancelled: None,
                expected: None,
                bytes: 0,
                kept: Kept::default(),
            });
            if last {
                changes.events.push(Event::of_task(
                    EventType::TaskCompleted,
                    self.templates.bare,
                    *task_id,
                ));
            } else {
                self.begin(&mut changes, *task_id, step + 1);
            }
        }
        changes
    }
}

/// A lease token; it need not be hard to guess here.
fn nonce(task_id: Uuid, step: usize) -> i64 {
    task_id.as_u64_pair().1.cast_signed() ^ i64::from(small(step))
}

fn small(n: usize) -> i16 {
    i16::try_from(n).unwrap_or(i16::MAX)
}
