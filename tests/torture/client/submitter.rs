//! A submitter: it keeps the number of open tasks up, in all ways to submit, and watches, cancels or
//! repairs some of the tasks.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tasker::proto::{SubmitTaskResponse, TaskState, WatchTaskRequest};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::{Clients, PAUSE, UNKNOWN};
use crate::{checker::history::Told, document, operator, seed::Rng};

pub async fn run(clients: Arc<Clients>) {
    let mut follow_ups = JoinSet::new();
    while !clients.stop.is_cancelled() {
        while let Some(ended) = follow_ups.try_join_next() {
            ended.unwrap();
        }
        match clients.open.load(Ordering::Relaxed) {
            // Submits now and then all the same: while the database is away, the server must refuse
            // a submit or keep it.
            UNKNOWN => tokio::time::sleep(PAUSE).await,
            open if open >= clients.target => {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
            _ => {}
        }
        job(&clients, &mut follow_ups).await;
    }
    while let Some(ended) = follow_ups.join_next().await {
        ended.unwrap();
    }
}

/// Submits one or several tasks in one of several ways, and starts the follow-ups.
async fn job(clients: &Arc<Clients>, follow_ups: &mut JoinSet<()>) {
    let first = clients.next.load(Ordering::Relaxed);
    let mut rng = Rng::of(clients.seed, &format!("job {first}"));
    let answers = match rng.below(100) {
        // Without a key a submit is sent once only, as its repetition could store a second task.
        0..35 => {
            clients
                .submit(rng.next(), &[clients.want_any(false, None)])
                .await
        }
        35..65 => {
            clients
                .insist(&mut rng, &[clients.want_any(true, None)])
                .await
        }
        65..75 => {
            let asked = [clients.want_any(true, None)];
            clients.count("keys used again");
            clients.insist(&mut rng, &asked).await;
            clients.insist(&mut rng, &asked).await
        }
        75..85 => {
            let asked = [clients.want_any(true, None)];
            clients.count("keys used at once");
            let luck = rng.next();
            let (one, two) = tokio::join!(
                clients.submit(luck, &asked),
                clients.submit(luck + 1, &asked)
            );
            match one.or(two) {
                None => clients.insist(&mut rng, &asked).await,
                told => told,
            }
        }
        85..95 => {
            let size = 2 + rng.below(20);
            let batch: Vec<_> = (0..size)
                .map(|_| clients.want_any(false, Some(first)))
                .collect();
            clients.count("batches");
            clients.submit(rng.next(), &batch).await
        }
        _ => {
            let size = 2 + rng.below(20);
            let batch: Vec<_> = (0..size).map(|_| clients.want_any(true, None)).collect();
            clients.count("batches");
            clients.insist(&mut rng, &batch).await
        }
    };
    for answer in answers.into_iter().flatten() {
        follow_ups.spawn(follow_up(Arc::clone(clients), answer));
    }
}

/// Cancels, watches or repairs the task, or leaves it alone.
async fn follow_up(clients: Arc<Clients>, answer: SubmitTaskResponse) {
    let purpose = format!("afterwards {}", answer.correlation_id);
    let mut rng = Rng::of(clients.seed, &purpose);
    match rng.below(100) {
        0..5 => operator::cancel(&clients, &mut rng, answer.task_id).await,
        5..10 => drop(watch(&clients, &mut rng, answer.task_id).await),
        10..40 => {
            let result = |rng: &mut Rng| document::value(rng, 3);
            operator::attend(&clients, &mut rng, answer.task_id, result).await;
        }
        _ => {}
    }
}

/// Watches the task to its end and returns its final state.
pub async fn watch(clients: &Clients, rng: &mut Rng, task_id: String) -> Option<TaskState> {
    let task = Uuid::parse_str(&task_id).unwrap();
    let what = format!("watch of task {task_id}");
    clients.waiting.lock().unwrap().insert(what.clone());
    let request = WatchTaskRequest {
        task_id,
        final_only: true,
    };
    while !clients.give_up.is_cancelled() {
        let mut client = clients.server(rng.next());
        let watched = async {
            let mut stream = client.tasks.watch_task(request.clone()).await?.into_inner();
            stream.message().await
        };
        let watched = tokio::select! {
            () = clients.give_up.cancelled() => return None,
            watched = watched => watched,
        };
        if let Ok(Some(last)) = watched {
            let ended = last.task.unwrap().state();
            let state = match ended {
                TaskState::Complete => "complete",
                TaskState::Error => "error",
                TaskState::Cancelled => "cancelled",
                TaskState::ResolvedManually => "resolved_manually",
                _ => "not final",
            };
            clients.count("watch");
            clients.waiting.lock().unwrap().remove(&what);
            clients.told(Told::Ended {
                task,
                state: state.to_owned(),
            });
            return Some(ended);
        }
        tokio::time::sleep(PAUSE).await;
    }
    None
}
