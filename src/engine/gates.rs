//! Admission control: whether a step may call its service now, by circuits, pauses and quota
//! shares.
//!
//! A copy of the services' rows in memory. A claim states the admission version (`gate`) it was
//! decided with, and its transaction fails if the service has another one by then. So a stale copy
//! costs a retry and never admits a call.

mod copy;
mod known;
mod passes;
mod reading;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64},
    },
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::Notify;
use uuid::Uuid;

pub use self::passes::Passes;
use self::reading::Seen;
use self::{
    copy::{Gate, Limit, Shut},
    known::Known,
};
use super::catalog::Catalog;
use crate::engine::hash::HashSet;
use crate::{
    domain::{
        attempt::OutcomeKind,
        circuit::{self, CircuitState, Health},
        lease::Lease,
        quota::{Rate, Renewal, Renewed},
    },
    store::{
        pipeline::{LaneDemand, Throttle},
        service::circuit::CallReport,
    },
};

/// Interval before an exhausted quota share is renewed. A rate limit has none, as its tokens return
/// by themselves.
const RENEW_SPACING: Duration = Duration::from_millis(250);
/// Tokens of a rate limit that are unused for this long are returned.
const TOKENS_KEEP: Duration = Duration::from_secs(1);

/// Seconds that a failed probe waits beyond its service's next probing, so that other steps probe
/// first.
const PROBE_MARGIN: f64 = 1.0;

/// An ended attempt, as input of its service's health.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub lane_id: i32,
    pub outcome: OutcomeKind,
    pub started_at: SystemTime,
}

/// The admission state of all services of the cell. Cheap to clone.
#[derive(Clone)]
pub struct Gates {
    server_id: Uuid,
    known: Arc<Mutex<Known>>,
    /// Serialises refreshes, so that an older reading never replaces a newer one, which may have
    /// services that it lacks.
    refreshing: Arc<tokio::sync::Mutex<Seen>>,
    /// The next refresh reads all rows.
    anew: Arc<AtomicBool>,
    rows_read: Arc<AtomicU64>,
    /// Wakes the services loop.
    work: Arc<Notify>,
    /// An attempt failed, which may open a circuit.
    alarm: Arc<Notify>,
}

impl Gates {
    pub fn new(server_id: Uuid) -> Self {
        Self {
            server_id,
            known: Arc::default(),
            refreshing: Arc::default(),
            anew: Arc::default(),
            rows_read: Arc::default(),
            work: Arc::default(),
            alarm: Arc::default(),
        }
    }

    /// The admission reservation of one transaction.
    pub fn passes(&self) -> Passes {
        Passes::new(self.clone())
    }

    /// Limits a demand to the steps that the services admit. Lanes of closed services are dropped,
    /// so a backlog behind them is not scanned. `ending` are attempts that the transaction ends:
    /// their quota counts as free.
    pub fn admit(&self, demand: &mut Vec<LaneDemand>, ending: &[Lease]) {
        let now = Instant::now();
        let mut known = self.lock();
        let mut work = false;
        demand.retain_mut(|lane| {
            if known.paused.contains(&lane.lane_id) {
                return false;
            }
            let admitted = known.change_of(lane.lane_id, |gate| {
                let freed = ending
                    .iter()
                    .filter(|lease| gate.running.contains(lease))
                    .count();
                let room = gate.room(now, i32::try_from(freed).unwrap_or(i32::MAX));
                if room < lane.limit && !gate.is_shut(now) {
                    work |= !std::mem::replace(&mut gate.starved, true);
                }
                room
            });
            let room = admitted.unwrap_or_default();
            lane.limit = lane.limit.min(room);
            room > 0
        });
        drop(known);
        if work {
            self.work.notify_one();
        }
    }

    /// The given lanes whose services admit a step now.
    pub fn open(&self, lanes: impl IntoIterator<Item = i32>) -> HashSet<i32> {
        let mut demand: Vec<LaneDemand> = lanes
            .into_iter()
            .map(|lane_id| LaneDemand {
                lane_id,
                limit: 1,
                bytes: 0,
            })
            .collect();
        self.admit(&mut demand, &[]);
        demand.into_iter().map(|lane| lane.lane_id).collect()
    }

