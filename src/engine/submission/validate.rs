//! A submission and its validation against a template, before it enters a transaction. All
//! violations are returned together; a valid submission is ready to be stored.

use std::sync::Arc;

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use tasker_template::{
    Budget, EvaluationError, Misfit, Settings, TOO_COSTLY, TooCostly, Violation,
    json_text::{self, JsonError},
};
use uuid::Uuid;

use super::request::{Submission, Violated};
use crate::{
    domain::{
        progress::{Fate, Progress},
        task::{MAX_ANNOTATIONS_BYTES, MAX_CONTEXT_BYTES, MAX_KEY_BYTES, MAX_PRIORITY},
    },
    engine::{
        evaluate::conditions::Facts,
        plan::{compiled::Plan, task_plan::TaskPlan},
    },
    store::retirement::Retirement,
};

/// A valid submission, ready to be stored.
pub struct Prepared {
    pub submission: Arc<Submission>,
    pub plan: Arc<Plan>,
    /// The version is retired; the submission may be a repeat of an earlier one.
    pub retired: Option<Arc<Retirement>>,
    pub task_id: Uuid,
    pub context: String,
    pub annotations: String,
    pub correlation_id: String,
    /// The effect of the template's overrides.
    pub settings: Settings,
    pub priority: i16,
    pub digest: Vec<u8>,
    /// The task's initial progress, and the fates of its roots and of the children of skipped ones.
    pub progress: Progress,
    pub fates: Vec<(u16, Fate)>,
}

/// The reason for not preparing a submission.
#[derive(Debug, Default)]
pub struct Refusal {
    pub violated: Vec<Violated>,
    /// The evaluation exceeded its budget.
    pub over_budget: bool,
}

impl Refusal {
    fn of(violated: Vec<Violated>) -> Self {
        Self {
            violated,
            over_budget: false,
        }
    }

    fn too_costly(error: &TooCostly) -> Self {
        Self {
            violated: vec![too_costly(&error.to_string())],
            over_budget: true,
        }
    }
}

/// The violation of a context whose evaluation was given up.
pub fn too_costly(why: &str) -> Violated {
    Violated {
        field: "context_json".to_owned(),
        message: format!("{TOO_COSTLY}: {why}"),
    }
}

/// Validates a submission against its template and evaluates its overrides and root conditions,
/// within the budget.
#[expect(
    clippy::too_many_lines,
    reason = "all that is wrong with a submission is found in one pass"
)]
pub fn prepare_one(
    s: &Arc<Submission>,
    plan: Arc<Plan>,
    budget: &Budget,
) -> Result<Prepared, Refusal> {
    let mut violated = bounds(s);
    let sent = if s.context.is_empty() {
        "{}"
    } else {
        s.context.as_str()
    };
    let notes = if s.annotations.is_empty() {
        "{}"
    } else {
        s.annotations.as_str()
    };
    let context = object("context_json", sent, MAX_CONTEXT_BYTES);
    let annotations = object("annotations_json", notes, MAX_ANNOTATIONS_BYTES);
    let context = match context {
        Ok(context) => {
            let original = (!s.idempotency_key.is_empty()).then(|| context.clone());
            let nothing = Map::new();
            let own_id = correlation_id(s, &context, annotations.as_ref().unwrap_or(&nothing));
            fit(&plan, sent, context, budget).map(|fitted| (original, own_id, fitted))
        }
        Err(violated) => Err(Refusal::of(violated)),
    };
    if let Err(refusal) = &context {
        if refusal.over_budget {
            return Err(Refusal {
                violated: [violated, refusal.violated.clone()].concat(),
                over_budget: true,
            });
        }
        violated.extend(refusal.violated.iter().cloned());
    }
    violated.extend(annotations.as_ref().err().cloned().unwrap_or_default());
    let (Ok((original, own_id, (context, value))), Ok(annotations), true) =
        (context, annotations, violated.is_empty())
    else {
        return Err(Refusal::of(violated));
    };
    let correlation_id = own_id.map_err(Refusal::of)?;
    let settings = settings(&plan, &value, s, &correlation_id, budget)?;
    let mut notes = plan.template.annotations.clone();
    notes.extend(settings.annotations());
    notes.extend(annotations.clone());
    notes.insert(
        "correlation_id".to_owned(),
        Value::String(correlation_id.clone()),
    );
    let digest = original
        .map(|original| digest(s, original, annotations))
        .unwrap_or_default();
    let priority = settings
        .priority()
        .unwrap_or_else(|| i16::try_from(s.priority).unwrap_or_default());
    let own = TaskPlan {
        plan: &plan,
        settings,
    };
    let (progress, fates) = begin(
        &own,
        plan.task_value(&correlation_id, priority.into()),
        value,
        budget,
    );
    let settings = own.settings;
    Ok(Prepared {
        submission: Arc::clone(s),
        task_id: Uuid::now_v7(),
        context,
        annotations: Value::Object(notes).to_string(),
        correlation_id,
        priority,
        settings,
        digest,
        progress,
        fates,
        plan,
        retired: None,
    })
}

