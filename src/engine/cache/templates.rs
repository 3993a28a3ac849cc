//! The registered templates in memory. A template never changes, so a copy is never wrong, only
//! possibly missing; a caller that misses one refreshes. Retirements are read separately, by the
//! number of the last change.

mod reader;

use std::sync::{
    Arc, PoisonError,
    atomic::{AtomicU64, Ordering::SeqCst},
};

use semver::Version;
use tasker_template::{Checked, Problem, Template};
use tokio::sync::{Mutex, OwnedMutexGuard};

use self::reader::{TemplateReader, Templates};
use crate::{
    engine::{
        hash::{HashMap, HashSet},
        loops::Loops,
        observe::metrics::Metrics,
        plan::compiled::Plan,
    },
    store::{
        Db, StoreError,
        db::READ_LIMIT,
        retirement::{self, Retirement},
        service::Actor,
        template::{self, LaneRow, NewStep, NewTemplate, Newest, Registration},
    },
};

/// The outcome of a registration.
pub enum Registered {
    Created(Arc<Plan>),
    /// The same content was registered already.
    Unchanged(Arc<Plan>),
    /// The same content was registered and retired; it takes tasks again.
    Restored(Arc<Plan>),
    /// The version has other content.
    Taken(Arc<Plan>),
}

/// The reason for refusing a registration.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    #[error("the template has {} problem(s)", .0.problems_total)]
    Invalid(Box<Checked>),
    #[error("the template has {} warning(s), which the request denies", .0.len())]
    Warned(Vec<Problem>),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A template found by name.
pub struct Resolved {
    pub plan: Arc<Plan>,
    /// Set if the version is retired.
    pub retired: Option<Arc<Retirement>>,
}

/// Serialises refreshes. A caller that has waited for its turn shares a reading that began after
/// its call, so many callers at once wait for two readings instead of one each.
#[derive(Clone, Default)]
struct Turns {
    /// The number of the last reading that succeeded.
    last: Arc<Mutex<u64>>,
    /// The number of readings that have begun.
    begun: Arc<AtomicU64>,
}

impl Turns {
    /// Waits for a turn. Returns none if a reading that began after the call has succeeded
    /// meanwhile.
    async fn take(&self) -> Option<OwnedMutexGuard<u64>> {
        // Sequential consistency: the caller's own write, which the reading has to find, came
        // before this.
        let begun = self.begun.load(SeqCst);
        let last = Arc::clone(&self.last).lock_owned().await;
        (*last <= begun).then_some(last)
    }

    /// Waits for a turn, whatever other callers have read.
    async fn own(&self) -> OwnedMutexGuard<u64> {
        Arc::clone(&self.last).lock_owned().await
    }

    async fn read(
        self,
        mut last: OwnedMutexGuard<u64>,
        reader: Arc<TemplateReader>,
    ) -> Result<(), StoreError> {
        let number = self.begun.fetch_add(1, SeqCst) + 1;
        reader.read().await?;
        *last = number;
        Ok(())
    }
}

/// The templates of the cell that this server has read.
pub struct TemplateCache {
    /// The environment of this server, in which all servers read the templates that it registers.
    environment: String,
    reader: Arc<TemplateReader>,
    turns: Turns,
    /// Owns the reads, which go on without their callers.
    loops: Loops,
}

impl TemplateCache {
    /// Creates an empty cache; call [`TemplateCache::load`] or [`TemplateCache::refresh`] next.
    pub fn new(db: Db, metrics: Arc<Metrics>, environment: String, loops: Loops) -> Self {
        Self {
            environment,
            loops,
            reader: Arc::new(TemplateReader::new(db, metrics)),
            turns: Turns::default(),
        }
    }

