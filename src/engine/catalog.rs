//! The registered templates in memory. A template never changes, so a copy is never wrong; it can only be incomplete,
//! and whoever misses one refreshes. Which of them take no new tasks is read beside them, by the number of the last change.

mod shelf;

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
    time::SystemTime,
};

use semver::Version;

use self::shelf::Shelf;
use super::{
    metrics::{Metrics, PlanCounts},
    sizes,
};
use crate::engine::hash::{HashMap, HashSet};
use crate::{
    domain::{
        schema::ContextSchema,
        template::{Checked, Graph, Problem, StepTemplate, Template},
    },
    store::{
        Db, StoreError,
        db::READ_LIMIT,
        retirement::Retirement,
        template::{self, LaneRow, NewStep, NewTemplate, Newest, Registration, TemplateRow},
    },
};

/// A template with all that the engine derives from it.
pub struct Plan {
    pub template_id: i32,
    pub template: Template,
    pub graph: Graph,
    pub schema: Option<ContextSchema>,
    /// Of each step's result.
    pub result_schemas: Vec<Option<ContextSchema>>,
    /// Whether any step has a condition.
    pub conditional: bool,
    /// The lane of each step.
    pub lanes: Vec<i32>,
    /// JSON text of each step's `handler_config`.
    pub handler_configs: Vec<String>,
    /// The ancestors whose results each step gets, where those are not all.
    inputs: Vec<Option<Vec<u16>>>,
    /// What an assignment of each step weighs without the documents of its task.
    fixed: Vec<i32>,
    pub yaml: String,
    /// The environment in which it was registered.
    pub environment: String,
    pub registered_at: SystemTime,
    pub counts: PlanCounts,
}

impl Plan {
    /// The step at a position that came out of the database.
    pub fn step(&self, step: i16) -> Option<&StepTemplate> {
        self.template.steps.get(usize::try_from(step).ok()?)
    }

    /// The ancestors whose results a step gets, in ascending order.
    pub fn inputs(&self, step: usize) -> &[u16] {
        match self.inputs.get(step) {
            Some(Some(named)) => named,
            Some(None) => self.graph.ancestors(step),
            None => &[],
        }
    }

    /// The same for a position that came out of the database.
    pub fn inputs_of(&self, step: i16) -> &[u16] {
        usize::try_from(step).map_or(&[], |step| self.inputs(step))
    }

    /// What an assignment of a step weighs without the documents of its task.
    pub fn fixed(&self, step: i16) -> i32 {
        usize::try_from(step)
            .ok()
            .and_then(|step| self.fixed.get(step).copied())
            .unwrap_or_default()
    }

    /// The lane of a step of this template; 0, which no lane has, for a position that does not exist.
    pub fn lane(&self, step: u16) -> i32 {
        self.lanes
            .get(usize::from(step))
            .copied()
            .unwrap_or_default()
    }
}

/// What became of a registration.
pub enum Registered {
    Created(Arc<Plan>),
    /// The same content was there.
    Unchanged(Arc<Plan>),
    /// The same content was there, retired, and takes tasks again.
    Restored(Arc<Plan>),
    /// The version is taken by other content.
    Taken(Arc<Plan>),
}

/// Why a template was not registered.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    #[error("the template has {} problem(s)", .0.problems_total)]
    Invalid(Box<Checked>),
    #[error("the template has {} warning(s), which the request denies", .0.len())]
    Warned(Vec<Problem>),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a template's name stands for.
pub struct Resolved {
    pub plan: Arc<Plan>,
    /// It takes no new tasks.
    pub retired: Option<Arc<Retirement>>,
}

#[derive(Default)]
struct Known {
    newest: Newest,
    plans: HashMap<i32, Arc<Plan>>,
    retired: HashMap<i32, Arc<Retirement>>,
    versions: BTreeMap<(String, String), BTreeMap<Version, i32>>,
    newest_lane: i32,
    /// The newest lane that the workers' slots have been set up with.
    lanes_told: i32,
    lanes: Arc<Vec<LaneRow>>,
}

/// All templates of the cell that this server has heard of.
pub struct Catalog {
    /// Of this server: what it registers is read in it by all.
    environment: String,
    shelf: Arc<Shelf>,
    /// One refresh at a time; a second caller finds the first one's work done.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Catalog {
    /// Empty; call [`Catalog::refresh`].
    pub fn new(db: Db, metrics: Arc<Metrics>, environment: String) -> Self {
        Self {
            environment,
            shelf: Arc::new(Shelf::new(db, metrics)),
            turn: Arc::default(),
        }
    }