/// The initial progress of a task, with the fates of its roots.
fn begin(
    own: &TaskPlan<'_>,
    task: Value,
    context: Value,
    budget: &Budget,
) -> (Progress, Vec<(u16, Fate)>) {
    let nothing = |_| None;
    let mut facts = Facts::new(own.plan, task, None, &nothing, budget);
    facts.know_context(Arc::new(context));
    Progress::new(
        &own.plan.graph,
        own.plan.template.steps.len(),
        &mut |_, step| facts.fate(own, step),
    )
}

impl Prepared {
    /// Whether a condition exceeded the budget.
    pub fn is_over_budget(&self) -> bool {
        self.fates
            .iter()
            .any(|(_, fate)| matches!(fate, Fate::Fails(failure) if failure.code == TOO_COSTLY))
    }
}

/// Violations in fields other than the documents.
fn bounds(s: &Submission) -> Vec<Violated> {
    let mut violated = Vec::new();
    let mut wrong = |field: &str, message: String| {
        violated.push(Violated {
            field: field.to_owned(),
            message,
        });
    };
    if !(-MAX_PRIORITY..=MAX_PRIORITY).contains(&s.priority) {
        wrong(
            "priority",
            format!(
                "{} is out of bounds: expected -{MAX_PRIORITY} to {MAX_PRIORITY}",
                s.priority
            ),
        );
    }
    for (field, text) in [
        ("idempotency_key", &s.idempotency_key),
        ("correlation_id", &s.correlation_id),
    ] {
        if text.len() > MAX_KEY_BYTES || text.chars().any(char::is_control) {
            wrong(
                field,
                format!("expected at most {MAX_KEY_BYTES} bytes without control characters"),
            );
        }
    }
    violated
}

/// Evaluates the template's overrides for a context.
fn settings(
    plan: &Plan,
    context: &Value,
    s: &Submission,
    correlation_id: &str,
    budget: &Budget,
) -> Result<Settings, Refusal> {
    if plan.template.overrides.is_empty() {
        return Ok(Settings::default());
    }
    let wrong = |message: String| {
        vec![Violated {
            field: "context_json".to_owned(),
            message,
        }]
    };
    let task = plan.task_value(correlation_id, s.priority);
    Settings::of(&plan.template, context, &task, budget).map_err(|error| match error {
        EvaluationError::Failed(why) => Refusal::of(wrong(why)),
        EvaluationError::TooCostly(error) => Refusal::too_costly(&error),
    })
}

fn object(field: &str, text: &str, max: usize) -> Result<Map<String, Value>, Vec<Violated>> {
    let wrong = |message: String| {
        vec![Violated {
            field: field.to_owned(),
            message,
        }]
    };
    json_text::check_object(text, max).map_err(|error: JsonError| wrong(error.to_string()))?;
    match json_text::parse(text, max).map_err(|error| wrong(error.to_string()))? {
        Value::Object(object) => Ok(object),
        _ => Err(wrong("expected a JSON object".to_owned())),
    }
}

/// The context with the schema's defaults, as text and as a value. The text is the client's own if
/// no default was missing.
fn fit(
    plan: &Plan,
    sent: &str,
    context: Map<String, Value>,
    budget: &Budget,
) -> Result<(String, Value), Refusal> {
    let mut value = Value::Object(context);
    let Some(schema) = &plan.schema else {
        return Ok((sent.to_owned(), value));
    };
    let named = |v: Violation| Violated {
        field: format!("context_json{}", v.pointer),
        message: v.message,
    };
    let with_defaults = schema
        .apply(sent, &mut value, budget)
        .map_err(|misfit| match misfit {
            Misfit::Violations(all) => Refusal::of(all.into_iter().map(named).collect()),
            Misfit::TooCostly(error) => Refusal::too_costly(&error),
        })?;
    match with_defaults {
        None => Ok((sent.to_owned(), value)),
        Some(filled) if filled.len() <= MAX_CONTEXT_BYTES => Ok((filled, value)),
        Some(filled) => Err(Refusal::of(vec![Violated {
            field: "context_json".to_owned(),
            message: format!(
                "{} bytes with the schema's defaults: expected at most {MAX_CONTEXT_BYTES}",
                filled.len()
            ),
        }])),
    }
}

