//! How the copy of the services is brought up to date: what changed is read, and everything only rarely.

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
        Db, StoreError,
        gate::{self, Reading},
        pause,
        service::Scope,
    },
};

/// Everything is read again after this, whatever was heard: should a change ever be missed, it is missed for no longer.
const READ_ALL: Duration = Duration::from_secs(600);

/// Up to where the services' rows were read.
#[derive(Default)]
pub(super) struct Seen {
    /// [`gate::ALL`] before the first reading.
    horizon: u64,
    /// When everything was read.
    all: Option<Instant>,
    /// What was set then for namespaces and the cell.
    wide: HashMap<Scope, Settings>,
}

impl Gates {
    /// Reads the services' rows that have changed. Returns the lanes whose services admit calls now and did not before.
    pub async fn refresh(&self, db: &Db, catalog: &Catalog) -> Result<Vec<i32>, StoreError> {
        let mut seen = self.refreshing.lock().await;
        // In its turn, so that nobody comes with fewer lanes than are known; and before the services, so that those of the lanes are read.
        let lanes = catalog.lanes();
        let (reading, all) = self.read(db, &mut seen).await?;
        // Afterwards: a pause gives its services another gate, so a server that has the current gate has read the pause.
        let pauses = pause::list(db).await?;
        let read = u64::try_from(reading.rows.len()).unwrap_or(u64::MAX);
        self.rows_read.fetch_add(read, Ordering::Relaxed);
        let opened = self.lock().learn(reading.rows, all, &pauses, &lanes);
        seen.horizon = reading.horizon;
        self.work.notify_one();
        Ok(opened)
    }

    /// What has changed since the last reading, or everything; which of the two, it says.
    async fn read(&self, db: &Db, seen: &mut Seen) -> Result<(Reading, bool), StoreError> {
        let due = seen.all.is_none_or(|at| at.elapsed() >= READ_ALL);
        if self.anew.swap(false, Ordering::Relaxed) || due {
            seen.horizon = gate::ALL;
        }
        if seen.horizon != gate::ALL {
            // Parts of a limit change without their service.
            let also = self.lock().with_permits();
            let reading = gate::changed_since(db, self.server_id, seen.horizon, &also).await?;
            // Transactions count up. Where they do not, it is another database, and what is set for many concerns services that
            // have not changed themselves.
            if reading.horizon >= seen.horizon && reading.policies.wide() == seen.wide {
                return Ok((reading, false));
            }
            seen.horizon = gate::ALL;
        }
        let reading = gate::changed_since(db, self.server_id, gate::ALL, &[]).await?;
        seen.all = Some(Instant::now());
        seen.wide = reading.policies.wide();
        Ok((reading, true))
    }

    /// The next refresh reads everything: the database may be another one than before.
    pub fn doubt(&self) {
        self.anew.store(true, Ordering::Relaxed);
    }

    /// How many rows of services were read so far.
    pub fn rows_read(&self) -> u64 {
        self.rows_read.load(Ordering::Relaxed)
    }
}
