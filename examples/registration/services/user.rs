//! The user service (port 3001): accounts, one per e-mail.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
    response::Response,
    routing::{get, patch},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::front::{Answer, Call, Front};
use crate::faults::{Operation, draw};

/// One account.
#[derive(Clone, Debug, Serialize)]
pub struct Account {
    pub id: String,
    pub email: String,
    pub name: String,
    pub phone: Option<String>,
    pub plan: String,
    /// `pending` until the registration is complete, then `active`.
    pub status: String,
    pub created_at: String,
}

/// The body of `POST /users`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct NewAccount {
    pub email: String,
    pub name: String,
    pub phone: Option<String>,
    #[serde(default = "free")]
    pub plan: String,
}

fn free() -> String {
    "free".to_owned()
}

/// Derives an account's id from its e-mail, so that the fault plan identifies a user by the same id
/// in every service.
pub fn user_id(email: &str) -> String {
    format!("usr_{:016x}", draw(0, &["user", email]))
}

/// The service and its accounts by id.
pub struct UserService {
    pub front: Front,
    accounts: Mutex<HashMap<String, Account>>,
}

impl UserService {
    pub fn new(front: Front) -> Self {
        Self {
            front,
            accounts: Mutex::default(),
        }
    }

    pub fn router(self: Arc<Self>) -> Router {
        Router::new()
            .route("/users", get(find).post(create))
            .route("/users/{id}", patch(update).put(update))
            .with_state(self)
    }

    pub fn account(&self, email: &str) -> Option<Account> {
        self.lock().get(&user_id(email)).cloned()
    }

    /// Stores an account, unless the e-mail is taken.
    #[allow(
        clippy::disallowed_methods,
        reason = "a simulated service has a clock of its own"
    )]
    pub fn insert(&self, new: NewAccount) -> Option<Account> {
        let account = Account {
            id: user_id(&new.email),
            email: new.email,
            name: new.name,
            phone: new.phone,
            plan: new.plan,
            status: "pending".to_owned(),
            created_at: prost_types::Timestamp::from(SystemTime::now()).to_string(),
        };
        let mut accounts = self.lock();
        if accounts.contains_key(&account.id) {
            return None;
        }
        accounts.insert(account.id.clone(), account.clone());
        Some(account)
    }

    fn set_status(&self, id: &str, status: &str) -> Option<Account> {
        let mut accounts = self.lock();
        let account = accounts.get_mut(id)?;
        status.clone_into(&mut account.status);
        Some(account.clone())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Account>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Service = State<Arc<UserService>>;

async fn create(
    State(service): Service,
    headers: HeaderMap,
    Json(new): Json<NewAccount>,
) -> Response {
    let (who, request) = (user_id(&new.email), json!(new));
    let call = Call {
        operation: Operation::CreateUser,
        who: &who,
        headers: &headers,
        request: &request,
    };
    let work = || match service.insert(new) {
        Some(account) => Answer::new(StatusCode::CREATED, json!(account)),
        None => Answer::error(
            StatusCode::CONFLICT,
            "USER_EXISTS",
            "a user with this e-mail exists",
        ),
    };
    service.front.answer(call, work).await
}

#[derive(Deserialize)]
struct Wanted {
    email: String,
}

async fn find(
    State(service): Service,
    headers: HeaderMap,
    Query(wanted): Query<Wanted>,
) -> Response {
    let who = user_id(&wanted.email);
    let call = Call {
        operation: Operation::FindUser,
        who: &who,
        headers: &headers,
        request: &Value::Null,
    };
    let work = || found(service.account(&wanted.email));
    service.front.answer(call, work).await
}

#[derive(Deserialize)]
struct Change {
    status: String,
}

async fn update(
    State(service): Service,
    Path(id): Path<String>,
    headers: HeaderMap,
    Json(change): Json<Change>,
) -> Response {
    let request = json!([id, change.status]);
    let call = Call {
        operation: Operation::UpdateUser,
        who: &id,
        headers: &headers,
        request: &request,
    };
    let work = || found(service.set_status(&id, &change.status));
    service.front.answer(call, work).await
}

fn found(account: Option<Account>) -> Answer {
    match account {
        Some(account) => Answer::new(StatusCode::OK, json!(account)),
        None => Answer::error(StatusCode::NOT_FOUND, "NO_SUCH_USER", "no such user"),
    }
}
