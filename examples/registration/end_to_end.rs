//! The flow through Tasker as a test: every part is real, in one process, with a population small
//! enough to wait for.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};
use tasker::{
    server::{self, ServerConfig},
    store::{Db, migrate::migrate},
};
use tasker_devdb::{Cluster, Options};
use tasker_worker::{
    Worker, WorkerHandle,
    proto::{GetCircuitRequest, Policy, SetPolicyRequest},
};
use tokio::time::sleep;

use crate::{
    audit::{self, Audit},
    control_plane::{ControlPlane, NAMESPACE},
    faults::{FaultPlan, Prior},
    gateway, handlers,
    load::at_pace,
    orchestrated::Orchestrated,
    outage::{Act, Attempts, Outage},
    place::Place,
    population::{Applicant, applicants, newcomers},
    services::{Ports, World},
};

const SEED: u64 = 42;
const CALL_TIMEOUT: Duration = Duration::from_millis(1500);
const ANY: Ports = Ports {
    user_port: 0,
    billing_port: 0,
    preferences_port: 0,
    notification_port: 0,
};
const PER_SECOND: f64 = 20.0;
const PATIENCE: Duration = Duration::from_secs(30);

/// Postgres, server, services, worker and gateway.
struct Stage {
    people: Vec<Applicant>,
    world: World,
    control_plane: ControlPlane,
    gateway_url: String,
    _worker: WorkerHandle,
    _cluster: Cluster,
}

impl Stage {
    async fn set(users: usize) -> Self {
        let cluster = Cluster::start(Options {
            durable: false,
            ..Options::default()
        })
        .await
        .unwrap();
        let db = Db::new(&cluster.url(), "tasker").unwrap();
        migrate(&db).await.unwrap();
        let (listener, server_url) = Place::HERE.bind(0, "").await.unwrap();
        tokio::spawn(server::run(
            listener,
            db,
            ServerConfig::default(),
            std::future::pending(),
        ));

        let people = applicants(SEED, users);
        let world = World::start(
            Place::HERE,
            &ANY,
            FaultPlan::new(SEED),
            CALL_TIMEOUT * 2,
            &people,
        )
        .await
        .unwrap();
        let control_plane = ControlPlane::at(&server_url).unwrap();
        control_plane.register_template().await.unwrap();
        let (listener, gateway_url) = Place::HERE.bind(0, "").await.unwrap();
        tokio::spawn(axum::serve(listener, gateway::router(control_plane.clone())).into_future());
        let builder = Worker::builder([server_url]).max_concurrent_steps(64);
        let worker = handlers::register(builder, world.urls.clone(), CALL_TIMEOUT)
            .build()
            .unwrap()
            .spawn();
        Self {
            people,
            world,
            control_plane,
            gateway_url,
            _worker: worker,
            _cluster: cluster,
        }
    }

    async fn ask(&self, body: &Value, key: Option<&str>) -> (StatusCode, Value) {
        let mut request = reqwest::Client::new()
            .post(format!("{}/users/register", self.gateway_url))
            .json(body);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        answer(request).await
    }

    async fn status(&self, task_id: &str) -> (StatusCode, Value) {
        let url = format!("{}/users/registration_status/{task_id}", self.gateway_url);
        answer(reqwest::Client::new().get(url)).await
    }

