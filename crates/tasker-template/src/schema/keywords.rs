//! The JSON Schema keywords, and the subschemas that each of them holds.

use jsonschema::Draft;

/// The form of a keyword's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// The value holds no schema.
    Plain,
    /// One schema.
    One(Role),
    /// A list of schemas.
    List(Role),
    /// One schema, or a list of them in the older drafts.
    OneOrList(Role),
    /// Schemas by name.
    Named(Role),
}

/// The value to which a subschema applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The same value as the schema around it.
    SameValue,
    /// A property that no other property-schema of this keyword group describes.
    Property,
    /// Properties that other keywords may describe, too.
    SharedProperty,
    /// An item that no other item-schema of this keyword group describes.
    Item,
    /// Items that other keywords may describe, too.
    SharedItem,
    /// No value of its own: a definition for references, or a schema for the names of properties.
    Aside,
}

/// The shape of a keyword; `None` for a word that is no keyword of the draft.
pub(super) fn shape(keyword: &str, draft: Draft) -> Option<Shape> {
    applicator(keyword, draft).or_else(|| plain(keyword, draft).then_some(Shape::Plain))
}

fn applicator(keyword: &str, draft: Draft) -> Option<Shape> {
    // `dependencies` and `definitions` were replaced in 2019-09, but the later metaschemas still
    // allow them.
    Some(match keyword {
        "allOf" | "anyOf" | "oneOf" => Shape::List(Role::SameValue),
        "not" => Shape::One(Role::SameValue),
        "if" | "then" | "else" if draft >= Draft::Draft7 => Shape::One(Role::SameValue),
        "dependentSchemas" if draft >= Draft::Draft201909 => Shape::Named(Role::SameValue),
        "dependencies" => Shape::Named(Role::SameValue),
        "properties" => Shape::Named(Role::Property),
        "additionalProperties" => Shape::One(Role::Property),
        "patternProperties" => Shape::Named(Role::SharedProperty),
        "unevaluatedProperties" if draft >= Draft::Draft201909 => Shape::One(Role::SharedProperty),
        "propertyNames" if draft >= Draft::Draft6 => Shape::One(Role::Aside),
        "prefixItems" if draft >= Draft::Draft202012 => Shape::List(Role::Item),
        "items" if draft >= Draft::Draft202012 => Shape::One(Role::Item),
        "items" => Shape::OneOrList(Role::Item),
        "additionalItems" if draft < Draft::Draft202012 => Shape::One(Role::Item),
        "contains" if draft >= Draft::Draft6 => Shape::One(Role::SharedItem),
        "unevaluatedItems" if draft >= Draft::Draft201909 => Shape::One(Role::SharedItem),
        "contentSchema" if draft >= Draft::Draft201909 => Shape::One(Role::Aside),
        "$defs" if draft >= Draft::Draft201909 => Shape::Named(Role::Aside),
        "definitions" => Shape::Named(Role::Aside),
        _ => return None,
    })
}

fn plain(keyword: &str, draft: Draft) -> bool {
    match keyword {
        "$schema" | "$ref" | "type" | "enum" | "required" | "title" | "description" | "default"
        | "format" | "pattern" | "multipleOf" | "maximum" | "exclusiveMaximum" | "minimum"
        | "exclusiveMinimum" | "maxLength" | "minLength" | "maxItems" | "minItems"
        | "uniqueItems" | "maxProperties" | "minProperties" => true,
        "id" => draft == Draft::Draft4,
        "$id" | "const" | "examples" => draft >= Draft::Draft6,
        "$comment" | "readOnly" | "writeOnly" | "contentMediaType" | "contentEncoding" => {
            draft >= Draft::Draft7
        }
        "$anchor" | "$vocabulary" | "maxContains" | "minContains" | "dependentRequired"
        | "deprecated" => draft >= Draft::Draft201909,
        "$recursiveRef" | "$recursiveAnchor" => draft == Draft::Draft201909,
        "$dynamicRef" | "$dynamicAnchor" => draft >= Draft::Draft202012,
        _ => is_note(keyword),
    }
}

/// Words outside all drafts that are explicit notes and constrain nothing.
fn is_note(keyword: &str) -> bool {
    keyword.starts_with("x-") || keyword == "example"
}

/// Words of `OpenAPI` and of other drafts that generators write: descriptions and hints for
/// editors, which constrain nothing here.
pub(super) fn is_foreign_note(keyword: &str) -> bool {
    const WORDS: [&str; 18] = [
        "$comment",
        "$vocabulary",
        "contentEncoding",
        "contentMediaType",
        "contentSchema",
        "deprecated",
        "discriminator",
        "enumDescriptions",
        "enumNames",
        "examples",
        "externalDocs",
        "markdownDescription",
        "nullable",
        "propertyOrder",
        "readOnly",
        "tsType",
        "writeOnly",
        "xml",
    ];
    WORDS.contains(&keyword)
}

/// The keywords of a draft, as candidates for a misspelt one.
pub(super) fn all(draft: Draft) -> impl Iterator<Item = &'static str> {
    const WORDS: [&str; 62] = [
        "$schema",
        "$ref",
        "$id",
        "$anchor",
        "$comment",
        "$defs",
        "$dynamicAnchor",
        "$dynamicRef",
        "$recursiveAnchor",
        "$recursiveRef",
        "$vocabulary",
        "additionalItems",
        "additionalProperties",
        "allOf",
        "anyOf",
        "const",
        "contains",
        "contentEncoding",
        "contentMediaType",
        "contentSchema",
        "default",
        "definitions",
        "dependencies",
        "dependentRequired",
        "dependentSchemas",
        "deprecated",
        "description",
        "else",
        "enum",
        "examples",
        "exclusiveMaximum",
        "exclusiveMinimum",
        "format",
        "id",
        "if",
        "items",
        "maxContains",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minContains",
        "minItems",
        "minLength",
        "minProperties",
        "minimum",
        "multipleOf",
        "not",
        "oneOf",
        "pattern",
        "patternProperties",
        "prefixItems",
        "properties",
        "propertyNames",
        "readOnly",
        "required",
        "then",
        "title",
        "type",
        "unevaluatedItems",
        "unevaluatedProperties",
        "uniqueItems",
    ];
    WORDS
        .into_iter()
        .filter(move |word| shape(word, draft).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_are_known_by_draft() {
        assert_eq!(
            shape("items", Draft::Draft202012),
            Some(Shape::One(Role::Item))
        );
        assert_eq!(
            shape("items", Draft::Draft7),
            Some(Shape::OneOrList(Role::Item))
        );
        assert_eq!(shape("prefixItems", Draft::Draft7), None);
        assert_eq!(shape("additionalItems", Draft::Draft202012), None);
        assert_eq!(shape("const", Draft::Draft4), None);
        assert_eq!(shape("x-anything", Draft::Draft4), Some(Shape::Plain));
        assert_eq!(shape("nullable", Draft::Draft202012), None);
        assert_eq!(
            all(Draft::Draft4)
                .filter(|word| *word == "prefixItems")
                .count(),
            0
        );
    }
}