    /// Reads what was registered since the last time. Where that takes longer than a call may wait, it goes on without its caller.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let late = |_| StoreError::Connection("the templates could not be read in time".into());
        let read = async {
            // The wait for a turn counts too: behind a database that says nothing there would be a queue.
            let turn = Arc::clone(&self.turn).lock_owned().await;
            let ended =
                |error| StoreError::Connection(format!("the templates were not read: {error}"));
            tokio::spawn(Arc::clone(&self.shelf).read(turn))
                .await
                .map_err(ended)?
        };
        tokio::time::timeout(READ_LIMIT, read).await.map_err(late)?
    }

    /// Reads all templates as a server starts, however long that takes; each page has its own time.
    pub async fn load(&self) -> Result<(), StoreError> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        Arc::clone(&self.shelf).read(turn).await
    }

    /// Reads which lanes there are, as some may be gone.
    pub async fn forget_lanes(&self) -> Result<(), StoreError> {
        let _turn = self.turn.lock().await;
        self.shelf.read_lanes_anew().await
    }

    /// Whether there are lanes that no caller of this function has heard of yet.
    pub fn take_new_lanes(&self) -> bool {
        let mut known = self
            .shelf
            .known
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let told = known.lanes_told;
        known.lanes_told = known.newest_lane;
        told != known.newest_lane
    }

    /// The environment of this server; empty for none.
    pub fn environment(&self) -> &str {
        &self.environment
    }

    /// The newest template, and change of one, known here.
    pub fn newest(&self) -> Newest {
        self.with(|k| k.newest)
    }

    /// All lanes known here.
    pub fn lanes(&self) -> Arc<Vec<LaneRow>> {
        self.with(|k| Arc::clone(&k.lanes))
    }

    /// The plan of a template that is registered for certain.
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

    /// The plans of these templates, but for those that this build cannot read: their steps wait for another server, and
    /// no other step has to wait with them.
    pub async fn readable(
        &self,
        ids: impl IntoIterator<Item = i32>,
    ) -> Result<HashMap<i32, Arc<Plan>>, StoreError> {
        let mut plans = HashMap::default();
        for id in ids.into_iter().collect::<HashSet<_>>() {
            match self.plan(id).await {
                Ok(plan) => drop(plans.insert(id, plan)),
                Err(StoreError::Corrupt(why)) => {
                    tracing::debug!(why, "a waiting step is left to other servers");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(plans)
    }

    /// A version of a template, or its newest one that is not retired, as far as known here; the newest of all where all are.
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

    /// Since when a template takes no new tasks, as far as known here; `None` where it does.
    pub fn retirement(&self, template_id: i32) -> Option<Arc<Retirement>> {
        self.with(|k| k.retired.get(&template_id).cloned())
    }

    /// Every template that a filter names, by namespace, name, and version from new to old. Empty strings match all.
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

    /// Reads a template in this server's environment, away from the threads that everybody's calls run on: a hostile one takes a
    /// good part of a second.
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

    /// Checks and stores a template, and returns its warnings too; with `deny_warnings` one that has any is not stored. `wake` goes to
    /// the other servers.
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
        let registration = template::register(&self.shelf.db, new, wake).await?;
        self.refresh().await?;
        match registration {
            Registration::Created(row) => {
                Ok(Registered::Created(self.plan(row.template_id).await?))
            }
            Registration::Existing(row) => {
                let plan = self.plan(row.template_id).await?;
                // The text may differ in comments and order of keys: what counts is what it means.
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

    pub(super) fn db(&self) -> &Db {
        &self.shelf.db
    }

    fn with<T>(&self, read: impl FnOnce(&Known) -> T) -> T {
        self.shelf.with(read)
    }
}

/// `None` for a row that this build cannot read: its tasks cannot run here, the others can.
fn plan(row: TemplateRow, metrics: &Metrics) -> Option<Plan> {
    let template = match Template::parse_stored(&row.yaml, &row.environment) {
        Ok(template) => template,
        Err(problems) => {
            let first = problems
                .first()
                .map(ToString::to_string)
                .unwrap_or_default();
            tracing::error!(
                row.template_id,
                row.namespace,
                row.task_name,
                row.version,
                problem = first,
                "a registered template cannot be read by this build"
            );
            return None;
        }
    };
    let schema = template
        .schema
        .as_ref()
        .and_then(|schema| ContextSchema::compile(schema).ok());
    let handler_configs = template
        .steps
        .iter()
        .map(|s| serde_json::Value::Object(s.handler_config.clone()).to_string())
        .collect();
    let compiled = |step: &StepTemplate| {
        step.result_schema
            .as_ref()
            .and_then(|s| ContextSchema::compile_result(s).ok())
    };
    let inputs = |step: &StepTemplate| {
        step.inputs
            .as_ref()
            .map(|all| all.iter().map(|i| *i as u16).collect())
    };
    let mut plan = Plan {
        inputs: template.steps.iter().map(inputs).collect(),
        fixed: Vec::new(),
        result_schemas: template.steps.iter().map(compiled).collect(),
        conditional: template.steps.iter().any(|step| step.condition.is_some()),
        template_id: row.template_id,
        graph: Graph::of(&template),
        counts: metrics.of(&template),
        schema,
        lanes: row.lanes,
        handler_configs,
        yaml: row.yaml,
        environment: row.environment,
        registered_at: row.registered_at,
        template,
    };
    plan.fixed = sizes::fixed(&plan);
    Some(plan)
}

/// A plan as after its registration, with lane `n + 1` for the `n`th step.
#[cfg(test)]
pub fn plan_for_tests(template_id: i32, yaml: &str) -> Arc<Plan> {
    let steps = i32::try_from(Template::parse(yaml, "").unwrap().steps.len()).unwrap();
    let row = TemplateRow {
        template_id,
        namespace: String::new(),
        task_name: String::new(),
        version: String::new(),
        yaml: yaml.to_owned(),
        environment: String::new(),
        registered_at: SystemTime::UNIX_EPOCH,
        lanes: (1..=steps).collect(),
    };
    Arc::new(plan(row, &Metrics::default()).unwrap())
}
