//! Processor time and memory of processes, from `/proc`, and so on Linux alone. Elsewhere every
//! value is `None`.

use std::{fs, ops::Sub, time::Duration};

/// `/proc` counts processor time in hundredths of a second, whatever the kernel's own tick.
const TICKS_PER_SECOND: u64 = 100;

/// The processes of the measured system.
#[derive(Clone, Copy, Debug, Default)]
pub struct Processes {
    /// The postmaster: all its children are included.
    pub postgres: Option<u32>,
    pub server: Option<u32>,
    pub workers: Option<u32>,
}

/// Processor time used so far, or between two samples.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    pub postgres: Option<Duration>,
    pub server: Option<Duration>,
    pub workers: Option<Duration>,
    /// This process, which is the client.
    pub client: Option<Duration>,
    /// All processes of the machine together.
    pub machine: Option<Duration>,
}

impl Processes {
    /// The processor time that they have used until now.
    pub fn cpu(&self) -> Cpu {
        let own = |pid: Option<u32>| stat(pid?).map(|s| s.own);
        Cpu {
            postgres: self.postgres.and_then(family),
            server: own(self.server),
            workers: own(self.workers),
            client: own(Some(std::process::id())),
            machine: machine(),
        }
    }
}

impl Sub for Cpu {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        let minus =
            |now: Option<Duration>, before: Option<Duration>| Some(now?.saturating_sub(before?));
        Self {
            postgres: minus(self.postgres, before.postgres),
            server: minus(self.server, before.server),
            workers: minus(self.workers, before.workers),
            client: minus(self.client, before.client),
            machine: minus(self.machine, before.machine),
        }
    }
}

impl Cpu {
    /// Processor time of the rest of the machine; a large share makes the figures unreliable.
    pub fn others(&self) -> Option<Duration> {
        let ours = [self.postgres, self.server, self.workers, self.client]
            .into_iter()
            .flatten()
            .sum();
        Some(self.machine?.saturating_sub(ours))
    }
}

/// The resident memory of a process, MiB.
pub fn resident_mib(pid: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib: f64 = status
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:"))?
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .ok()?;
    Some(kib / 1024.0)
}

/// The postmaster of a backend, if it runs on this machine.
pub fn postmaster_of(backend: u32) -> Option<u32> {
    let parent = stat(backend)?.parent;
    let name = fs::read_to_string(format!("/proc/{parent}/comm")).ok()?;
    name.starts_with("postgres").then_some(parent)
}

struct Stat {
    parent: u32,
    own: Duration,
    /// Of children that ended and were waited for.
    gone: Duration,
}

/// The time of a process and of its children, including those that ended.
fn family(parent: u32) -> Option<Duration> {
    // A backend that ended meanwhile is in the postmaster's time of ended children.
    let head = stat(parent)?;
    let pids = fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let living: Duration = pids
        .filter_map(stat)
        .filter(|s| s.parent == parent)
        .map(|s| s.own)
        .sum();
    Some(head.own + head.gone + living)
}

fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name in brackets may contain anything, so the fields are counted after it: state, parent, …,
/// and from the twelfth on user and system time, own and of children.
fn parse_stat(line: &str) -> Option<Stat> {
    let fields: Vec<&str> = line.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |i: usize| fields.get(i)?.parse::<u64>().ok();
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        own: time(ticks(11)? + ticks(12)?),
        gone: time(ticks(13)? + ticks(14)?),
    })
}

/// The first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal.
fn machine() -> Option<Duration> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let fields = text
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace();
    let ticks: Vec<u64> = fields.filter_map(|f| f.parse().ok()).collect();
    let busy = [0, 1, 2, 5, 6, 7]
        .into_iter()
        .filter_map(|i| ticks.get(i))
        .sum();
    Some(time(busy))
}

fn time(ticks: u64) -> Duration {
    Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_with_brackets_and_spaces_in_the_name_is_parsed() {
        let s = parse_stat("7 (a) b (c)) S 5 7 7 0 -1 0 0 0 0 0 100 50 20 10 20 0 1 0").unwrap();
        assert_eq!(
            (s.parent, s.own, s.gone),
            (5, Duration::from_millis(1_500), Duration::from_millis(300))
        );
    }

    #[test]
    fn others_is_the_machine_without_our_processes() {
        let second = |n| Some(Duration::from_secs(n));
        let cpu = Cpu {
            postgres: second(2),
            server: second(1),
            workers: None,
            client: second(1),
            machine: second(9),
        };
        assert_eq!(cpu.others(), second(5));
        assert_eq!((cpu - cpu).others(), second(0));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn cpu_of_this_process_is_measured() {
        assert!(Processes::default().cpu().client.is_some());
        assert!(resident_mib(std::process::id()).is_some_and(|mib| mib > 1.0));
        assert_eq!(postmaster_of(std::process::id()), None);
    }
}
