//! The front of every service: counts calls, injects the planned faults, and honours
//! `Idempotency-Key`.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    Json,
    http::{HeaderMap, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::listener::HangUp;
use crate::faults::{Fault, FaultPlan, Operation};

/// The answer of a service without a fault.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Value,
}

impl Answer {
    pub fn new(status: StatusCode, body: Value) -> Self {
        Self { status, body }
    }

    pub fn error(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self::new(status, json!({ "error": code, "message": message.into() }))
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}

/// One incoming call.
pub struct Call<'a> {
    pub operation: Operation,
    /// The user that it concerns.
    pub who: &'a str,
    pub headers: &'a HeaderMap,
    /// The content of the request: the same key with another request is refused.
    pub request: &'a Value,
}

/// The part that all services share.
pub struct Front {
    plan: FaultPlan,
    /// How long a stalled answer takes: longer than any caller waits.
    stall: Duration,
    down: AtomicBool,
    ledger: Mutex<Ledger>,
}

#[derive(Default)]
struct Ledger {
    calls: HashMap<(Operation, String), u32>,
    /// By idempotency key: the request and its first answer.
    answers: HashMap<String, (Value, Answer)>,
    faults: Vec<Fault>,
}

impl Front {
    pub fn new(plan: FaultPlan, stall: Duration) -> Self {
        Self {
            plan,
            stall,
            down: AtomicBool::new(false),
            ledger: Mutex::default(),
        }
    }

    /// While the service is down, it answers every call with 503 and does nothing.
    pub fn set_down(&self, down: bool) {
        self.down.store(down, Relaxed);
    }

