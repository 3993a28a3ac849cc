//! Carries out the schedule. Each fault is a tokio task of its own: several overlap, and faults of
//! one process queue up.

use std::{os::unix::process::ExitStatusExt as _, process::ExitStatus, sync::Arc, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    checker::violation::Violation,
    client::Clients,
    faults::{Kind, Planned},
    link::{Blow, Link, Mode},
    poison,
    world::{Server, WorkerHost, World},
};

/// Inflicts all faults and returns when the last one is over.
pub async fn all(world: &Arc<World>, clients: &Arc<Clients>, schedule: Vec<Planned>) {
    let begun = world.chronicle.elapsed();
    let mut running = JoinSet::new();
    for planned in schedule {
        sleep((begun + planned.at).saturating_sub(world.chronicle.elapsed())).await;
        let (world, clients) = (Arc::clone(world), Arc::clone(clients));
        running.spawn(async move { one(&world, &clients, &planned).await });
        while let Some(ended) = running.try_join_next() {
            ended.unwrap();
        }
    }
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
}

async fn one(world: &World, clients: &Arc<Clients>, planned: &Planned) {
    let server = pick(&world.servers, planned.luck[0]);
    let host = pick(&world.workers, planned.luck[0]);
    match planned.kind {
        Kind::ServerKill | Kind::ServerStop => on_server(world, planned, server).await,
        Kind::RollingRestart => rolling_restart(world, planned).await,
        Kind::WorkerKill | Kind::WorkerStop | Kind::WorkerDeploy => {
            on_worker(world, planned, host).await;
        }
        Kind::PostgresKill => postgres_kill(world, planned).await,
        Kind::PostgresStop => postgres_stop(world, planned).await,
        Kind::SessionsEnded => sessions_ended(world, planned).await,
        Kind::LinkCut
        | Kind::LinkReset
        | Kind::LinkHalfClosed
        | Kind::LinkSlow
        | Kind::LinkHeld
        | Kind::LinkRefuses => on_link(world, planned, server).await,
        Kind::CommitLost => {
            server
                .to_database
                .lose_commit(1 + usize::try_from(planned.luck[1] % 4).unwrap());
            sleep(planned.length).await;
            if server.to_database.has_lost_it() {
                say(world, planned, &format!("server {}", server.index));
            }
            server.to_database.lose_commit(0);
        }
        Kind::Poison => {
            let what = poison::submit(clients, planned.luck[0]).await;
            say(world, planned, &what);
        }
        Kind::ServerClock | Kind::WorkerClock => {
            let clock = if planned.kind == Kind::ServerClock {
                &server.clock
            } else {
                &host.clock
            };
            let Some(clock) = clock else { return };
            // Up to a day, either way.
            let seconds = i64::try_from(planned.luck[1] % 172_800).unwrap() - 86_400;
            clock.jump(seconds);
            say(world, planned, &format!("{seconds} s"));
            sleep(planned.length).await;
            clock.jump(0);
        }
    }
}

fn pick<T>(from: &[T], luck: u64) -> &T {
    &from[usize::try_from(luck % from.len() as u64).unwrap()]
}

fn say(world: &World, planned: &Planned, what: &str) {
    world.chronicle.fault(
        planned.kind.name(),
        &format!("{what}, for {:?}", planned.length),
    );
}

async fn on_server(world: &World, planned: &Planned, server: &Server) {
    // Locked for the whole fault, so that `watch` does not report the end of the process.
    let mut process = server.process.lock().await;
    say(world, planned, &format!("server {}", server.index));
    if planned.kind == Kind::ServerKill {
        process.kill();
        sleep(planned.length).await;
        *process = server.spawn();
    } else {
        process.signal(Signal::STOP);
        sleep(planned.length).await;
        process.signal(Signal::CONT);
    }
}

/// Each server in turn drains, ends and is started again.
async fn rolling_restart(world: &World, planned: &Planned) {
    say(world, planned, "all servers");
    for server in &world.servers {
        let mut process = server.process.lock().await;
        process.signal(Signal::TERM);
        world
            .ends(format!("server {}", server.index), &mut process)
            .await;
        *process = server.spawn();
        drop(process);
        server.listens().await;
    }
}

