//! The OpenAPI 3.1 document. It is made from the routes and from the protocol's own descriptors,
//! comments included, so it describes exactly the served routes.

use axum::http::StatusCode;
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::{
    Page,
    problem::{PROBLEM, Problem},
    read::fits_a_query,
    route::{IDEMPOTENCY_KEY, Route},
};
use crate::json::protocol::{comment, field_comment, is_document, key, value_kind, words};

/// The document of these routes and pages.
pub fn document(routes: &[Route], pages: &[Page]) -> Value {
    let mut schemas = Map::new();
    schemas.insert("Problem".into(), Problem::schema());
    let mut paths: Map<String, Value> = Map::new();
    for route in routes {
        let operation = operation(route, &mut schemas);
        member(&mut paths, route.path)[route.method.as_str().to_ascii_lowercase()] = operation;
    }
    for page in pages {
        member(&mut paths, page.path)["get"] = of_page(page);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tasker",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "HTTP/JSON of the Tasker control plane. Every key of an answer is always present: an unset field is null. \
                            Times are RFC 3339, durations such as \"1.5s\". Documents are nested unchanged, with all digits of their numbers and the order of their keys.",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": schemas},
    })
}

fn member<'a>(paths: &'a mut Map<String, Value>, path: &str) -> &'a mut Value {
    paths.entry(path).or_insert_with(|| json!({}))
}

fn of_page(page: &Page) -> Value {
    let content = |media: &str| json!({media: {"schema": {}}});
    let mut responses = Map::new();
    for (status, description) in page.answers {
        responses.insert(
            status.as_str().into(),
            json!({"description": description, "content": content(page.media)}),
        );
    }
    json!({"operationId": page.name, "summary": page.summary, "tags": ["server"], "responses": responses})
}

fn operation(route: &Route, schemas: &mut Map<String, Value>) -> Value {
    let rpc = &route.rpc;
    let service = rpc.parent_service();
    let about = comment(&service.parent_file(), rpc.path()).unwrap_or_default();
    // The first sentence of the rpc's comment is the summary.
    let mut operation = json!({
        "operationId": rpc.name(),
        "tags": [service.name().trim_end_matches("Service")],
        "summary": about.split_inclusive(['.', ':']).next().unwrap_or_default().trim_end_matches([':', '.']),
        "description": about,
        "parameters": parameters(route),
        "responses": responses(route, schemas),
    });
    if route.has_body() {
        operation["requestBody"] = request_body(route, schemas);
    }
    operation
}

fn parameters(route: &Route) -> Vec<Value> {
    let in_path = route.path_fields();
    let fields: Vec<FieldDescriptor> = route.rpc.input().fields().collect();
    let in_query =
        |f: &&FieldDescriptor| !in_path.contains(&f.name()) && !route.has_body() && fits_a_query(f);
    let mut all: Vec<Value> = fields
        .iter()
        .filter(|f| in_path.contains(&f.name()))
        .map(|f| parameter(f, "path"))
        .collect();
    all.extend(
        fields
            .iter()
            .filter(in_query)
            .map(|f| parameter(f, "query")),
    );
    // The header is read for every rpc that has the field, see `Route::fill_from_header`.
    if fields.iter().any(|f| f.name() == "idempotency_key") {
        let about = "Another way to set `idempotency_key`.";
        let schema = json!({"type": "string"});
        all.push(
            json!({"name": IDEMPOTENCY_KEY, "in": "header", "required": false, "description": about, "schema": schema}),
        );
    }
    all
}

fn parameter(field: &FieldDescriptor, place: &str) -> Value {
    let mut schema = plain(field);
    if field.is_list() {
        schema = json!({"type": "array", "items": schema});
    }
    let about = field_comment(field).unwrap_or_default();
    json!({"name": key(field), "in": place, "required": place == "path", "description": about, "schema": schema})
}

fn request_body(route: &Route, schemas: &mut Map<String, Value>) -> Value {
    let input = route.rpc.input();
    let mut properties = Map::new();
    for field in route.other_fields() {
        properties.insert(
            key(&field).into(),
            described(&field, nullable(whole(&field, true, schemas))),
        );
    }
    let schema = json!({"type": "object", "properties": properties, "additionalProperties": false});
    schemas.insert(input.name().into(), schema);
    let mut content = json!({"application/json": {"schema": reference(input.name())}});
    if let Some(field) = route.yaml {
        content["application/yaml"] =
            json!({"schema": {"type": "string", "description": format!("The field `{field}`.")}});
    }
    json!({"required": true, "content": content})
}

