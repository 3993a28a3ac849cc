//! The admission state of one service on this server: a copy of its row, the running attempts and
//! the reservations.

use std::time::{Duration, Instant};

use crate::{
    domain::{
        circuit::{self, CircuitState},
        lease::Lease,
        policy::Policy,
        quota::QuotaShare,
    },
    engine::hash::HashSet,
    store::service::ServiceRow,
};

/// Whether the service is closed, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closure {
    None,
    Until(Instant),
    /// Until the row changes.
    Indefinite,
}

/// The kind of limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    None,
    /// A number of concurrent steps in the whole cluster.
    Concurrency,
    /// Half-open: a number of starts.
    Probes,
}

pub(super) struct ServiceState {
    /// Namespace and service.
    pub(super) name: [String; 2],
    pub(super) version: i64,
    pub(super) state: CircuitState,
    pub(super) openings: u32,
    /// The time of the reading, and the age of the circuit's state at that time, in seconds.
    pub(super) read: Instant,
    pub(super) age: f64,
    pub(super) policy: Policy,
    pub(super) lanes: Vec<i32>,
    /// It is in the list of active services.
    pub(super) listed: bool,
    pub(super) shut: Closure,
    pub(super) limit: Limit,
    /// The time at which a state of the row ends by itself.
    pub(super) lapses: Option<Instant>,
    pub(super) share: Option<QuotaShare>,
    /// The attempts that run on this server's quota share.
    pub(super) running: HashSet<Lease>,
    /// Claims that are reserved and not committed yet.
    pub(super) reserved: i32,
    pub(super) tokens: f64,
    pub(super) tokens_until: Instant,
    pub(super) next_token: Option<Instant>,
    /// A step was refused for lack of quota or tokens.
    pub(super) starved: bool,
    pub(super) asked: Option<Instant>,
    /// Not reported yet.
    pub(super) calls: circuit::Calls,
    pub(super) probes: circuit::Calls,
}

impl ServiceState {
    pub(super) fn of(row: ServiceRow, now: Instant) -> Self {
        let forced = row
            .forced
            .filter(|_| row.forced_until.is_none_or(|s| s > 0.0));
        let in_time = |seconds: f64| {
            now + Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX / 4)
        };
        let state = if row.policy.enabled || row.state == CircuitState::Closed {
            row.state
        } else {
            CircuitState::Closed
        };
        let open = forced.unwrap_or(state) == CircuitState::Open;
        let paused = row.throttled_until.filter(|seconds| *seconds > 0.0);
        let ramps = state == CircuitState::Closed && row.until.is_some();
        let limited = row.policy.max_concurrency > 0 || ramps;
        Self {
            name: [row.namespace, row.service],
            version: row.version,
            state,
            openings: row.openings,
            read: now,
            age: row.age,
            lanes: Vec::new(),
            listed: false,
            shut: match paused {
                _ if open => Closure::Indefinite,
                Some(seconds) => Closure::Until(in_time(seconds)),
                None => Closure::None,
            },
            limit: match forced.unwrap_or(state) {
                CircuitState::HalfOpen => Limit::Probes,
                _ if limited => Limit::Concurrency,
                _ => Limit::None,
            },
            lapses: row
                .until
                .into_iter()
                .chain(row.forced_until)
                .map(in_time)
                .min(),
            share: row.share,
            running: HashSet::default(),
            reserved: 0,
            tokens: 0.0,
            tokens_until: now,
            next_token: None,
            starved: false,
            asked: None,
            calls: circuit::Calls::default(),
            probes: circuit::Calls::default(),
            policy: row.policy,
        }
    }

    /// Merges a newer copy of the row with the state that only this server has.
    pub(super) fn renewed(self, old: Option<Self>) -> Self {
        let Some(old) = old else { return self };
        Self {
            lanes: old.lanes,
            listed: old.listed,
            // Kept also without a limit or while only probes are admitted: the attempts run on, and
            // count again under the next limit.
            running: old.running,
            reserved: old.reserved,
            tokens: old.tokens,
            tokens_until: old.tokens_until,
            next_token: old.next_token,
            starved: old.starved,
            calls: old.calls,
            probes: old.probes,
            ..self
        }
    }

    /// Whether the service needs no attention: open, without limits, and with nothing in use or to
    /// report.
    pub(super) fn is_at_rest(&self) -> bool {
        let open = self.shut == Closure::None && self.limit == Limit::None && !self.is_rated();
        let unused = self.running.is_empty() && self.reserved == 0 && self.share.is_none();
        let unwanted = !self.starved && self.next_token.is_none();
        open && unused && unwanted && self.lapses.is_none() && self.calls.calls == 0
    }

    pub(super) fn is_shut(&self, now: Instant) -> bool {
        match self.shut {
            Closure::None => false,
            Closure::Until(until) => now < until,
            Closure::Indefinite => true,
        }
    }

    pub(super) fn is_rated(&self) -> bool {
        self.policy.per_second > 0.0
    }

    /// The number of concurrent steps allowed in the cluster.
    pub(super) fn concurrency(&self, now: Instant) -> u32 {
        let policy = &self.policy;
        let set = if policy.max_concurrency > 0 {
            policy.max_concurrency
        } else {
            u32::MAX
        };
        let seconds = self.age + now.duration_since(self.read).as_secs_f64();
        let ramps = self.state == CircuitState::Closed
            && self.lapses.is_some()
            && seconds < policy.ramp_seconds;
        if ramps {
            set.min(circuit::ramp(policy, seconds))
        } else {
            set
        }
    }

    /// The number of further steps admitted here, if a transaction ends `freed` of the running
    /// ones.
    pub(super) fn room(&self, now: Instant, freed: i32) -> i32 {
        if self.is_shut(now) {
            return 0;
        }
        let count = self.share.map_or(0, |share| share.count);
        let running = i32::try_from(self.running.len()).unwrap_or(i32::MAX);
        let room = match self.limit {
            Limit::None => i32::MAX,
            Limit::Concurrency => count - running - self.reserved + freed,
            Limit::Probes => count - self.reserved,
        };
        if self.is_rated() {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a bucket holds at most a million"
            )]
            let tokens = if now < self.tokens_until {
                self.tokens as i32
            } else {
                0
            };
            return room.min(tokens).max(0);
        }
        room.max(0)
    }
}