async fn on_worker(world: &World, planned: &Planned, host: &WorkerHost) {
    let mut process = host.process.lock().await;
    let who = format!("worker process {}", host.orders.index);
    say(world, planned, &who);
    match planned.kind {
        Kind::WorkerKill => {
            process.kill();
            sleep(planned.length).await;
            *process = host.spawn();
        }
        Kind::WorkerDeploy => {
            process.signal(Signal::TERM);
            // A handler may crash the process while it drains.
            let crashed = |status: ExitStatus| status.signal() == Some(Signal::KILL.as_raw());
            if !process
                .ended_within(crate::world::END_LIMIT)
                .await
                .is_some_and(crashed)
            {
                world.ends(who, &mut process).await;
            }
            *process = host.spawn();
        }
        _ => {
            process.signal(Signal::STOP);
            sleep(planned.length).await;
            process.signal(Signal::CONT);
        }
    }
}

async fn postgres_kill(world: &World, planned: &Planned) {
    let cluster = Arc::clone(&world.cluster).lock_owned().await;
    say(world, planned, "all its processes");
    let cluster = tokio::task::spawn_blocking(move || {
        cluster.kill();
        cluster
    });
    let mut cluster = cluster.await.unwrap();
    sleep(planned.length).await;
    if let Err(error) = cluster.restart().await {
        let how = format!("it does not come back: {error}");
        world.chronicle.violation(Violation::ProcessEnded {
            who: "postgres".into(),
            how,
        });
    }
}

async fn postgres_stop(world: &World, planned: &Planned) {
    let cluster = world.cluster.lock().await;
    say(world, planned, "all its processes");
    let pid = cluster.pid();
    let children =
        std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children
        .split_whitespace()
        .filter_map(|pid| pid.parse::<i32>().ok());
    let all: Vec<Pid> = std::iter::once(pid.cast_signed())
        .chain(children)
        .filter_map(Pid::from_raw)
        .collect();
    let signal = |signal| all.iter().for_each(|pid| _ = kill_process(*pid, signal));
    signal(Signal::STOP);
    sleep(planned.length).await;
    signal(Signal::CONT);
}

async fn sessions_ended(world: &World, planned: &Planned) {
    let Ok(db) = world.session().await else {
        return;
    };
    let sql = "SELECT count(pg_terminate_backend(pid)) FROM (
                   SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'tasker'
                    ORDER BY md5(pid || $1) LIMIT $2) victims";
    let (salt, most) = (
        planned.luck[0].to_string(),
        1 + i64::try_from(planned.luck[1] % 12).unwrap(),
    );
    if let Ok(row) = db.query_one(sql, &[&salt, &most]).await {
        say(world, planned, &format!("{} of them", row.get::<_, i64>(0)));
    }
}

async fn on_link(world: &World, planned: &Planned, server: &Server) {
    let (link, name): (&Link, _) = match planned.luck[1] % 3 {
        0 => (&server.to_database, "database"),
        1 => (&server.for_workers, "workers"),
        _ => (&server.for_clients, "clients"),
    };
    let heads = planned.luck[2].is_multiple_of(2);
    say(
        world,
        planned,
        &format!("server {} and {name}", server.index),
    );
    let mode = match planned.kind {
        Kind::LinkCut => return link.strike(Blow::Cut),
        Kind::LinkReset => return link.strike(Blow::Reset),
        Kind::LinkHalfClosed => {
            return link.strike(if heads {
                Blow::CloseUp
            } else {
                Blow::CloseDown
            });
        }
        Kind::LinkSlow => Mode::Delay(Duration::from_millis(5 + planned.luck[2] % 200)),
        Kind::LinkHeld => Mode::Hold,
        _ => Mode::Refuse,
    };
    link.set(mode);
    // Open connections are cut as well, so that the peer has to connect again.
    if mode == Mode::Refuse {
        link.strike(Blow::Cut);
    }
    sleep(planned.length).await;
    link.set(Mode::Pass);
}