    /// Closes the services that asked for a pause, on this server at once. Returns the pauses to
    /// write, by service, each cut to the policy's maximum.
    pub fn pause(&self, asked: &[(i32, Duration)]) -> Vec<Throttle> {
        let now = Instant::now();
        let mut known = self.lock();
        let mut pauses: BTreeMap<i32, f64> = BTreeMap::new();
        for (lane, time) in asked {
            let Some(service_id) = known.lanes.get(lane).copied() else {
                continue;
            };
            known.change(service_id, |gate| {
                let seconds = time.as_secs_f64().min(gate.policy.max_pause_seconds);
                if seconds <= 0.0 {
                    return;
                }
                let longest = pauses.entry(service_id).or_default();
                *longest = longest.max(seconds);
                let until = now + Duration::from_secs_f64(seconds);
                gate.shut = match gate.shut {
                    Shut::No => Shut::Until(until),
                    Shut::Until(old) => Shut::Until(old.max(until)),
                    shut @ Shut::For(()) => shut,
                };
            });
        }
        pauses
            .into_iter()
            .map(|(service_id, seconds)| Throttle {
                service_id,
                seconds,
            })
            .collect()
    }

    /// The minimum back-off of a step whose probe failed, in seconds: past the next probing, for
    /// which other steps are chosen.
    pub fn past_probing(&self, lane_id: i32) -> f64 {
        self.lock().gate_of(lane_id).map_or(0.0, |gate| {
            let openings = gate.openings + u32::from(gate.state == CircuitState::HalfOpen);
            circuit::cool_down(&gate.policy, openings) + PROBE_MARGIN
        })
    }

    /// Counts ended attempts for the services' health. `now` is the time of the transaction that
    /// ended them.
    pub fn count(&self, calls: &[Call], now: SystemTime) {
        let mut known = self.lock();
        let (mut news, mut alarm) = (false, false);
        for call in calls {
            known.change_of(call.lane_id, |gate| {
                let seconds = now
                    .duration_since(call.started_at)
                    .unwrap_or_default()
                    .as_secs_f64();
                let Some(health) = circuit::health(call.outcome, seconds, &gate.policy) else {
                    return;
                };
                gate.calls.add(health);
                if gate.state == CircuitState::HalfOpen
                    && seconds <= gate.age + gate.read.elapsed().as_secs_f64()
                {
                    gate.probes.add(health);
                    alarm = true;
                }
                news = true;
                alarm |= health == Health::Unhealthy;
            });
        }
        drop(known);
        if alarm {
            self.alarm.notify_one();
        } else if news {
            self.work.notify_one();
        }
    }

    /// Takes the counts since the last report.
    pub fn take_reports(&self) -> Vec<CallReport> {
        let mut reports = Vec::new();
        self.lock().each_active(|service_id, gate| {
            if gate.calls.calls > 0 {
                reports.push(CallReport {
                    service_id,
                    calls: std::mem::take(&mut gate.calls),
                    probes: std::mem::take(&mut gate.probes),
                });
            }
        });
        reports.sort_unstable_by_key(|report| report.service_id);
        reports
    }

    /// Puts counts back that could not be stored, for the next report.
    pub fn put_back(&self, reports: &[CallReport]) {
        let mut known = self.lock();
        for report in reports {
            known.change(report.service_id, |gate| {
                gate.calls.merge(report.calls);
                gate.probes.merge(report.probes);
            });
        }
    }

    /// The quota renewals to request: for services whose limit was reached or whose share is in
    /// use. `slots` returns the number of steps of some lanes that can run here at once.
    pub fn renewals(&self, slots: impl Fn(&[i32]) -> u32) -> Vec<Renewal> {
        let now = Instant::now();
        let mut renewals = Vec::new();
        self.lock().each_active(|service_id, gate| {
            let limited = gate.limit != Limit::None || gate.is_rated();
            let in_use = !gate.running.is_empty() || gate.starved;
            let early = !gate.is_rated() && gate.asked.is_some_and(|at| now < at + RENEW_SPACING);
            if !limited || !in_use || early || gate.is_shut(now) {
                return;
            }
            (gate.starved, gate.asked) = (false, Some(now));
            let wanted = slots(&gate.lanes);
            let limit = match gate.limit {
                Limit::Concurrency => Some(gate.concurrency(now)),
                Limit::Probes => Some(gate.policy.max_concurrency).filter(|limit| *limit > 0),
                Limit::None => None,
            };
            let expired = now >= gate.tokens_until;
            renewals.push(Renewal {
                service_id,
                version: gate.gate,
                limit,
                probing: gate.limit == Limit::Probes,
                wanted,
                rate: (gate.is_rated() && (expired || gate.tokens < 1.0)).then(|| Rate {
                    per_second: gate.policy.per_second,
                    bucket: gate.policy.bucket(),
                    wanted: f64::from(wanted).min((gate.policy.per_second / 4.0).max(1.0)),
                    returned: std::mem::take(&mut gate.tokens),
                }),
            });
        });
        renewals
    }

