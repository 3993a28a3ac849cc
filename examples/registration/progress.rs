//! Shows the progress of a run: one line that is rewritten on a terminal, or a line every two
//! seconds elsewhere.

use std::{
    fmt,
    io::{IsTerminal as _, Write as _, stderr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinHandle;

const IN_A_TERMINAL: Duration = Duration::from_millis(100);
const ELSEWHERE: Duration = Duration::from_secs(2);

/// Counts registrations while they run.
#[derive(Clone)]
pub struct Progress {
    counts: Arc<Counts>,
}

struct Counts {
    label: &'static str,
    total: usize,
    since: Instant,
    started: AtomicUsize,
    completed: AtomicUsize,
    failed: AtomicUsize,
}

impl Progress {
    /// Starts counting, and showing until the display is stopped.
    pub fn start(label: &'static str, total: usize) -> (Self, Display) {
        let counts = Counts {
            label,
            total,
            since: Instant::now(),
            started: AtomicUsize::new(0),
            completed: AtomicUsize::new(0),
            failed: AtomicUsize::new(0),
        };
        let progress = Self {
            counts: Arc::new(counts),
        };
        let display = Display {
            progress: progress.clone(),
            task: tokio::spawn(show(progress.clone())),
        };
        (progress, display)
    }

    pub fn started(&self) {
        self.counts.started.fetch_add(1, Relaxed);
    }

    pub fn ended(&self, completed: bool) {
        if completed {
            &self.counts.completed
        } else {
            &self.counts.failed
        }
        .fetch_add(1, Relaxed);
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = &*self.counts;
        let (completed, failed) = (counts.completed.load(Relaxed), counts.failed.load(Relaxed));
        let running = counts
            .started
            .load(Relaxed)
            .saturating_sub(completed + failed);
        write!(
            f,
            "{}: {} of {} ended · {completed} completed · {failed} failed · {running} under way · {:.0} s",
            counts.label,
            completed + failed,
            counts.total,
            counts.since.elapsed().as_secs_f64(),
        )
    }
}

/// The line on stderr.
pub struct Display {
    progress: Progress,
    task: JoinHandle<()>,
}

impl Display {
    /// Shows the last state and stops.
    pub fn stop(self) {
        self.task.abort();
        let rewrite = if stderr().is_terminal() {
            "\r\x1b[2K"
        } else {
            ""
        };
        eprintln!("{rewrite}{}", self.progress);
    }
}

async fn show(progress: Progress) {
    let terminal = stderr().is_terminal();
    let mut tick = tokio::time::interval(if terminal { IN_A_TERMINAL } else { ELSEWHERE });
    tick.tick().await;
    loop {
        tick.tick().await;
        if terminal {
            eprint!("\r\x1b[2K{progress}");
            let _ = stderr().flush();
        } else {
            eprintln!("{progress}");
        }
    }
}
