//! Parts of a schema with their own identity, as generators write them: `$id` below the top.
//!
//! References inside such a part are relative to the part, and other parts may refer to it by its
//! URI. Before any other step reads the schema, this module rewrites each reference as the pointer
//! of its target, `#/...`, and removes the identities.

use std::borrow::Cow;
use std::collections::HashMap;
use std::rc::Rc;

use jsonschema::Draft;
use serde_json::{Map, Value};

use super::keywords::{self, Shape};
use super::pointer;

/// The longest URI of a part, in bytes. Each place of the part refers to it, here and in the
/// validator.
pub(super) const MAX_URI_BYTES: usize = 1_024;

/// The same schema with no identity below the top; `None` if a URI is too long, or if the
/// references become too long.
pub(super) fn flatten(root: &Value, draft: Draft) -> Option<Cow<'_, Value>> {
    let mut finder = Finder {
        draft,
        resources: HashMap::new(),
        anchors: HashMap::new(),
        places: Vec::new(),
        inner: 0,
        has_long_uri: false,
    };
    let base: Rc<str> = identity(root, draft).unwrap_or_default().into();
    if base.len() > MAX_URI_BYTES {
        return None;
    }
    finder
        .resources
        .insert(without_fragment(&base).to_owned(), String::new());
    finder.visit(root, String::new(), &base, &Rc::from(""));
    if finder.has_long_uri {
        return None;
    }
    // Most schemas have no inner identity, and are not copied.
    if finder.inner == 0 {
        return Some(Cow::Borrowed(root));
    }
    let mut flat = root.clone();
    let mut bytes = 0;
    for place in &finder.places {
        let Some(Value::Object(schema)) = flat.pointer_mut(&place.pointer) else {
            continue;
        };
        // The top keeps its identity, which is the base of the whole document.
        if !place.pointer.is_empty() {
            schema.shift_remove(word(draft));
            // Generators repeat the top's `$schema`; a different one stays, and the survey refuses
            // it.
            let same_dialect = schema
                .get("$schema")
                .is_some_and(|named| root.get("$schema") == Some(named));
            if same_dialect {
                schema.shift_remove("$schema");
            }
        }
        if let Some(Value::String(reference)) = schema.get_mut("$ref")
            && let Some(target) = finder.target(reference, place)
        {
            // A reference without a target in its own part must not resolve to the same pointer of
            // the whole schema, so it is rewritten too.
            *reference = format!("#{}", pointer::to_fragment(&target));
            bytes += reference.len();
            if bytes > pointer::MAX_POINTER_BYTES {
                return None;
            }
        }
    }
    Some(Cow::Owned(flat))
}

/// A schema within the schema.
struct Subschema {
    pointer: String,
    /// The URI and the pointer of the part that it belongs to.
    base: Rc<str>,
    top: Rc<str>,
}

struct Finder {
    draft: Draft,
    /// Pointers by URI.
    resources: HashMap<String, String>,
    /// Pointers by URI and name, from `$id: "#name"` of the older drafts.
    anchors: HashMap<(String, String), String>,
    places: Vec<Subschema>,
    inner: usize,
    has_long_uri: bool,
}

impl Finder {
    fn visit(&mut self, schema: &Value, at: String, base: &Rc<str>, top: &Rc<str>) {
        let Value::Object(map) = schema else { return };
        let (mut base, mut top) = (Rc::clone(base), Rc::clone(top));
        if let Some(id) = identity(schema, self.draft).filter(|_| !at.is_empty()) {
            self.inner += 1;
            // The older drafts write an anchor this way: it names a place, and begins no part of its
            // own.
            if let Some(name) = id.strip_prefix('#') {
                self.anchors
                    .insert((base.to_string(), name.to_owned()), at.clone());
            } else if base.len() + id.len() > MAX_URI_BYTES {
                self.has_long_uri = true;
            } else {
                base = join(&base, without_fragment(id)).into();
                top = at.as_str().into();
                self.resources.insert(base.to_string(), at.clone());
            }
        }
        for (keyword, value) in map {
            let here = pointer::join(&at, keyword);
            match (keywords::shape(keyword, self.draft), value) {
                (Some(Shape::One(_) | Shape::OneOrList(_)), Value::Object(_)) => {
                    self.visit(value, here, &base, &top);
                }
                (Some(Shape::List(_) | Shape::OneOrList(_)), Value::Array(items)) => {
                    for (index, item) in items.iter().enumerate() {
                        self.visit(item, format!("{here}/{index}"), &base, &top);
                    }
                }
                (Some(Shape::Named(_)), Value::Object(named)) => {
                    self.named(named, &here, &base, &top);
                }
                _ => {}
            }
        }
        self.places.push(Subschema {
            pointer: at,
            base,
            top,
        });
    }

    fn named(&mut self, named: &Map<String, Value>, at: &str, base: &Rc<str>, top: &Rc<str>) {
        for (name, schema) in named {
            self.visit(schema, pointer::join(at, name), base, top);
        }
    }

    /// The pointer of a reference's target. `None` if the reference is not a pointer and no part
    /// has that name: it then stays unchanged.
    fn target(&self, reference: &str, place: &Subschema) -> Option<String> {
        let (uri, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        // A URI of no part is left to the survey, which reports it.
        let (top, base) = match uri {
            "" => (&*place.top, without_fragment(&place.base).to_owned()),
            uri => {
                let uri = join(without_fragment(&place.base), uri);
                (self.resources.get(&uri)?.as_str(), uri)
            }
        };
        let fragment = pointer::from_fragment(fragment)?;
        if fragment.is_empty() || fragment.starts_with('/') {
            return Some(format!("{top}{fragment}"));
        }
        self.anchors.get(&(base, fragment)).cloned()
    }
}

fn word(draft: Draft) -> &'static str {
    if draft == Draft::Draft4 { "id" } else { "$id" }
}

fn identity(schema: &Value, draft: Draft) -> Option<&str> {
    schema.get(word(draft))?.as_str()
}

fn without_fragment(uri: &str) -> &str {
    uri.split('#').next().unwrap_or(uri)
}

/// Resolves a relative URI against a base.
fn join(base: &str, uri: &str) -> String {
    let has_scheme = uri
        .split_once(':')
        .is_some_and(|(scheme, _)| !scheme.is_empty() && !scheme.contains(['/', '?']));
    if has_scheme || base.is_empty() {
        return uri.to_owned();
    }
    // An absolute path replaces the whole path of the base.
    if let (Some(path), Some((scheme, rest))) = (uri.strip_prefix('/'), base.split_once("://")) {
        let host = rest.split('/').next().unwrap_or(rest);
        return format!("{scheme}://{host}/{path}");
    }
    // A relative path replaces the last segment; the slashes of `://` end no segment.
    match base.rfind('/') {
        Some(slash) if !base[..=slash].ends_with("://") => format!("{}{uri}", &base[..=slash]),
        _ => format!("{base}/{uri}"),
    }
}
