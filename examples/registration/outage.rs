//! The second act: the billing service is down for a while, once with its circuit and once without.

mod circuit;

use std::{
    fmt,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde::Serialize;
use serde_json::Value;
use tasker_worker::proto::{
    GetCircuitRequest, GetCircuitResponse, Policy, SetPolicyRequest, TaskState, WaitCause,
};
use tokio::{
    sync::mpsc::{self, UnboundedReceiver},
    time::{sleep, timeout},
};

pub use circuit::Attempts;
use circuit::History;

use crate::{
    audit,
    control_plane::{ControlPlane, NAMESPACE},
    load::at_pace,
    orchestrated::{Orchestrated, Record},
    population::Applicant,
    report::{share, table},
    services::World,
    status,
};

/// Number of users that register in each run.
pub const USERS: usize = 40;
const SERVICE: &str = "billing_service";
const STEP: &str = "setup_billing_profile";
/// The author of the policy in the circuit's history.
const ACTOR: &str = "registration demo";
/// The fields that the act sets, and restores afterwards.
const FIELDS: [&str; 3] = ["enabled", "cool_down_seconds", "max_cool_down_seconds"];
/// Shorter than the default, as a demo has no minutes; all other settings are the default.
const COOL_DOWN: (f64, f64) = (2.0, 5.0);
/// Interval between queries of the status of one registration.
const ASK_EVERY: Duration = Duration::from_millis(200);
const ASK_LIMIT: Duration = Duration::from_secs(5);

/// The parts that the act needs.
pub struct Act<'a> {
    pub world: &'a World,
    pub control_plane: &'a ControlPlane,
    pub gateway_url: &'a str,
    /// How long billing is down.
    pub seconds: u64,
    /// Users that start to register per second.
    pub rate: f64,
}

/// The results of both runs.
#[derive(Debug, Serialize)]
pub struct Outage {
    pub seconds: u64,
    pub cool_down_seconds: f64,
    pub max_cool_down_seconds: f64,
    pub on: Run,
    pub off: Run,
}

/// One outage.
#[derive(Debug, Default, Serialize)]
pub struct Run {
    pub asked: usize,
    pub completed: usize,
    pub failed: usize,
    pub partial: usize,
    pub attempts: Attempts,
    /// How often the circuit opened, and how often it became half-open.
    pub opened: usize,
    pub half_opened: usize,
    pub seconds_open: f64,
    /// From the first request to the last end.
    pub seconds: f64,
    /// The gateway's explanation of a registration that waited for billing.
    pub told: Option<String>,
}

impl Act<'_> {
    /// Plays both runs, each with its own users. Afterwards the policy of the service is as it was
    /// before.
    pub async fn play(&self, with: &[Applicant], without: &[Applicant]) -> anyhow::Result<Outage> {
        let before = self.circuit().await?.set_for_service.unwrap_or_default();
        let runs = self.both(with, without).await;
        let back = Policy {
            enabled: before.enabled,
            cool_down_seconds: before.cool_down_seconds,
            max_cool_down_seconds: before.max_cool_down_seconds,
            ..Policy::default()
        };
        self.set(back, &FIELDS, "the outage is over").await?;
        let (on, off) = runs?;
        let (cool_down_seconds, max_cool_down_seconds) = COOL_DOWN;
        Ok(Outage {
            seconds: self.seconds,
            cool_down_seconds,
            max_cool_down_seconds,
            on,
            off,
        })
    }

    async fn both(&self, with: &[Applicant], without: &[Applicant]) -> anyhow::Result<(Run, Run)> {
        Ok((self.run(true, with).await?, self.run(false, without).await?))
    }

    async fn run(&self, circuits: bool, people: &[Applicant]) -> anyhow::Result<Run> {
        let policy = Policy {
            enabled: Some(circuits),
            cool_down_seconds: Some(COOL_DOWN.0),
            max_cool_down_seconds: Some(COOL_DOWN.1),
            ..Policy::default()
        };
        self.set(policy, &[], "an outage").await?;
        let asked = Instant::now();
        self.world.set_billing_down(true);
        let (records, told) = self.register(circuits, people).await;
        self.world.set_billing_down(false);
        let seconds = asked.elapsed().as_secs_f64();

        let history = History::of(self.circuit().await?.changes);
        let audit = audit::orchestrated(self.world, people, &records);
        Ok(Run {
            asked: audit.asked,
            completed: audit.completed,
            failed: audit.failed,
            partial: audit.partial,
            attempts: Attempts::of(&records, &history),
            opened: history.times("circuit.opened"),
            half_opened: history.times("circuit.half_opened"),
            seconds_open: history.seconds_open(),
            seconds,
            told,
        })
    }

    /// Registers all users while a witness queries the status of one. Billing comes back after its
    /// time, even if some registrations still run.
    async fn register(
        &self,
        circuits: bool,
        people: &[Applicant],
    ) -> (Vec<Record>, Option<String>) {
        let (label, cause) = if circuits {
            ("billing down, circuits on", WaitCause::Circuit)
        } else {
            ("billing down, circuits off", WaitCause::Backoff)
        };
        let flow = Orchestrated::new(self.gateway_url.to_owned(), self.control_plane.clone());
        let (tell, told) = mpsc::unbounded_channel();
        let witness = tokio::spawn(witness(self.gateway_url.to_owned(), told, cause));
        let registrations = at_pace(label, people, self.rate, move |person| {
            let (flow, tell) = (flow.clone(), tell.clone());
            async move {
                // Once the witness has ended, a send fails; that is no error.
                let record = flow
                    .register_user_and_tell(&person, |task_id| drop(tell.send(task_id.to_owned())))
                    .await;
                (record.state() == TaskState::Complete, record)
            }
        });
        let records = {
            tokio::pin!(registrations);
            tokio::select! {
                records = &mut registrations => records,
                () = sleep(Duration::from_secs(self.seconds)) => {
                    self.world.set_billing_down(false);
                    registrations.await
                }
            }
        };
        (records, witness.await.unwrap_or_default())
    }

    async fn set(&self, policy: Policy, unset: &[&str], reason: &str) -> anyhow::Result<()> {
        let request = SetPolicyRequest {
            namespace: NAMESPACE.to_owned(),
            service: SERVICE.to_owned(),
            policy: Some(policy),
            unset: unset.iter().map(|field| (*field).to_owned()).collect(),
            by: ACTOR.to_owned(),
            reason: reason.to_owned(),
        };
        self.control_plane
            .circuits
            .clone()
            .set_policy(request)
            .await
            .context("the policy of billing")?;
        Ok(())
    }

    async fn circuit(&self) -> anyhow::Result<GetCircuitResponse> {
        let request = GetCircuitRequest {
            namespace: NAMESPACE.to_owned(),
            service: SERVICE.to_owned(),
        };
        let found = self
            .control_plane
            .circuits
            .clone()
            .get_circuit(request)
            .await
            .context("the circuit of billing")?;
        Ok(found.into_inner())
    }
}

