//! Omits fields from an answer about a task that would exceed the default limit of clients, and
//! lists them in `omitted`.

use prost::Message;

use crate::proto::{Step, Task};

/// Bound on an answer, in bytes: less than 4 MiB, the default limit of grpc in Python, Go, Java and
/// C++.
pub const MAX_ANSWER_BYTES: usize = 4 * 1_000_000;

/// The fields of a step that can be omitted, in that order: fields that are available elsewhere
/// come first.
const FIELDS: [&str; 8] = [
    "annotations_json",
    "handler_config_json",
    "attempts",
    "description",
    "error.context_json",
    "result_json",
    "depends_on",
    "origins",
];

/// Size of the messages in a repeated field, in bytes.
pub fn bytes<M: Message>(messages: &[M]) -> usize {
    // Each element of a repeated field has a key and a length, together five bytes at most.
    messages
        .iter()
        .map(|message| message.encoded_len() + 5)
        .sum()
}

/// Omits fields of the steps, the last steps first, until they fit beside the task and `rest` more
/// bytes.
pub fn fit(task: &Task, steps: &mut [Step], rest: usize) {
    let mut whole = task.encoded_len() + rest + bytes(steps);
    for field in FIELDS {
        for step in steps.iter_mut().rev() {
            if whole <= MAX_ANSWER_BYTES {
                return;
            }
            // The sum is adjusted by this step alone: to measure the whole answer again for each
            // field would be quadratic.
            let before = step.encoded_len();
            if clear(step, field) {
                step.omitted.push(field.to_owned());
                whole = whole.saturating_sub(before) + step.encoded_len();
            }
        }
    }
}

/// Clears a field; returns whether it was set.
fn clear(step: &mut Step, field: &str) -> bool {
    let text = match field {
        "annotations_json" => &mut step.annotations_json,
        "handler_config_json" => &mut step.handler_config_json,
        "description" => &mut step.description,
        "result_json" => &mut step.result_json,
        "error.context_json" => match &mut step.error {
            Some(error) => &mut error.context_json,
            None => return false,
        },
        "attempts" => return !std::mem::take(&mut step.attempts).is_empty(),
        "depends_on" => return !std::mem::take(&mut step.depends_on).is_empty(),
        // Only `origins` is left of `FIELDS`.
        _ => return !std::mem::take(&mut step.origins).is_empty(),
    };
    !std::mem::take(text).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Attempt;

    fn step(result: usize) -> Step {
        Step {
            name: "s".into(),
            result_json: "x".repeat(result),
            annotations_json: "{}".into(),
            attempts: vec![Attempt {
                attempt: 1,
                ..Attempt::default()
            }],
            ..Step::default()
        }
    }

    #[test]
    fn answer_within_the_size_is_unchanged() {
        let mut steps = vec![step(MAX_ANSWER_BYTES - 1_000)];
        fit(&Task::default(), &mut steps, 0);
        assert_eq!(steps, [step(MAX_ANSWER_BYTES - 1_000)]);
    }

    #[test]
    fn answer_over_the_size_omits_and_names_documents() {
        let mut steps = vec![step(1 << 20); 20];
        fit(&Task::default(), &mut steps, 100);
        assert!(bytes(&steps) + 100 <= MAX_ANSWER_BYTES);
        assert!(steps.iter().all(|step| step.name == "s"));
        assert_eq!(
            steps[0].result_json.len(),
            1 << 20,
            "the last ones go first"
        );
        assert!(
            steps[19].result_json.is_empty()
                && steps[19].omitted.contains(&"result_json".to_owned())
        );
        assert_eq!(
            steps[19].omitted,
            ["annotations_json", "attempts", "result_json"]
        );
    }
}