    /// Answers one call: `work` runs unless the service is down, a fault prevents it or its
    /// idempotency key was used before.
    pub async fn answer(&self, call: Call<'_>, work: impl FnOnce() -> Answer) -> Response {
        let number = self.count(&call);
        tokio::time::sleep(self.plan.latency(call.operation, call.who, number)).await;
        if self.down.load(Relaxed) {
            return refusal(StatusCode::SERVICE_UNAVAILABLE, "down");
        }
        let Some(fault) = self.plan.fault(call.operation, call.who, number) else {
            return self.once(&call, work).into_response();
        };
        self.lock().faults.push(fault);
        match fault {
            Fault::Stall => {
                let answer = self.once(&call, work);
                tokio::time::sleep(self.stall).await;
                answer.into_response()
            }
            Fault::BreakAfterWork => {
                self.once(&call, work);
                HangUp.into_response()
            }
            Fault::Restart => HangUp.into_response(),
            Fault::ServerError => refusal(StatusCode::INTERNAL_SERVER_ERROR, "internal error"),
            Fault::Unavailable => refusal(StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
            Fault::RateLimited => (
                [(RETRY_AFTER, "1")],
                refusal(StatusCode::TOO_MANY_REQUESTS, "slow down"),
            )
                .into_response(),
        }
    }

    /// The faults that were injected so far.
    pub fn faults(&self) -> Vec<Fault> {
        self.lock().faults.clone()
    }

    fn count(&self, call: &Call<'_>) -> u32 {
        let mut ledger = self.lock();
        let number = ledger
            .calls
            .entry((call.operation, call.who.to_owned()))
            .or_default();
        *number += 1;
        *number
    }

    /// Does the work, or repeats the first answer to the same key. The lock is held meanwhile, so
    /// two concurrent calls with one key do the work once.
    fn once(&self, call: &Call<'_>, work: impl FnOnce() -> Answer) -> Answer {
        let Some(key) = call
            .headers
            .get("idempotency-key")
            .and_then(|key| key.to_str().ok())
        else {
            return work();
        };
        let key = format!("{} {key}", call.operation.name());
        let mut ledger = self.lock();
        match ledger.answers.get(&key) {
            Some((request, answer)) if request == call.request => answer.clone(),
            Some(_) => Answer::error(
                StatusCode::UNPROCESSABLE_ENTITY,
                "IDEMPOTENCY_KEY_REUSED",
                "the key was used for another request",
            ),
            None => {
                let answer = work();
                ledger
                    .answers
                    .insert(key, (call.request.clone(), answer.clone()));
                answer
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refusal(status: StatusCode, message: &str) -> Response {
    Answer::error(status, "INJECTED", message).into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;

    /// A user whose first call of the operation meets `wanted`, or no fault at all.
    fn somebody(plan: FaultPlan, operation: Operation, wanted: Option<Fault>) -> String {
        let mut users = (0..100_000).map(|n| format!("usr_{n}"));
        users
            .find(|who| plan.fault(operation, who, 1) == wanted)
            .expect("the plan has such a user")
    }

    struct Caller {
        front: Front,
        done: AtomicU32,
    }

    impl Caller {
        fn new(plan: FaultPlan) -> Self {
            Self {
                front: Front::new(plan, Duration::from_millis(1)),
                done: AtomicU32::new(0),
            }
        }

        async fn call(
            &self,
            operation: Operation,
            who: &str,
            key: Option<&str>,
            request: Value,
        ) -> Response {
            let key = key.map(|key| ("idempotency-key".parse().unwrap(), key.parse().unwrap()));
            let headers = HeaderMap::from_iter(key);
            let work = || {
                Answer::new(
                    StatusCode::CREATED,
                    json!(self.done.fetch_add(1, Relaxed) + 1),
                )
            };
            self.front
                .answer(
                    Call {
                        operation,
                        who,
                        headers: &headers,
                        request: &request,
                    },
                    work,
                )
                .await
        }
    }

    #[tokio::test]
    async fn repeated_key_does_the_work_once() {
        let plan = FaultPlan::new(42);
        let (caller, who) = (
            Caller::new(plan),
            somebody(plan, Operation::SendWelcome, None),
        );
        for (key, status, done) in [
            (Some("a"), StatusCode::CREATED, 1),
            (Some("a"), StatusCode::CREATED, 1),
            (Some("b"), StatusCode::CREATED, 2),
            (None, StatusCode::CREATED, 3),
            (None, StatusCode::CREATED, 4),
        ] {
            let response = caller
                .call(Operation::SendWelcome, &who, key, json!(1))
                .await;
            assert_eq!(
                (response.status(), caller.done.load(Relaxed)),
                (status, done),
                "{key:?}"
            );
        }
        let reused = caller
            .call(Operation::SendWelcome, &who, Some("a"), json!(2))
            .await;
        assert_eq!(
            (reused.status(), caller.done.load(Relaxed)),
            (StatusCode::UNPROCESSABLE_ENTITY, 4)
        );
        let elsewhere = caller
            .call(Operation::CreateProfile, &who, Some("a"), json!(1))
            .await;
        assert_eq!(
            elsewhere.status(),
            StatusCode::CREATED,
            "a key belongs to its operation"
        );
    }

    #[tokio::test]
    async fn repeat_after_a_broken_answer_returns_the_stored_result() {
        let plan = FaultPlan::new(42);
        let who = somebody(plan, Operation::CreateUser, Some(Fault::BreakAfterWork));
        let caller = Caller::new(plan);
        let broken = caller
            .call(Operation::CreateUser, &who, Some("k"), json!(1))
            .await;
        assert!(broken.extensions().get::<HangUp>().is_some());
        assert_eq!(caller.done.load(Relaxed), 1);
        let repeated = caller
            .call(Operation::CreateUser, &who, Some("k"), json!(1))
            .await;
        assert_eq!(
            (repeated.status(), caller.done.load(Relaxed)),
            (StatusCode::CREATED, 1)
        );
        assert_eq!(caller.front.faults(), [Fault::BreakAfterWork]);
    }

    #[tokio::test]
    async fn service_that_is_down_does_no_work() {
        let plan = FaultPlan::new(42);
        let (caller, who) = (
            Caller::new(plan),
            somebody(plan, Operation::CreateProfile, None),
        );
        for (down, status, done) in [
            (true, StatusCode::SERVICE_UNAVAILABLE, 0),
            (false, StatusCode::CREATED, 1),
            (true, StatusCode::SERVICE_UNAVAILABLE, 1),
        ] {
            caller.front.set_down(down);
            let response = caller
                .call(Operation::CreateProfile, &who, Some("k"), json!(1))
                .await;
            assert_eq!(
                (response.status(), caller.done.load(Relaxed)),
                (status, done),
                "down: {down}"
            );
        }
    }

    #[tokio::test]
    async fn refusal_does_no_work() {
        let plan = FaultPlan::new(42);
        for (operation, fault, status) in [
            (
                Operation::CreateUser,
                Fault::ServerError,
                StatusCode::INTERNAL_SERVER_ERROR,
            ),
            (
                Operation::CreateProfile,
                Fault::Unavailable,
                StatusCode::SERVICE_UNAVAILABLE,
            ),
            (
                Operation::SendWelcome,
                Fault::RateLimited,
                StatusCode::TOO_MANY_REQUESTS,
            ),
        ] {
            let (caller, who) = (Caller::new(plan), somebody(plan, operation, Some(fault)));
            let response = caller.call(operation, &who, Some("k"), json!(1)).await;
            assert_eq!(
                (response.status(), caller.done.load(Relaxed)),
                (status, 0),
                "{fault:?}"
            );
            assert_eq!(
                response.headers().contains_key(RETRY_AFTER),
                fault == Fault::RateLimited
            );
        }
    }
}
