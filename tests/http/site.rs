//! A server with a client of HTTP/JSON.

use reqwest::{Method, StatusCode, header::HeaderMap};
use serde_json::Value;

use crate::support::server::Bench;

pub const CHAIN: &str = "
task_name: chain
namespace: t
version: 1.0.0
schema: {type: object, properties: {n: {type: integer}, 'a/b': {type: string}}}
annotations: {team: core}
step_templates:
  - {name: a, handler_class: h, handler_config: {service: s, big: 9007199254740993}}
  - {name: b, handler_class: h, depends_on_steps: [a]}
";

pub struct Site {
    pub bench: Bench,
    pub client: reqwest::Client,
}

/// An answer with its body as text and, if it is JSON, as a value.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
    pub json: Value,
}

impl Site {
    /// With [`CHAIN`] registered.
    pub async fn new() -> Self {
        let mut bench = Bench::with(CHAIN).await;
        bench.circuits_off().await;
        Self {
            bench,
            client: reqwest::Client::new(),
        }
    }

    /// Reads server-sent events, each with its id and its data, until `count` of them have data.
    pub async fn events(
        &self,
        query: &str,
        last: Option<&str>,
        count: usize,
    ) -> (HeaderMap, Vec<(String, Value)>) {
        let mut request = self.client.get(self.url(&format!("/tasker/events{query}")));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let mut response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        let (headers, mut text, mut events) =
            (response.headers().clone(), String::new(), Vec::new());
        while events.len() < count {
            let chunk =
                tokio::time::timeout(crate::support::server::PATIENCE, response.chunk()).await;
            text += std::str::from_utf8(
                &chunk
                    .expect("no event comes")
                    .unwrap()
                    .expect("the stream goes on"),
            )
            .unwrap();
            while let Some((event, rest)) = text.clone().split_once("\n\n") {
                text = rest.to_owned();
                let field = |name: &str| {
                    event
                        .lines()
                        .find_map(|line| line.strip_prefix(name))
                        .map(str::to_owned)
                };
                if let Some(data) = field("data: ") {
                    events.push((field("id: ").unwrap(), serde_json::from_str(&data).unwrap()));
                }
            }
        }
        events.truncate(count);
        (headers, events)
    }

    /// The first event, as an answer.
    pub async fn first_event(&self, query: &str) -> Answer {
        let (headers, events) = self.events(query, None, 1).await;
        let json = events[0].1.clone();
        Answer {
            status: StatusCode::OK,
            headers,
            text: json.to_string(),
            json,
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.bench.server.url)
    }

    pub async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await.unwrap();
        let is_json = headers
            .get("content-type")
            .is_some_and(|t| t.to_str().unwrap().ends_with("json"));
        let json = if is_json {
            serde_json::from_str(&text).unwrap()
        } else {
            Value::Null
        };
        Answer {
            status,
            headers,
            text,
            json,
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.client.get(self.url(path))).await
    }

    pub fn post_json(&self, path: &str, json: impl Into<String>) -> reqwest::RequestBuilder {
        let request = self.client.request(Method::POST, self.url(path));
        request
            .header("content-type", "application/json")
            .body(json.into())
    }

    pub async fn post(&self, path: &str, json: impl Into<String>) -> Answer {
        self.send(self.post_json(path, json)).await
    }

    /// Submits a task and returns its id.
    pub async fn submit(&self, context: &str) -> String {
        let answer = self
            .post(
                "/tasker/tasks",
                format!(r#"{{"namespace":"t","task_name":"chain","context":{context}}}"#),
            )
            .await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json["task_id"].as_str().unwrap().to_owned()
    }
}

impl Answer {
    /// The problem's status, code, and the places of its errors.
    pub fn problem(&self) -> (u16, &str, Vec<String>) {
        assert_eq!(
            self.headers["content-type"], "application/problem+json",
            "{self:?}"
        );
        assert_eq!(self.json["status"], self.status.as_u16());
        let place = |error: &Value| match (&error["pointer"], &error["parameter"]) {
            (Value::String(pointer), Value::Null) => pointer.clone(),
            (Value::Null, Value::String(name)) => format!("?{name}"),
            other => panic!("no place: {other:?}"),
        };
        let places = self.json["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(place)
            .collect();
        (
            self.status.as_u16(),
            self.json["code"].as_str().unwrap(),
            places,
        )
    }
}
