//! Each bound at its edge: the largest value that fits, and the smallest that does not.

use std::time::Instant;

use super::*;

/// The message of the only problem.
fn problem(yaml: &str) -> String {
    let problems = Template::parse(yaml, "").expect_err("refused");
    assert_eq!(problems.len(), 1, "{problems:#?}");
    problems[0].to_string()
}

fn assert_refused(yaml: &str, message: &str) {
    let problem = problem(yaml);
    assert!(problem.contains(message), "{problem}");
}

#[test]
fn template_over_the_size_is_refused() {
    let text = one_step("");
    let fill = |bytes: usize| format!("{text}#{}", "x".repeat(bytes - text.len() - 1));
    parse(&fill(MAX_TEMPLATE_BYTES));
    assert_refused(
        &fill(MAX_TEMPLATE_BYTES + 1),
        "the file has 262145 bytes, but a template has at most 262144",
    );
}

#[test]
fn template_over_the_number_of_steps_is_refused() {
    let steps = |count: usize| {
        let steps: String = (0..count)
            .map(|step| format!("- {{name: s{step}, handler: h}}\n"))
            .collect();
        format!("name: t\nstep_templates:\n{steps}")
    };
    assert_eq!(parse(&steps(MAX_STEPS_PER_TEMPLATE)).steps.len(), 1_000);
    assert_refused(
        &steps(MAX_STEPS_PER_TEMPLATE + 1),
        "the template has 1001 steps, but at most 1000 are allowed",
    );
    assert_refused(
        "name: t\nstep_templates: []\n",
        "expected at least one step",
    );
}

#[test]
fn name_over_the_length_is_refused() {
    let word = "é".repeat(127);
    for (template, path) in [
        (
            "task_name: NAME\nstep_templates: [{name: a, handler: h}]\n",
            "task_name",
        ),
        (
            "name: t\nnamespace: NAME\nstep_templates: [{name: a, handler: h}]\n",
            "namespace",
        ),
        (
            "name: t\nstep_templates: [{name: NAME, handler: h}]\n",
            "step_templates[0].name",
        ),
        (
            "name: t\nstep_templates: [{name: a, handler: NAME}]\n",
            "step_templates[0].handler",
        ),
        (
            "name: t\nstep_templates: [{name: a, handler: h, handler_config: {service: NAME}}]\n",
            "step_templates[0].handler_config.service",
        ),
    ] {
        parse(&template.replace("NAME", &format!("{word}x")));
        let longer = template.replace("NAME", &format!("{word}xy"));
        assert_refused(
            &longer,
            &format!("{path}: the name has 256 bytes, but at most 255 are allowed"),
        );
    }
    let version = |bytes: usize| {
        format!(
            "name: t\nversion: 1.0.0-{}\nstep_templates: [{{name: a, handler: h}}]\n",
            "x".repeat(bytes - 6)
        )
    };
    parse(&version(255));
    assert_refused(&version(256), "the version has 256 bytes");
}

#[test]
fn retry_limit_out_of_bounds_is_refused() {
    for limit in [1, 100] {
        assert_eq!(
            parse(&one_step(&format!("  default_retry_limit: {limit}\n"))).steps[0].retry_limit,
            limit
        );
    }
    for limit in ["0", "101", "-1", "1.5", "3.0", "1e1", "\"3\"", "4294967297"] {
        assert_refused(
            &one_step(&format!("  default_retry_limit: {limit}\n")),
            "expected a whole number from 1 to 100, found",
        );
    }
    assert_refused(
        &one_step("  default_retryable: false\n  default_retry_limit: 0\n"),
        "expected a whole number from 1 to 100",
    );
}

#[test]
fn timeout_out_of_bounds_is_refused() {
    for (seconds, expected) in [
        ("0.001", MIN_TIMEOUT),
        ("604800", MAX_TIMEOUT),
        ("1e1", Duration::from_secs(10)),
    ] {
        let step = parse(&one_step(&format!(
            "  handler_config: {{timeout_seconds: {seconds}}}\n"
        )))
        .steps
        .remove(0);
        assert_eq!(step.timeout, expected);
    }
    for seconds in ["0", "0.0009", "-1", "604800.001", "1e400", "\"30\"", "[]"] {
        let yaml = one_step(&format!(
            "  handler_config: {{timeout_seconds: {seconds}}}\n"
        ));
        assert_refused(
            &yaml,
            "timeout_seconds: expected a number of seconds from 0.001 to 604800, found",
        );
    }
}

