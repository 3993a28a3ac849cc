//! Support for template files of the Rails engine, which load unchanged: a key that names a Ruby
//! class or repeats other keys causes a warning that names its replacement.

use crate::yaml::fields::{Field, Fields};
use crate::yaml::problem::Problems;
use crate::{name, text::shorten};

const NAMES_A_CLASS: &str = "the key is not used: it names a Ruby class, and a task here consists of its steps; `planner`, `overrides` and `annotations` express the decisions of such a class";
const NAMES_EVENTS: &str = "the key is not used: a worker publishes no events of its own; subscribe to the events of the step, such as `step.completed`, and put their data into its result";

/// Keys of a template that are not used, with their replacements.
pub(super) const OF_TEMPLATE: [(&str, &str); 7] = [
    (HANDLER_CLASS, NAMES_A_CLASS),
    ("class_name", NAMES_A_CLASS),
    (
        MODULE,
        "the key is not used: it names a Ruby module; `namespace_name` sets the namespace of the template",
    ),
    (
        "named_steps",
        "the key is not used: the names of the steps are those in `step_templates`",
    ),
    ("custom_events", NAMES_EVENTS),
    (
        "handler_config",
        "the key is not used here: a handler gets the `handler_config` of its own step; expected it there, or in `annotations`",
    ),
    (
        "concurrent",
        "the key is not used: steps whose parents are done run in parallel; `depends_on_steps` orders them",
    ),
];

/// Keys of a step that are not used, with their replacements.
pub(super) const OF_STEP: [(&str, &str); 2] = [
    ("custom_events", NAMES_EVENTS),
    (
        "skippable",
        "the key is not used: a step runs if its condition `when` is true, and is skipped otherwise",
    ),
];

const HANDLER_CLASS: &str = "task_handler_class";
const MODULE: &str = "module_namespace";

/// Adds a warning for each of these keys that is present.
pub(super) fn warn(fields: &Fields<'_>, keys: &[(&str, &str)], problems: &mut Problems) {
    for (key, instead) in keys {
        if let Some(field) = fields.get(key) {
            problems.warn(field.key_pos, field.path, *instead);
        }
    }
}

/// Adds a warning if a step's `dependent_system` is not its service, because another key takes
/// precedence.
pub(super) fn warn_of_other_service(field: &Field<'_>, service: &str, problems: &mut Problems) {
    let own = field.reference(&mut Problems::default());
    if own.is_some_and(|own| own != service) {
        let message = format!(
            "the key is not used: `handler_config.service` sets the service `{}`",
            shorten(service)
        );
        problems.warn(field.key_pos, field.path.as_str(), message);
    }
}

/// The name of the template. A name of the Rails engine begins with its module and a slash, which
/// the grammar of names does not allow; a dot replaces the slash.
pub(super) fn task_name(
    template: &Fields<'_>,
    field: &Field<'_>,
    problems: &mut Problems,
) -> Option<String> {
    let of_rails = template
        .get(HANDLER_CLASS)
        .or_else(|| template.get(MODULE))
        .is_some();
    if let Some(text) = field
        .text(&mut Problems::default())
        .filter(|text| of_rails && text.contains('/'))
    {
        let name = text.replace('/', ".");
        // Otherwise the check below reports the name as its author wrote it.
        if name::check(&name).is_ok() {
            let message = format!(
                "a name has no `/` here: the name of the template is `{}`",
                shorten(&name)
            );
            problems.warn(field.node.pos, field.path.as_str(), message);
            return Some(name);
        }
    }
    field.name(problems).map(str::to_owned)
}
