//! The registered templates in memory. A template never changes, so a copy is never wrong, only
//! possibly missing; a caller that misses one refreshes. Retirements are read separately, by the
//! number of the last change.

mod shelf;

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
    time::SystemTime,
};

use semver::Version;

use tasker_template::{Checked, ContextSchema, Graph, Problem, StepTemplate, Template};

use self::shelf::Shelf;
use super::{
    metrics::{Metrics, PlanCounts},
    sizes,
};
use crate::engine::hash::{HashMap, HashSet};
use crate::store::{
    Db, StoreError,
    db::READ_LIMIT,
    retirement::Retirement,
    template::{self, LaneRow, NewStep, NewTemplate, Newest, Registration, TemplateRow},
};

/// A compiled template, with everything the engine derives from it.
pub struct Plan {
    pub template_id: i32,
    pub template: Template,
    pub graph: Graph,
    pub schema: Option<ContextSchema>,
    /// The schema of each step's result.
    pub result_schemas: Vec<Option<ContextSchema>>,
    /// Whether any step has a condition.
    pub conditional: bool,
    /// The lane of each step.
    pub lanes: Vec<i32>,
    /// JSON text of each step's `handler_config`.
    pub handler_configs: Vec<String>,
    /// The ancestors whose results each step receives, if not all.
    inputs: Vec<Option<Vec<u16>>>,
    /// The size of each step's assignment without the documents of its task, in bytes.
    fixed: Vec<i32>,
    pub yaml: String,
    /// The environment in which it was registered.
    pub environment: String,
    pub registered_at: SystemTime,
    pub counts: PlanCounts,
}

impl Plan {
    /// The step at a position read from the database.
    pub fn step(&self, step: i16) -> Option<&StepTemplate> {
        self.template.steps.get(usize::try_from(step).ok()?)
    }

    /// The ancestors whose results a step receives, in ascending order.
    pub fn inputs(&self, step: usize) -> &[u16] {
        match self.inputs.get(step) {
            Some(Some(named)) => named,
            Some(None) => self.graph.ancestors(step),
            None => &[],
        }
    }

    /// The same for a position read from the database.
    pub fn inputs_of(&self, step: i16) -> &[u16] {
        usize::try_from(step).map_or(&[], |step| self.inputs(step))
    }

    /// The size of a step's assignment without the documents of its task, in bytes.
    pub fn fixed(&self, step: i16) -> i32 {
        usize::try_from(step)
            .ok()
            .and_then(|step| self.fixed.get(step).copied())
            .unwrap_or_default()
    }

    /// The lane of a step of this template; 0, which is no lane, for a position that does not
    /// exist.
    pub fn lane(&self, step: u16) -> i32 {
        self.lanes
            .get(usize::from(step))
            .copied()
            .unwrap_or_default()
    }
}

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

/// The templates of the cell that this server has read.
pub struct Catalog {
    /// The environment of this server, in which all servers read the templates that it registers.
    environment: String,
    shelf: Arc<Shelf>,
    /// Serialises refreshes. A second caller waits, and then finds nothing new.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Catalog {
    /// Creates an empty catalog; call [`Catalog::load`] or [`Catalog::refresh`] next.
    pub fn new(db: Db, metrics: Arc<Metrics>, environment: String) -> Self {
        Self {
            environment,
            shelf: Arc::new(Shelf::new(db, metrics)),
            turn: Arc::default(),
        }
    }

    /// Reads the templates registered since the last time. After `READ_LIMIT` the caller gets an
    /// error, while the reading continues.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let late = |_| StoreError::Connection("the templates cannot be read in time".into());
        let read = async {
            // The limit includes the wait for the lock: otherwise callers would queue behind a
            // database that does not answer.
            let turn = Arc::clone(&self.turn).lock_owned().await;
            let ended =
                |error| StoreError::Connection(format!("the templates cannot be read: {error}"));
            tokio::spawn(Arc::clone(&self.shelf).read(turn))
                .await
                .map_err(ended)?
        };
        tokio::time::timeout(READ_LIMIT, read).await.map_err(late)?
    }

    /// Reads all templates at a start, without a limit in all; each page has its own.
    pub async fn load(&self) -> Result<(), StoreError> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        Arc::clone(&self.shelf).read(turn).await
    }

    /// Reads all lanes again, as some may have been removed.
    pub async fn forget_lanes(&self) -> Result<(), StoreError> {
        let _turn = self.turn.lock().await;
        self.shelf.read_lanes_anew().await
    }

    /// Whether there are lanes that no call of this function has reported yet.
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
        let registration = template::register(&self.shelf.db, new, wake).await?;
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

    pub(super) fn db(&self) -> &Db {
        &self.shelf.db
    }

    fn with<T>(&self, read: impl FnOnce(&Known) -> T) -> T {
        self.shelf.with(read)
    }
}

/// Compiles a row; `None` if this build cannot read it, so its tasks cannot run here.
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
                "a registered template cannot be read by this version"
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
