//! The five step handlers of the registration, one for each `handler_class` of the template.
//!
//! A handler makes one call and converts its answer; Tasker decides when to retry. Every call
//! carries the step's idempotency key, so a step that is retried after a lost answer does its work
//! once.

use std::{sync::Arc, time::Duration};

use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tasker_worker::{
    Handler, PermanentError, RetryableError, StepContext, StepError, WorkerBuilder, http,
};

use crate::services::Urls;

/// Shared by all handlers: the connections, and the addresses of the services.
pub struct Services {
    http: Client,
    urls: Urls,
    /// How long one call may take; the step's own `timeout_seconds` is the limit of the whole
    /// attempt.
    call_timeout: Duration,
}

/// The parts of the task's context that services need.
#[derive(Deserialize, Serialize)]
struct UserData {
    email: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    phone: Option<String>,
    plan: String,
}

/// A user as the user service describes it.
#[derive(Deserialize)]
struct User {
    id: String,
    email: String,
    name: String,
    created_at: String,
}

/// The part of the result of `create_user_account` that later steps need.
#[derive(Deserialize)]
struct Account {
    user_id: String,
    email: String,
}

/// Adds the five handlers to a worker, under the names of the template.
pub fn register(builder: WorkerBuilder, urls: Urls, call_timeout: Duration) -> WorkerBuilder {
    let services = Arc::new(Services {
        http: Client::new(),
        urls,
        call_timeout,
    });
    builder
        .handler(
            "UserManagement::StepHandlers::CreateUserAccountHandler",
            CreateUserAccount(services.clone()),
        )
        .handler(
            "UserManagement::StepHandlers::SetupBillingProfileHandler",
            SetupBillingProfile(services.clone()),
        )
        .handler(
            "UserManagement::StepHandlers::InitializePreferencesHandler",
            InitializePreferences(services.clone()),
        )
        .handler(
            "UserManagement::StepHandlers::SendWelcomeSequenceHandler",
            SendWelcomeSequence(services.clone()),
        )
        .handler(
            "UserManagement::StepHandlers::UpdateUserStatusHandler",
            UpdateUserStatus(services),
        )
}

/// Creates the account. A user that exists with the same data counts as created, since the request
/// was repeated.
struct CreateUserAccount(Arc<Services>);

impl Handler for CreateUserAccount {
    type Output = Value;

    async fn handle(&self, step: StepContext) -> Result<Value, StepError> {
        let user: UserData = step.context()?;
        let request = self
            .0
            .http
            .post(format!("{}/users", self.0.urls.user))
            .json(&user);
        let response = self.0.call(&step, request).await?;
        if response.status() == StatusCode::CONFLICT {
            return self.existing(&step, &user).await;
        }
        let created: User = body(&step, response).await?;
        Ok(json!({
            "user_id": created.id,
            "email": created.email,
            "created_at": created.created_at,
            "correlation_id": step.correlation_id(),
            "status": "created",
        }))
    }
}

impl CreateUserAccount {
    /// The e-mail is taken: finds out whether by the same user or by another one.
    async fn existing(&self, step: &StepContext, user: &UserData) -> Result<Value, StepError> {
        let url = reqwest::Url::parse_with_params(
            &format!("{}/users", self.0.urls.user),
            [("email", &user.email)],
        )
        .map_err(|error| PermanentError::new(format!("user service URL: {error}")))?;
        let response = self.0.call(step, self.0.http.get(url)).await?;
        if response.status() == StatusCode::NOT_FOUND {
            // Deleted between the two calls: the next attempt can create it.
            return Err(
                RetryableError::new("the user existed a moment ago, and now does not").into(),
            );
        }
        let existing: User = body(step, response).await?;
        if existing.email != user.email || existing.name != user.name {
            return Err(PermanentError::new(format!(
                "User with email {} exists with different data",
                user.email
            ))
            .error_code("USER_CONFLICT")
            .into());
        }
        Ok(json!({
            "user_id": existing.id,
            "email": existing.email,
            "correlation_id": step.correlation_id(),
            "status": "already_exists",
        }))
    }
}

