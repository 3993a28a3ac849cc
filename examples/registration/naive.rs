//! The flow as it was before Tasker: four calls one after another, no retries, and no memory of
//! what was done.
//!
//! It follows the article's `UserRegistrationService#register_user` call for call.

use std::{fmt, time::Duration};

use serde_json::{Value, json};

use crate::{population::Applicant, services::Urls};

/// Why a registration "failed".
#[derive(Debug)]
pub struct Failure {
    /// The failed call, one of the four.
    pub call: &'static str,
    pub cause: Cause,
}

/// The failure as the caller saw it.
#[derive(Debug)]
pub enum Cause {
    /// The service refused; nothing was done there.
    Status(u16),
    /// A time-out or a broken connection: the caller cannot tell whether the call did its work.
    NoAnswer(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Status(status) => write!(f, "{} failed: {status}", self.call),
            Cause::NoAnswer(error) => write!(f, "{} failed: {error}", self.call),
        }
    }
}

/// Registers users the naive way.
#[derive(Clone)]
pub struct NaiveRegistration {
    http: reqwest::Client,
    urls: Urls,
    timeout: Duration,
}

impl NaiveRegistration {
    pub fn new(urls: Urls, timeout: Duration) -> Self {
        Self {
            http: reqwest::Client::new(),
            urls,
            timeout,
        }
    }

    /// Returns the user's id, or the first error; the parts created until then stay behind.
    pub async fn register_user(&self, user: &Applicant) -> Result<String, Failure> {
        // Step 1: create the user in the user service.
        let created = self
            .post(
                "user creation",
                format!("{}/users", self.urls.user),
                json!(user),
            )
            .await?;
        let user_id = created["id"].as_str().unwrap_or_default().to_owned();

        // Step 2: create the billing profile.
        let profile = json!({ "user_id": user_id, "plan": "free" });
        self.post(
            "billing creation",
            format!("{}/profiles", self.urls.billing),
            profile,
        )
        .await?;

        // Step 3: set up preferences.
        let preferences = json!({ "user_id": user_id, "defaults": true });
        self.post(
            "preferences creation",
            format!("{}/preferences", self.urls.preferences),
            preferences,
        )
        .await?;

        // Step 4: send the welcome mail.
        let welcome = json!({ "user_id": user_id, "email": user.email });
        self.post(
            "email sending",
            format!("{}/welcome", self.urls.notification),
            welcome,
        )
        .await?;

        Ok(user_id)
    }

    async fn post(&self, call: &'static str, url: String, body: Value) -> Result<Value, Failure> {
        let no_answer = |error: reqwest::Error| {
            let cause = if error.is_timeout() {
                "timed out".to_owned()
            } else {
                "connection broken".to_owned()
            };
            Failure {
                call,
                cause: Cause::NoAnswer(cause),
            }
        };
        let response = self
            .http
            .post(url)
            .timeout(self.timeout)
            .json(&body)
            .send()
            .await
            .map_err(no_answer)?;
        if !response.status().is_success() {
            return Err(Failure {
                call,
                cause: Cause::Status(response.status().as_u16()),
            });
        }
        response.json().await.map_err(no_answer)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::{sync::Semaphore, task::JoinSet};

    use super::*;
    use crate::{
        faults::{Fault, FaultPlan, Prior},
        place::Place,
        population::applicants,
        services::{Ports, World},
    };

    const TIMEOUT: Duration = Duration::from_millis(400);
    const AT_ONCE: usize = 16;
    const ANY: Ports = Ports {
        user_port: 0,
        billing_port: 0,
        preferences_port: 0,
        notification_port: 0,
    };

    /// Registers all applicants; returns each with its outcome, and the injected faults.
    async fn run(
        seed: u64,
        users: usize,
    ) -> (Vec<(Applicant, Result<String, Failure>)>, Vec<Fault>) {
        let (plan, people) = (FaultPlan::new(seed), applicants(seed, users));
        let world = World::start(Place::HERE, &ANY, plan, TIMEOUT * 2, &people)
            .await
            .unwrap();
        let flow = NaiveRegistration::new(world.urls.clone(), TIMEOUT);
        let slots = Arc::new(Semaphore::new(AT_ONCE));
        let mut running = JoinSet::new();
        for person in people {
            let (flow, slots) = (flow.clone(), slots.clone());
            running.spawn(async move {
                let _slot = slots.acquire_owned().await;
                let outcome = flow.register_user(&person).await;
                (person, outcome)
            });
        }
        let outcomes = running.join_all().await;
        for (person, outcome) in &outcomes {
            let holdings = world.holdings(person);
            assert!(
                outcome.is_err() || holdings.complete(),
                "{} holds {holdings:?}",
                person.email
            );
            if plan.prior(&person.email) == Prior::OtherData {
                assert!(
                    holdings.nothing(),
                    "somebody else's account is not {}'s",
                    person.email
                );
            }
        }
        let faults = world.faults();
        world.stop().await;
        (outcomes, faults)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn naive_run_with_the_default_seed_fails_at_the_published_rate() {
        let (outcomes, faults) = run(42, 300).await;
        let failed = outcomes
            .iter()
            .filter(|(_, outcome)| outcome.is_err())
            .count();
        assert!((90..=150).contains(&failed), "{failed} of 300 failed");
        for kind in [
            Fault::Stall,
            Fault::ServerError,
            Fault::RateLimited,
            Fault::BreakAfterWork,
            Fault::Restart,
        ] {
            assert!(faults.contains(&kind), "no {kind:?} among {faults:?}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn failure_states_the_error_of_the_caller() {
        let (outcomes, _) = run(42, 120).await;
        let failures: Vec<_> = outcomes
            .into_iter()
            .filter_map(|(_, outcome)| outcome.err())
            .collect();
        let text: Vec<_> = failures.iter().map(ToString::to_string).collect();
        for expected in [
            "user creation failed: 409",
            "failed: timed out",
            "failed: connection broken",
        ] {
            assert!(
                text.iter().any(|line| line.contains(expected)),
                "no `{expected}` among {text:?}"
            );
        }
    }
}
