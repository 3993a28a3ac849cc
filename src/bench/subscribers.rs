//! Subscribers to the events beside the load: each must hear all that a round writes, and nothing twice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tonic::Status;

use super::{error::Error, stage::Stage};
use crate::{
    client,
    proto::{StartFrom, SubscribeRequest, event_service_client::EventServiceClient},
    store::{Db, measure},
};

/// How long they may be behind when the load is over.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(30);
/// What is told twice comes within this time.
const AFTERWARDS: Duration = Duration::from_millis(200);

/// Those that listen.
pub struct Subscribers {
    /// What was visible to the database when all of them had begun.
    begin: String,
    counts: Vec<Arc<AtomicU64>>,
    /// Each ends only when its stream does.
    listening: JoinSet<Status>,
}

/// What a round wrote, and how much of it each subscriber heard.
#[derive(Clone, Debug)]
pub struct Heard {
    pub written: u64,
    pub each: Vec<u64>,
    /// How long after the load the last of them had heard all.
    pub behind: Duration,
}

impl Heard {
    /// Whether nobody missed anything, or heard it twice.
    pub fn is_all(&self) -> bool {
        self.each.iter().all(|heard| *heard == self.written)
    }
}

impl Subscribers {
    /// Each has a connection of its own, and hears everything from now on. What they hear is counted right only if nothing is
    /// in flight.
    pub async fn start(stage: &Stage, count: usize) -> Result<Self, Error> {
        let (mut counts, mut listening) = (Vec::new(), JoinSet::new());
        for _ in 0..count {
            let mut client = EventServiceClient::new(client::connect(&stage.server.url).await?);
            let request = SubscribeRequest {
                start_from: StartFrom::Now.into(),
                ..SubscribeRequest::default()
            };
            let refused = || Error::refused("subscribe to the events");
            let mut stream = client
                .subscribe(request)
                .await
                .map_err(refused())?
                .into_inner();
            // The first message is the place at which it begins.
            stream.message().await.map_err(refused())?;
            let heard = Arc::<AtomicU64>::default();
            counts.push(Arc::clone(&heard));
            listening.spawn(async move {
                loop {
                    match stream.message().await {
                        Ok(Some(message)) => {
                            heard.fetch_add(u64::from(message.event.is_some()), Ordering::Relaxed)
                        }
                        Ok(None) => return Status::unavailable("the server ended the stream"),
                        Err(status) => return status,
                    };
                }
            });
        }
        Ok(Self {
            begin: measure::snapshot(&stage.db).await?,
            counts,
            listening,
        })
    }

    /// After the load: waits for those that are behind, as long as they may be.
    pub async fn finish(mut self, db: &Db) -> Result<Heard, Error> {
        let written = measure::events_since(db, &self.begin).await?;
        let counts = self.counts;
        let heard = |count: &Arc<AtomicU64>| count.load(Ordering::Relaxed);
        let over = Instant::now();
        let all = async {
            while counts.iter().any(|count| heard(count) < written) {
                sleep(Duration::from_millis(20)).await;
            }
            let behind = over.elapsed();
            sleep(AFTERWARDS).await;
            behind
        };
        tokio::select! {
            // Who has not heard all by then, the report says.
            behind = timeout(CATCH_UP_LIMIT, all) => {
                let behind = behind.unwrap_or(CATCH_UP_LIMIT);
                Ok(Heard { written, each: counts.iter().map(heard).collect(), behind })
            }
            Some(Ok(status)) = self.listening.join_next() => Err(Error::Refused { what: "hear the events", status }),
        }
    }
}
