//! Postgres runs out of disk under load: the test fills a small tmpfs of its own, and empties it
//! again.

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use tasker_devdb::Options;
use tokio::time::sleep;

use crate::{
    report::{Report, stories},
    run::{Judged, Settings, begin, folder, judge, settle},
    sampler, support,
    world::{Size, World},
};

/// Space for a database and some seconds of its log.
const MEGABYTES: u32 = 256;
const SEED: u64 = 1;

/// A tmpfs, unmounted when it is dropped.
struct Disk(PathBuf);

impl Disk {
    /// `None` where the process may not mount one.
    fn mount(dir: &Path) -> Option<Self> {
        std::fs::create_dir_all(dir).unwrap();
        let size = format!("size={MEGABYTES}m,mode=0755");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(dir)
            .output();
        mounted
            .is_ok_and(|output| output.status.success())
            .then(|| Self(dir.to_owned()))
    }

    /// Fills all remaining space.
    fn fill(&self) {
        let mut ballast = File::create(self.0.join("ballast")).unwrap();
        for size in [1 << 20, 1 << 12] {
            while ballast.write_all(&vec![0; size]).is_ok() {}
        }
    }

    fn empty(&self) {
        std::fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: files that a killed Postgres leaves open do not block the unmount.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).output();
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Restarts Postgres if the full disk ended it, as a supervisor would.
async fn look_after(world: &World) {
    let mut cluster = world.cluster.lock().await;
    if world.session().await.is_err() {
        world
            .chronicle
            .note("postgres is down, and is started again");
        cluster.restart().await.unwrap();
    }
}

fn settings() -> Settings {
    Settings {
        seed: SEED,
        time: Duration::ZERO,
        size: Size {
            servers: 2,
            worker_processes: 2,
            workers_per_process: 2,
        },
        gap: Duration::ZERO,
        open: 60,
        settle: Duration::from_secs(30),
    }
}

/// A database on this disk with a small write-ahead log.
fn options(disk: &Disk) -> Options {
    let small = [
        ("min_wal_size", "32MB"),
        ("max_wal_size", "64MB"),
        ("shared_buffers", "32MB"),
    ];
    Options {
        data_dir: Some(disk.0.join("postgres")),
        settings: small
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec(),
        ..support::own_options()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disk_of_the_database_loses_nothing() {
    let dir = folder("disk");
    // A folder that the user of the Postgres process may enter.
    let place = std::env::temp_dir().join(format!("tasker-torture-disk-{}", std::process::id()));
    let Some(disk) = Disk::mount(&place) else {
        println!("skipped: disk full: no tmpfs can be mounted here (that takes root)");
        return;
    };
    let (settings, options) = (settings(), options(&disk));
    let world = Arc::new(World::start(SEED, settings.size, dir, options).await);
    let clients = begin(&world, &settings).await;
    let submitters = clients.start();
    let samples = tokio::spawn({
        let (world, clients) = (Arc::clone(&world), Arc::clone(&clients));
        async move { sampler::run(&world, &clients).await }
    });
    // A handler may crash its process; the watch restarts it.
    let watch = tokio::spawn({
        let world = Arc::clone(&world);
        async move { world.watch().await }
    });
    for seconds in [1, 3] {
        sleep(Duration::from_millis(1_500)).await;
        disk.fill();
        world
            .chronicle
            .fault("disk full", &format!("for {seconds} s"));
        sleep(Duration::from_secs(seconds)).await;
        disk.empty();
        world.chronicle.note("there is space again");
        look_after(&world).await;
    }
    sleep(Duration::from_secs(1)).await;
    clients.stop(submitters, settings.settle).await;
    let settled = settle(&world, settings.settle).await;
    samples.abort();
    watch.abort();
    let _ = (samples.await, watch.await);
    let Judged {
        history,
        violations,
        calls,
        ..
    } = judge(&world, &clients, settled).await;
    let report = Report {
        seed: SEED,
        seconds: world.chronicle.elapsed().as_secs_f64(),
        settled,
        skipped: &[],
        chronicle: &world.chronicle,
        calls,
        history: &history,
        violations: &violations,
    };
    print!("disk full; {}", report.text());
    if !violations.is_empty() {
        stories(&history, &violations, &world.dir.join("violations.txt"));
        let _ = std::fs::copy(
            world.cluster.lock().await.log(),
            world.dir.join("postgres.log"),
        );
        panic!(
            "{} violations; all that is known is in {}",
            violations.len(),
            world.dir.display()
        );
    }
    assert!(history.tasks.len() > 50, "next to nothing was done");
    let _ = std::fs::remove_dir_all(&world.dir);
    // Postgres ends first, then its disk is unmounted.
    drop(world);
    drop(disk);
}
