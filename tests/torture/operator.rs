//! Operators: they cancel, pause and repair tasks, and pause whole templates, under load.
//!
//! A call whose answer is lost may be carried out later than its repetition. So a task is paused
//! once at most, and the same template not soon again; a pause that such a call leaves behind is
//! found and lifted.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tasker::{
    domain::order::Order,
    proto::{GetTaskRequest, PauseTemplateRequest, ResumeTemplateRequest, StepState, TaskState},
};
use tasker_worker::client::Client;
use tokio::time::sleep;
use uuid::Uuid;

use crate::{
    checker::history::{Held, Micros, Told},
    client::{Clients, watch},
    seed::Rng,
    support::orders::give,
    world::World,
};

const BY: &str = "torture";
/// The reason of a retry with all attempts again; the checker recognises it.
pub const FRESH: &str = "all attempts again";
const CHANCE: &str = "chance";
/// Interval between looks for pauses that no operator will lift.
const LOOK: Duration = Duration::from_millis(500);
/// Number of repairs of a task at most.
const ROUNDS: usize = 3;

/// The clock of this machine, which is also the database's.
fn now() -> Micros {
    #[expect(
        clippy::disallowed_methods,
        reason = "to be compared with the database's times"
    )]
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Micros::try_from(since.as_micros()).unwrap()
}

/// Whether the order was carried out.
async fn order(clients: &Clients, rng: &mut Rng, task_id: &str, order: Order) -> bool {
    let reason = if matches!(order, Order::Retry { fresh: true, .. }) {
        FRESH
    } else {
        CHANCE
    };
    let verb = order.verb();
    let call = |mut client| {
        let (task_id, order) = (task_id.to_owned(), order.clone());
        async move { give(&mut client, &task_id, order, BY, reason).await }
    };
    let followed = clients.settled(rng, verb, task_id, call).await.is_some();
    if followed {
        clients.told(Told::Ordered {
            task: Uuid::parse_str(task_id).unwrap(),
            order,
        });
    }
    followed
}

/// Cancels the task after a while.
pub async fn cancel(clients: &Clients, rng: &mut Rng, task_id: String) {
    sleep(rng.millis(0..1_500)).await;
    order(clients, rng, &task_id, Order::Cancel).await;
}

/// Perhaps pauses the task for a while, and repairs it when it fails; `result` makes a result by
/// hand.
pub async fn attend(
    clients: &Clients,
    rng: &mut Rng,
    task_id: String,
    result: fn(&mut Rng) -> String,
) {
    if rng.chance(6_000) {
        hold(clients, rng, &task_id).await;
    }
    for _ in 0..ROUNDS {
        let ended = watch(clients, rng, task_id.clone()).await;
        if ended != Some(TaskState::Error) || clients.is_stopping() {
            return;
        }
        mend(clients, rng, &task_id, result).await;
    }
}

async fn hold(clients: &Clients, rng: &mut Rng, task_id: &str) {
    sleep(rng.millis(0..400)).await;
    // Marked before the call, so that `release` does not lift this pause as a stray one.
    clients.hold(task_id, true);
    if order(clients, rng, task_id, Order::Pause).await {
        let from = now();
        sleep(rng.millis(50..1_200)).await;
        let held = Held::Task(Uuid::parse_str(task_id).unwrap());
        clients.told(Told::Paused {
            held,
            from,
            until: now(),
        });
    }
    clients.hold(task_id, false);
    order(clients, rng, task_id, Order::Resume).await;
}