#[test]
fn backoff_out_of_bounds_is_refused() {
    let with = |fields: &str| one_step(&format!("  backoff: {{{fields}}}\n"));
    for fields in [
        "base_seconds: 3600, max_seconds: 86400",
        "base_seconds: 0.001",
        "base_seconds: 300",
        "multiplier: 1",
        "multiplier: 10",
        "max_seconds: 86400",
        "max_seconds: 1",
        "jitter: 0",
        "jitter: 1.0",
    ] {
        parse(&with(fields));
    }
    for (fields, message) in [
        (
            "base_seconds: 0",
            "backoff.base_seconds: expected a number more than 0 and at most 3600, found the number 0",
        ),
        ("base_seconds: -1", "more than 0 and at most 3600"),
        (
            "base_seconds: 3600.5, max_seconds: 86400",
            "more than 0 and at most 3600",
        ),
        (
            "multiplier: 0.99",
            "backoff.multiplier: expected a number from 1 to 10",
        ),
        ("multiplier: 10.01", "from 1 to 10"),
        (
            "max_seconds: 86401",
            "backoff.max_seconds: expected a number more than 0 and at most 86400",
        ),
        (
            "max_seconds: 0.9",
            "expected `max_seconds` (0.9) to be at least `base_seconds` (1)",
        ),
        (
            "base_seconds: 301",
            "backoff.base_seconds: expected `max_seconds` (300, the default) to be at least `base_seconds` (301)",
        ),
        (
            "jitter: -0.1",
            "backoff.jitter: expected a number from 0 to 1",
        ),
        ("jitter: 1.1", "from 0 to 1"),
        ("jitter: high", "found the string \"high\""),
    ] {
        assert_refused(&with(fields), message);
    }
}

#[test]
fn free_content_over_the_size_is_refused() {
    // As JSON `{"k":"..."}` is 8 bytes longer than its string.
    let config = |bytes: usize| {
        one_step(&format!(
            "  handler_config: {{k: {}}}\n",
            "x".repeat(bytes - 8)
        ))
    };
    parse(&config(MAX_HANDLER_CONFIG_BYTES));
    assert_refused(
        &config(MAX_HANDLER_CONFIG_BYTES + 1),
        "the mapping has 65537 bytes as JSON, but at most 65536 are allowed",
    );
    let notes = |bytes: usize| {
        one_step(&format!(
            "  annotations: {{k: {}}}\n",
            "x".repeat(bytes - 8)
        ))
    };
    parse(&notes(MAX_ANNOTATIONS_BYTES));
    assert_refused(
        &notes(MAX_ANNOTATIONS_BYTES + 1),
        "the mapping has 16385 bytes as JSON, but at most 16384 are allowed",
    );
    let top = |bytes: usize| one_step(&format!("annotations: {{k: {}}}\n", "x".repeat(bytes - 8)));
    parse(&top(MAX_ANNOTATIONS_BYTES));
    assert_refused(
        &top(MAX_ANNOTATIONS_BYTES + 1),
        "annotations: the mapping has 16385 bytes",
    );
}

#[test]
fn template_over_the_depth_is_refused() {
    // The document, the list, the step and `handler_config` are four levels.
    let flow = |depth: usize| {
        one_step(&format!(
            "  handler_config: {{k: {}{}}}\n",
            "[".repeat(depth - 4),
            "]".repeat(depth - 4)
        ))
    };
    parse(&flow(64));
    assert_refused(&flow(65), "nested deeper than 64 levels");
    let block = |depth: usize| {
        let lines: String = (4..depth)
            .map(|level| format!("{}k:\n", " ".repeat(level)))
            .collect();
        one_step(&format!(
            "  handler_config:\n{lines}{}k: 1\n",
            " ".repeat(depth)
        ))
    };
    parse(&block(64));
    assert_refused(&block(65), "nested deeper than 64 levels");
    for bomb in [
        "[".repeat(200_000),
        "{a: ".repeat(50_000),
        "- ".repeat(100_000),
        "? ".repeat(100_000),
    ] {
        let begun = Instant::now();
        assert!(Template::parse(&bomb, "").is_err());
        assert!(
            begun.elapsed() < Duration::from_millis(500),
            "{:?}",
            begun.elapsed()
        );
    }
}

