//! Problems of a step or of its dependencies.

use super::{Expected, check};

const STEPS: &[(&str, Expected)] = &[
    (
        "- b\n",
        (
            5,
            3,
            "step_templates[1]",
            "expected a step (a mapping with `name` and `handler_class`), found the string \"b\"",
        ),
    ),
    (
        "-\n",
        (
            5,
            2,
            "step_templates[1]",
            "expected a step (a mapping with `name` and `handler_class`), found nothing",
        ),
    ),
    (
        "- handler: h\n",
        (5, 3, "step_templates[1]", "the key `name` is missing"),
    ),
    (
        "-\n  name: b\n",
        (
            6,
            3,
            "step_templates[1]",
            "the key `handler_class` is missing",
        ),
    ),
    (
        "- {name: a, handler: h}\n",
        (
            5,
            10,
            "step_templates[1].name",
            "the step name `a` is already used on line 3",
        ),
    ),
    (
        "- {name: a/b, handler: h}\n",
        (
            5,
            10,
            "step_templates[1].name",
            "the name must not contain `/`",
        ),
    ),
    (
        "- {name: \"a\\u007f\", handler: h}\n",
        (
            5,
            10,
            "step_templates[1].name",
            "must not contain control characters",
        ),
    ),
    (
        "- {name: b, handler: ''}\n",
        (5, 22, "step_templates[1].handler", "found an empty string"),
    ),
    (
        "- {name: b, handler: h, handler_class: h}\n",
        (5, 25, "step_templates[1].handler_class", "are the same key"),
    ),
    (
        "- {name: b, handler: h, description: 1}\n",
        (
            5,
            38,
            "step_templates[1].description",
            "expected a string (in quotes)",
        ),
    ),
    (
        "  retry_limit: 5\n",
        (
            5,
            3,
            "step_templates[0].retry_limit",
            "did you mean `default_retry_limit`?",
        ),
    ),
    (
        "  depends_on: []\n",
        (
            5,
            3,
            "step_templates[0].depends_on",
            "did you mean `depends_on_step",
        ),
    ),
    (
        "  planner: p\n",
        (
            5,
            3,
            "step_templates[0].planner",
            "unknown key `planner`; expected one of name, description",
        ),
    ),
    (
        "  default_retryable: yes\n",
        (
            5,
            22,
            "step_templates[0].default_retryable",
            "expected true or false, found the string \"yes\"",
        ),
    ),
    (
        "  default_retry_limit: 0\n",
        (
            5,
            24,
            "step_templates[0].default_retry_limit",
            "expected a whole number from 1 to 100, found the number 0",
        ),
    ),
    (
        "  handler_config: s\n",
        (
            5,
            19,
            "step_templates[0].handler_config",
            "expected a mapping, found the string \"s\"",
        ),
    ),
    (
        "  handler_config:\n    service: ''\n",
        (
            6,
            14,
            "step_templates[0].handler_config.service",
            "found an empty string",
        ),
    ),
    (
        "  handler_config:\n    timeout_seconds: 0\n",
        (
            6,
            22,
            "step_templates[0].handler_config.timeout_seconds",
            "from 0.001 to 604800, found the number 0",
        ),
    ),
    (
        "  backoff: 5\n",
        (
            5,
            12,
            "step_templates[0].backoff",
            "expected a mapping, found the number 5",
        ),
    ),
    (
        "  backoff:\n    base: 5\n",
        (
            6,
            5,
            "step_templates[0].backoff.base",
            "unknown key `base`; expected one of base_seconds",
        ),
    ),
    (
        "  annotations: x\n",
        (5, 16, "step_templates[0].annotations", "expected a mapping"),
    ),
    (
        "  depends_on_steps: b\n",
        (
            5,
            21,
            "step_templates[0].depends_on_steps",
            "expected a list of step names, found the string \"b\"",
        ),
    ),
    (
        "  depends_on_steps: [1]\n",
        (
            5,
            22,
            "step_templates[0].depends_on_steps[0]",
            "expected a string (in quotes)",
        ),
    ),
    (
        "  depends_on_steps:\n  - b\n",
        (
            6,
            5,
            "step_templates[0].depends_on_steps[0]",
            "there is no step `b`",
        ),
    ),
    (
        "  depends_on_step: [a]\n",
        (
            5,
            20,
            "step_templates[0].depends_on_step",
            "expected a string, found a list",
        ),
    ),
    (
        "  depends_on_steps: []\n  depends_on_step: a\n",
        (
            6,
            3,
            "step_templates[0].depends_on_step",
            "are the same key",
        ),
    ),
    (
        "  depends_on_steps: [a]\n",
        (
            5,
            22,
            "step_templates[0].depends_on_steps[0]",
            "the step waits for itself: a → a",
        ),
    ),
    (
        "- {name: b, handler: h, depends_on_steps: [a, a]}\n",
        (
            5,
            47,
            "step_templates[1].depends_on_steps[1]",
            "the step `a` is listed twice",
        ),
    ),
];

#[test]
fn problems_of_steps_have_places_and_messages() {
    let with = |text: &str| format!("name: t\nstep_templates:\n- name: a\n  handler: h\n{text}");
    for &(text, expected) in STEPS {
        check(&with(text), &[expected]);
    }
}

#[test]
fn problems_of_dependencies_name_the_steps() {
    let yaml = "name: t\nstep_templates:\n- {name: alpha, handler: h, depends_on_steps: [gamma]}\n\
                - {name: beta, handler: h, depends_on_steps: [alpha]}\n- {name: gamma, handler: h, depends_on_steps: [beta, alhpa]}\n\
                - {name: delta, handler: h, depends_on_step: delta}\n";
    check(
        yaml,
        &[
            (
                3,
                48,
                "step_templates[0].depends_on_steps[0]",
                "in a cycle: alpha → gamma → beta → alpha",
            ),
            (
                5,
                54,
                "step_templates[2].depends_on_steps[1]",
                "there is no step `alhpa`, did you mean `alpha`?",
            ),
            (
                6,
                46,
                "step_templates[3].depends_on_step",
                "the step waits for itself: delta → delta",
            ),
        ],
    );
}
