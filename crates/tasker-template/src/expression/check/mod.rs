//! Static checks of an expression before its first evaluation: unknown names, and types that never
//! fit.

mod functions;
mod operators;

use std::collections::BTreeMap;

use cel::common::ast::{Expr, IdedExpr, ListExpr, LiteralValue, MapExpr, SelectExpr};
use serde_json::Value;

use super::macros::{Gives, Macro};
use super::types::{Kinds, Type};
use super::{MAX_EXPRESSION_DEPTH, MAX_MACRO_DEPTH, MAX_MACROS, Scope, entries, hints, reads};
use crate::text::{did_you_mean, shorten};

/// A message and the id of the faulty node.
pub(super) struct Fault {
    pub id: u64,
    pub message: String,
}

type Typed = Result<Type, Fault>;

fn fault<T>(id: u64, message: impl Into<String>) -> Result<T, Fault> {
    Err(Fault {
        id,
        message: message.into(),
    })
}

/// The type of an expression.
pub(super) fn check(expr: &IdedExpr, scope: &Scope<'_>) -> Typed {
    Checker {
        scope,
        names: Vec::new(),
        depth: 0,
        macro_depth: 0,
        macros: 0,
    }
    .expr(expr)
}

/// The type of a list with elements of these types.
fn list_of(items: Vec<Type>) -> Type {
    let item = items.into_iter().reduce(|a, b| a.union(&b));
    Type::list(item.unwrap_or(Type::ANY))
}

struct Checker<'s, 'e> {
    scope: &'s Scope<'s>,
    /// The variables of the enclosing macros, the innermost last.
    names: Vec<(&'e str, Type)>,
    depth: usize,
    macro_depth: usize,
    macros: usize,
}

impl<'e> Checker<'_, 'e> {
    fn expr(&mut self, expr: &'e IdedExpr) -> Typed {
        // The estimator and the evaluator recurse in the same way, so this bound protects their
        // stacks, too.
        if self.depth >= MAX_EXPRESSION_DEPTH {
            return fault(
                expr.id,
                format!("nested deeper than {MAX_EXPRESSION_DEPTH} levels"),
            );
        }
        self.depth += 1;
        let found = match &expr.expr {
            Expr::Literal(literal) => self.literal(expr.id, literal),
            Expr::Ident(name) => self.name(expr.id, name),
            Expr::Select(select) => self.select(expr.id, select),
            Expr::Call(call) => self.call(expr.id, call),
            Expr::List(list) => Ok(list_of(self.items(list)?)),
            Expr::Map(map) => self.map(map),
            Expr::Comprehension(made) => match Macro::of(made) {
                Some(found) => self.macro_call(expr.id, &found),
                None => fault(expr.id, "unknown macro"),
            },
            Expr::Struct(made) => fault(
                expr.id,
                format!(
                    "messages such as `{}` do not exist here",
                    shorten(&made.type_name)
                ),
            ),
            Expr::Unspecified => fault(expr.id, "expected an expression"),
        };
        // An early return above leaves the depth too high, which is harmless: a fault ends the
        // check.
        self.depth -= 1;
        found
    }

    /// The types of the elements of a literal list.
    fn items(&mut self, list: &'e ListExpr) -> Result<Vec<Type>, Fault> {
        list.elements.iter().map(|item| self.expr(item)).collect()
    }

    fn literal(&self, id: u64, literal: &LiteralValue) -> Typed {
        // Numbers are typed without their value: `1` and `1.0` are equal, but not as JSON.
        let value = match literal {
            LiteralValue::Boolean(value) => Value::from(*value.inner()),
            LiteralValue::String(value) => Value::from(value.inner()),
            LiteralValue::Null => Value::Null,
            LiteralValue::Int(_) => return Ok(Type::of(Kinds::INT)),
            LiteralValue::Double(value) if value.inner().abs() < super::MAX_EXACT_DOUBLE => {
                return Ok(Type::of(Kinds::DOUBLE));
            }
            LiteralValue::Double(_) => {
                return fault(
                    id,
                    "a number with a fraction or an exponent is below 2^53 here; expected an integer",
                );
            }
            LiteralValue::UInt(_) => {
                return fault(
                    id,
                    "unsigned numbers do not exist here; expected it without the `u`",
                );
            }
            LiteralValue::Bytes(_) => {
                return fault(
                    id,
                    "byte strings do not exist here; expected it without the `b`",
                );
            }
        };
        Ok(Type::constant(&value))
    }

    fn name(&self, id: u64, name: &str) -> Typed {
        // The innermost macro comes first, since its variable hides an outer one of the same name.
        if let Some((_, found)) = self.names.iter().rev().find(|(known, _)| *known == name) {
            return Ok(found.clone());
        }
        match name {
            "context" => Ok(self.scope.context.clone()),
            "task" => Ok(Type::record(self.scope.task_fields())),
            "results" if self.scope.results.is_some() => fault(
                id,
                "expected the result of one step, such as `results.step_name`",
            ),
            "results" => fault(
                id,
                "results do not exist before the task starts; expected `context` or `task`",
            ),
            _ => {
                let all: Vec<&str> = self.scope.variables().collect();
                let known = all
                    .iter()
                    .copied()
                    .chain(self.names.iter().map(|(name, _)| *name));
                let hint = hints::of_word(name).unwrap_or_else(|| did_you_mean(name, known));
                let hint = if hint.is_empty() {
                    format!("; expected one of {}", all.join(", "))
                } else {
                    hint
                };
                fault(id, format!("unknown variable `{}`{hint}", shorten(name)))
            }
        }
    }