    /// Reads the templates registered since the last time. After `READ_LIMIT` the caller gets an
    /// error, while the reading continues.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let late = |_| StoreError::Connection("the templates cannot be read in time".into());
        let read = async {
            // The limit includes the wait for the lock: otherwise callers would queue behind a
            // database that does not answer.
            let Some(turn) = self.turns.take().await else {
                return Ok(());
            };
            let ended =
                |error| StoreError::Connection(format!("the templates cannot be read: {error}"));
            let read = self.turns.clone().read(turn, Arc::clone(&self.reader));
            let read = self.loops.spawn(read);
            let stopped = || StoreError::Connection("the server is shutting down".into());
            read.await.map_err(ended)?.unwrap_or_else(|| Err(stopped()))
        };
        tokio::time::timeout(READ_LIMIT, read).await.map_err(late)?
    }

    /// Reads all templates at a start, without a limit in all; each page has its own.
    pub async fn load(&self) -> Result<(), StoreError> {
        let turn = self.turns.own().await;
        let turns = self.turns.clone();
        turns.read(turn, Arc::clone(&self.reader)).await
    }

    /// Reads all lanes again, as some may have been removed.
    pub async fn forget_lanes(&self) -> Result<(), StoreError> {
        let _turn = self.turns.own().await;
        self.reader.read_lanes_anew().await
    }

    /// Whether there are lanes that no call of this function has reported yet.
    pub fn take_new_lanes(&self) -> bool {
        let mut known = self
            .reader
            .known
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let applied = known.lanes_applied;
        known.lanes_applied = known.newest_lane;
        applied != known.newest_lane
    }

    /// The environment of this server; empty for none.
    pub fn environment(&self) -> &str {
        &self.environment
    }

    /// The newest template, and change of one, known to this server.
    pub fn newest(&self) -> Newest {
        self.with(|k| k.newest)
    }

    /// The lanes known to this server, sorted by id.
    pub fn lanes(&self) -> Arc<Vec<LaneRow>> {
        self.with(|k| Arc::clone(&k.lanes))
    }

    /// The plan of a template that is certainly registered.
    pub async fn plan(&self, template_id: i32) -> Result<Arc<Plan>, StoreError> {
        if let Some(plan) = self.with(|k| k.plans.get(&template_id).cloned()) {
            return Ok(plan);
        }
        self.refresh().await?;
        self.with(|k| k.plans.get(&template_id).cloned())
            .ok_or_else(|| {
                StoreError::Corrupt(format!(
                    "template {template_id} is missing or cannot be read"
                ))
            })
    }

    /// The plans of these templates, without those that this build cannot read: their steps wait
    /// for another server and delay no other step.
    pub async fn readable(
        &self,
        ids: impl IntoIterator<Item = i32>,
    ) -> Result<HashMap<i32, Arc<Plan>>, StoreError> {
        let mut plans = HashMap::default();
        for id in ids.into_iter().collect::<HashSet<_>>() {
            match self.plan(id).await {
                Ok(plan) => drop(plans.insert(id, plan)),
                Err(StoreError::Corrupt(why)) => {
                    tracing::debug!(
                        why,
                        "a waiting step has a template that this server cannot read; other servers run it"
                    );
                }
                Err(error) => return Err(error),
            }
        }
        Ok(plans)
    }

    /// Resolves a version of a template; without `version`, the newest one that is not retired, or
    /// the newest of all if all are retired.
    pub fn resolve(
        &self,
        namespace: &str,
        task_name: &str,
        version: Option<&Version>,
    ) -> Option<Resolved> {
        self.with(|k| {
            let versions = k
                .versions
                .get(&(namespace.to_owned(), task_name.to_owned()))?;
            let in_use = |id: &&i32| !k.retired.contains_key(id);
            let id = match version {
                Some(version) => versions.get(version)?,
                None => versions
                    .values()
                    .rev()
                    .find(in_use)
                    .or_else(|| Some(versions.last_key_value()?.1))?,
            };
            Some(Resolved {
                plan: k.plans.get(id).cloned()?,
                retired: k.retired.get(id).cloned(),
            })
        })
    }

    /// The retirement of a template, if this server knows of one.
    pub fn retirement(&self, template_id: i32) -> Option<Arc<Retirement>> {
        self.with(|k| k.retired.get(&template_id).cloned())
    }

    /// The templates that match the filter, by namespace, name, and version from new to old. Empty
    /// strings match all.
    pub fn list(&self, namespace: &str, task_name: &str) -> Vec<Arc<Plan>> {
        self.with(|k| {
            k.versions
                .iter()
                .filter(|((ns, name), _)| {
                    (namespace.is_empty() || ns == namespace)
                        && (task_name.is_empty() || name == task_name)
                })
                .flat_map(|(_, versions)| versions.values().rev())
                .filter_map(|id| k.plans.get(id).cloned())
                .collect()
        })
    }

    /// Parses and checks a template in this server's environment, on a blocking thread: a hostile
    /// template takes a large part of a second.
    pub async fn check(&self, yaml: &str) -> Checked {
        let (yaml, environment) = (yaml.to_owned(), self.environment.clone());
        let unread = |_| Problem {
            line: 1,
            column: 1,
            path: String::new(),
            message: "it cannot be read".to_owned(),
        };
        let checked =
            tokio::task::spawn_blocking(move || Template::check(&yaml, &environment)).await;
        checked.unwrap_or_else(|error| Checked {
            template: None,
            problems: vec![unread(error)],
            problems_total: 1,
            warnings: Vec::new(),
        })
    }

    /// Checks and stores a template. Returns its warnings too; with `deny_warnings`, a template
    /// with warnings is not stored. `wake` is the payload that notifies the other servers.
    pub async fn register(
        &self,
        yaml: &str,
        deny_warnings: bool,
        wake: &str,
    ) -> Result<(Registered, Vec<Problem>), RegisterError> {
        let mut checked = self.check(yaml).await;
        let Some(template) = checked.template.take() else {
            return Err(RegisterError::Invalid(Box::new(checked)));
        };
        if deny_warnings && !checked.warnings.is_empty() {
            return Err(RegisterError::Warned(checked.warnings));
        }
        Ok((self.store(yaml, &template, wake).await?, checked.warnings))
    }

    async fn store(
        &self,
        yaml: &str,
        template: &Template,
        wake: &str,
    ) -> Result<Registered, StoreError> {
        let version = template.version.to_string();
        let steps: Vec<NewStep<'_>> = template
            .steps
            .iter()
            .map(|s| NewStep {
                name: &s.name,
                handler: &s.handler,
                service: &s.service,
            })
            .collect();
        let new = NewTemplate {
            namespace: &template.namespace,
            task_name: &template.task_name,
            version: &version,
            yaml,
            environment: &self.environment,
            steps: &steps,
        };
        let registration = template::register(&self.reader.db, new, wake).await?;
        self.refresh().await?;
        match registration {
            Registration::Created(row) => {
                Ok(Registered::Created(self.plan(row.template_id).await?))
            }
            Registration::Existing(row) => {
                let plan = self.plan(row.template_id).await?;
                // The text may differ in comments and in the order of keys: the parsed templates
                // are compared.
                if plan.template != *template {
                    Ok(Registered::Taken(plan))
                } else if self.restore(&plan, wake).await? {
                    Ok(Registered::Restored(plan))
                } else {
                    Ok(Registered::Unchanged(plan))
                }
            }
        }
    }

    /// Restores a retired version whose content was registered again. Returns false if it is not
    /// retired.
    async fn restore(&self, plan: &Plan, wake: &str) -> Result<bool, StoreError> {
        if self.retirement(plan.template_id).is_none() {
            return Ok(false);
        }
        let actor = Actor {
            by: String::new(),
            reason: "registered again".into(),
        };
        let restored = retirement::restore(&self.reader.db, plan.template_id, &actor, wake).await?;
        self.refresh().await?;
        restored.ok_or_else(|| {
            StoreError::Connection(
                "the retired version has just been removed; register it again".into(),
            )
        })
    }

    fn with<T>(&self, read: impl FnOnce(&Templates) -> T) -> T {
        self.reader.with(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn caller_shares_a_reading_that_began_after_its_call_and_no_earlier_one() {
        let turns = Turns::default();
        let mut first = turns.take().await.expect("nothing was read yet");
        turns.begun.fetch_add(1, SeqCst);
        // This caller's templates may have been registered after the first reading began.
        let second = tokio::spawn({
            let turns = turns.clone();
            async move { turns.take().await.map(|last| *last) }
        });
        tokio::task::yield_now().await;
        *first = 1;
        drop(first);
        assert_eq!(second.await.unwrap(), Some(1), "it reads by itself");

        let waiting = turns.own().await;
        let third = tokio::spawn({
            let turns = turns.clone();
            async move { turns.take().await.is_none() }
        });
        tokio::task::yield_now().await;
        turns.begun.fetch_add(1, SeqCst);
        let mut last = waiting;
        *last = 2;
        drop(last);
        assert!(
            third.await.unwrap(),
            "the second reading began after its call"
        );
    }

    #[tokio::test]
    async fn failed_reading_is_not_shared() {
        let turns = Turns::default();
        let failed = turns.own().await;
        let waiting = tokio::spawn({
            let turns = turns.clone();
            async move { turns.take().await.is_some() }
        });
        tokio::task::yield_now().await;
        turns.begun.fetch_add(1, SeqCst);
        drop(failed);
        assert!(waiting.await.unwrap());
    }
}
