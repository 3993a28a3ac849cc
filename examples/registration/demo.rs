//! The whole demo in one process: the services, the control plane with its workers, the gateway,
//! and both runs.

use std::{
    env,
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use clap::Args;
use tokio::{net::TcpListener, process::Command, task::JoinHandle};

use crate::{
    audit::{self, Audit, NaiveRecord},
    control_plane::{ControlPlane, NAMESPACE},
    faults::FaultPlan,
    gateway,
    load::at_pace,
    monitor::{self, Monitor},
    naive::NaiveRegistration,
    orchestrated::Orchestrated,
    outage::{self, Act},
    place::Place,
    population::{Applicant, applicants, newcomers},
    private::PrivateControlPlane,
    process::{Supervised, told_to_end},
    report::Report,
    services::{Ports, Urls, World},
};

/// The settings of the demo.
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// Number of users that register, once naively and once through Tasker.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    users: u32,
    /// Seed of the users and of the faults: both runs meet the same faults.
    #[arg(long, env = "FAULT_SEED", default_value_t = 42)]
    seed: u64,
    /// Users that start to register per second.
    #[arg(long, default_value_t = 20.0, value_parser = positive)]
    rate: f64,
    /// Seconds for which billing is down in the second act; 0 for no second act.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(..=60))]
    outage_seconds: u64,
    /// Number of worker processes that serve the steps.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=32))]
    workers: u32,
    /// How long a caller waits for a service, in milliseconds.
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    call_timeout_ms: u64,
    /// Use this control plane instead of starting one on a private Postgres.
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// The `tasker` program; by default the one found beside this program.
    #[arg(long, env = "TASKER_BIN", value_name = "PATH")]
    tasker: Option<PathBuf>,
    /// Port of the control plane that is started; 0 takes any free port.
    #[arg(long, default_value_t = 7233)]
    server_port: u16,
    /// Port of the gateway; 0 takes any free port.
    #[arg(long, env = "GATEWAY_PORT", default_value_t = 3000)]
    gateway_port: u16,
    #[command(flatten)]
    ports: Ports,
    /// Print the figures as JSON instead of the table.
    #[arg(long)]
    json: bool,
    /// Stay up after the table, for manual trials, until Ctrl-C.
    #[arg(long)]
    keep: bool,
}

fn positive(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if rate > 0.0 && rate <= 10_000.0 {
        Ok(rate)
    } else {
        Err("0 (exclusive) to 10000 was expected".to_owned())
    }
}

impl DemoArgs {
    fn call_timeout(&self) -> Duration {
        Duration::from_millis(self.call_timeout_ms)
    }
}

/// Runs the demo. It succeeds if no registration through Tasker is left in a partial or unknown
/// state, and every registration in an outage completes without spending attempts on it.
pub async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    // Obstacles, such as a taken port, are found before the slow parts start.
    let (gateway, gateway_url) = Place::HERE_OR_ON_ANY_PORT
        .bind(args.gateway_port, "--gateway-port")
        .await?;
    let private = match args.server {
        Some(_) => None,
        None => Some(PrivateControlPlane::start(args.tasker.clone(), args.server_port).await?),
    };
    let given_up = private.as_ref().map(PrivateControlPlane::given_up);
    let stage = Stage {
        people: applicants(args.seed, args.users as usize),
        gateway_url,
        server_url: private.as_ref().map_or_else(
            || args.server.clone().unwrap_or_default(),
            |it| it.url().to_owned(),
        ),
        args,
    };
    let mut workers = Vec::new();
    let outcome = tokio::select! {
        outcome = stage.play(gateway, &mut workers) => outcome,
        () = when(given_up) => Err(anyhow!("the control plane does not stay up")),
        told = told_to_end() => told.map_err(Into::into).and_then(|()| Err(anyhow!("interrupted"))),
    };
    if let (Ok(_), true) = (&outcome, stage.args.keep) {
        stage.invite();
        told_to_end().await?;
    }
    for worker in workers {
        worker.stop().await;
    }
    if let Some(private) = private {
        private.stop().await;
    }
    outcome.map(|report| {
        if report.is_clean() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    })
}

/// Resolves with the event; never if there is none.
async fn when(event: Option<impl Future<Output = ()>>) {
    match event {
        Some(event) => event.await,
        None => std::future::pending().await,
    }
}

/// The settings and the users of the demo, and the addresses of its parts.
struct Stage {
    args: DemoArgs,
    people: Vec<Applicant>,
    gateway_url: String,
    server_url: String,
}

impl Stage {
    /// Plays both runs and prints the table, then plays the outage. The services of the second run
    /// stay up.
    async fn play(
        &self,
        gateway: TcpListener,
        workers: &mut Vec<Supervised>,
    ) -> anyhow::Result<Report> {
        let control_plane = ControlPlane::at(&self.server_url)?;
        control_plane.register_template().await?;
        eprintln!("control plane: {}", self.server_url);
        eprintln!(
            "{} users register twice under fault seed {}, {} of them each second",
            self.people.len(),
            self.args.seed,
            self.args.rate
        );

        let world = self.world().await?;
        let naive = self.naive_run(&world).await;
        world.stop().await;

        let world = self.world().await?;
        let flow = Orchestrated::new(self.gateway_url.clone(), control_plane.clone());
        tokio::spawn(axum::serve(gateway, gateway::router(control_plane.clone())).into_future());
        workers.extend(self.start_workers(&world.urls)?);
        let monitor = Watch::start(&self.server_url);
        let tasker = self.tasker_run(&world, flow).await;
        let monitor = monitor.end(self.people.len()).await;

        let mut report = Report {
            seed: self.args.seed,
            naive,
            tasker,
            outage: None,
        };
        if !self.args.json {
            println!(
                "\n{report}\nwhat the service monitor heard of the second run: attempts that failed, by cause\n\n{monitor}"
            );
        }
        if self.args.outage_seconds > 0 {
            let outage = self.outage(&world, &control_plane).await?;
            if !self.args.json {
                println!("\n{outage}");
            }
            report.outage = Some(outage);
        }
        if self.args.json {
            println!("{}", serde_json::to_string_pretty(&report)?);
        }
        Ok(report)
    }

