//! The measured workflows, and the golden shapes that must come out right beside them.

use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use tasker_worker::client::Client;

use super::error::Error;
use crate::{
    proto::{
        GetTaskRequest, GetTaskResponse, Policy, RegisterTemplateRequest, SetPolicyRequest,
        StepState, SubmitTaskRequest, TaskState, WatchTaskRequest,
    },
    store::{
        Db,
        template::{self, TemplateRow},
    },
};

/// The handler of the measured chain.
pub const CHAIN_HANDLER: &str = "bench.step";
/// The chain's last step.
pub const LAST_STEP: &str = "fifth";
/// Steps of the chain.
pub const CHAIN_STEPS: usize = 5;
/// A context as of a registration.
pub const CONTEXT: &str = r#"{"email":"ann@example.com","name":"Ann","plan":"pro","source":"web"}"#;

const NAMESPACE: &str = "bench";
/// Time limit of each golden task, including its time-out and its waits for retries.
const GOLDEN_LIMIT: Duration = Duration::from_secs(60);
/// Tasks of each golden shape.
const GOLDEN_TASKS: usize = 10;
/// Each golden shape and its number of steps. Some of their steps fail or time out once.
const GOLDEN: [(&str, &str, usize); 2] = [
    (
        "linear",
        include_str!("../../tests/fixtures/linear.yaml"),
        6,
    ),
    (
        "diamond",
        include_str!("../../tests/fixtures/diamond.yaml"),
        7,
    ),
];

/// The registered templates.
#[derive(Clone, Debug)]
pub struct Templates {
    /// The measured chain.
    pub chain: i32,
    /// The same chain, for bare SQL; no worker serves its lane.
    pub bare: i32,
    pub bare_lane: i32,
    /// The same chain, for tasks that are stored beforehand; no worker serves its lane.
    pub stored: i32,
    pub golden: Vec<i32>,
}

fn chain(name: &str, handler: &str) -> String {
    let mut yaml =
        format!("task_name: {name}\nnamespace: {NAMESPACE}\nversion: 1.0.0\nstep_templates:\n");
    let mut parent = String::new();
    for step in ["first", "second", "third", "fourth", LAST_STEP] {
        yaml += &format!("  - {{name: {step}, handler_class: {handler}{parent}}}\n");
        parent = format!(", depends_on_steps: [{step}]");
    }
    yaml
}

/// Registers all templates.
pub async fn register(client: &mut Client, db: &Db) -> Result<Templates, Error> {
    let chains = [
        ("chain", CHAIN_HANDLER),
        ("bare", "bench.bare"),
        ("stored", "bench.stored"),
    ];
    let yamls = chains
        .into_iter()
        .map(|(name, handler)| chain(name, handler));
    for yaml in yamls.chain(GOLDEN.iter().map(|(_, yaml, _)| (*yaml).to_owned())) {
        let request = RegisterTemplateRequest {
            yaml,
            deny_warnings: false,
        };
        client
            .templates
            .register_template(request)
            .await
            .map_err(Error::refused("register a template"))?;
    }
    // The response has no ids of the database, so the rows are read beside the server.
    let mut rows: Vec<TemplateRow> = Vec::new();
    loop {
        let page = template::page(db, rows.last().map_or(0, |row| row.template_id)).await?;
        if page.is_empty() {
            break;
        }
        rows.extend(page);
    }
    let find = |namespace: &str, name: &str| {
        let row = rows
            .iter()
            .find(|r| r.namespace == namespace && r.task_name == name);
        row.ok_or_else(|| {
            Error::Stopped(
                "a registered template is not in the database: check that the server uses this database".into(),
            )
        })
    };
    Ok(Templates {
        chain: find(NAMESPACE, "chain")?.template_id,
        bare: find(NAMESPACE, "bare")?.template_id,
        bare_lane: find(NAMESPACE, "bare")?
            .lanes
            .first()
            .copied()
            .unwrap_or_default(),
        stored: find(NAMESPACE, "stored")?.template_id,
        golden: GOLDEN
            .iter()
            .map(|(name, ..)| Ok(find("golden", name)?.template_id))
            .collect::<Result<_, Error>>()?,
    })
}

/// Limits the concurrent steps of the chain; 0 for no limit.
pub async fn limit(client: &Client, steps: i32) -> Result<(), Error> {
    let request = SetPolicyRequest {
        namespace: NAMESPACE.into(),
        service: CHAIN_HANDLER.into(),
        policy: Some(Policy {
            max_concurrency: Some(steps),
            ..Policy::default()
        }),
        by: "bench".into(),
        reason: "to measure the cost of a limit".into(),
        ..SetPolicyRequest::default()
    };
    client
        .clone()
        .circuits
        .set_policy(request)
        .await
        .map_err(Error::refused("set a limit"))?;
    Ok(())
}