/// Creates the billing profile with the requested plan.
struct SetupBillingProfile(Arc<Services>);

impl Handler for SetupBillingProfile {
    type Output = Value;

    async fn handle(&self, step: StepContext) -> Result<Value, StepError> {
        #[derive(Deserialize)]
        struct Context {
            plan: String,
        }
        let Context { plan } = step.context()?;
        let account: Account = step.result_of("create_user_account")?;
        let profile = json!({ "user_id": account.user_id, "plan": plan });
        let request = self
            .0
            .http
            .post(format!("{}/profiles", self.0.urls.billing))
            .json(&profile);
        let profile: Value = body(&step, self.0.call(&step, request).await?).await?;
        Ok(json!({ "billing_id": profile["id"], "plan": plan }))
    }
}

/// Creates the preferences: the defaults, and the user's consent.
struct InitializePreferences(Arc<Services>);

impl Handler for InitializePreferences {
    type Output = Value;

    async fn handle(&self, step: StepContext) -> Result<Value, StepError> {
        #[derive(Deserialize)]
        struct Context {
            marketing_consent: bool,
        }
        let Context { marketing_consent } = step.context()?;
        let account: Account = step.result_of("create_user_account")?;
        let preferences = json!({ "user_id": account.user_id, "defaults": true, "marketing_consent": marketing_consent });
        let request = self
            .0
            .http
            .post(format!("{}/preferences", self.0.urls.preferences))
            .json(&preferences);
        let preferences: Value = body(&step, self.0.call(&step, request).await?).await?;
        Ok(json!({ "preferences_id": preferences["id"] }))
    }
}

/// Sends the welcome mail: once, however often the step is retried.
struct SendWelcomeSequence(Arc<Services>);

impl Handler for SendWelcomeSequence {
    type Output = Value;

    async fn handle(&self, step: StepContext) -> Result<Value, StepError> {
        let account: Account = step.result_of("create_user_account")?;
        let welcome = json!({ "user_id": account.user_id, "email": account.email });
        let request = self
            .0
            .http
            .post(format!("{}/welcome", self.0.urls.notification))
            .json(&welcome);
        let sent: Value = body(&step, self.0.call(&step, request).await?).await?;
        Ok(json!({ "message_id": sent["message_id"] }))
    }
}

/// Marks the registration as complete.
struct UpdateUserStatus(Arc<Services>);

impl Handler for UpdateUserStatus {
    type Output = Value;

    async fn handle(&self, step: StepContext) -> Result<Value, StepError> {
        let account: Account = step.result_of("create_user_account")?;
        let url = format!("{}/users/{}", self.0.urls.user, account.user_id);
        let request = self.0.http.patch(url).json(&json!({ "status": "active" }));
        let user: Value = body(&step, self.0.call(&step, request).await?).await?;
        Ok(json!({ "user_id": user["id"], "status": user["status"] }))
    }
}

impl Services {
    /// Makes one call on behalf of a step. An answer of any status is returned; without an answer
    /// the error is retryable.
    async fn call(
        &self,
        step: &StepContext,
        request: RequestBuilder,
    ) -> Result<Response, StepError> {
        request
            .timeout(self.call_timeout.min(step.remaining()))
            .headers(http::headers(step))
            .send()
            .await
            .map_err(|error| no_answer(step, &error))
    }
}

/// Parses the JSON of a successful answer; any other answer becomes the step's error by its status.
async fn body<T: for<'de> Deserialize<'de>>(
    step: &StepContext,
    response: Response,
) -> Result<T, StepError> {
    http::check(step.service(), response.status(), response.headers())?;
    response
        .json()
        .await
        .map_err(|error| no_answer(step, &error))
}

fn no_answer(step: &StepContext, error: &reqwest::Error) -> StepError {
    if error.is_timeout() {
        http::timeout(step.service())
    } else {
        http::connection_error(step.service(), error)
    }
}

#[cfg(test)]
mod tests;
