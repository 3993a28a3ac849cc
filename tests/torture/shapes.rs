//! The templates: the golden shapes and random graphs.

use std::fmt::Write as _;

use crate::seed::Rng;

/// The handlers of the random graphs; those of the golden shapes are [`GOLDEN_HANDLERS`].
pub const HANDLERS: [&str; 4] = ["torture.a", "torture.b", "torture.c", "torture.d"];
pub const GOLDEN_HANDLERS: [&str; 8] = [
    "golden.ok",
    "golden.flaky",
    "golden.slow_once",
    "UserManagement::StepHandlers::CreateUserAccountHandler",
    "UserManagement::StepHandlers::SetupBillingProfileHandler",
    "UserManagement::StepHandlers::InitializePreferencesHandler",
    "UserManagement::StepHandlers::SendWelcomeSequenceHandler",
    "UserManagement::StepHandlers::UpdateUserStatusHandler",
];
/// Number of random graphs.
const RANDOM: usize = 24;

/// A template for the client's submits.
#[derive(Clone, Debug)]
pub struct Shape {
    pub namespace: String,
    pub task_name: String,
    pub yaml: String,
}

/// All templates of a run.
pub fn all(seed: u64) -> Vec<Shape> {
    let golden = |namespace: &str, task_name: &str, yaml: &str| Shape {
        namespace: namespace.into(),
        task_name: task_name.into(),
        yaml: yaml.into(),
    };
    let mut shapes = vec![
        golden("golden", "linear", include_str!("../fixtures/linear.yaml")),
        golden(
            "golden",
            "diamond",
            include_str!("../fixtures/diamond.yaml"),
        ),
        golden(
            "user_management",
            "user_registration",
            include_str!("../fixtures/user_registration.yaml"),
        ),
    ];
    shapes.extend((0..RANDOM).map(|i| random(&mut Rng::of(seed, &format!("shape {i}")), i)));
    shapes
}

fn random(rng: &mut Rng, i: usize) -> Shape {
    let (namespace, task_name) = (format!("torture_{}", i % 3), format!("random_{i}"));
    let mut yaml = format!(
        "task_name: {task_name}\nnamespace: {namespace}\nversion: 1.0.0\nstep_templates:\n"
    );
    let steps = 1 + rng.below(12);
    for step in 0..steps {
        let handler = rng.pick(&HANDLERS);
        let parents: Vec<String> = parents(rng, step).iter().map(|p| format!("s{p}")).collect();
        write!(
            yaml,
            "  - {{name: s{step}, handler_class: {handler}, depends_on_steps: [{}]",
            parents.join(", ")
        )
        .unwrap();
        match rng.below(6) {
            0 => yaml.push_str(", default_retryable: false"),
            1 => {}
            _ => write!(yaml, ", default_retry_limit: {}", rng.within(1..7)).unwrap(),
        }
        // Most steps back off for milliseconds: a run has to end.
        let (base, max) = (rng.within(10..400), rng.within(400..1_500));
        let (multiplier, jitter) = (rng.within(10..40), rng.within(0..11));
        write!(
            yaml,
            ", backoff: {{base_seconds: 0.{base:03}, max_seconds: {}.{:03}, multiplier: {}.{}, jitter: {}.{}}}",
            max / 1_000,
            max % 1_000,
            multiplier / 10,
            multiplier % 10,
            jitter / 10,
            jitter % 10,
        )
        .unwrap();
        // Some steps share a service, and some deadlines are nearer than a lease.
        let (service, timeout) = (rng.below(5), *rng.pick(&["0.8", "1.5", "3", "8", "20"]));
        writeln!(
            yaml,
            ", handler_config: {{timeout_seconds: {timeout}, service: service_{service}}}}}"
        )
        .unwrap();
    }
    Shape {
        namespace,
        task_name,
        yaml,
    }
}

/// No parent, the step before, or some earlier steps.
fn parents(rng: &mut Rng, step: usize) -> Vec<usize> {
    match rng.below(10) {
        _ if step == 0 => Vec::new(),
        0 => Vec::new(),
        1..=4 => vec![rng.below(step)],
        5..=6 => vec![step - 1],
        _ => {
            let mut all: Vec<usize> = (0..step).collect();
            rng.shuffle(&mut all);
            all.truncate(1 + rng.below(4));
            all
        }
    }
}

#[test]
fn shape_of_each_kind_is_a_template() {
    for seed in 0..50 {
        for shape in all(seed) {
            let template = tasker_template::Template::parse(&shape.yaml, "");
            let template =
                template.unwrap_or_else(|problems| panic!("{problems:?}\n{}", shape.yaml));
            assert_eq!(
                (&template.namespace, &template.task_name),
                (&shape.namespace, &shape.task_name)
            );
            let known =
                |handler: &str| HANDLERS.contains(&handler) || GOLDEN_HANDLERS.contains(&handler);
            assert!(
                template.steps.iter().all(|step| known(&step.handler)),
                "{}",
                shape.yaml
            );
        }
    }
}
