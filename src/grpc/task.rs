//! `tasker.v1.TaskService`.

use tasker_template::json_text;
use tonic::{Code, Request, Response, Status};

use super::{
    bulk, convert, error, explain, find, fit, order, page, pause,
    submission::{self, submission},
    watch::{self, WatchStream},
};
use crate::{
    domain::{
        attempt::MAX_RESULT_BYTES,
        order::Order,
        task::{MAX_SUBMIT_BYTES, MAX_TASKS_PER_SUBMIT},
    },
    engine::{Engine, Submission, Submitted},
    proto::{self, task_service_server::TaskService},
    store::task::{self as tasks, Part, TaskFilter},
};

/// Bound on the states of one filter; a state may occur more than once.
const MAX_STATES: usize = 100;

/// The service over an engine.
pub struct Tasks(pub Engine);

#[tonic::async_trait]
impl TaskService for Tasks {
    async fn submit_task(
        &self,
        request: Request<proto::SubmitTaskRequest>,
    ) -> Result<Response<proto::SubmitTaskResponse>, Status> {
        // Before `into_inner`, which drops the metadata.
        let traceparent = submission::traceparent(request.metadata());
        let submission = submission(request.into_inner(), traceparent)?;
        let mut submitted = self.submit(vec![submission], false).await?;
        submitted
            .pop()
            .map(|s| Response::new(submission::response(s)))
            .ok_or_else(error::internal)
    }

    async fn submit_tasks(
        &self,
        request: Request<proto::SubmitTasksRequest>,
    ) -> Result<Response<proto::SubmitTasksResponse>, Status> {
        let traceparent = submission::traceparent(request.metadata());
        let tasks = request.into_inner().tasks;
        if tasks.is_empty() || tasks.len() > MAX_TASKS_PER_SUBMIT {
            return Err(error::invalid(
                "tasks",
                format!(
                    "{} tasks: expected 1 to {MAX_TASKS_PER_SUBMIT}",
                    tasks.len()
                ),
            ));
        }
        // Each context has a bound of its own; this one is for the memory of the whole call.
        let bytes: usize = tasks.iter().map(|t| t.context_json.len()).sum();
        if bytes > MAX_SUBMIT_BYTES {
            let message = format!("{bytes} bytes of contexts: expected at most {MAX_SUBMIT_BYTES}");
            return Err(error::invalid("tasks", message));
        }
        let one =
            |(i, task)| submission(task, traceparent.clone()).map_err(|v| error::in_tasks(i, v));
        let submissions = tasks
            .into_iter()
            .enumerate()
            .map(one)
            .collect::<Result<Vec<_>, _>>()?;
        let tasks = self
            .submit(submissions, true)
            .await?
            .into_iter()
            .map(submission::response)
            .collect();
        Ok(Response::new(proto::SubmitTasksResponse { tasks }))
    }

    async fn get_task(
        &self,
        request: Request<proto::GetTaskRequest>,
    ) -> Result<Response<proto::GetTaskResponse>, Status> {
        let task_id = convert::task_id(&request.into_inner().task_id)?;
        let view = find::task(&self.0, task_id, true).await?;
        let plan = find::plan(&self.0, view.task.template_id).await?;
        let (task, mut steps) = convert::view(view, &plan, true);
        let dependencies = convert::dependencies(&plan);
        fit::fit(&task, &mut steps, fit::bytes(&dependencies));
        Ok(Response::new(proto::GetTaskResponse {
            task: Some(task),
            steps,
            dependencies,
        }))
    }

    async fn list_tasks(
        &self,
        request: Request<proto::ListTasksRequest>,
    ) -> Result<Response<proto::ListTasksResponse>, Status> {
        let mut r = request.into_inner();
        let size = page::size(r.page_size, 50, 500)?;
        for (field, text) in [
            ("namespace", &r.namespace),
            ("task_name", &r.task_name),
            ("correlation_id", &r.correlation_id),
        ] {
            convert::name(field, text)?;
        }
        if r.states.len() > MAX_STATES {
            let message = format!("{} states: expected at most {MAX_STATES}", r.states.len());
            return Err(error::invalid("states", message));
        }
        let token = std::mem::take(&mut r.page_token);
        // All fields except the size and the position belong to the filter.
        r.page_size = 0;
        // The `Debug` form has every field, so a field that is added later is part of the
        // fingerprint too.
        let print = format!("{r:?}");
        let place = page::place(&print, &token)?;
        let filter = self.filter(&r, place, size).await?;
        // Names that match no template match no task.
        let mut found = match &filter.templates {
            Some(none) if none.is_empty() => Vec::new(),
            _ => tasks::list(self.0.reads(), &filter)
                .await
                .map_err(|e| error::store(&e))?,
        };
        let count = found.len();
        found.truncate(size);
        let ids: Vec<uuid::Uuid> = found.iter().map(|task| task.task_id).collect();
        let mut tasks = Vec::with_capacity(found.len());
        for task in found {
            let plan = find::plan(&self.0, task.template_id).await?;
            tasks.push(convert::task(task, &plan));
        }
        tasks.truncate(page::fitting(&tasks));
        let next_page_token = match tasks.len().checked_sub(1).and_then(|last| ids.get(last)) {
            Some(last) if count > tasks.len() => page::token(&print, last.as_bytes()),
            _ => String::new(),
        };
        Ok(Response::new(proto::ListTasksResponse {
            tasks,
            next_page_token,
        }))
    }

