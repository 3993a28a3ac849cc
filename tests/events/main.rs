//! The event log: subscribers receive each event once, in order, whatever happens to them.

#[path = "../support/mod.rs"]
mod support;

mod content;
mod cursors;
mod log;
mod retention;
mod retired;
mod unused;

use tasker::proto::{Event, StartFrom, SubscribeRequest, SubscribeResponse};
use tasker_worker::client::Client;
use tonic::{Status, Streaming};

use self::support::server::PATIENCE;

/// A subscription, and the last received cursor.
pub struct Tail {
    stream: Streaming<SubscribeResponse>,
    pub cursor: String,
}

impl Tail {
    /// Subscribes and takes the first message, which contains the cursor.
    pub async fn begin(client: &mut Client, request: SubscribeRequest) -> Result<Self, Status> {
        let mut stream = client.events.subscribe(request).await?.into_inner();
        let first = tokio::time::timeout(PATIENCE, stream.message())
            .await
            .expect("a first message")?
            .expect("a place");
        assert_eq!(first.event, None);
        Ok(Self {
            stream,
            cursor: first.cursor,
        })
    }

    pub async fn beginning(client: &mut Client) -> Self {
        Self::begin(client, from_beginning()).await.unwrap()
    }

    pub async fn after(client: &mut Client, cursor: &str) -> Self {
        Self::begin(client, after(cursor)).await.unwrap()
    }

    /// The next message of any kind.
    pub async fn message(&mut self) -> Result<SubscribeResponse, Status> {
        let message = tokio::time::timeout(PATIENCE, self.stream.message())
            .await
            .expect("the stream says nothing")?;
        let message = message.expect("the stream does not end");
        self.cursor.clone_from(&message.cursor);
        Ok(message)
    }

    pub async fn event(&mut self) -> Event {
        loop {
            if let Some(event) = self.message().await.unwrap().event {
                return event;
            }
        }
    }

    pub async fn events(&mut self, count: usize) -> Vec<Event> {
        let mut events = Vec::new();
        while events.len() < count {
            events.push(self.event().await);
        }
        events
    }

    /// The names of the next types.
    pub async fn types(&mut self, count: usize) -> Vec<&'static str> {
        self.events(count)
            .await
            .iter()
            .map(|event| {
                event
                    .r#type()
                    .as_str_name()
                    .trim_start_matches("EVENT_TYPE_")
            })
            .collect()
    }
}

pub fn from_beginning() -> SubscribeRequest {
    SubscribeRequest {
        start_from: StartFrom::Beginning.into(),
        ..Default::default()
    }
}

pub fn after(cursor: &str) -> SubscribeRequest {
    SubscribeRequest {
        cursor: cursor.to_owned(),
        ..Default::default()
    }
}