    /// Applies a quota renewal. Returns the lanes whose service admits calls now.
    pub fn renewed(&self, asked: &Renewal, got: Renewed) -> Vec<i32> {
        let now = Instant::now();
        let admits = self.lock().change(asked.service_id, |gate| {
            if gate.gate != asked.version {
                return Vec::new();
            }
            if got.share.is_some() {
                gate.share = got.share;
            }
            if asked.rate.is_some() {
                gate.tokens = got.tokens;
                gate.tokens_until = now + TOKENS_KEEP;
                gate.next_token = got
                    .next_token
                    .and_then(|s| Some(now + Duration::try_from_secs_f64(s).ok()?));
                gate.starved |= got.next_token.is_some();
            }
            if gate.room(now, 0) > 0 {
                gate.lanes.clone()
            } else {
                Vec::new()
            }
        });
        admits.unwrap_or_default()
    }

    /// The attempts that run on quota shares of this server, as far as known.
    pub fn running(&self) -> Vec<Lease> {
        self.lock()
            .active()
            .flat_map(|(_, gate)| gate.running.iter().copied())
            .collect()
    }

    /// Releases the quota of attempts that ended elsewhere. Returns the lanes whose services admit
    /// calls now.
    pub fn ended(&self, leases: &[Lease]) -> Vec<i32> {
        let now = Instant::now();
        let mut lanes = Vec::new();
        self.lock().each_active(|_, gate| {
            let before = gate.running.len();
            gate.running.retain(|lease| !leases.contains(lease));
            if gate.running.len() < before && gate.room(now, 0) > 0 {
                lanes.extend(&gate.lanes);
            }
        });
        lanes
    }

    /// Ends the pauses whose time is over. Returns their lanes, once.
    pub fn resumed(&self) -> Vec<i32> {
        let now = Instant::now();
        let mut lanes = Vec::new();
        self.lock().each_active(|_, gate| {
            if matches!(gate.shut, Shut::Until(until) if until <= now) {
                gate.shut = Shut::No;
                lanes.extend(&gate.lanes);
            }
        });
        lanes
    }

    /// The time of the next change without an outside event: the end of a pause, cool-down, ramp or
    /// operator's order, or the next token.
    pub fn next_change(&self) -> Option<Instant> {
        let pause = |gate: &Gate| match gate.shut {
            Shut::Until(until) => Some(until),
            Shut::No | Shut::For(()) => None,
        };
        let token = |gate: &Gate| gate.next_token.filter(|_| gate.starved);
        self.lock()
            .active()
            .flat_map(|(_, gate)| [gate.lapses, pause(gate), token(gate)])
            .flatten()
            .min()
    }

    /// Whether a state should have ended by itself by now. Reported once per copy of a row, so a
    /// row that does not change is not read again and again.
    pub fn take_lapsed(&self) -> bool {
        let now = Instant::now();
        let mut lapsed = false;
        self.lock().each_active(|_, gate| {
            if gate.lapses.is_some_and(|at| at <= now) {
                gate.lapses = None;
                lapsed = true;
            }
        });
        lapsed
    }

    /// The names of the circuit states.
    pub fn state_names() -> [&'static str; 3] {
        CircuitState::ALL.map(CircuitState::as_str)
    }

    /// The circuit states of the first `most` services by name.
    pub fn states(&self, most: usize) -> Vec<([String; 2], &'static str)> {
        let name = |gate: &Gate| (gate.name.clone(), gate.state.as_str());
        let mut states: Vec<_> = self.lock().all().map(name).collect();
        states.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        states.truncate(most);
        states
    }

    /// Whether counts wait to be reported.
    pub fn has_calls(&self) -> bool {
        self.lock().active().any(|(_, gate)| gate.calls.calls > 0)
    }

    /// Whether a quota share is in use here or wanted.
    pub fn is_limiting(&self) -> bool {
        self.lock()
            .active()
            .any(|(_, gate)| !gate.running.is_empty() || gate.starved)
    }

    /// True if any service is closed or limited, so a refresh could open one.
    pub fn is_any_closed(&self) -> bool {
        let now = Instant::now();
        self.lock()
            .active()
            .any(|(_, gate)| gate.is_shut(now) || gate.limit != Limit::None)
    }

    /// Whether all lanes of the catalog are known here.
    pub fn know(&self, catalog: &Catalog) -> bool {
        self.lock().has(&catalog.lanes())
    }

    /// Waits until the services loop has work.
    pub async fn worked(&self) {
        self.work.notified().await;
    }

    /// Waits until an attempt has ended that may change a circuit.
    pub async fn alarmed(&self) {
        self.alarm.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
