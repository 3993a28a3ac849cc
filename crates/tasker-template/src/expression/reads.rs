//! The parts of the variables that an expression reads: only these are converted for it.

use std::collections::BTreeMap;

use cel::common::ast::{Expr, IdedExpr, LiteralValue, operators};
use serde_json::Value;

use super::Variable;
use super::macros::Macro;

/// The parts that are read, by name.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Reads {
    /// Whether all of the value is read; otherwise only `parts` and the value's presence.
    pub whole: bool,
    pub parts: BTreeMap<String, Reads>,
}

/// Reads the whole value.
static WHOLE: Reads = Reads {
    whole: true,
    parts: BTreeMap::new(),
};

impl Reads {
    pub fn of(expr: &IdedExpr) -> Reads {
        let mut reads = Reads::default();
        reads.visit(expr);
        reads
    }

    fn visit(&mut self, expr: &IdedExpr) {
        if let Some(path) = path(expr) {
            return self.add(&path, true);
        }
        match &expr.expr {
            Expr::Select(select) => match path(&select.operand) {
                // A selection that is not a path itself is `has(...)`.
                Some(mut path) => {
                    path.push(&select.field);
                    self.add(&path, false);
                }
                None => self.visit(&select.operand),
            },
            Expr::Call(call) => call
                .target
                .as_deref()
                .into_iter()
                .chain(&call.args)
                .for_each(|part| self.visit(part)),
            Expr::List(list) => list.elements.iter().for_each(|part| self.visit(part)),
            Expr::Map(map) => super::entries(map).for_each(|(key, value)| {
                self.visit(key);
                self.visit(value);
            }),
            Expr::Comprehension(made) => {
                // The check refuses any other loop, so its reads do not matter.
                if let Some(found) = Macro::of(made) {
                    [Some(found.over), found.condition, found.item]
                        .into_iter()
                        .flatten()
                        .for_each(|part| self.visit(part));
                }
            }
            Expr::Literal(_) | Expr::Ident(_) | Expr::Struct(_) | Expr::Unspecified => {}
        }
    }

    /// The reads of the part with this name; `None` if the expression does not read it.
    pub fn of_part(&self, name: &str) -> Option<&Reads> {
        if self.whole {
            Some(&WHOLE)
        } else {
            self.parts.get(name)
        }
    }

    /// The paths of all reads.
    pub fn paths(&self, above: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
        if self.parts.is_empty() {
            found.push(above.clone());
        }
        for (name, part) in &self.parts {
            above.push(name.clone());
            part.paths(above, found);
            above.pop();
        }
    }

    fn add(&mut self, path: &[&str], whole: bool) {
        let place = path.iter().fold(self, |place, name| {
            place.parts.entry((*name).to_owned()).or_default()
        });
        // `has(a.b)` must not narrow the read of all of `a.b` elsewhere in the expression.
        place.whole |= whole;
    }
}

/// The names of an expression of the form `a.b["c"]`; `None` for any other expression.
pub(super) fn path(expr: &IdedExpr) -> Option<Vec<&str>> {
    let (of, name) = match &expr.expr {
        Expr::Ident(name) => return Some(vec![name]),
        // A test (`has`) yields a boolean and not the field.
        Expr::Select(select) if !select.test => (&*select.operand, select.field.as_str()),
        Expr::Call(call) if call.func_name == operators::INDEX => match &call.args.get(1)?.expr {
            Expr::Literal(LiteralValue::String(name)) => (call.args.first()?, name.inner()),
            _ => return None,
        },
        _ => return None,
    };
    let mut path = path(of)?;
    path.push(name);
    Some(path)
}

/// The first name of a path that is missing in the values: the name, whether the value around it is
/// a map, and a message.
pub(super) fn missing(path: &[String], root: Variable<'_>) -> Option<(String, bool, String)> {
    let (mut value, mut name) = (root, path.first()?.clone());
    for field in path.get(1..)? {
        let next = match value {
            Variable::Document(Value::Object(map)) => map.get(field),
            Variable::Results(results) => results.get(field.as_str()).copied(),
            Variable::Document(other) => {
                let what = if other.is_null() {
                    "is null"
                } else {
                    "is not a map"
                };
                return Some((
                    field.clone(),
                    false,
                    format!("`{name}` {what}, so it has no field `{field}`"),
                ));
            }
        };
        let Some(next) = next else {
            return Some((
                field.clone(),
                true,
                format!("`{name}` has no field `{field}`"),
            ));
        };
        value = Variable::Document(next);
        name = format!("{name}.{field}");
    }
    None
}