/// Gives one of the orders that apply to a failed task.
async fn mend(clients: &Clients, rng: &mut Rng, task_id: &str, result: fn(&mut Rng) -> String) {
    let request = GetTaskRequest {
        task_id: task_id.to_owned(),
    };
    let get = |mut client: Client| {
        let request = request.clone();
        async move { client.tasks.get_task(request).await }
    };
    let Some(task) = clients.settled(rng, "get", task_id, get).await else {
        return;
    };
    let failed = task
        .into_inner()
        .steps
        .into_iter()
        .filter(|step| step.state() == StepState::Error);
    let failed: Vec<String> = failed.map(|step| step.name).collect();
    // An earlier order whose answer was lost has already repaired the task.
    let Some(step) = (!failed.is_empty()).then(|| rng.pick(&failed).clone()) else {
        return;
    };
    let what = match rng.below(10) {
        0..2 => Order::Retry {
            step: None,
            fresh: false,
        },
        2..4 => Order::Retry {
            step: Some(step),
            fresh: true,
        },
        4..7 => Order::ResolveStep {
            step,
            result: result(rng),
        },
        7..9 => Order::Skip { step },
        _ => Order::ResolveTask,
    };
    order(clients, rng, task_id, what).await;
    // A pause outlives the failure.
    order(clients, rng, task_id, Order::Resume).await;
}

/// Pauses one template or namespace after the other, until the clients stop.
pub async fn hold_templates(clients: Arc<Clients>) {
    let mut rng = clients.luck("pauses");
    let mut names: Vec<(&str, &str)> = clients
        .shapes()
        .iter()
        .map(|shape| (shape.namespace.as_str(), shape.task_name.as_str()))
        .collect();
    names.extend(
        names
            .clone()
            .into_iter()
            .map(|(namespace, _)| (namespace, "")),
    );
    names.sort_unstable();
    names.dedup();
    rng.shuffle(&mut names);
    for (namespace, task_name) in names.iter().cycle() {
        sleep(rng.millis(300..2_000)).await;
        if clients.is_stopping() {
            return;
        }
        hold_template(&clients, &mut rng, namespace, task_name).await;
    }
}

async fn hold_template(clients: &Clients, rng: &mut Rng, namespace: &str, task_name: &str) {
    let name = format!("{namespace}/{task_name}");
    let request = PauseTemplateRequest {
        namespace: namespace.into(),
        task_name: task_name.into(),
        by: BY.into(),
        reason: CHANCE.into(),
    };
    clients.hold(&name, true);
    let pause = |mut client: Client| {
        let request = request.clone();
        async move { client.tasks.pause_template(request).await }
    };
    if clients
        .settled(rng, "templates paused", &name, pause)
        .await
        .is_some()
    {
        let from = now();
        sleep(rng.millis(100..1_000)).await;
        clients.told(Told::Paused {
            held: Held::Templates(name.clone()),
            from,
            until: now(),
        });
    }
    clients.hold(&name, false);
    lift(clients, rng, namespace, task_name).await;
}

async fn lift(clients: &Clients, rng: &mut Rng, namespace: &str, task_name: &str) {
    let name = format!("{namespace}/{task_name}");
    let request = ResumeTemplateRequest {
        namespace: namespace.into(),
        task_name: task_name.into(),
        by: BY.into(),
        reason: CHANCE.into(),
    };
    let lift = |mut client: Client| {
        let request = request.clone();
        async move { client.tasks.resume_template(request).await }
    };
    clients.settled(rng, "templates resumed", &name, lift).await;
}

/// Lifts pauses that a delayed order left behind. Never returns.
pub async fn release(world: &World, clients: &Clients) {
    let mut rng = clients.luck("releases");
    loop {
        sleep(LOOK).await;
        let Ok(db) = world.session().await else {
            continue;
        };
        let paused =
            "SELECT task_id::text, '' FROM tasks WHERE paused_at IS NOT NULL AND ended_at IS NULL
                      UNION ALL SELECT namespace || '/', task_name FROM pauses";
        for row in db.query(paused, &[]).await.unwrap_or_default() {
            let (name, task_name): (String, String) = (row.get(0), row.get(1));
            if clients.is_held(&format!("{name}{task_name}")) {
                continue;
            }
            match name.strip_suffix('/') {
                Some(namespace) => lift(clients, &mut rng, namespace, &task_name).await,
                None => drop(order(clients, &mut rng, &name, Order::Resume).await),
            }
        }
    }
}
