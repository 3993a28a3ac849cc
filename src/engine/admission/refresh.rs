//! Refreshes the copy of the services: usually only changed rows are read, and rarely all.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::services::SharedServices;
use crate::{
    domain::policy::Settings,
    engine::cache::templates::TemplateCache,
    store::{
        Db, StoreError, pause,
        service::{
            Scope,
            changed::{self, Reading},
        },
    },
};

/// Interval of full readings, which bounds the effect of a missed change.
const READ_ALL: Duration = Duration::from_secs(600);

/// The state of the last reading.
#[derive(Default)]
struct LastReading {
    /// The oldest transaction that was running then; [`changed::ALL`] before the first reading.
    horizon: u64,
    /// The time of the last full reading.
    all: Option<Instant>,
    /// The settings of namespaces and of the cell at that time.
    wide: HashMap<Scope, Settings>,
}

/// Reads the services' rows. Cheap to clone.
#[derive(Clone)]
pub(super) struct Refresher {
    pub(super) server_id: Uuid,
    services: SharedServices,
    /// Serialises refreshes, so that an older reading never replaces a newer one, which may have
    /// services that it lacks.
    last: Arc<tokio::sync::Mutex<LastReading>>,
    /// The next refresh reads all rows.
    invalid: Arc<AtomicBool>,
    rows_read: Arc<AtomicU64>,
}

impl Refresher {
    pub(super) fn new(server_id: Uuid, services: SharedServices) -> Self {
        Self {
            server_id,
            services,
            last: Arc::default(),
            invalid: Arc::default(),
            rows_read: Arc::default(),
        }
    }

    pub(super) async fn refresh(
        &self,
        db: &Db,
        templates: &TemplateCache,
    ) -> Result<Vec<i32>, StoreError> {
        let mut last = self.last.lock().await;
        // Under the lock, so that no refresh uses an older list of lanes than the one before it;
        // and before the services, so that the services of all listed lanes are read.
        let lanes = templates.lanes();
        let (reading, all) = self.read(db, &mut last).await?;
        // After the services: a pause changes its services' version, so a server that has the
        // current version has read the pause.
        let pauses = pause::list(db).await?;
        let read = u64::try_from(reading.rows.len()).unwrap_or(u64::MAX);
        self.rows_read.fetch_add(read, Ordering::Relaxed);
        let opened = self
            .services
            .lock()
            .learn(reading.rows, all, &pauses, &lanes);
        last.horizon = reading.horizon;
        Ok(opened)
    }

    /// Reads the changed rows, or all. Returns true with all.
    async fn read(&self, db: &Db, last: &mut LastReading) -> Result<(Reading, bool), StoreError> {
        let due = last.all.is_none_or(|at| at.elapsed() >= READ_ALL);
        if self.invalid.swap(false, Ordering::Relaxed) || due {
            last.horizon = changed::ALL;
        }
        if last.horizon != changed::ALL {
            // Quota shares change without their service's row.
            let also = self.services.lock().with_shares();
            let reading = changed::changed_since(db, self.server_id, last.horizon, &also).await?;
            // A horizon that went back means another database. Changed settings of a namespace or
            // the cell affect services whose rows have not changed.
            if reading.horizon >= last.horizon && reading.policies.wide() == last.wide {
                return Ok((reading, false));
            }
            last.horizon = changed::ALL;
        }
        let reading = changed::changed_since(db, self.server_id, changed::ALL, &[]).await?;
        last.all = Some(Instant::now());
        last.wide = reading.policies.wide();
        Ok((reading, true))
    }

    pub(super) fn invalidate(&self) {
        self.invalid.store(true, Ordering::Relaxed);
    }

    pub(super) fn rows_read(&self) -> u64 {
        self.rows_read.load(Ordering::Relaxed)
    }
}
