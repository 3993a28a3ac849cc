//! Files of the Rails engine, which load with warnings.

use super::*;

const STOCK_COUNT: &str = include_str!("../../../../../tests/fixtures/rails/stock_count.yaml");
const RETURNS: &str = include_str!("../../../../../tests/fixtures/rails/returns.yaml");

fn check(yaml: &str) -> (Template, Vec<String>) {
    let Checked {
        template,
        problems,
        warnings,
        ..
    } = Template::check(yaml, "");
    let template = template.unwrap_or_else(|| panic!("{problems:#?}"));
    (template, warnings.iter().map(ToString::to_string).collect())
}

fn assert_warned(warnings: &[String], expected: &[(&str, &str)]) {
    assert_eq!(warnings.len(), expected.len(), "{warnings:#?}");
    for (warning, (place, says)) in warnings.iter().zip(expected) {
        assert!(
            warning.starts_with(place) && warning.contains(says),
            "{warning}\nexpected {place} {says}"
        );
    }
}

#[test]
fn generated_rails_file_loads_with_warnings() {
    let (template, warnings) = check(STOCK_COUNT);
    assert_warned(
        &warnings,
        &[
            (
                "line 3, column 7: name:",
                "the name of the template is `warehouse.stock_count`",
            ),
            (
                "line 6, column 1: module_namespace:",
                "`namespace_name` sets the namespace of the template",
            ),
            (
                "line 7, column 1: task_handler_class:",
                "`planner`, `overrides` and `annotations`",
            ),
            (
                "line 9, column 1: concurrent:",
                "`depends_on_steps` orders them",
            ),
            (
                "line 12, column 1: named_steps:",
                "are those in `step_templates`",
            ),
            (
                "line 43, column 5: step_templates[1].skippable:",
                "its condition `when`",
            ),
            (
                "line 44, column 5: step_templates[1].custom_events:",
                "`step.completed`",
            ),
        ],
    );
    assert_eq!(
        (template.namespace.as_str(), template.task_name.as_str()),
        ("warehouse", "warehouse.stock_count")
    );
    let services: Vec<&str> = template
        .steps
        .iter()
        .map(|step| step.service.as_str())
        .collect();
    assert_eq!(services, ["warehouse_system", "scanner", "ledger"]);
}

#[test]
fn rails_file_causes_a_warning_for_each_unused_key() {
    let (template, warnings) = check(RETURNS);
    assert_warned(
        &warnings,
        &[
            (
                "line 5, column 1: task_handler_class:",
                "names a Ruby class",
            ),
            (
                "line 21, column 5: step_templates[1].dependent_system:",
                "sets the service `payments`",
            ),
            (
                "line 25, column 1: custom_events:",
                "publishes no events of its own",
            ),
            (
                "line 29, column 1: handler_config:",
                "the `handler_config` of its own step",
            ),
        ],
    );
    let services: Vec<&str> = template
        .steps
        .iter()
        .map(|step| step.service.as_str())
        .collect();
    assert_eq!(services, ["returns_desk", "payments"]);
}

#[test]
fn template_without_rails_keys_has_no_warnings() {
    for yaml in [REGISTRATION, LINEAR, DIAMOND] {
        assert_eq!(check(yaml).1, Vec::<String>::new());
    }
}

#[test]
fn service_name_comes_from_the_nearest_key() {
    let step = "name: t\ndefault_dependent_system: d\nplanner: p\nstep_templates:\n- {name: a, handler: h}\n";
    let (template, warnings) = check(&format!(
        "{step}- {{name: b, handler: h, dependent_system: s}}\n"
    ));
    let services: Vec<&str> = template
        .steps
        .iter()
        .map(|step| step.service.as_str())
        .collect();
    assert_eq!((services, warnings), (vec!["d", "d", "s"], Vec::new()));
    for (yaml, path) in [
        (
            "name: t\ndefault_dependent_system: a/b\nstep_templates: [{name: a, handler: h}]\n",
            "default_dependent_system",
        ),
        (
            "name: t\nstep_templates: [{name: a, handler: h, dependent_system: 5}]\n",
            "step_templates[0].dependent_system",
        ),
    ] {
        let problems = Template::parse(yaml, "").expect_err(yaml);
        assert_eq!(
            (problems.len(), problems[0].path.as_str()),
            (1, path),
            "{problems:?}"
        );
    }
}

#[test]
fn warnings_do_not_hide_problems_and_name_their_environment() {
    let yaml = "name: t\nconcurrent: false\nstep_templates: [{name: a, handler: h}]\nenvironments: {test: {step_templates: [{name: a, skippable: true}]}}\nzork: 1\n";
    let checked = Template::check(yaml, "");
    assert_eq!(
        (
            checked.problems.len(),
            checked.problems_total,
            checked.template
        ),
        (1, 1, None)
    );
    let warnings: Vec<String> = checked.warnings.iter().map(ToString::to_string).collect();
    assert_warned(
        &warnings,
        &[
            ("line 2, column 1: concurrent:", "in parallel"),
            ("line 4, column 50:", "(in the environment `test`)"),
        ],
    );
}

#[test]
fn slash_in_a_name_is_accepted_only_in_a_rails_file() {
    let with = |more: &str| {
        format!("name: shop/checkout\n{more}step_templates: [{{name: a, handler: h}}]\n")
    };
    for more in ["module_namespace: Shop\n", "task_handler_class: Checkout\n"] {
        assert_eq!(check(&with(more)).0.task_name, "shop.checkout");
    }
    let problems = Template::parse(&with(""), "").expect_err("a slash");
    assert!(
        problems[0]
            .to_string()
            .starts_with("line 1, column 7: name: the name must not contain `/`"),
        "{problems:?}"
    );
    let stored =
        Template::parse_stored(&with("namespace: 'a b@c'\n"), "").expect("it was stored before");
    assert_eq!(
        (stored.namespace.as_str(), stored.task_name.as_str()),
        ("a b@c", "shop/checkout")
    );
}
