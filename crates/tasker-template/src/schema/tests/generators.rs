//! Schemas as generators write them.

use serde_json::json;

use super::*;

fn warnings(value: Value) -> Vec<String> {
    let compiled = schema(value);
    compiled
        .warnings()
        .iter()
        .map(|warning| format!("{}: {}", warning.pointer, warning.message))
        .collect()
}

#[test]
fn unchecked_keyword_or_format_is_a_warning() {
    let found = warnings(json!({
        "discriminator": {"propertyName": "kind"},
        "properties": {
            "n": {"type": "integer", "format": "int64", "nullable": true},
            "u": {"type": "integer", "format": "uint64", "minimum": 0},
            "m": {"type": "string", "format": "e-mail"},
            "x": {"type": "string", "xml": {"name": "X"}, "externalDocs": {"url": "u"}, "example": "e"}
        }
    }));
    let expected = [
        "/discriminator: `discriminator` has no effect here; a `const` in each of the schemas tells them apart",
        "/properties/n/format: the format `int64` is not checked; `minimum` and `maximum` would bound the number",
        "/properties/n/nullable: `nullable` has no effect here; a `type` list with \"null\" in it allows null",
        "/properties/u/format: the format `uint64` is not checked; `minimum` and `maximum` would bound the number",
        "/properties/m/format: the format `e-mail` is not checked, did you mean `email`?",
        "/properties/x/xml: `xml` has no effect here",
        "/properties/x/externalDocs: `externalDocs` has no effect here",
    ];
    assert_eq!(found, expected);
    assert_eq!(
        warnings(json!({"properties": {"a": {"format": "email"}}})),
        [""; 0]
    );
}

#[test]
fn internationalised_formats_are_asserted() {
    for (format, good, bad) in [
        ("idn-email", "ü@bücher.example", "ü"),
        ("idn-hostname", "bücher.example", "-ü."),
    ] {
        let one = schema(json!({"properties": {"a": {"format": format}}}));
        assert_eq!(
            apply(&one, &json!({"a": good}).to_string()),
            Ok(None),
            "{format}"
        );
        assert_eq!(
            misfit(&one, &json!({"a": bad}).to_string())[0].pointer,
            "/a",
            "{format}"
        );
        assert!(one.warnings().is_empty(), "{format}");
    }
}

#[test]
fn subschema_with_an_id_is_accepted() {
    let order = schema(json!({
        "$id": "https://example.com/schemas/order",
        "properties": {
            "customer": {"$ref": "customer"},
            "again": {"$ref": "https://example.com/schemas/customer#/$defs/name"},
            "item": {"$ref": "#/$defs/item"}
        },
        "$defs": {
            "customer": {
                "$id": "customer",
                "properties": {"name": {"$ref": "#/$defs/name"}},
                "$defs": {"name": {"type": "string", "default": "x"}}
            },
            "item": {"$id": "/item", "properties": {"count": {"type": "integer"}}}
        }
    }));
    assert_eq!(
        violations(&order, r#"{"customer":{"name":1}}"#),
        ["/customer/name: 1 is not of type \"string\""]
    );
    assert_eq!(
        violations(&order, r#"{"again":2}"#),
        ["/again: 2 is not of type \"string\""]
    );
    assert_eq!(
        violations(&order, r#"{"item":{"count":"x"}}"#),
        ["/item/count: \"x\" is not of type \"integer\""]
    );
    assert_eq!(
        apply(&order, r#"{"customer":{}}"#),
        Ok(Some(r#"{"customer":{"name":"x"},"again":"x"}"#.into()))
    );
    let lost = problems(
        json!({"properties": {"a": {"$id": "a", "$ref": "#/$defs/b"}}, "$defs": {"b": {}}}),
    );
    assert_eq!(lost.len(), 1, "{lost:?}");
    let old = schema(json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "properties": {"a": {"$ref": "#text"}},
        "definitions": {"t": {"$id": "#text", "type": "string"}}
    }));
    assert_eq!(
        violations(&old, r#"{"a":1}"#),
        ["/a: 1 is not of type \"string\""]
    );
}
