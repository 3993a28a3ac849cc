//! The process with the workers: the Rust SDK with handlers that do little but record their runs.
//!
//! It reports to its parent in lines on stdout: `ready`, then `finished <n>` as chains end, and
//! once its stdin is closed `run <task> <step> <attempt> <times>` for every attempt that it ran. If
//! the parent dies, its stdin closes too, so it never outlives the parent.

use std::{
    collections::BTreeMap,
    io::{self, BufWriter, Read as _, Write as _},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tasker_worker::{RetryableError, StepContext, StepError, Worker, WorkerHandle};
use tokio::sync::{Notify, oneshot};
use uuid::Uuid;

use super::{
    error::Error,
    shapes::{CHAIN_HANDLER, LAST_STEP},
};

/// Shortest interval between two reports of ended chains.
const TELL_EVERY: Duration = Duration::from_millis(10);
/// Time limit for the running steps at the end.
const DRAIN: Duration = Duration::from_secs(20);

/// The runs, in the order of their start.
#[derive(Default)]
struct Book {
    pages: Mutex<Pages>,
    finished: AtomicU64,
    news: Notify,
}

#[derive(Default)]
struct Pages {
    /// The few names of steps, so that a run stores only a small number.
    names: Vec<String>,
    runs: Vec<(Uuid, u16, u16)>,
}

impl Book {
    fn enter(&self, step: &StepContext) {
        let task_id = Uuid::try_parse(step.task_id()).unwrap_or_default();
        let attempt = u16::try_from(step.attempt()).unwrap_or(u16::MAX);
        self.pages
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .enter(task_id, step.step_name(), attempt);
        if step.step_name() == LAST_STEP {
            // The number is a progress report and orders no other memory.
            self.finished.fetch_add(1, Ordering::Relaxed);
            self.news.notify_one();
        }
    }

    /// Writes how often each attempt was run.
    fn write(&self, out: &mut impl io::Write) -> io::Result<()> {
        let pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let mut times = BTreeMap::<_, u32>::new();
        for run in &pages.runs {
            *times.entry(run).or_default() += 1;
        }
        for ((task_id, name, attempt), times) in times {
            let name = pages
                .names
                .get(usize::from(*name))
                .map_or("?", String::as_str);
            writeln!(out, "run {task_id} {name} {attempt} {times}")?;
        }
        out.flush()
    }
}

impl Pages {
    fn enter(&mut self, task_id: Uuid, name: &str, attempt: u16) {
        let at = self
            .names
            .iter()
            .position(|n| n == name)
            .unwrap_or_else(|| {
                self.names.push(name.to_owned());
                self.names.len() - 1
            });
        self.runs
            .push((task_id, u16::try_from(at).unwrap_or(u16::MAX), attempt));
    }
}

/// Runs the workers until stdin is closed.
pub async fn run(server: &str, workers: usize, slots: usize) -> Result<(), Error> {
    let book = Arc::<Book>::default();
    let mut handles = Vec::with_capacity(workers);
    for n in 0..workers {
        handles.push(worker(server, n, slots, &book)?);
    }
    // The measurement begins with all workers connected, or the first steps would wait for them.
    for handle in &handles {
        handle.connected().await;
    }
    say("ready")?;
    tokio::select! {
        _ = parent_is_done() => {}
        failed = tell(&book) => failed?,
    }
    for ended in join_all(handles.into_iter().map(WorkerHandle::shutdown)).await {
        ended.map_err(|error| Error::Stopped(format!("a worker ended early: {error}")))?;
    }
    book.write(&mut BufWriter::new(io::stdout().lock()))
        .map_err(Error::io("report the executed steps"))
}

/// Records each step that a handler runs.
fn keep(book: &Arc<Book>) -> impl Fn(&StepContext) + Send + Sync + 'static {
    let book = Arc::clone(book);
    move |step| book.enter(step)
}

fn worker(server: &str, n: usize, slots: usize, book: &Arc<Book>) -> Result<WorkerHandle, Error> {
    let (chain, ok, flaky, slow) = (keep(book), keep(book), keep(book), keep(book));
    let worker = Worker::builder([server])
        .name(format!("bench-{n}"))
        .max_concurrent_steps(slots)
        .drain_timeout(DRAIN)
        .handler(CHAIN_HANDLER, move |step: StepContext| {
            chain(&step);
            async { Ok(json!({ "ok": true })) }
        })
        .handler("golden.ok", move |step: StepContext| {
            ok(&step);
            async move { Ok(json!({ "step": step.step_name() })) }
        })
        .handler("golden.flaky", move |step: StepContext| {
            flaky(&step);
            async move { fail_first(&step) }
        })
        .handler("golden.slow_once", move |step: StepContext| {
            slow(&step);
            async move {
                // The first attempt runs into its time-out, and the second succeeds.
                if step.attempt() == 1 {
                    step.cancelled().await;
                }
                Ok(json!(null))
            }
        })
        .build()
        .map_err(|error| Error::Stopped(format!("cannot build a worker: {error}")))?;
    Ok(worker.spawn())
}

fn fail_first(step: &StepContext) -> Result<Value, StepError> {
    let config: Value = step.handler_config()?;
    match u64::from(step.attempt()) <= config["failures"].as_u64().unwrap_or(0) {
        true => Err(RetryableError::new("flaky").into()),
        false => Ok(json!(step.attempt())),
    }
}

/// Reports to the parent how many chains have ended. Never returns `Ok`.
async fn tell(book: &Book) -> Result<(), Error> {
    loop {
        book.news.notified().await;
        say(&format!(
            "finished {}",
            book.finished.load(Ordering::Relaxed)
        ))?;
        // Ends in between are not lost: the notification is kept, and the count is a total.
        tokio::time::sleep(TELL_EVERY).await;
    }
}

fn say(line: &str) -> Result<(), Error> {
    writeln!(io::stdout(), "{line}").map_err(Error::io("write to the parent process"))
}

/// Resolves when the parent closed this process's stdin, or died.
fn parent_is_done() -> oneshot::Receiver<()> {
    let (done, wait) = oneshot::channel();
    std::thread::spawn(move || {
        // On its own thread: a read of stdin cannot be cancelled, and would hold up the runtime's
        // end.
        let _ = io::stdin().lock().read_to_end(&mut Vec::new());
        let _ = done.send(());
    });
    wait
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_record_counts_each_attempt() {
        let book = Book::default();
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        for (task, step, attempt) in [(two, "b", 1), (one, "a", 1), (one, "a", 2), (one, "a", 1)] {
            book.pages.lock().unwrap().enter(task, step, attempt);
        }
        let mut text = Vec::new();
        book.write(&mut text).unwrap();
        let expected = format!("run {one} a 1 2\nrun {one} a 2 1\nrun {two} b 1 1\n");
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }
}