/// Server-sent events: the schema describes the data of each.
fn streamed(route: &Route, schemas: &mut Map<String, Value>) -> Value {
    let event = route.rpc.output().get_field_by_name("event");
    let schema = event.map_or(Value::Null, |event| match event.kind() {
        Kind::Message(event) => component(&event, false, schemas),
        _ => Value::Null,
    });
    json!({
        "200": {
            "description": "Server-sent events; the id of each is the cursor after it, for `Last-Event-ID`. The data is JSON of this schema.",
            "content": {"text/event-stream": {"schema": schema}},
        },
        "default": {"description": "The error.", "content": {PROBLEM: {"schema": reference("Problem")}}},
    })
}

fn responses(route: &Route, schemas: &mut Map<String, Value>) -> Value {
    let output = route.rpc.output();
    if route.is_stream() {
        return streamed(route, schemas);
    }
    let content = json!({"application/json": {"schema": component(&output, false, schemas)}});
    let answer = |description: &str| json!({"description": description, "content": content});
    let problem = json!({
        "description": "The error.",
        "content": {PROBLEM: {"schema": reference("Problem")}},
        "headers": {"Retry-After": {"description": "Seconds until a retry.", "schema": {"type": "integer"}}},
    });
    let mut responses = json!({"200": answer("Done."), "default": problem});
    if output.get_field_by_name("created").is_some() {
        responses["200"] = answer("It existed already.");
        responses[StatusCode::CREATED.as_str()] = answer("It is stored.");
    }
    responses
}

/// The schema of a message, by reference. Answers have all of their keys, requests any of them.
fn component(message: &MessageDescriptor, input: bool, schemas: &mut Map<String, Value>) -> Value {
    // A message may occur in requests and in answers, with a different schema in each.
    let name = &if input {
        format!("{}Input", message.name())
    } else {
        message.name().to_owned()
    };
    if !schemas.contains_key(name) {
        // Inserted before its fields: a message may contain itself.
        schemas.insert(name.clone(), Value::Null);
        let mut properties = Map::new();
        for field in message.fields() {
            properties.insert(
                key(&field).into(),
                described(&field, whole(&field, input, schemas)),
            );
        }
        let mut schema = json!({"type": "object"});
        if let Some(about) = comment(&message.parent_file(), message.path()) {
            schema["description"] = about.into();
        }
        // The reader refuses unknown members of a request, and an answer has every key.
        match input {
            true => schema["additionalProperties"] = false.into(),
            false => schema["required"] = properties.keys().cloned().collect(),
        }
        schema["properties"] = properties.into();
        schemas.insert(name.clone(), schema);
    }
    reference(name)
}

/// The schema of a field with its lists, maps and nulls.
fn whole(field: &FieldDescriptor, input: bool, schemas: &mut Map<String, Value>) -> Value {
    let mut one = match value_kind(field) {
        Kind::Message(of) if !of.full_name().starts_with("google.protobuf.") => {
            component(&of, input, schemas)
        }
        _ => plain(field),
    };
    if field.is_list() {
        return json!({"type": "array", "items": one});
    }
    if field.is_map() {
        return json!({"type": "object", "additionalProperties": one});
    }
    // An empty string and an unspecified enum are written as null, see `json::text`.
    let may_be_unset =
        field.supports_presence() || matches!(field.kind(), Kind::String | Kind::Enum(_));
    if may_be_unset && !is_document(field) {
        one = nullable(one);
    }
    one
}

fn plain(field: &FieldDescriptor) -> Value {
    if is_document(field) {
        return json!({});
    }
    match value_kind(field) {
        Kind::Bool => json!({"type": "boolean"}),
        Kind::Double | Kind::Float => json!({"type": "number"}),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            json!({"type": "integer", "format": "int32"})
        }
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            json!({"type": "integer", "format": "int64"})
        }
        Kind::Uint32 | Kind::Fixed32 | Kind::Uint64 | Kind::Fixed64 => {
            json!({"type": "integer", "minimum": 0})
        }
        Kind::Enum(of) => json!({"enum": words(&of).map(|(word, _)| word).collect::<Vec<_>>()}),
        Kind::Message(of) if of.name() == "Timestamp" => {
            json!({"type": "string", "format": "date-time"})
        }
        Kind::String | Kind::Bytes | Kind::Message(_) => json!({"type": "string"}),
    }
}

fn nullable(schema: Value) -> Value {
    match &schema {
        // Any value is null already, and a union that has null needs no second one.
        Value::Object(any) if any.is_empty() || any.contains_key("anyOf") => schema,
        _ => json!({"anyOf": [schema, {"type": "null"}]}),
    }
}

fn described(field: &FieldDescriptor, mut schema: Value) -> Value {
    if let Some(about) = field_comment(field) {
        schema["description"] = about.into();
    }
    schema
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}