/// The correlation id: of the caller's field or annotations, else a usable one of the context, else
/// a new one. An id in the annotations must equal the other one.
fn correlation_id(
    s: &Submission,
    context: &Map<String, Value>,
    annotations: &Map<String, Value>,
) -> Result<String, Vec<Violated>> {
    let usable = |id: &&String| {
        !id.is_empty() && id.len() <= MAX_KEY_BYTES && !id.chars().any(char::is_control)
    };
    let of_context = match context.get("correlation_id") {
        Some(Value::String(id)) => Some(id).filter(usable),
        _ => None,
    };
    let first = Some(&s.correlation_id)
        .filter(|id| !id.is_empty())
        .or(of_context);
    let wrong = |message: String| {
        Err(vec![Violated {
            field: "annotations_json/correlation_id".to_owned(),
            message,
        }])
    };
    match (annotations.get("correlation_id"), first) {
        (None, Some(id)) => Ok(id.clone()),
        (None, None) => Ok(format!("task_{}", Uuid::new_v4().simple())),
        (Some(Value::String(noted)), Some(id)) if noted == id => Ok(id.clone()),
        (Some(Value::String(noted)), None) if usable(&noted) => Ok(noted.clone()),
        (Some(Value::String(_)), Some(id)) => {
            let place = if s.correlation_id.is_empty() {
                "the context"
            } else {
                "`correlation_id`"
            };
            wrong(format!(
                "{place} is `{id:.80}`: expected the same value, or only one of them"
            ))
        }
        _ => wrong(format!(
            "expected a string of 1 to {MAX_KEY_BYTES} bytes without control characters"
        )),
    }
}

/// A digest that is equal for equal submissions: neither the order of keys nor white space counts.
/// Nor does `not_before`: clients often compute it from their clock ("in two hours"), so it differs
/// in a repeat, and the first task keeps its own.
fn digest(s: &Submission, context: Map<String, Value>, annotations: Map<String, Value>) -> Vec<u8> {
    let (mut context, mut annotations) = (Value::Object(context), Value::Object(annotations));
    context.sort_all_objects();
    annotations.sort_all_objects();
    let version = s
        .version
        .as_ref()
        .map(ToString::to_string)
        .unwrap_or_default();
    let whole = serde_json::json!([
        s.namespace,
        s.task_name,
        version,
        context,
        s.priority,
        s.correlation_id,
        annotations
    ]);
    Sha256::digest(whole.to_string()).to_vec()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn correlation_id_in_annotations_is_used_and_must_not_contradict() {
        let id = |field: &str, context: Value, annotations: Value| {
            let submission = Submission {
                correlation_id: field.into(),
                ..Submission::default()
            };
            let map = |value: Value| value.as_object().cloned().unwrap();
            correlation_id(&submission, &map(context), &map(annotations))
                .map_err(|mut all| all.remove(0))
        };
        let noted = json!({"correlation_id": "noted"});
        for (field, context, annotations, expected) in [
            ("", json!({}), noted.clone(), "noted"),
            ("noted", json!({}), noted.clone(), "noted"),
            ("", noted.clone(), noted.clone(), "noted"),
            (
                "field",
                json!({"correlation_id": "context"}),
                json!({}),
                "field",
            ),
            (
                "",
                json!({"correlation_id": "context"}),
                json!({}),
                "context",
            ),
            ("", json!({"correlation_id": 5}), noted.clone(), "noted"),
        ] {
            assert_eq!(id(field, context, annotations), Ok(expected.to_owned()));
        }
        assert!(id("", json!({}), json!({})).unwrap().starts_with("task_"));
        let long = json!({"correlation_id": "x".repeat(MAX_KEY_BYTES + 1)});
        for (field, context, annotations, says) in [
            (
                "field",
                json!({}),
                noted.clone(),
                "`correlation_id` is `field`",
            ),
            (
                "",
                json!({"correlation_id": "context"}),
                noted,
                "the context is `context`",
            ),
            (
                "",
                json!({}),
                json!({"correlation_id": 5}),
                "expected a string of 1 to 255 bytes",
            ),
            (
                "",
                json!({}),
                json!({"correlation_id": ""}),
                "expected a string",
            ),
            ("", json!({}), long, "expected a string"),
        ] {
            let violated = id(field, context, annotations).unwrap_err();
            assert_eq!(violated.field, "annotations_json/correlation_id");
            assert!(violated.message.contains(says), "{}", violated.message);
        }
    }
}
