//! The same numbers by other means: it reads every row and checks each moment of a wait for its
//! cause. Slow and plain.

mod check;
mod parts;
mod rows;
mod waits;

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use tasker_template::{Graph, Template};
use uuid::Uuid;

pub use self::parts::Parts;
use self::rows::{Change, Lane, Presence, Task};

/// Microseconds since the epoch.
type Us = i64;

pub fn us(at: SystemTime) -> Us {
    i64::try_from(
        at.duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_micros(),
    )
    .unwrap()
}

/// All relevant rows.
pub struct Oracle {
    graphs: BTreeMap<i32, (Template, Graph)>,
    lanes: BTreeMap<(i32, i16), Lane>,
    tasks: BTreeMap<Uuid, Task>,
    changes: BTreeMap<i32, Vec<Change>>,
    workers: Vec<Presence>,
    /// Concurrent steps, starts per second, burst.
    limits: BTreeMap<i32, (usize, f64, f64)>,
    /// All attempts of a service, in the order of their starts.
    runs: BTreeMap<i32, Vec<(Us, Us)>>,
}

pub fn micros(d: Option<prost_types::Duration>) -> Us {
    i64::try_from(Duration::try_from(d.unwrap()).unwrap().as_micros()).unwrap()
}