/// A chain to submit.
pub fn chain_request() -> SubmitTaskRequest {
    request(NAMESPACE, "chain")
}

fn request(namespace: &str, name: &str) -> SubmitTaskRequest {
    SubmitTaskRequest {
        namespace: namespace.into(),
        task_name: name.into(),
        context_json: CONTEXT.into(),
        ..SubmitTaskRequest::default()
    }
}

/// Runs a chain to its end as a waiting client does; returns its id.
pub async fn run_chain(client: &mut Client) -> Result<String, Error> {
    run(client, chain_request()).await
}

async fn run(client: &mut Client, request: SubmitTaskRequest) -> Result<String, Error> {
    let submitted = client
        .tasks
        .submit_task(request)
        .await
        .map_err(Error::refused("submit a task"))?
        .into_inner();
    let request = WatchTaskRequest {
        task_id: submitted.task_id.clone(),
        final_only: true,
    };
    // The stream is silent until the task is final, so waiting costs the server little.
    let watch = client
        .tasks
        .watch_task(request)
        .await
        .map_err(Error::refused("watch a task"))?;
    watch
        .into_inner()
        .message()
        .await
        .map_err(Error::refused("watch a task"))?;
    Ok(submitted.task_id)
}

/// Runs the golden shapes; returns the problems found.
pub async fn check_golden(client: &Client) -> Result<Vec<String>, Error> {
    let tasks = GOLDEN
        .iter()
        .flat_map(|golden| std::iter::repeat_n(golden, GOLDEN_TASKS));
    let checks = tasks.map(|(name, _, steps)| async move {
        let mut client = client.clone();
        let done =
            tokio::time::timeout(GOLDEN_LIMIT, run(&mut client, request("golden", name))).await;
        // A hanging task is a finding of the report, and not an error that ends the bench.
        let Ok(task_id) = done else {
            return Ok(vec![format!("a {name} did not end")]);
        };
        let request = GetTaskRequest { task_id: task_id? };
        let task = client
            .tasks
            .get_task(request)
            .await
            .map_err(Error::refused("read a task"))?
            .into_inner();
        Ok(wrong_with(&task, *steps))
    });
    Ok(join_all(checks)
        .await
        .into_iter()
        .collect::<Result<Vec<_>, Error>>()?
        .concat())
}

/// Every step must be complete, and none may have started before its parents ended.
fn wrong_with(task: &GetTaskResponse, steps: usize) -> Vec<String> {
    let mut wrong = Vec::new();
    let name = task
        .task
        .as_ref()
        .map(|t| t.task_name.as_str())
        .unwrap_or_default();
    if task.task.as_ref().map(crate::proto::Task::state) != Some(TaskState::Complete) {
        wrong.push(format!("{name}: not complete"));
    }
    if task.steps.len() != steps || task.steps.iter().any(|s| s.state() != StepState::Complete) {
        wrong.push(format!("{name}: not all of its {steps} steps are complete"));
    }
    let at = |t: Option<prost_types::Timestamp>| t.and_then(|t| SystemTime::try_from(t).ok());
    let step = |name: &str| task.steps.iter().find(|s| s.name == name);
    for edge in &task.dependencies {
        let started =
            step(&edge.step).and_then(|s| s.attempts.iter().filter_map(|a| at(a.started_at)).min());
        let ended = step(&edge.depends_on).and_then(|s| at(s.ended_at));
        // A missing time is an error, too, as it would hide a violation.
        if started.is_none() || ended.is_none() || started < ended {
            wrong.push(format!(
                "{name}: {} started before {} ended",
                edge.step, edge.depends_on
            ));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use tasker_template::Template;

    #[test]
    fn chain_template_has_five_steps_in_sequence() {
        let template = Template::parse(&chain("chain", CHAIN_HANDLER), "").unwrap();
        assert_eq!(template.steps.len(), CHAIN_STEPS);
        assert_eq!(template.steps.last().unwrap().name, LAST_STEP);
        assert!(
            template
                .steps
                .iter()
                .skip(1)
                .all(|s| s.depends_on.len() == 1)
        );
        for (name, yaml, steps) in GOLDEN {
            let template = Template::parse(yaml, "").unwrap();
            assert_eq!(
                (template.task_name.as_str(), template.steps.len()),
                (name, steps)
            );
        }
    }

    #[test]
    fn check_of_an_incomplete_task_reports_a_problem() {
        assert_eq!(wrong_with(&GetTaskResponse::default(), 1).len(), 2);
    }
}
