//! A user registration across four services that fail, once without and once with Tasker.
//!
//! `make demo` runs all of it; the modes `services`, `worker` and `gateway` are the same parts as
//! single processes.

use std::{
    io::{IsTerminal as _, stderr},
    net::{IpAddr, Ipv4Addr},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};

use crate::{
    control_plane::ControlPlane,
    demo::DemoArgs,
    faults::FaultPlan,
    place::Place,
    population::applicants,
    services::{Ports, World},
    worker::WorkerArgs,
};

mod audit;
mod control_plane;
mod demo;
#[cfg(test)]
mod end_to_end;
mod faults;
mod gateway;
mod handlers;
mod load;
#[path = "../service_monitor/monitor.rs"]
mod monitor;
mod naive;
mod orchestrated;
mod outage;
mod place;
mod population;
mod private;
mod process;
mod progress;
mod report;
mod services;
mod status;
mod worker;

/// A user registration across four services that fail, once without and once with Tasker.
#[derive(Parser)]
#[command(name = "registration", args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    mode: Option<Mode>,
    #[command(flatten)]
    demo: DemoArgs,
}

#[derive(Subcommand)]
enum Mode {
    /// Start everything, register users both ways, and print the table of both; the default.
    Demo(DemoArgs),
    /// The four simulated services.
    Services(ServicesArgs),
    /// A worker that serves the five step handlers.
    Worker(WorkerArgs),
    /// The HTTP gateway that starts registrations and reports their state.
    Gateway(GatewayArgs),
}

#[derive(Args)]
struct ServicesArgs {
    /// The address to listen on.
    #[arg(long, env = "HOST", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    #[command(flatten)]
    ports: Ports,
    /// Seed of the faults.
    #[arg(long, env = "FAULT_SEED", default_value_t = 42)]
    seed: u64,
    /// How long a stalled answer takes, in milliseconds: longer than the callers wait.
    #[arg(long, env = "STALL_MS", default_value_t = 3000)]
    stall_ms: u64,
    /// Number of made-up users, some of whom are known from the start.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(..=100_000))]
    users: u32,
}

#[derive(Args)]
struct GatewayArgs {
    /// The address to listen on.
    #[arg(long, env = "HOST", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// The port to listen on; 0 takes any free one.
    #[arg(long, env = "GATEWAY_PORT", default_value_t = 3000)]
    gateway_port: u16,
    /// The control plane.
    #[arg(long, env = "TASKER_SERVER", default_value = "http://127.0.0.1:7233")]
    server: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into()),
        )
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal())
        .init();
    let cli = Cli::parse();
    let ended = match cli.mode.unwrap_or(Mode::Demo(cli.demo)) {
        Mode::Demo(args) => demo::run(args).await,
        Mode::Services(args) => services(args).await.map(|()| ExitCode::SUCCESS),
        Mode::Worker(args) => worker::run(args).await.map(|()| ExitCode::SUCCESS),
        Mode::Gateway(args) => gateway(args).await.map(|()| ExitCode::SUCCESS),
    };
    ended.unwrap_or_else(|error| {
        eprintln!("registration: {error:#}");
        ExitCode::FAILURE
    })
}

async fn services(args: ServicesArgs) -> anyhow::Result<()> {
    let people = applicants(args.seed, args.users as usize);
    let stall = Duration::from_millis(args.stall_ms);
    let world = World::start(
        Place::at(args.host),
        &args.ports,
        FaultPlan::new(args.seed),
        stall,
        &people,
    )
    .await?;
    let urls = &world.urls;
    eprintln!(
        "users {} · billing {} · preferences {} · notification {}",
        urls.user, urls.billing, urls.preferences, urls.notification
    );
    process::told_to_end().await?;
    world.stop().await;
    Ok(())
}

async fn gateway(args: GatewayArgs) -> anyhow::Result<()> {
    let (listener, url) = Place::at(args.host)
        .bind(args.gateway_port, "--gateway-port")
        .await?;
    let control_plane = ControlPlane::at(&args.server)?;
    control_plane.register_template().await?;
    eprintln!("gateway: {url}");
    let end = process::told_to_end();
    axum::serve(listener, gateway::router(control_plane))
        .with_graceful_shutdown(async {
            if let Err(error) = end.await {
                eprintln!("signals: {error}");
            }
        })
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn command_line_definition_is_valid() {
        Cli::command().debug_assert();
    }
}
