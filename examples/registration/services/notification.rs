//! The notification service (port 3004): sends welcome mails. A mail cannot be recalled: a call
//! without a known idempotency key sends another one.

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

/// The body of `POST /welcome`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Welcome {
    pub user_id: String,
    pub email: String,
}

/// The service, and the number of mails that it sent to each user.
pub struct NotificationService {
    pub front: Front,
    sent: Mutex<HashMap<String, u32>>,
}

impl NotificationService {
    pub fn new(front: Front) -> Self {
        Self {
            front,
            sent: Mutex::default(),
        }
    }

    pub fn router(self: Arc<Self>) -> Router {
        Router::new().route("/welcome", post(send)).with_state(self)
    }

    pub fn mails_to(&self, user_id: &str) -> u32 {
        self.sent
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(user_id)
            .copied()
            .unwrap_or(0)
    }

    fn send(&self, welcome: &Welcome) -> Answer {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let number = sent.entry(welcome.user_id.clone()).or_default();
        *number += 1;
        let message_id = format!("{}_{number}", welcome.user_id.replace("usr_", "msg_"));
        Answer::new(
            StatusCode::CREATED,
            json!({ "message_id": message_id, "to": welcome.email }),
        )
    }
}

async fn send(
    State(service): State<Arc<NotificationService>>,
    headers: HeaderMap,
    Json(welcome): Json<Welcome>,
) -> Response {
    let request = json!(welcome);
    let call = Call {
        operation: Operation::SendWelcome,
        who: &welcome.user_id,
        headers: &headers,
        request: &request,
    };
    service.front.answer(call, || service.send(&welcome)).await
}
