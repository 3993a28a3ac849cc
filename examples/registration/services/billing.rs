//! The billing service (port 3002): one profile per user.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
    routing::post,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::front::{Answer, Call, Front};
use crate::faults::Operation;

/// The body of `POST /profiles`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct NewProfile {
    pub user_id: String,
    pub plan: String,
}

/// The service and its profiles by user.
pub struct BillingService {
    pub front: Front,
    profiles: Mutex<HashMap<String, NewProfile>>,
}

impl BillingService {
    pub fn new(front: Front) -> Self {
        Self {
            front,
            profiles: Mutex::default(),
        }
    }

    pub fn router(self: Arc<Self>) -> Router {
        Router::new()
            .route("/profiles", post(create))
            .with_state(self)
    }

    pub fn has_profile(&self, user_id: &str) -> bool {
        self.profiles
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains_key(user_id)
    }

    /// 201 for a new profile; an existing one is kept, with the plan of the last call.
    fn put(&self, new: NewProfile) -> Answer {
        let body = json!({ "id": new.user_id.replace("usr_", "bil_"), "user_id": new.user_id, "plan": new.plan });
        let mut profiles = self.profiles.lock().unwrap_or_else(PoisonError::into_inner);
        let known = profiles.insert(new.user_id.clone(), new).is_some();
        Answer::new(
            if known {
                StatusCode::OK
            } else {
                StatusCode::CREATED
            },
            body,
        )
    }
}

async fn create(
    State(service): State<Arc<BillingService>>,
    headers: HeaderMap,
    Json(new): Json<NewProfile>,
) -> Response {
    let (who, request) = (new.user_id.clone(), json!(new));
    let call = Call {
        operation: Operation::CreateProfile,
        who: &who,
        headers: &headers,
        request: &request,
    };
    service.front.answer(call, || service.put(new)).await
}