    /// Plays the outage with users who did not register before.
    async fn outage(
        &self,
        world: &World,
        control_plane: &ControlPlane,
    ) -> anyhow::Result<outage::Outage> {
        let act = Act {
            world,
            control_plane,
            gateway_url: &self.gateway_url,
            seconds: self.args.outage_seconds,
            rate: self.args.rate,
        };
        let people = newcomers(self.args.seed, self.people.len(), 2 * outage::USERS);
        let (with, without) = people.split_at(outage::USERS);
        act.play(with, without).await
    }

    /// Starts fresh services: each run has its own.
    async fn world(&self) -> anyhow::Result<World> {
        let plan = FaultPlan::new(self.args.seed);
        World::start(
            Place::HERE_OR_ON_ANY_PORT,
            &self.args.ports,
            plan,
            self.args.call_timeout() * 2,
            &self.people,
        )
        .await
    }

    async fn naive_run(&self, world: &World) -> Audit {
        let flow = NaiveRegistration::new(world.urls.clone(), self.args.call_timeout());
        let records = at_pace("naive", &self.people, self.args.rate, |person| {
            let flow = flow.clone();
            async move {
                let asked = Instant::now();
                let outcome = flow.register_user(&person).await;
                (
                    outcome.is_ok(),
                    NaiveRecord {
                        outcome,
                        took: asked.elapsed(),
                    },
                )
            }
        })
        .await;
        audit::naive(world, &self.people, &records)
    }

    async fn tasker_run(&self, world: &World, flow: Orchestrated) -> Audit {
        let records = at_pace("through Tasker", &self.people, self.args.rate, |person| {
            let flow = flow.clone();
            async move {
                let record = flow.register_user(&person).await;
                (
                    record.state() == tasker_worker::proto::TaskState::Complete,
                    record,
                )
            }
        })
        .await;
        for error in records
            .iter()
            .filter_map(|record| record.task.as_ref().err())
        {
            eprintln!("{error:#}");
        }
        audit::orchestrated(world, &self.people, &records)
    }

    /// Starts worker processes of this same program; one that is killed is started again.
    fn start_workers(&self, urls: &Urls) -> anyhow::Result<Vec<Supervised>> {
        let program = env::current_exe().context("where this program is")?;
        let start = |number: u32| {
            let (program, server, urls) = (program.clone(), self.server_url.clone(), urls.clone());
            let (name, timeout) = (
                format!("worker {number}"),
                self.args.call_timeout_ms.to_string(),
            );
            Supervised::start(name.clone(), move || {
                let mut command = Command::new(&program);
                command.args([
                    "worker",
                    "--server",
                    &server,
                    "--name",
                    &name,
                    "--call-timeout-ms",
                    &timeout,
                ]);
                command.args(["--user-url", &urls.user, "--billing-url", &urls.billing]);
                command.args([
                    "--preferences-url",
                    &urls.preferences,
                    "--notification-url",
                    &urls.notification,
                ]);
                command
            })
        };
        Ok((1..=self.args.workers).map(start).collect())
    }

    /// Prints commands to try while everything stays up.
    fn invite(&self) {
        let gateway_url = &self.gateway_url;
        let server = self.server_url.trim_start_matches("http://");
        eprintln!(
            r#"
Everything stays up until Ctrl-C. Try:

curl -X POST {gateway_url}/users/register \
  -H "Content-Type: application/json" \
  -d '{{"email": "test@example.com", "name": "Test User", "plan": "free"}}'

curl {gateway_url}/users/registration_status/TASK_ID

grpcurl -plaintext {server} list
grpcurl -plaintext -d '{{"namespace": "user_management", "task_name": "user_registration", "page_size": 5}}' \
  {server} tasker.v1.TaskService/ListTasks
grpcurl -plaintext -d '{{"task_id": "TASK_ID"}}' {server} tasker.v1.TaskService/GetTask
grpcurl -plaintext {server} tasker.v1.WorkerService/ListWorkers
"#
        );
    }
}

/// The service monitor, which runs beside the second run.
struct Watch {
    monitor: Arc<Mutex<Monitor>>,
    follows: JoinHandle<()>,
}

impl Watch {
    fn start(server: &str) -> Self {
        let monitor = Arc::<Mutex<Monitor>>::default();
        let (server, hears) = (server.to_owned(), Arc::clone(&monitor));
        let follows = tokio::spawn(async move {
            let request = monitor::request(NAMESPACE, String::new());
            let ended = monitor::follow(&server, request, |event, _| {
                event.and_then(|event| {
                    hears
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .hear(event)
                });
                Ok(())
            });
            if let Err(error) = ended.await {
                eprintln!("service monitor: {error:#}");
            }
        });
        Self { monitor, follows }
    }

    /// The monitor's figures once it has counted the end of this many tasks, or after five seconds.
    async fn end(self, tasks: usize) -> Monitor {
        let heard = || {
            self.monitor
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone()
        };
        let patience = Instant::now() + Duration::from_secs(5);
        while heard().tasks_ended < tasks as u64 && Instant::now() < patience {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.follows.abort();
        heard()
    }
}