#[test]
fn aliases_over_the_expansion_are_refused() {
    let mut laughs = String::from("a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n");
    for level in 1..20 {
        let before = format!("*a{}, ", level - 1).repeat(10);
        laughs += &format!("a{level}: &a{level} [{}]\n", before.trim_end_matches(", "));
    }
    let long_words = format!(
        "a: &a \"{}\"\nb: [{}]\n",
        "x".repeat(100_000),
        "*a, ".repeat(1_000)
    );
    let nested = format!("{}x{}", "&a [".repeat(60), ", y]".repeat(60));
    for (bomb, message) in [
        (laughs, "with its aliases expanded"),
        (long_words, "with its aliases expanded"),
        (nested, "expected a mapping"),
    ] {
        let begun = Instant::now();
        let problems = Template::parse(&bomb, "").expect_err("refused");
        assert!(
            begun.elapsed() < Duration::from_millis(500),
            "{:?}",
            begun.elapsed()
        );
        assert!(problems[0].message.contains(message), "{problems:?}");
    }
    let values = |count: usize| {
        one_step(&format!(
            "  handler_config: {{a: &a [{}], b: [{}]}}\n",
            "1,".repeat(100),
            "*a,".repeat(count)
        ))
    };
    parse(&values(100));
    assert_refused(
        &values(1_000),
        "with its aliases expanded, the file is larger than 100000 values",
    );
}

#[test]
fn problems_over_the_bound_are_counted() {
    let steps = |count: usize| format!("name: t\nstep_templates: [{}]\n", "{},".repeat(count));
    assert_eq!(
        Template::parse(&steps(50), "").expect_err("problems").len(),
        MAX_PROBLEMS
    );
    let problems = Template::parse(&steps(51), "").expect_err("problems");
    assert_eq!(problems.len(), MAX_PROBLEMS);
    assert_eq!(
        problems[99].message,
        "3 more problems from here on are not listed"
    );
    let many = Template::parse(&steps(1_000), "").expect_err("problems");
    assert_eq!(
        many[99].message,
        "1901 more problems from here on are not listed"
    );
}

#[test]
fn cycles_and_edges_over_the_bound_are_counted() {
    let ring = |count: usize| {
        let steps: String = (0..count)
            .map(|step| {
                format!(
                    "- {{name: s{step}, handler: h, depends_on_step: s{}}}\n",
                    (step + 1) % count
                )
            })
            .collect();
        format!("name: t\nstep_templates:\n{steps}")
    };
    assert_refused(
        &ring(3),
        "line 3, column 43: step_templates[0].depends_on_step: the steps wait for each other in a cycle: s0 → s1 → s2 → s0",
    );
    assert_refused(
        &ring(1_000),
        "s0 → s1 → s2 → s3 → s4 → s5 → s6 → s7 → s8 → s9 → s10 → s11 → s12 → s13 → s14 → s15 → s16 → s17 → s18 → s19 → … 980 more … → s0",
    );
}

#[test]
fn suggestions_end_with_the_listed_problems() {
    let word = "x".repeat(35);
    let steps: String = (0..900)
        .map(|step| format!("- {{name: {word}{step:04}, handler: h}}\n"))
        .collect();
    let references: String = (0..4_000)
        .map(|step| format!("  - y{word}{step:04}\n"))
        .collect();
    let begun = Instant::now();
    let yaml = format!(
        "name: t\nstep_templates:\n{steps}- name: last\n  handler: h\n  depends_on_steps:\n{references}"
    );
    assert_eq!(
        Template::parse(&yaml, "").expect_err("refused").len(),
        MAX_PROBLEMS
    );
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
}
