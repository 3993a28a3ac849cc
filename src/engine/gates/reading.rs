//! Refreshes the copy of the services: usually only changed rows are read, and rarely all.

use std::{
    collections::HashMap,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use super::Gates;
use crate::{
    domain::policy::Settings,
    engine::catalog::Catalog,
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
pub(super) struct Seen {
    /// The oldest transaction that was running then; [`changed::ALL`] before the first reading.
    horizon: u64,
    /// The time of the last full reading.
    all: Option<Instant>,
    /// The settings of namespaces and of the cell at that time.
    wide: HashMap<Scope, Settings>,
}

impl Gates {
    /// Reads the services' rows that have changed. Returns the lanes whose services admit calls now
    /// and did not before.
    pub async fn refresh(&self, db: &Db, catalog: &Catalog) -> Result<Vec<i32>, StoreError> {
        let mut seen = self.refreshing.lock().await;
        // Under the lock, so that no refresh uses an older list of lanes than the one before it;
        // and before the services, so that the services of all listed lanes are read.
        let lanes = catalog.lanes();
        let (reading, all) = self.read(db, &mut seen).await?;
        // After the services: a pause changes its services' version, so a server that has the
        // current version has read the pause.
        let pauses = pause::list(db).await?;
        let read = u64::try_from(reading.rows.len()).unwrap_or(u64::MAX);
        self.rows_read.fetch_add(read, Ordering::Relaxed);
        let opened = self.lock().learn(reading.rows, all, &pauses, &lanes);
        seen.horizon = reading.horizon;
        self.work.notify_one();
        Ok(opened)
    }

    /// Reads the changed rows, or all. Returns true with all.
    async fn read(&self, db: &Db, seen: &mut Seen) -> Result<(Reading, bool), StoreError> {
        let due = seen.all.is_none_or(|at| at.elapsed() >= READ_ALL);
        if self.anew.swap(false, Ordering::Relaxed) || due {
            seen.horizon = changed::ALL;
        }
        if seen.horizon != changed::ALL {
            // Quota shares change without their service's row.
            let also = self.lock().with_shares();
            let reading = changed::changed_since(db, self.server_id, seen.horizon, &also).await?;
            // A horizon that went back means another database. Changed settings of a namespace or
            // the cell affect services whose rows have not changed.
            if reading.horizon >= seen.horizon && reading.policies.wide() == seen.wide {
                return Ok((reading, false));
            }
            seen.horizon = changed::ALL;
        }
        let reading = changed::changed_since(db, self.server_id, changed::ALL, &[]).await?;
        seen.all = Some(Instant::now());
        seen.wide = reading.policies.wide();
        Ok((reading, true))
    }

    /// Makes the next refresh read all rows, as the database may be another one.
    pub fn doubt(&self) {
        self.anew.store(true, Ordering::Relaxed);
    }

    /// The number of services' rows read so far.
    pub fn rows_read(&self) -> u64 {
        self.rows_read.load(Ordering::Relaxed)
    }
}
