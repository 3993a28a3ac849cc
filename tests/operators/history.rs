//! The event log holds every order, with its actor and its reason.

use tasker::proto::{self, Event, EventType as E, StartFrom};

use crate::{
    support::{
        server::{Bench, explained},
        worker::{RawWorker, permanent},
    },
    verb::{Verb, next_of, orders, say_as},
};

const PAIR: &str = "
    {task_name: pair, namespace: t, version: 1.0.0, step_templates: [
      {name: a, handler_class: h}, {name: b, handler_class: h, depends_on_steps: [a]}, {name: c, handler_class: none}]}";

/// All events so far that an operator caused.
async fn ordered(bench: &mut Bench, last: E) -> Vec<Event> {
    let request = proto::SubscribeRequest {
        start_from: StartFrom::Beginning.into(),
        ..Default::default()
    };
    let mut stream = bench
        .client
        .events
        .subscribe(request)
        .await
        .unwrap()
        .into_inner();
    let mut found = Vec::new();
    loop {
        let next = tokio::time::timeout(crate::support::server::PATIENCE, stream.message())
            .await
            .expect("an event");
        let Some(event) = next.unwrap().unwrap().event else {
            continue;
        };
        let kind = event.r#type();
        if !event.actor.is_empty() {
            found.push(event);
        }
        if kind == last {
            return found;
        }
    }
}

#[tokio::test]
async fn order_is_an_event_with_author_and_reason() {
    let mut bench = Bench::with(PAIR).await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let id = bench.submit("t/pair", "{}").await;
    let a = next_of(&mut worker, &id).await;
    let mut n = 0;
    let mut client = bench.client.clone();
    let mut say = async |verb: Verb, step: &str| {
        n += 1;
        say_as(
            &mut client,
            verb,
            &id,
            step,
            &format!("user {n}"),
            &format!("reason {n}"),
        )
        .await
        .unwrap();
    };
    say(Verb::Pause, "").await;
    say(Verb::Resume, "").await;
    say(Verb::Skip, "c").await;
    worker.settle(&a, permanent("no", "NO")).await;
    say(Verb::Retry, "").await;
    let a = next_of(&mut worker, &id).await;
    worker.settle(&a, permanent("no", "NO")).await;
    say(Verb::ResolveStep, "a").await;
    let b = next_of(&mut worker, &id).await;
    worker.settle(&b, permanent("no", "NO")).await;
    say(Verb::Resolve, "").await;
    let told: Vec<(E, String, String, String)> = ordered(&mut bench, E::TaskResolved)
        .await
        .into_iter()
        .map(|event| (event.r#type(), event.step, event.actor, event.detail))
        .collect();
    let said = |kind, step: &str, n: i32| {
        (
            kind,
            step.to_owned(),
            format!("user {n}"),
            format!("reason {n}"),
        )
    };
    assert_eq!(
        told,
        [
            said(E::TaskPaused, "", 1),
            said(E::TaskResumed, "", 2),
            said(E::StepSkipped, "c", 3),
            said(E::TaskReopened, "", 4),
            said(E::StepReopened, "a", 4),
            said(E::TaskReopened, "", 5),
            said(E::StepResolved, "a", 5),
            said(E::TaskResolved, "", 6),
        ]
    );
    assert_eq!(orders(&bench, &id).await.len(), 8);
    let explained = explained(&mut bench.client, &id).await;
    assert!(
        explained.summary.ends_with(", by user 6: reason 6"),
        "{}",
        explained.summary
    );
}

#[tokio::test]
async fn pause_of_a_template_or_namespace_is_an_event() {
    let mut bench = Bench::with(PAIR).await;
    for task_name in ["", "pair"] {
        for _ in 0..2 {
            let pause = proto::PauseTemplateRequest {
                namespace: "t".into(),
                task_name: task_name.into(),
                by: "ann".into(),
                reason: "why".into(),
            };
            bench.client.tasks.pause_template(pause).await.unwrap();
        }
    }
    let lift = proto::ResumeTemplateRequest {
        namespace: "t".into(),
        by: "bob".into(),
        reason: "well".into(),
        ..Default::default()
    };
    assert!(
        bench
            .client
            .tasks
            .resume_template(lift.clone())
            .await
            .unwrap()
            .into_inner()
            .was_paused
    );
    assert!(
        !bench
            .client
            .tasks
            .resume_template(lift)
            .await
            .unwrap()
            .into_inner()
            .was_paused,
        "it was lifted before"
    );
    let told: Vec<(E, String, String)> = ordered(&mut bench, E::PauseLifted)
        .await
        .into_iter()
        .map(|e| (e.r#type(), e.actor, e.detail))
        .collect();
    let said = |kind, by: &str, detail: &str| (kind, by.to_owned(), detail.to_owned());
    assert_eq!(
        told,
        [
            said(E::PauseSet, "ann", "namespace t: why"),
            said(E::PauseSet, "ann", "t/pair: why"),
            said(E::PauseLifted, "bob", "namespace t: well"),
        ]
    );
}
