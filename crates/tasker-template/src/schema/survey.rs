//! The inventory of a schema: each place that is a schema, the edges between them, and the invalid
//! parts.

use std::collections::HashMap;

use jsonschema::Draft;
use serde_json::{Map, Value, json};

use super::keywords::{self, Role, Shape};
use super::message::cut;
use super::pattern::Effort;
use super::reference::{ANCHORS, Anchors, REFERENCES};
use super::{Allowance, MAX_PATTERNS, MAX_VIOLATIONS, SchemaProblem, options, pointer};
use crate::text::did_you_mean;

/// Keywords that may stand beside a `$ref`, although draft 7 and older read only the `$ref`.
const HARMLESS_BESIDE_REF: [&str; 9] = [
    "$ref",
    "$schema",
    "$id",
    "id",
    "$comment",
    "title",
    "description",
    "definitions",
    "examples",
];

/// The result of [`Survey::of`].
#[derive(Debug)]
pub(super) struct Survey {
    pub draft: Draft,
    pub places: Vec<Place>,
    /// The schemas that have a `default`, as indices into [`Survey::places`].
    pub defaults: Vec<usize>,
    anchors: Anchors,
    /// The parts that the validator does not check.
    pub warnings: Vec<SchemaProblem>,
    /// The matching cost of each pattern.
    efforts: HashMap<String, Effort>,
}

/// A place in the document that is a schema.
#[derive(Debug)]
pub(super) struct Place {
    pub pointer: String,
    pub edges: Vec<Edge>,
}

/// An edge from one schema to another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Edge {
    pub role: Role,
    /// Index into [`Survey::places`].
    pub to: usize,
}

impl Survey {
    /// Visits every schema that `root` contains or refers to.
    pub fn of(
        root: &Value,
        draft: Draft,
        allowance: &mut Allowance,
        problems: &mut Vec<SchemaProblem>,
    ) -> Survey {
        let survey = Survey {
            draft,
            places: Vec::new(),
            defaults: Vec::new(),
            anchors: Anchors::default(),
            warnings: Vec::new(),
            efforts: HashMap::new(),
        };
        let mut walk = Surveyor {
            root,
            survey,
            index: HashMap::new(),
            references: Vec::new(),
            patterns: 0,
            hints: 0,
            allowance,
            problems,
        };
        walk.visit(String::new());
        walk.run();
        walk.survey
    }

    /// The pointer of a reference's target; `None` if the target is outside the schema or missing.
    pub fn target(&self, reference: &str, root: &Value) -> Option<String> {
        self.anchors.target(reference, root)
    }

    /// The matching cost of a pattern of the schema.
    pub fn effort(&self, pattern: &str) -> Effort {
        self.efforts
            .get(pattern)
            .copied()
            .unwrap_or_else(Effort::unknown)
    }

    /// Whether the validator ignores the keywords beside a `$ref`.
    pub fn ref_hides_siblings(&self) -> bool {
        self.draft <= Draft::Draft7
    }
}

/// Whether the schema's `type` allows objects.
pub(super) fn accepts_objects(root: &Value) -> bool {
    match root.get("type") {
        Some(Value::String(kind)) => kind == "object",
        Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == "object"),
        _ => true,
    }
}

struct Surveyor<'s, 'p> {
    root: &'s Value,
    survey: Survey,
    /// Indices into [`Survey::places`] by pointer.
    index: HashMap<String, usize>,
    /// The references to follow: their place, their keyword and their text.
    references: Vec<(usize, &'static str, &'s str)>,
    /// Number of patterns so far.
    patterns: usize,
    /// Number of searches for a similar word so far.
    hints: usize,
    allowance: &'p mut Allowance,
    problems: &'p mut Vec<SchemaProblem>,
}

