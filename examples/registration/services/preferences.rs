//! The preferences service (port 3003): one set of preferences per user.

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

/// The body of `POST /preferences`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct NewPreferences {
    pub user_id: String,
    #[serde(default)]
    pub defaults: bool,
    #[serde(default)]
    pub marketing_consent: bool,
}

/// The service and its preferences by user.
pub struct PreferencesService {
    pub front: Front,
    preferences: Mutex<HashMap<String, NewPreferences>>,
}

impl PreferencesService {
    pub fn new(front: Front) -> Self {
        Self {
            front,
            preferences: Mutex::default(),
        }
    }

    pub fn router(self: Arc<Self>) -> Router {
        Router::new()
            .route("/preferences", post(create))
            .with_state(self)
    }

    pub fn has_preferences(&self, user_id: &str) -> bool {
        self.preferences
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains_key(user_id)
    }

    /// 201 for new preferences; existing ones are replaced.
    fn put(&self, new: NewPreferences) -> Answer {
        let body = json!({
            "id": new.user_id.replace("usr_", "prf_"),
            "user_id": new.user_id,
            "marketing_consent": new.marketing_consent,
        });
        let mut preferences = self
            .preferences
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let known = preferences.insert(new.user_id.clone(), new).is_some();
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
    State(service): State<Arc<PreferencesService>>,
    headers: HeaderMap,
    Json(new): Json<NewPreferences>,
) -> Response {
    let (who, request) = (new.user_id.clone(), json!(new));
    let call = Call {
        operation: Operation::CreatePreferences,
        who: &who,
        headers: &headers,
        request: &request,
    };
    service.front.answer(call, || service.put(new)).await
}
