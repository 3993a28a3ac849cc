//! The descriptors of the protocol, and the JSON names that follow from its names. The routes, the
//! reader of requests and the OpenAPI document all derive from them, so none can differ from the
//! protocol.
//!
//! A field `*_json` is a nested document under its name without `_json`. An enum is a short
//! lowercase word.

use std::sync::LazyLock;

use prost_reflect::{
    DescriptorPool, EnumDescriptor, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor,
    MethodDescriptor,
};

use crate::proto;

/// The build embeds these descriptors, so they are always readable.
static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(proto::DESCRIPTORS)
        .expect("the descriptors of this program's own protocol are whole")
});

/// The rpc `service/method` of package `tasker.v1`. An unknown name is a mistake in the program,
/// which every test that starts a server finds.
pub fn rpc(name: &str) -> MethodDescriptor {
    let found = name.split_once('/').and_then(|(service, method)| {
        POOL.get_service_by_name(&format!("tasker.v1.{service}"))?
            .methods()
            .find(|m| m.name() == method)
    });
    found.unwrap_or_else(|| panic!("the protocol has no rpc {name}"))
}

/// The descriptor of the message with this full name.
pub fn message(name: &str) -> MessageDescriptor {
    POOL.get_message_by_name(name)
        .unwrap_or_else(|| panic!("the protocol has no message {name}"))
}

/// The JSON key of a field.
pub fn key(field: &FieldDescriptor) -> &str {
    if is_document(field) {
        field.name().trim_end_matches("_json")
    } else {
        field.name()
    }
}

/// Whether the field is a string that holds a JSON document, or a list or map of such.
pub fn is_document(field: &FieldDescriptor) -> bool {
    let kind = if field.is_map() {
        value_kind(field)
    } else {
        field.kind()
    };
    matches!(kind, Kind::String) && field.name().ends_with("_json")
}

/// The kind of a map's values.
pub fn value_kind(field: &FieldDescriptor) -> Kind {
    match field.kind() {
        Kind::Message(entry) if field.is_map() => entry.map_entry_value_field().kind(),
        kind => kind,
    }
}

/// The words of an enum with their numbers; the unspecified value has none. The type of an event is
/// a noun and a verb, such as `step.failed`.
pub fn words(of: &EnumDescriptor) -> impl Iterator<Item = (String, i32)> + '_ {
    let prefix = upper_snake(of.name()) + "_";
    let is_event = of.full_name() == "tasker.v1.EventType";
    let word = move |name: &str| {
        let word = name
            .strip_prefix(&prefix)
            .unwrap_or(name)
            .to_ascii_lowercase();
        if is_event {
            word.replacen('_', ".", 1)
        } else {
            word
        }
    };
    of.values()
        .filter(|v| v.number() != 0)
        .map(move |v| (word(v.name()), v.number()))
}

/// The comment above a message, a field or an rpc, as one paragraph per paragraph.
pub fn comment(file: &FileDescriptor, path: &[i32]) -> Option<String> {
    let info = file.file_descriptor_proto().source_code_info.as_ref()?;
    let text = info
        .location
        .iter()
        .find(|location| location.path == path)?
        .leading_comments
        .as_deref()?;
    // protoc keeps the line breaks of the source: the lines of a paragraph are joined again, and
    // empty lines stay between paragraphs.
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    Some(
        lines
            .split(|line| line.is_empty())
            .map(|p| p.join(" "))
            .collect::<Vec<_>>()
            .join("\n\n")
            .trim()
            .to_owned(),
    )
}

/// The comment above a field.
pub fn field_comment(field: &FieldDescriptor) -> Option<String> {
    let message: &MessageDescriptor = field.parent_message();
    comment(&message.parent_file(), field.path())
}

fn upper_snake(camel: &str) -> String {
    let mut snake = String::new();
    for (i, c) in camel.char_indices() {
        if c.is_ascii_uppercase() && i > 0 {
            snake.push('_');
        }
        snake.push(c.to_ascii_uppercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enum_names_are_shortened() {
        let get = rpc("TaskService/GetTask");
        let step = get.output().get_field_by_name("steps").map(|f| f.kind());
        let Some(Kind::Message(step)) = step else {
            panic!("no steps")
        };
        let state = step.get_field_by_name("state").unwrap();
        let Kind::Enum(states) = state.kind() else {
            panic!("no enum")
        };
        let words: Vec<String> = words(&states).map(|(word, _)| word).collect();
        assert_eq!(
            words[..4],
            ["pending", "ready", "in_progress", "waiting_for_retry"]
        );
        assert_eq!(
            key(&step.get_field_by_name("result_json").unwrap()),
            "result"
        );
        assert_eq!(key(&step.get_field_by_name("name").unwrap()), "name");
        assert!(
            comment(&get.parent_service().parent_file(), get.path())
                .unwrap()
                .starts_with("Called by anyone")
        );
    }
}