    /// The status once it is final.
    async fn end_of(&self, task_id: &Value) -> Value {
        let task_id = task_id.as_str().unwrap();
        let ended = async {
            loop {
                let (_, status) = self.status(task_id).await;
                if status["ended_at"].is_string() {
                    return status;
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, ended)
            .await
            .expect("the registration ends")
    }
}

async fn answer(request: reqwest::RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn registrations_with_faults_end_complete_or_refused() {
    let stage = Stage::set(120).await;
    let flow = Orchestrated::new(stage.gateway_url.clone(), stage.control_plane.clone());
    let records = at_pace("through Tasker", &stage.people, PER_SECOND, |person| {
        let flow = flow.clone();
        async move { (true, flow.register_user(&person).await) }
    })
    .await;
    let audit = audit::orchestrated(&stage.world, &stage.people, &records);

    let plan = FaultPlan::new(SEED);
    let conflicts = stage
        .people
        .iter()
        .filter(|person| plan.prior(&person.email) == Prior::OtherData)
        .count();
    assert!(conflicts > 0, "the population has a conflict");
    let Audit {
        asked,
        completed,
        failed,
        refused,
        partial,
        unknown,
        mailed_twice,
        ..
    } = audit;
    assert_eq!(
        (asked, partial, unknown, mailed_twice),
        (120, 0, 0, 0),
        "{audit:?}"
    );
    assert_eq!(
        (completed, failed, refused),
        (120 - conflicts, conflicts, conflicts),
        "{audit:?}"
    );
    // Hiccups met before a conflict was found are not recovered, and need not be.
    assert!(
        audit.hiccups >= 30 && audit.recovered + conflicts >= audit.hiccups,
        "{audit:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_answers_accepted_refused_and_repeated_registrations() {
    let stage = Stage::set(0).await;
    let user = json!({ "email": "test@example.com", "name": "Test User", "plan": "free" });

    let (status, accepted) = stage.ask(&user, Some("k1")).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{accepted}");
    let (_, again) = stage.ask(&user, Some("k1")).await;
    assert_eq!(again, accepted, "the same key is the same registration");
    let (status, _) = stage
        .ask(
            &json!({ "email": "test@example.com", "name": "Other" }),
            Some("k1"),
        )
        .await;
    assert_eq!(
        status,
        StatusCode::CONFLICT,
        "the key belongs to other data"
    );

    let ended = stage.end_of(&accepted["task_id"]).await;
    assert_eq!(
        (&ended["status"], &ended["percent"]),
        (&json!("complete"), &json!(100)),
        "{ended}"
    );
    assert_eq!(ended["correlation_id"], accepted["correlation_id"]);
    assert_eq!(ended["steps"].as_array().unwrap().len(), 5);

    let (_, same) = stage.ask(&user, None).await;
    assert_eq!(
        stage.end_of(&same["task_id"]).await["status"],
        "complete",
        "equal data: the user exists already"
    );
    let (_, other) = stage
        .ask(
            &json!({ "email": "test@example.com", "name": "Other" }),
            None,
        )
        .await;
    let ended = stage.end_of(&other["task_id"]).await;
    assert_eq!(
        (&ended["status"], &ended["failed_step"]),
        (&json!("error"), &json!("create_user_account"))
    );
    assert_eq!(ended["error"]["error_code"], "USER_CONFLICT", "{ended}");

    let (status, invalid) = stage
        .ask(&json!({ "email": "nobody", "plan": "gold" }), None)
        .await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let mut fields: Vec<_> = invalid["field_violations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["field"])
        .collect();
    fields.sort_by_key(ToString::to_string);
    assert!(
        fields.contains(&&json!("/email"))
            && fields.contains(&&json!("/plan"))
            && fields.len() == 3,
        "{invalid}"
    );

    assert_eq!(
        stage.status("0190aaaa-aaaa-7aaa-8aaa-aaaaaaaaaaaa").await.0,
        StatusCode::NOT_FOUND
    );
    assert_eq!(stage.status("nonsense").await.0, StatusCode::BAD_REQUEST);
}

fn policy_of_billing(policy: Policy) -> SetPolicyRequest {
    SetPolicyRequest {
        namespace: NAMESPACE.into(),
        service: "billing_service".into(),
        policy: Some(policy),
        unset: Vec::new(),
        by: "ann".into(),
        reason: "her own".into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn outage_with_a_circuit_loses_no_task_and_without_one_fails_tasks() {
    const SECONDS: u64 = 4;
    const USERS: usize = 20;
    let stage = Stage::set(0).await;
    let people = newcomers(SEED, 0, 2 * USERS);
    let (with, without) = people.split_at(USERS);
    let mut control_plane = stage.control_plane.clone();
    let own = Policy {
        probes: Some(2),
        min_calls: Some(7),
        ramp_seconds: Some(3.0),
        ..Policy::default()
    };
    control_plane
        .circuits
        .set_policy(policy_of_billing(own))
        .await
        .unwrap();

    let act = Act {
        world: &stage.world,
        control_plane: &stage.control_plane,
        gateway_url: &stage.gateway_url,
        seconds: SECONDS,
        rate: PER_SECOND,
    };
    let outage: Outage = act.play(with, without).await.unwrap();
    assert_eq!(outage.problems(), [""; 0], "{outage}");
    let (on, off) = (&outage.on, &outage.off);
    assert_eq!(
        (on.asked, on.completed, on.failed, on.partial),
        (USERS, USERS, 0, 0),
        "{outage}"
    );
    // Only a failed probe reopens the circuit, and the last probing that it needs does not fail.
    // All probes of one probing may fail.
    assert!(on.opened >= 1 && on.half_opened == on.opened, "{outage}");
    assert!(
        on.attempts.probes >= on.opened - 1 && on.seconds_open >= 1.0,
        "{outage}"
    );
    let told = on.told.as_deref().unwrap_or_default();
    assert!(
        told.contains("setup_billing_profile: circuit billing_service is open since"),
        "{told}"
    );

    // Early registrations have used up their attempts: on a busy machine they are few; the limit is
    // 3.
    assert!(off.failed > 0 && off.partial == off.failed, "{outage}");
    assert!(off.attempts.closed >= 3 * off.failed, "{outage}");
    let closed = Attempts {
        closed: off.attempts.closed,
        ..Attempts::default()
    };
    assert_eq!((off.opened, &off.attempts), (0, &closed));
    assert!(
        off.told
            .as_deref()
            .unwrap_or_default()
            .contains("attempt 2 of 3 in"),
        "{outage}"
    );

    let request = GetCircuitRequest {
        namespace: NAMESPACE.into(),
        service: "billing_service".into(),
    };
    let after = control_plane
        .circuits
        .get_circuit(request)
        .await
        .unwrap()
        .into_inner()
        .set_for_service;
    assert_eq!(after, Some(own), "what was set before is in force again");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_of_a_waiting_task_states_the_cause() {
    let stage = Stage::set(0).await;
    let waits = |status: &Value, step: usize| status["steps"][step]["waits"].clone();
    stage.world.set_billing_down(true);
    let user = json!({ "email": "test@example.com", "name": "Test User" });
    let (_, accepted) = stage.ask(&user, None).await;
    let id = accepted["task_id"].as_str().unwrap();
    let waiting = async {
        loop {
            let (_, status) = stage.status(id).await;
            if waits(&status, 1)[0]["cause"] == "backoff" && waits(&status, 2) == json!([]) {
                return status;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    let status = tokio::time::timeout(PATIENCE, waiting)
        .await
        .expect("billing waits for its next attempt");
    let why = status["why"].as_str().unwrap();
    assert!(
        why.starts_with("2 of 5 steps are complete; setup_billing_profile: attempt "),
        "{status}"
    );
    assert!(waits(&status, 1)[0]["until"].is_string(), "{status}");
    let parents = json!([{ "cause": "parents", "message": "waits for setup_billing_profile (waiting_for_retry)",
                           "since": null, "until": null }]);
    assert_eq!(waits(&status, 3), parents);
    assert_eq!(
        (&status["status"], &status["percent"]),
        (&json!("in_progress"), &json!(40)),
        "{status}"
    );

    stage.world.set_billing_down(false);
    let ended = stage.end_of(&accepted["task_id"]).await;
    assert_eq!(
        (&ended["status"], &ended["why"], waits(&ended, 1)),
        (&json!("complete"), &Value::Null, json!([]))
    );
}
