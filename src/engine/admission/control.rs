//! Admission control: whether a step may call its service now, by circuits, pauses and quota
//! shares.
//!
//! A copy of the services' rows in memory. A claim states the admission version (`gate`) it was
//! decided with, and its transaction fails if the service has another one by then. So a stale copy
//! costs a retry and never admits a call.

use std::{
    collections::BTreeMap,
    sync::{Arc, MutexGuard},
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::Notify;
use uuid::Uuid;

use super::{
    refresh::Refresher,
    reservation::CapacityReservation,
    service::{Closure, Limit, ServiceState},
    services::{Services, SharedServices},
};
use crate::{
    domain::{
        attempt::OutcomeKind,
        circuit::{self, CircuitState, Health},
        lease::Lease,
        quota::{Rate, Renewal, Renewed},
    },
    engine::{cache::templates::TemplateCache, hash::HashSet},
    store::{
        Db, StoreError,
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

/// Admission control over all services of the cell. Cheap to clone.
#[derive(Clone)]
pub struct Admission {
    services: SharedServices,
    refresher: Refresher,
    /// Wakes the services loop.
    work: Arc<Notify>,
    /// An attempt failed, which may open a circuit.
    alarm: Arc<Notify>,
}

impl Admission {
    pub fn new(server_id: Uuid) -> Self {
        let services = SharedServices::default();
        Self {
            refresher: Refresher::new(server_id, services.clone()),
            services,
            work: Arc::default(),
            alarm: Arc::default(),
        }
    }

    /// The server whose quota shares these are.
    pub fn server_id(&self) -> Uuid {
        self.refresher.server_id
    }

    /// A reservation for one transaction.
    pub fn reserve(&self) -> CapacityReservation {
        CapacityReservation::new(self.services.clone())
    }

    /// Reads the services' rows that have changed. Returns the lanes whose services admit calls now
    /// and did not before.
    pub async fn refresh(
        &self,
        db: &Db,
        templates: &TemplateCache,
    ) -> Result<Vec<i32>, StoreError> {
        let opened = self.refresher.refresh(db, templates).await?;
        self.work.notify_one();
        Ok(opened)
    }

    /// Makes the next refresh read all rows, as the database may be another one.
    pub fn invalidate(&self) {
        self.refresher.invalidate();
    }

    /// The number of services' rows read so far.
    pub fn rows_read(&self) -> u64 {
        self.refresher.rows_read()
    }

    /// Limits a demand to the steps that the services admit. Lanes of closed services are dropped,
    /// so a backlog behind them is not scanned. `ending` are attempts that the transaction ends:
    /// their quota counts as free.
    pub fn admit(&self, demand: &mut Vec<LaneDemand>, ending: &[Lease]) {
        if demand.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut known = self.lock();
        let mut work = false;
        demand.retain_mut(|lane| {
            if known.paused.contains(&lane.lane_id) {
                return false;
            }
            let admitted = known.change_of(lane.lane_id, |service| {
                let freed = ending
                    .iter()
                    .filter(|lease| service.running.contains(lease))
                    .count();
                let room = service.room(now, i32::try_from(freed).unwrap_or(i32::MAX));
                if room < lane.limit && !service.is_shut(now) {
                    work |= !std::mem::replace(&mut service.starved, true);
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
    pub fn admitted(&self, lanes: impl IntoIterator<Item = i32>) -> HashSet<i32> {
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
    pub fn throttle(&self, asked: &[(i32, Duration)]) -> Vec<Throttle> {
        if asked.is_empty() {
            return Vec::new();
        }
        let now = Instant::now();
        let mut known = self.lock();
        let mut pauses: BTreeMap<i32, f64> = BTreeMap::new();
        for (lane, time) in asked {
            let Some(service_id) = known.lanes.get(lane).copied() else {
                continue;
            };
            known.change(service_id, |service| {
                let seconds = time.as_secs_f64().min(service.policy.max_pause_seconds);
                if seconds <= 0.0 {
                    return;
                }
                let longest = pauses.entry(service_id).or_default();
                *longest = longest.max(seconds);
                let until = now + Duration::from_secs_f64(seconds);
                service.shut = match service.shut {
                    Closure::None => Closure::Until(until),
                    Closure::Until(old) => Closure::Until(old.max(until)),
                    shut @ Closure::Indefinite => shut,
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
        self.lock().service_of(lane_id).map_or(0.0, |service| {
            let openings = service.openings + u32::from(service.state == CircuitState::HalfOpen);
            circuit::cool_down(&service.policy, openings) + PROBE_MARGIN
        })
    }

    /// Counts ended attempts for the services' health. `now` is the time of the transaction that
    /// ended them.
    pub fn count_calls(&self, calls: &[Call], now: SystemTime) {
        let mut known = self.lock();
        let (mut news, mut alarm) = (false, false);
        for call in calls {
            known.change_of(call.lane_id, |service| {
                let seconds = now
                    .duration_since(call.started_at)
                    .unwrap_or_default()
                    .as_secs_f64();
                let Some(health) = circuit::health(call.outcome, seconds, &service.policy) else {
                    return;
                };
                service.calls.add(health);
                if service.state == CircuitState::HalfOpen
                    && seconds <= service.age + service.read.elapsed().as_secs_f64()
                {
                    service.probes.add(health);
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
        self.lock().each_active(|service_id, service| {
            if service.calls.calls > 0 {
                reports.push(CallReport {
                    service_id,
                    calls: std::mem::take(&mut service.calls),
                    probes: std::mem::take(&mut service.probes),
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
            known.change(report.service_id, |service| {
                service.calls.merge(report.calls);
                service.probes.merge(report.probes);
            });
        }
    }

    /// The quota renewals to request: for services whose limit was reached or whose share is in
    /// use. `slots` returns the number of steps of some lanes that can run here at once.
    pub fn renewals(&self, slots: impl Fn(&[i32]) -> u32) -> Vec<Renewal> {
        let now = Instant::now();
        let mut renewals = Vec::new();
        self.lock().each_active(|service_id, service| {
            let limited = service.limit != Limit::None || service.is_rated();
            let in_use = !service.running.is_empty() || service.starved;
            let early =
                !service.is_rated() && service.asked.is_some_and(|at| now < at + RENEW_SPACING);
            if !limited || !in_use || early || service.is_shut(now) {
                return;
            }
            (service.starved, service.asked) = (false, Some(now));
            let wanted = slots(&service.lanes);
            let limit = match service.limit {
                Limit::Concurrency => Some(service.concurrency(now)),
                Limit::Probes => Some(service.policy.max_concurrency).filter(|limit| *limit > 0),
                Limit::None => None,
            };
            let expired = now >= service.tokens_until;
            renewals.push(Renewal {
                service_id,
                version: service.version,
                limit,
                probing: service.limit == Limit::Probes,
                wanted,
                rate: (service.is_rated() && (expired || service.tokens < 1.0)).then(|| Rate {
                    per_second: service.policy.per_second,
                    bucket: service.policy.bucket(),
                    wanted: f64::from(wanted).min((service.policy.per_second / 4.0).max(1.0)),
                    returned: std::mem::take(&mut service.tokens),
                }),
            });
        });
        renewals
    }

    /// Applies a quota renewal. Returns the lanes whose service admits calls now.
    pub fn renewed(&self, asked: &Renewal, got: Renewed) -> Vec<i32> {
        let now = Instant::now();
        let admits = self.lock().change(asked.service_id, |service| {
            if service.version != asked.version {
                return Vec::new();
            }
            if got.share.is_some() {
                service.share = got.share;
            }
            if asked.rate.is_some() {
                service.tokens = got.tokens;
                service.tokens_until = now + TOKENS_KEEP;
                service.next_token = got
                    .next_token
                    .and_then(|s| Some(now + Duration::try_from_secs_f64(s).ok()?));
                service.starved |= got.next_token.is_some();
            }
            if service.room(now, 0) > 0 {
                service.lanes.clone()
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
            .flat_map(|(_, service)| service.running.iter().copied())
            .collect()
    }

    /// Releases the quota of attempts that ended elsewhere. Returns the lanes whose services admit
    /// calls now.
    pub fn ended(&self, leases: &[Lease]) -> Vec<i32> {
        let now = Instant::now();
        let mut lanes = Vec::new();
        self.lock().each_active(|_, service| {
            let before = service.running.len();
            service.running.retain(|lease| !leases.contains(lease));
            if service.running.len() < before && service.room(now, 0) > 0 {
                lanes.extend(&service.lanes);
            }
        });
        lanes
    }

    /// Ends the pauses whose time is over. Returns their lanes, once.
    pub fn unthrottled(&self) -> Vec<i32> {
        let now = Instant::now();
        let mut lanes = Vec::new();
        self.lock().each_active(|_, service| {
            if matches!(service.shut, Closure::Until(until) if until <= now) {
                service.shut = Closure::None;
                lanes.extend(&service.lanes);
            }
        });
        lanes
    }

    /// The time of the next change without an outside event: the end of a pause, cool-down, ramp or
    /// operator's order, or the next token.
    pub fn next_change(&self) -> Option<Instant> {
        let pause = |service: &ServiceState| match service.shut {
            Closure::Until(until) => Some(until),
            Closure::None | Closure::Indefinite => None,
        };
        let token = |service: &ServiceState| service.next_token.filter(|_| service.starved);
        self.lock()
            .active()
            .flat_map(|(_, service)| [service.lapses, pause(service), token(service)])
            .flatten()
            .min()
    }

    /// Whether a state should have ended by itself by now. Reported once per copy of a row, so a
    /// row that does not change is not read again and again.
    pub fn take_lapsed(&self) -> bool {
        let now = Instant::now();
        let mut lapsed = false;
        self.lock().each_active(|_, service| {
            if service.lapses.is_some_and(|at| at <= now) {
                service.lapses = None;
                lapsed = true;
            }
        });
        lapsed
    }

    /// The circuit states of the first `most` services by name.
    pub fn states(&self, most: usize) -> Vec<([String; 2], &'static str)> {
        let name = |service: &ServiceState| (service.name.clone(), service.state.as_str());
        let mut states: Vec<_> = self.lock().all().map(name).collect();
        states.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        states.truncate(most);
        states
    }

    /// Whether counts wait to be reported.
    pub fn has_calls(&self) -> bool {
        self.lock()
            .active()
            .any(|(_, service)| service.calls.calls > 0)
    }

    /// Whether a quota share is in use here or wanted.
    pub fn is_limiting(&self) -> bool {
        self.lock()
            .active()
            .any(|(_, service)| !service.running.is_empty() || service.starved)
    }

    /// True if any service is closed or limited, so a refresh could open one.
    pub fn is_any_closed(&self) -> bool {
        let now = Instant::now();
        self.lock()
            .active()
            .any(|(_, service)| service.is_shut(now) || service.limit != Limit::None)
    }

    /// Whether all lanes of the templates are known here.
    pub fn knows_all_lanes(&self, templates: &TemplateCache) -> bool {
        self.lock().has(&templates.lanes())
    }

    /// Waits until the services loop has work.
    pub async fn has_work(&self) {
        self.work.notified().await;
    }

    /// Waits until an attempt has ended that may change a circuit.
    pub async fn alarmed(&self) {
        self.alarm.notified().await;
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Services> {
        self.services.lock()
    }
}