impl<'s> Surveyor<'s, '_> {
    /// Reads all places first, so that their anchors are known, and then follows the references
    /// between them, which may lead to new places.
    fn run(&mut self) {
        let mut next = 0;
        loop {
            while next < self.survey.places.len() {
                self.read(next);
                next += 1;
            }
            let references = std::mem::take(&mut self.references);
            if references.is_empty() {
                return;
            }
            for (place, keyword, reference) in references {
                self.follow(place, keyword, reference);
            }
        }
    }

    fn visit(&mut self, pointer: String) -> usize {
        // A place is entered once, however many references lead to it; that ends recursive schemas.
        *self.index.entry(pointer).or_insert_with_key(|pointer| {
            self.survey.places.push(Place {
                pointer: pointer.clone(),
                edges: Vec::new(),
            });
            self.survey.places.len() - 1
        })
    }

    fn follow(&mut self, place: usize, keyword: &'static str, reference: &str) {
        if let Some(target) = self.survey.target(reference, self.root) {
            let to = self.visit(target);
            self.survey.places[place].edges.push(Edge {
                role: Role::SameValue,
                to,
            });
            return;
        }
        let at = pointer::join(&self.survey.places[place].pointer, keyword);
        let message = if reference.starts_with('#') {
            format!("there is no `{}` in this schema", cut(reference))
        } else {
            format!(
                "expected a reference inside this schema (#/…), found `{}`; nothing is fetched",
                cut(reference)
            )
        };
        self.report(at, message);
    }

    fn read(&mut self, place: usize) {
        let at = self.survey.places[place].pointer.clone();
        // A boolean schema, or a target that is no schema, has no keywords.
        let Some(Value::Object(schema)) = self.root.pointer(&at) else {
            return;
        };
        if schema.contains_key("default") {
            self.survey.defaults.push(place);
        }
        self.check_identity(schema, &at);
        self.check_format(schema, &at);
        if let Some(Value::String(pattern)) = schema.get("pattern") {
            self.check_pattern(pattern, pointer::join(&at, "pattern"));
        }
        // A keyword that the draft ignores is reported, since its author expects an effect.
        let only_ref = self.survey.ref_hides_siblings() && schema.contains_key("$ref");
        for (keyword, value) in schema {
            let here = pointer::join(&at, keyword);
            match keywords::shape(keyword, self.survey.draft) {
                None if keywords::is_foreign_note(keyword) => self.warn(here, foreign(keyword)),
                None => {
                    let message = self.unknown(keyword);
                    self.report(here, message);
                }
                Some(_) if only_ref && !HARMLESS_BESIDE_REF.contains(&keyword.as_str()) => {
                    self.report(
                        here,
                        "this draft ignores keywords beside `$ref`; expected them in an `allOf`, or draft 2020-12",
                    );
                }
                Some(shape) => self.descend(place, shape, keyword, value, &here),
            }
        }
        // Queued and not followed: the anchor may be in a place that has not been read yet.
        for keyword in REFERENCES {
            if let Some(Value::String(reference)) = schema.get(keyword) {
                self.references.push((place, keyword, reference));
            }
        }
    }

    fn descend(&mut self, place: usize, shape: Shape, keyword: &str, value: &Value, here: &str) {
        match (shape, value) {
            (Shape::One(role) | Shape::OneOrList(role), Value::Object(_) | Value::Bool(_)) => {
                self.link(place, role, here.to_owned());
            }
            (Shape::List(role) | Shape::OneOrList(role), Value::Array(schemas)) => {
                for index in 0..schemas.len() {
                    self.link(place, role, format!("{here}/{index}"));
                }
            }
            (Shape::Named(role), Value::Object(schemas)) => {
                // `dependencies` may hold a list of names, which is no schema.
                for (name, _) in schemas.iter().filter(|(_, schema)| !schema.is_array()) {
                    let child = pointer::join(here, name);
                    if keyword == "patternProperties" {
                        self.check_pattern(name, child.clone());
                    }
                    self.link(place, role, child);
                }
            }
            _ => {} // The metaschema check has reported it.
        }
    }

    fn link(&mut self, place: usize, role: Role, pointer: String) {
        let to = self.visit(pointer);
        // A definition applies to no value by itself, so it has no edge; it is visited and checked
        // all the same.
        if role != Role::Aside {
            self.survey.places[place].edges.push(Edge { role, to });
        }
    }

    /// Below the top, `$id` and `$schema` begin another document, in which references and keywords
    /// have another meaning.
    fn check_identity(&mut self, schema: &Map<String, Value>, at: &str) {
        for keyword in ["$id", "id", "$schema"]
            .into_iter()
            .filter(|keyword| !at.is_empty() && schema.contains_key(*keyword))
        {
            // Later drafts have no keyword `id`, and report it as unknown.
            if keyword != "id" || self.survey.draft == Draft::Draft4 {
                self.report(
                    pointer::join(at, keyword),
                    format!("`{keyword}` is only allowed at the top of the schema"),
                );
            }
        }
        for keyword in ANCHORS {
            if let Some(Value::String(name)) = schema.get(keyword)
                && !self.survey.anchors.insert(name, at)
            {
                self.report(
                    pointer::join(at, keyword),
                    format!("the anchor `{}` appears twice", cut(name)),
                );
            }
        }
    }

    fn check_format(&mut self, schema: &Map<String, Value>, at: &str) {
        let Some(Value::String(format)) = schema.get("format") else {
            return;
        };
        if !options().is_known_format(self.survey.draft, format) {
            let hint = match format.as_str() {
                "int8" | "int16" | "int32" | "int64" | "uint8" | "uint16" | "uint32" | "uint64"
                | "uint" => "; `minimum` and `maximum` would bound the number".into(),
                _ => self.hint(format, FORMATS),
            };
            self.warn(
                pointer::join(at, "format"),
                format!("the format `{}` is not checked{hint}", cut(format)),
            );
        }
    }

    fn check_pattern(&mut self, pattern: &str, at: String) {
        self.patterns += 1;
        // Counted before the compilation, which is the expensive part.
        if self.patterns > MAX_PATTERNS {
            self.report(at, format!("a schema has at most {MAX_PATTERNS} patterns"));
        } else if self.allowance.patterns == 0 {
            let message =
                format!("the schemas of a template have at most {MAX_PATTERNS} patterns together");
            self.report("", message);
        } else {
            self.allowance.patterns -= 1;
            self.measure_pattern(pattern, at);
        }
    }

    fn measure_pattern(&mut self, pattern: &str, at: String) {
        if options().build(&json!({ "pattern": pattern })).is_err() {
            let message = "expected a regular expression without look-around and back references, and not too large";
            self.report(at, format!("{message}, found `{}`", cut(pattern)));
        } else if !self.survey.efforts.contains_key(pattern) {
            // Measuring visits the automaton's states, so a repeated pattern is measured once.
            self.survey
                .efforts
                .insert(pattern.to_owned(), Effort::measure(pattern));
        }
    }

    fn unknown(&mut self, keyword: &str) -> String {
        let hint = self.hint(keyword, keywords::all(self.survey.draft));
        let rule = if hint.is_empty() {
            "; own annotations begin with `x-`"
        } else {
            ""
        };
        format!("unknown keyword `{}`{hint}{rule}", cut(keyword))
    }

    /// As [`did_you_mean`], for as many words as are listed at most.
    fn hint<'c>(&mut self, word: &str, candidates: impl IntoIterator<Item = &'c str>) -> String {
        self.hints += 1;
        if self.hints > MAX_VIOLATIONS {
            String::new()
        } else {
            did_you_mean(word, candidates)
        }
    }

    fn warn(&mut self, pointer: String, message: String) {
        // Bounded here: problems are cut by `finish`, which does not see the warnings.
        if self.survey.warnings.len() < MAX_VIOLATIONS {
            self.survey
                .warnings
                .push(SchemaProblem { pointer, message });
        }
    }

    fn report(&mut self, pointer: impl Into<String>, message: impl Into<String>) {
        self.problems.push(SchemaProblem {
            pointer: pointer.into(),
            message: message.into(),
        });
    }
}

/// Why a keyword of another standard has no effect.
fn foreign(keyword: &str) -> String {
    let hint = match keyword {
        "nullable" => "; a `type` list with \"null\" in it allows null",
        "discriminator" => "; a `const` in each of the schemas tells them apart",
        _ => "",
    };
    format!("`{keyword}` has no effect here{hint}")
}

/// The candidates for a misspelt format.
const FORMATS: [&str; 18] = [
    "date",
    "date-time",
    "duration",
    "email",
    "hostname",
    "idn-email",
    "idn-hostname",
    "ipv4",
    "ipv6",
    "iri",
    "iri-reference",
    "json-pointer",
    "regex",
    "relative-json-pointer",
    "time",
    "uri",
    "uri-reference",
    "uuid",
];