/// Queries the gateway about the first accepted registration until it waits for `cause`; returns
/// the explanation of that moment, or `None` if the registration ends before.
async fn witness(
    gateway_url: String,
    mut taken: UnboundedReceiver<String>,
    cause: WaitCause,
) -> Option<String> {
    let url = format!(
        "{gateway_url}/users/registration_status/{}",
        taken.recv().await?
    );
    let (http, cause) = (reqwest::Client::new(), status::cause(cause));
    loop {
        if let Ok(Ok(said)) = timeout(ASK_LIMIT, ask(&http, &url)).await {
            let billing = said["steps"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|step| step["name"] == STEP);
            // The first wait is the strongest reason, which the summary is about.
            if billing.is_some_and(|step| step["waits"][0]["cause"] == cause) {
                return said["why"].as_str().map(str::to_owned);
            }
            if said["ended_at"].is_string() {
                return None;
            }
        }
        sleep(ASK_EVERY).await;
    }
}

async fn ask(http: &reqwest::Client, url: &str) -> reqwest::Result<Value> {
    http.get(url).send().await?.json().await
}

impl Outage {
    /// The reasons why the demo fails, if any.
    pub fn problems(&self) -> Vec<String> {
        let Run {
            asked,
            completed,
            attempts,
            ..
        } = &self.on;
        let mut problems = Vec::new();
        if completed != asked {
            problems.push(format!(
                "with circuits on, {} of {asked} registrations did not complete",
                asked - completed
            ));
        }
        if attempts.open > 0 {
            problems.push(format!(
                "{} attempts were spent while the circuit was open",
                attempts.open
            ));
        }
        if attempts.half_open > 0 {
            problems.push(format!(
                "{} attempts were spent on probes",
                attempts.half_open
            ));
        }
        problems
    }
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |name: &str, cell: &dyn Fn(&Run) -> String| {
            [name.to_owned(), cell(&self.on), cell(&self.off)]
        };
        let rows = [
            ["", "circuits on", "circuits off"].map(str::to_owned),
            row("registrations asked", &|r| r.asked.to_string()),
            row("completed", &|r| share(r.completed, r.asked)),
            row("failed", &|r| share(r.failed, r.asked)),
            row("users left in a partial state", &|r| {
                share(r.partial, r.asked)
            }),
            row("attempts spent on billing", &|r| {
                r.attempts.all().to_string()
            }),
            row("  while its circuit was closed", &|r| {
                r.attempts.closed.to_string()
            }),
            row("  while it was open or probed", &|r| {
                (r.attempts.open + r.attempts.half_open).to_string()
            }),
            row("failed probes, which cost nothing", &|r| {
                r.attempts.probes.to_string()
            }),
            row("the circuit opened", &|r| format!("{} ×", r.opened)),
            row("  and was open for", &|r| {
                format!("{:.1} s", r.seconds_open)
            }),
            row("the last registration ended after", &|r| {
                format!("{:.1} s", r.seconds)
            }),
        ];
        writeln!(
            f,
            "billing is down for {} s; its circuit has the default settings, but for a cool-down of {} to {} s\n",
            self.seconds, self.cool_down_seconds, self.max_cool_down_seconds
        )?;
        writeln!(f, "{}", table(&rows))?;
        for (circuits, run) in [("on", &self.on), ("off", &self.off)] {
            if let Some(told) = &run.told {
                writeln!(
                    f,
                    "what the gateway said of one meanwhile, circuits {circuits}:\n  {told}"
                )?;
            }
        }
        for problem in self.problems() {
            writeln!(f, "FAILED: {problem}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outage_with_too_many_attempts_is_a_problem() {
        let run = |completed, attempts| Run {
            asked: 40,
            completed,
            attempts,
            half_opened: 2,
            ..Run::default()
        };
        let outage = |on| Outage {
            seconds: 20,
            cool_down_seconds: 2.0,
            max_cool_down_seconds: 5.0,
            on,
            off: Run::default(),
        };
        let problems = |completed, open, half_open| {
            outage(run(
                completed,
                Attempts {
                    closed: 14,
                    open,
                    half_open,
                    probes: 6,
                },
            ))
            .problems()
            .len()
        };
        assert_eq!(problems(40, 0, 0), 0);
        assert_eq!(problems(39, 0, 0), 1);
        assert_eq!(problems(40, 1, 0), 1);
        assert_eq!(problems(40, 0, 1), 1);
        assert_eq!(problems(0, 1, 1), 3);
    }
}
