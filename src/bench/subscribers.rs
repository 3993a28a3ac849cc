//! Subscribers to the events, beside the load: each must receive every event of a round exactly
//! once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tasker_worker::client::Client;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tonic::Status;

use super::{error::Error, stage::Stage};
use crate::{
    proto::{StartFrom, SubscribeRequest},
    store::{Db, bench::probes},
};

/// Time limit to catch up once the load is over.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(30);
/// A duplicate event arrives within this time.
const AFTERWARDS: Duration = Duration::from_millis(200);

/// The subscribers of a round.
pub struct Subscribers {
    /// The snapshot of the database when all of them had subscribed.
    begin: String,
    counts: Vec<Arc<AtomicU64>>,
    /// Each ends only with its stream.
    listening: JoinSet<Status>,
}

/// The number of events that a round wrote, and the number that each subscriber received.
#[derive(Clone, Debug)]
pub struct Received {
    pub written: u64,
    pub each: Vec<u64>,
    /// Time from the end of the load until the last of them had received all.
    pub behind: Duration,
}

impl Received {
    /// Whether each subscriber received as many events as were written.
    pub fn is_all(&self) -> bool {
        self.each.iter().all(|received| *received == self.written)
    }
}

impl Subscribers {
    /// Opens one connection per subscriber; each receives every event from now on. The counts are
    /// right only if nothing is in flight.
    pub async fn start(stage: &Stage, count: usize) -> Result<Self, Error> {
        let (mut counts, mut listening) = (Vec::new(), JoinSet::new());
        for _ in 0..count {
            let mut client = Client::connect(&stage.server.url).await?.events;
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
            // The first message is the place at which the stream begins.
            stream.message().await.map_err(refused())?;
            let received = Arc::<AtomicU64>::default();
            counts.push(Arc::clone(&received));
            listening.spawn(async move {
                loop {
                    match stream.message().await {
                        Ok(Some(message)) => received
                            .fetch_add(u64::from(message.event.is_some()), Ordering::Relaxed),
                        Ok(None) => return Status::unavailable("the server ended the stream"),
                        Err(status) => return status,
                    };
                }
            });
        }
        Ok(Self {
            // After the last subscription, so that each of them receives every event from here on.
            begin: probes::snapshot(&stage.db).await?,
            counts,
            listening,
        })
    }

    /// Waits after the load for subscribers that are behind, up to the time limit.
    pub async fn finish(mut self, db: &Db) -> Result<Received, Error> {
        let written = probes::events_since(db, &self.begin).await?;
        let counts = self.counts;
        let received = |count: &Arc<AtomicU64>| count.load(Ordering::Relaxed);
        let over = Instant::now();
        let all = async {
            while counts.iter().any(|count| received(count) < written) {
                sleep(Duration::from_millis(20)).await;
            }
            let behind = over.elapsed();
            // A count that is right too early would hide duplicates that follow.
            sleep(AFTERWARDS).await;
            behind
        };
        tokio::select! {
            // The report shows the subscribers that have not received all events by then.
            behind = timeout(CATCH_UP_LIMIT, all) => {
                let behind = behind.unwrap_or(CATCH_UP_LIMIT);
                Ok(Received { written, each: counts.iter().map(received).collect(), behind })
            }
            Some(Ok(status)) = self.listening.join_next() => Err(Error::Refused { what: "receive the events", status }),
        }
    }
}