    async fn get_step(
        &self,
        request: Request<proto::GetStepRequest>,
    ) -> Result<Response<proto::GetStepResponse>, Status> {
        let r = request.into_inner();
        let task_id = convert::task_id(&r.task_id)?;
        let name = optional(r.step)?
            .ok_or_else(|| error::invalid("step", "empty: expected the name of a step"))?;
        let no_step = || {
            error::status(
                Code::NotFound,
                "STEP_NOT_FOUND",
                format!("task {task_id} has no step {name}"),
            )
        };
        let template_id = tasks::template_of(self.0.reads(), task_id)
            .await
            .map_err(|e| error::store(&e))?;
        let template_id = template_id.ok_or_else(|| find::no_task(task_id))?;
        let plan = find::plan(&self.0, template_id).await?;
        let position = plan
            .template
            .steps
            .iter()
            .position(|step| step.name == name);
        let position = position
            .and_then(|at| i16::try_from(at).ok())
            .ok_or_else(no_step)?;
        let part = Part {
            step: Some(position),
            attempt: Some(r.attempt).filter(|attempt| *attempt != 0),
        };
        let view = tasks::get(self.0.reads(), task_id, true, part)
            .await
            .map_err(|e| error::store(&e))?;
        // Retention may have removed the task since the first read.
        let (task, mut steps) =
            convert::view(view.ok_or_else(|| find::no_task(task_id))?, &plan, true);
        fit::fit(&task, &mut steps, 0);
        let step = steps.pop().ok_or_else(no_step)?;
        if part
            .attempt
            .is_some_and(|attempt| step.attempts.iter().all(|known| known.attempt != attempt))
        {
            let message = format!(
                "step {name} of task {task_id} has had no attempt {}",
                r.attempt
            );
            return Err(error::status(Code::NotFound, "ATTEMPT_NOT_FOUND", message));
        }
        Ok(Response::new(proto::GetStepResponse { step: Some(step) }))
    }

    type WatchTaskStream = WatchStream;

    async fn watch_task(
        &self,
        request: Request<proto::WatchTaskRequest>,
    ) -> Result<Response<Self::WatchTaskStream>, Status> {
        let r = request.into_inner();
        let task_id = convert::task_id(&r.task_id)?;
        let watcher = self.0.watch(task_id).ok_or_else(|| {
            let message = "too many tasks are watched on this server";
            error::retry_later(
                Code::ResourceExhausted,
                "TOO_MANY_WATCHERS",
                message,
                error::FULL_RETRY,
            )
        })?;
        // Subscribed first, so no notification between this read and the next one is missed.
        let view = find::task(&self.0, task_id, false).await?;
        Ok(Response::new(watch::stream(
            self.0.clone(),
            watcher,
            view,
            r.final_only,
        )))
    }

    async fn explain_task(
        &self,
        request: Request<proto::ExplainTaskRequest>,
    ) -> Result<Response<proto::ExplainTaskResponse>, Status> {
        Ok(Response::new(
            self.explained(&request.into_inner().task_id).await?,
        ))
    }

    async fn cancel_task(
        &self,
        request: Request<proto::CancelTaskRequest>,
    ) -> Result<Response<proto::CancelTaskResponse>, Status> {
        let r = request.into_inner();
        let task = order::give(&self.0, &r.task_id, Order::Cancel, r.by, r.reason).await?;
        Ok(Response::new(proto::CancelTaskResponse {
            task: Some(task),
        }))
    }

    async fn retry_task(
        &self,
        request: Request<proto::RetryTaskRequest>,
    ) -> Result<Response<proto::RetryTaskResponse>, Status> {
        let r = request.into_inner();
        let step = optional(r.step)?;
        let order = Order::Retry {
            step,
            fresh: r.fresh_attempts,
        };
        let task = order::give(&self.0, &r.task_id, order, r.by, r.reason).await?;
        Ok(Response::new(proto::RetryTaskResponse { task: Some(task) }))
    }

    async fn resolve_task(
        &self,
        request: Request<proto::ResolveTaskRequest>,
    ) -> Result<Response<proto::ResolveTaskResponse>, Status> {
        let r = request.into_inner();
        let order = match optional(r.step)? {
            Some(step) => {
                // The steps below get the result as a document, and JSON has no empty one.
                let result = if r.result_json.is_empty() {
                    "null".to_owned()
                } else {
                    r.result_json
                };
                json_text::check_document(&result, MAX_RESULT_BYTES)
                    .map_err(|error| error::invalid("result_json", error.to_string()))?;
                Order::ResolveStep { step, result }
            }
            None if !r.result_json.is_empty() => {
                return Err(error::invalid(
                    "result_json",
                    "a task has no result of its own: name the step",
                ));
            }
            None => Order::ResolveTask,
        };
        let task = order::give(&self.0, &r.task_id, order, r.by, r.reason).await?;
        Ok(Response::new(proto::ResolveTaskResponse {
            task: Some(task),
        }))
    }