    fn select(&mut self, id: u64, select: &'e SelectExpr) -> Typed {
        let found = self.field(id, &select.operand, &select.field)?;
        Ok(if select.test {
            Type::of(Kinds::BOOL)
        } else {
            found
        })
    }

    /// The type of `of.field` or `of["field"]`.
    fn field(&mut self, id: u64, of: &'e IdedExpr, field: &str) -> Typed {
        // Each step has a result type of its own, so `results` as a whole has none. A skipped
        // step's result is null.
        if matches!(&of.expr, Expr::Ident(name) if name == "results" && !self.names.iter().any(|(n, _)| *n == "results"))
            && let Some(results) = self.scope.results
        {
            return results(field)
                .map(Type::nullable)
                .or_else(|message| fault(id, message));
        }
        let owner = self.expr(of)?;
        let what = reads::path(of).map(|path| path.join("."));
        let what = what.as_deref().unwrap_or("this");
        if !owner.kinds.has(Kinds::MAP) {
            return fault(
                id,
                format!(
                    "`{what}` is {}, which has no fields",
                    owner.kinds.describe()
                ),
            );
        }
        // No schema describes the map, so any field may exist.
        let Some(fields) = &owner.fields else {
            return Ok(Type::ANY);
        };
        if let Some(found) = fields.known.get(field).or(fields.others.as_ref()) {
            return Ok(found.clone());
        }
        let hint = did_you_mean(field, fields.known.keys().map(String::as_str));
        let (field, what) = (shorten(field), shorten(what));
        if what == "task" {
            let known: Vec<&str> = fields.known.keys().map(String::as_str).collect();
            return fault(
                id,
                format!(
                    "`task` has no field `{field}`{hint}; it has {}",
                    known.join(", ")
                ),
            );
        }
        let rule =
            "its schema lists its fields, and would allow others by `additionalProperties: true`";
        fault(id, format!("`{what}` has no field `{field}`{hint}; {rule}"))
    }

    fn map(&mut self, map: &'e MapExpr) -> Typed {
        let mut known = BTreeMap::new();
        for (key, value) in entries(map) {
            let value = self.expr(value)?;
            let Expr::Literal(LiteralValue::String(name)) = &key.expr else {
                return fault(key.id, "expected a string as the key, as in JSON");
            };
            known.insert(name.inner().to_owned(), value);
        }
        Ok(Type::record(known))
    }

    fn macro_call(&mut self, id: u64, found: &Macro<'e>) -> Typed {
        self.macros += 1;
        if self.macros > MAX_MACROS {
            return fault(
                id,
                format!("more than {MAX_MACROS} macros in one expression"),
            );
        }
        if self.macro_depth == MAX_MACRO_DEPTH {
            return fault(
                id,
                format!("macros nested deeper than {MAX_MACRO_DEPTH} levels"),
            );
        }
        // `Reads` knows no scopes: it would take the item for the variable of the same name.
        if self.scope.variables().any(|name| name == found.name) {
            return fault(
                id,
                format!(
                    "`{}` is a variable already; expected another name for the items",
                    found.name
                ),
            );
        }
        // The list is outside the scope of the macro's variable, so it is checked first.
        let over = self.expr(found.over)?;
        if !over.kinds.has(Kinds::LIST.or(Kinds::MAP)) {
            return fault(
                found.over.id,
                format!("expected a list or a map, found {}", over.kinds.describe()),
            );
        }
        // A macro over a map goes through its keys.
        let item = match (over.kinds.has(Kinds::LIST), over.kinds.has(Kinds::MAP)) {
            (true, false) => over.item(),
            (false, true) => Type::of(Kinds::TEXT),
            _ => Type::ANY,
        };
        self.names.push((found.name, item));
        self.macro_depth += 1;
        if let Some(condition) = found.condition {
            self.bool(condition)?;
        }
        let item = found.item.map(|item| self.expr(item)).transpose()?;
        self.macro_depth -= 1;
        self.names.pop();
        Ok(match found.gives {
            Gives::Bool => Type::of(Kinds::BOOL),
            Gives::List => Type::list(item.unwrap_or(Type::ANY)),
        })
    }

    fn bool(&mut self, expr: &'e IdedExpr) -> Result<(), Fault> {
        let found = self.expr(expr)?;
        if found.kinds.has(Kinds::BOOL) {
            return Ok(());
        }
        fault(
            expr.id,
            format!("expected true or false, found {}", found.kinds.describe()),
        )
    }
}
