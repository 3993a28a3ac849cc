//! Planners, deadlines, result schemas and environments.

use super::*;

fn problems(yaml: &str) -> Vec<String> {
    Template::parse(yaml).expect_err(yaml).iter().map(ToString::to_string).collect()
}

fn handler(template: &Template, step: usize) -> &str {
    &template.steps[step].handler
}

const CHAIN: &str = "
task_name: t
timeout_seconds: 90
step_templates:
- {name: a, handler_class: h, handler_config: {service: s, deep: {x: 1, y: [1, 2]}}}
- {name: b, handler_class: h, depends_on_steps: [a], result_schema: {type: integer}}
";

#[test]
fn a_planner_is_the_first_step_and_all_others_come_after_it() {
    for planner in ["plan.it", "{handler: plan.it, default_retry_limit: 7, handler_config: {timeout_seconds: 2}}"] {
        let template = parse(&format!("{CHAIN}planner: {planner}\n"));
        assert!(template.planner);
        let names: Vec<&str> = template.steps.iter().map(|step| step.name.as_str()).collect();
        assert_eq!(names, [PLANNER_STEP, "a", "b"]);
        assert_eq!((handler(&template, 0), &template.steps[0].service[..]), ("plan.it", "plan.it"));
        let parents: Vec<&[usize]> = template.steps.iter().map(|step| &step.depends_on[..]).collect();
        assert_eq!(parents, [&[][..], &[0], &[1]]);
        assert_eq!(template.steps[0].retry_limit, if planner.starts_with('{') { 7 } else { 3 });
    }
    assert!(!parse(CHAIN).planner);
}

#[test]
fn a_planner_that_is_none_is_refused_where_it_stands() {
    for (more, expected) in [
        ("planner: 7\n", "line 8, column 10: planner: expected a string (in quotes), found the number 7"),
        ("planner: {name: x, handler: h}\n", "line 8, column 11: planner.name: unknown key `name`"),
        ("planner: {}\n", "line 8, column 10: planner: the key `handler_class` is missing"),
    ] {
        let found = problems(&format!("{CHAIN}{more}").replace("\n\n", "\n"));
        assert!(
            found.iter().any(|problem| problem.contains(&expected[expected.find("planner").unwrap()..])),
            "{found:?}"
        );
    }
    let taken =
        problems(&format!("{CHAIN}planner: h\n").replace("name: a", "name: planner").replace("[a]", "[planner]"));
    assert_eq!(taken.len(), 1);
    assert!(taken[0].ends_with("the planner is the step of this name; expected another one"), "{taken:?}");
}

#[test]
fn a_task_has_a_deadline_within_the_bounds_of_a_step() {
    assert_eq!(parse(CHAIN).timeout, Some(Duration::from_secs(90)));
    assert_eq!(parse(&one_step("")).timeout, None);
    for seconds in ["0.001", "604800"] {
        parse(&CHAIN.replace("90", seconds));
    }
    for seconds in ["0", "604800.5", "-1", "x"] {
        let found = problems(&CHAIN.replace("90", seconds));
        assert!(found[0].contains("timeout_seconds: expected a number of seconds from 0.001 to 604800"), "{found:?}");
    }
}

#[test]
fn a_result_schema_is_a_schema() {
    assert_eq!(parse(CHAIN).steps[1].result_schema, Some(json!({"type": "integer"})));
    let found = problems(&CHAIN.replace("{type: integer}", "{type: intger}"));
    assert!(found[0].contains("step_templates[1].result_schema.type"), "{found:?}");
}

const ENVIRONMENTS: &str = "
environments:
  production:
    timeout_seconds: 5
    annotations: {team: a}
    step_templates:
    - {name: a, default_retry_limit: 9, handler_config: {deep: {y: [3], z: true}}}
  development:
    step_templates:
    - {name: b, handler_class: fake}
";

#[test]
fn an_environment_is_laid_over_the_whole_step_by_step() {
    let yaml = format!("{CHAIN}{ENVIRONMENTS}");
    let here = |environment| Template::parse_in(&yaml, environment).expect("valid");
    let production = here("production");
    let a = &production.steps[0];
    assert_eq!(Value::Object(a.handler_config.clone()), json!({"service": "s", "deep": {"x": 1, "y": [3], "z": true}}));
    assert_eq!((a.retry_limit, production.timeout), (9, Some(Duration::from_secs(5))));
    assert_eq!(Value::Object(production.annotations.clone()), json!({"team": "a"}));
    assert_eq!(handler(&here("development"), 1), "fake");
    for none in ["", "staging"] {
        assert_eq!(here(none), parse(CHAIN), "the file says nothing about it");
    }
}

#[test]
fn what_is_wrong_in_any_environment_is_wrong() {
    let wrong = |from: &str, to: &str| problems(&format!("{CHAIN}{ENVIRONMENTS}").replace(from, to));
    for (from, to, expected) in [
        ("default_retry_limit: 9", "default_retry_limit: 0", "expected a whole number from 1 to 100"),
        ("name: b, handler_class: fake", "name: c, handler_class: fake", "the template has no step `c`"),
        ("name: b, handler_class: fake", "handler_class: fake", "expected a step with the `name`"),
        ("timeout_seconds: 5", "task_name: x", "unknown key `task_name`"),
        ("handler_class: fake", "depends_on_steps: [b]", "the step waits for itself"),
    ] {
        let found = wrong(from, to);
        assert!(found.len() == 1 && found[0].contains(expected), "{expected}: {found:?}");
    }
    let found = wrong("handler_class: fake", "handler_class: 7");
    assert!(found[0].starts_with("line 16, column"), "where it was written: {found:?}");
}

#[test]
fn environments_are_bounded() {
    let many = |n: usize| (0..n).fold(format!("{CHAIN}environments:\n"), |yaml, i| format!("{yaml}  e{i}: {{}}\n"));
    parse(&many(MAX_ENVIRONMENTS));
    let found = problems(&many(MAX_ENVIRONMENTS + 1));
    assert!(found[0].contains("has 21 environments, but at most 20 are allowed"), "{found:?}");
}