    async fn skip_step(
        &self,
        request: Request<proto::SkipStepRequest>,
    ) -> Result<Response<proto::SkipStepResponse>, Status> {
        let r = request.into_inner();
        let step = optional(r.step)?
            .ok_or_else(|| error::invalid("step", "empty: expected the name of a step"))?;
        let task = order::give(&self.0, &r.task_id, Order::Skip { step }, r.by, r.reason).await?;
        Ok(Response::new(proto::SkipStepResponse { task: Some(task) }))
    }

    async fn pause_task(
        &self,
        request: Request<proto::PauseTaskRequest>,
    ) -> Result<Response<proto::PauseTaskResponse>, Status> {
        let r = request.into_inner();
        let task = order::give(&self.0, &r.task_id, Order::Pause, r.by, r.reason).await?;
        Ok(Response::new(proto::PauseTaskResponse { task: Some(task) }))
    }

    async fn resume_task(
        &self,
        request: Request<proto::ResumeTaskRequest>,
    ) -> Result<Response<proto::ResumeTaskResponse>, Status> {
        let r = request.into_inner();
        let task = order::give(&self.0, &r.task_id, Order::Resume, r.by, r.reason).await?;
        Ok(Response::new(proto::ResumeTaskResponse {
            task: Some(task),
        }))
    }

    type OrderTasksStream = bulk::OrderStream;

    async fn order_tasks(
        &self,
        request: Request<proto::OrderTasksRequest>,
    ) -> Result<Response<Self::OrderTasksStream>, Status> {
        Ok(Response::new(
            bulk::give(&self.0, request.into_inner()).await?,
        ))
    }

    async fn pause_template(
        &self,
        request: Request<proto::PauseTemplateRequest>,
    ) -> Result<Response<proto::PauseTemplateResponse>, Status> {
        let pause = pause::pause(&self.0, request.into_inner()).await?;
        Ok(Response::new(proto::PauseTemplateResponse {
            pause: Some(pause),
        }))
    }

    async fn resume_template(
        &self,
        request: Request<proto::ResumeTemplateRequest>,
    ) -> Result<Response<proto::ResumeTemplateResponse>, Status> {
        let was_paused = pause::lift(&self.0, request.into_inner()).await?;
        Ok(Response::new(proto::ResumeTemplateResponse { was_paused }))
    }

    async fn list_pauses(
        &self,
        request: Request<proto::ListPausesRequest>,
    ) -> Result<Response<proto::ListPausesResponse>, Status> {
        pause::list(&self.0, request.into_inner())
            .await
            .map(Response::new)
    }
}

impl Tasks {
    /// With `many` the request has a list of tasks.
    async fn submit(
        &self,
        submissions: Vec<Submission>,
        many: bool,
    ) -> Result<Vec<Submitted>, Status> {
        self.0
            .submit(submissions)
            .await
            .map_err(|e| error::intake(e, many))
    }

    async fn explained(&self, id: &str) -> Result<proto::ExplainTaskResponse, Status> {
        let task_id = convert::task_id(id)?;
        let found = self
            .0
            .explain(task_id)
            .await
            .map_err(|e| error::store(&e))?;
        let (found, plan) = found.ok_or_else(|| find::no_task(task_id))?;
        Ok(explain::response(task_id, found, &plan, self.0.lease()))
    }

    async fn filter(
        &self,
        r: &proto::ListTasksRequest,
        place: Option<Vec<u8>>,
        size: usize,
    ) -> Result<TaskFilter, Status> {
        let version = convert::version(&r.version)?;
        let templates =
            find::template_ids(&self.0, &r.namespace, &r.task_name, version.as_ref()).await?;
        // The list goes from new to old, so the position is an upper bound.
        let before = place
            .map(|bytes| {
                uuid::Uuid::from_slice(&bytes).map_err(|_| {
                    error::invalid(
                        "page_token",
                        "not a token of this list: start again without one",
                    )
                })
            })
            .transpose()?;
        Ok(TaskFilter {
            templates,
            states: r
                .states
                .iter()
                .map(|s| convert::task_state_from(*s))
                .collect::<Result<_, _>>()?,
            correlation_id: Some(r.correlation_id.clone()).filter(|id| !id.is_empty()),
            submitted_after: convert::time("submitted_after", r.submitted_after)?,
            submitted_before: convert::time("submitted_before", r.submitted_before)?,
            before,
            limit: i64::try_from(size + 1).unwrap_or(i64::MAX),
        })
    }
}

/// A step's name; `None` where it is empty.
fn optional(name: String) -> Result<Option<String>, Status> {
    convert::name("step", &name)?;
    Ok(Some(name).filter(|name| !name.is_empty()))
}
