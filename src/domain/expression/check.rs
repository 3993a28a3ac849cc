//! Static checks of an expression before its first evaluation: unknown names, and types that never
//! fit.

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, SelectExpr, operators};
use serde_json::Value;

use super::hints;
use super::macros::{Gives, Macro};
use super::types::{Kinds, Type};
use super::{MAX_EXPRESSION_DEPTH, MAX_MACRO_DEPTH, MAX_MACROS, Scope, entries};
use crate::domain::words::{did_you_mean, shorten};

/// A message and the id of the faulty node.
pub(super) struct Fault {
    pub id: u64,
    pub message: String,
}

type Found = Result<Type, Fault>;

fn fault<T>(id: u64, message: impl Into<String>) -> Result<T, Fault> {
    Err(Fault {
        id,
        message: message.into(),
    })
}

/// The type of an expression.
pub(super) fn check(expr: &IdedExpr, scope: &Scope<'_>) -> Found {
    Checker {
        scope,
        names: Vec::new(),
        depth: 0,
        macro_depth: 0,
        macros: 0,
    }
    .expr(expr)
}

struct Checker<'s, 'e> {
    scope: &'s Scope<'s>,
    /// The variables of the enclosing macros, the innermost last.
    names: Vec<(&'e str, Type)>,
    depth: usize,
    macro_depth: usize,
    macros: usize,
}

/// A function that an expression may call.
struct Function {
    name: &'static str,
    /// The kinds of its arguments; the first is the value before the dot in a method call.
    takes: &'static [Kinds],
    gives: Kinds,
    /// Allowed forms of a call: `a.f()` with `after_dot`, `f(a)` with `alone`.
    after_dot: bool,
    alone: bool,
}

const SIZED: Kinds = Kinds::TEXT.or(Kinds::LIST).or(Kinds::MAP);
const WRITTEN_NUMBER: Kinds = Kinds::NUMBER.or(Kinds::TEXT);
const SCALAR: Kinds = WRITTEN_NUMBER.or(Kinds::BOOL);

const FUNCTIONS: [Function; 7] = [
    Function {
        name: "size",
        takes: &[SIZED],
        gives: Kinds::INT,
        after_dot: true,
        alone: true,
    },
    text_test("contains"),
    text_test("startsWith"),
    text_test("endsWith"),
    conversion("int", &[WRITTEN_NUMBER], Kinds::INT),
    conversion("double", &[WRITTEN_NUMBER], Kinds::DOUBLE),
    conversion("string", &[SCALAR], Kinds::TEXT),
];

const fn text_test(name: &'static str) -> Function {
    Function {
        name,
        takes: &[Kinds::TEXT, Kinds::TEXT],
        gives: Kinds::BOOL,
        after_dot: true,
        alone: false,
    }
}

const fn conversion(name: &'static str, takes: &'static [Kinds], gives: Kinds) -> Function {
    Function {
        name,
        takes,
        gives,
        after_dot: false,
        alone: true,
    }
}

/// Names and forms of the macros. The parser treats a macro in any other form as an ordinary call.
const MACROS: [(&str, &str); 6] = [
    ("has", "has(a.field)"),
    ("all", "list.all(x, condition)"),
    ("exists", "list.exists(x, condition)"),
    ("exists_one", "list.exists_one(x, condition)"),
    ("map", "list.map(x, value)"),
    ("filter", "list.filter(x, condition)"),
];

impl<'e> Checker<'_, 'e> {
    fn expr(&mut self, expr: &'e IdedExpr) -> Found {
        if self.depth == MAX_EXPRESSION_DEPTH {
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
            Expr::List(list) => {
                let items = list
                    .elements
                    .iter()
                    .map(|item| self.expr(item))
                    .collect::<Result<Vec<_>, _>>()?;
                Ok(Type::list(
                    items
                        .into_iter()
                        .reduce(|a, b| a.either(&b))
                        .unwrap_or(Type::ANY),
                ))
            }
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
        self.depth -= 1;
        found
    }

    fn literal(&self, id: u64, literal: &LiteralValue) -> Found {
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

    fn name(&self, id: u64, name: &str) -> Found {
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

    fn select(&mut self, id: u64, select: &'e SelectExpr) -> Found {
        let found = self.field(id, &select.operand, &select.field)?;
        Ok(if select.test {
            Type::of(Kinds::BOOL)
        } else {
            found
        })
    }

    /// The type of `of.field` or `of["field"]`.
    fn field(&mut self, id: u64, of: &'e IdedExpr, field: &str) -> Found {
        if matches!(&of.expr, Expr::Ident(name) if name == "results" && !self.names.iter().any(|(n, _)| *n == "results"))
            && let Some(results) = self.scope.results
        {
            return results(field)
                .map(Type::nullable)
                .or_else(|message| fault(id, message));
        }
        let owner = self.expr(of)?;
        let what = super::reads::path(of).map(|path| path.join("."));
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

    fn map(&mut self, map: &'e cel::common::ast::MapExpr) -> Found {
        let mut known = std::collections::BTreeMap::new();
        for (key, value) in entries(map) {
            let value = self.expr(value)?;
            let Expr::Literal(LiteralValue::String(name)) = &key.expr else {
                return fault(key.id, "expected a string as the key, as in JSON");
            };
            known.insert(name.inner().to_owned(), value);
        }
        Ok(Type::record(known))
    }

    fn macro_call(&mut self, id: u64, found: &Macro<'e>) -> Found {
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

    fn call(&mut self, id: u64, call: &'e CallExpr) -> Found {
        let of = |kinds| Ok(Type::of(kinds));
        match (call.func_name.as_str(), call.args.as_slice()) {
            (operators::LOGICAL_AND | operators::LOGICAL_OR, [a, b]) => {
                self.bool(a)?;
                self.bool(b)?;
                of(Kinds::BOOL)
            }
            (operators::LOGICAL_NOT, [a]) => {
                self.bool(a)?;
                of(Kinds::BOOL)
            }
            (operators::CONDITIONAL, [condition, a, b]) => {
                self.bool(condition)?;
                let first = self.expr(a)?;
                Ok(first.either(&self.expr(b)?))
            }
            (operators::EQUALS | operators::NOT_EQUALS, [a, b]) => self.equality(id, a, b),
            (
                operators::LESS
                | operators::LESS_EQUALS
                | operators::GREATER
                | operators::GREATER_EQUALS,
                [a, b],
            ) => self.order(id, a, b),
            (operators::IN, [a, b]) => self.contained(id, a, b),
            (operators::INDEX, [of, index]) => self.index(id, of, index),
            (operators::NEGATE, [a]) => {
                let found = self.expr(a)?.kinds;
                self.numeric(id, "-", found)?;
                of(found.and(Kinds::NUMBER))
            }
            (operators::ADD, [a, b]) => {
                self.arithmetic(id, "+", a, b, Kinds::NUMBER.or(Kinds::TEXT).or(Kinds::LIST))
            }
            (operators::SUBSTRACT, [a, b]) => self.arithmetic(id, "-", a, b, Kinds::NUMBER),
            (operators::MULTIPLY, [a, b]) => self.arithmetic(id, "*", a, b, Kinds::NUMBER),
            (operators::DIVIDE, [a, b]) => self.arithmetic(id, "/", a, b, Kinds::NUMBER),
            (operators::MODULO, [a, b]) => self.arithmetic(id, "%", a, b, Kinds::INT),
            _ => self.function(id, call),
        }
    }

    fn equality(&mut self, id: u64, a: &'e IdedExpr, b: &'e IdedExpr) -> Found {
        let (left, right) = (self.expr(a)?, self.expr(b)?);
        comparable(id, &left, &right)?;
        Ok(Type::of(Kinds::BOOL))
    }

    fn order(&mut self, id: u64, a: &'e IdedExpr, b: &'e IdedExpr) -> Found {
        let (left, right) = (self.expr(a)?.kinds, self.expr(b)?.kinds);
        let both = |kinds: Kinds| left.has(kinds) && right.has(kinds);
        if both(Kinds::NUMBER) || both(Kinds::TEXT) {
            return Ok(Type::of(Kinds::BOOL));
        }
        fault(
            id,
            format!("{} has no order with {}", left.describe(), right.describe()),
        )
    }

    fn contained(&mut self, id: u64, a: &'e IdedExpr, b: &'e IdedExpr) -> Found {
        let left = self.expr(a)?;
        if let Expr::List(list) = &b.expr {
            for item in &list.elements {
                let item_type = self.expr(item)?;
                comparable(item.id, &left, &item_type)?;
            }
        }
        let right = self.expr(b)?;
        let never = |why: String| fault(id, format!("`in` is never true here: {why}"));
        match (right.kinds.has(Kinds::LIST), right.kinds.has(Kinds::MAP)) {
            (false, false) => fault(
                id,
                format!(
                    "expected a list or a map after `in`, found {}",
                    right.kinds.describe()
                ),
            ),
            (true, false) if !fits(left.kinds, right.item().kinds) => never(format!(
                "{} is searched among {}",
                left.kinds.describe(),
                right.item().kinds.describe()
            )),
            (false, true) if !left.kinds.has(Kinds::TEXT) => never(format!(
                "{} is searched among the names of fields",
                left.kinds.describe()
            )),
            _ => Ok(Type::of(Kinds::BOOL)),
        }
    }

    fn index(&mut self, id: u64, of: &'e IdedExpr, index: &'e IdedExpr) -> Found {
        if let Expr::Literal(LiteralValue::String(name)) = &index.expr {
            return self.field(id, of, name.inner());
        }
        let (owner, index) = (self.expr(of)?, self.expr(index)?);
        let list = owner.kinds.has(Kinds::LIST) && index.kinds.has(Kinds::INT);
        let map = owner.kinds.has(Kinds::MAP) && index.kinds.has(Kinds::TEXT);
        match (list, map) {
            (false, false) => {
                let (owner, index) = (owner.kinds.describe(), index.kinds.describe());
                fault(
                    id,
                    format!("{owner} cannot be indexed by {index}; expected a list and an integer"),
                )
            }
            (true, false) => Ok(owner.item()),
            _ => Ok(Type::ANY),
        }
    }

    fn numeric(&self, id: u64, sign: &str, found: Kinds) -> Result<(), Fault> {
        if found.has(Kinds::NUMBER) {
            return Ok(());
        }
        fault(
            id,
            format!("`{sign}` takes numbers, found {}", found.describe()),
        )
    }

    /// CEL does not mix integers and fractions, so an operand that may be either must be converted.
    fn arithmetic(
        &mut self,
        id: u64,
        sign: &str,
        a: &'e IdedExpr,
        b: &'e IdedExpr,
        takes: Kinds,
    ) -> Found {
        let (left, right) = (self.expr(a)?, self.expr(b)?);
        let both = left.kinds.and(right.kinds).and(takes);
        let (l, r) = (left.kinds, right.kinds);
        let numbers =
            l.within(Kinds::NUMBER) && r.within(Kinds::NUMBER) && takes.has(Kinds::NUMBER);
        if numbers && (l != r || l == Kinds::NUMBER) {
            let advice =
                format!("expected one kind on both sides, such as `double(a) {sign} double(b)`");
            return fault(
                id,
                format!(
                    "`{sign}` does not combine {} and {}; {advice}",
                    l.describe(),
                    r.describe()
                ),
            );
        }
        if both == Kinds::NONE {
            return fault(
                id,
                format!(
                    "`{sign}` does not take {} and {}",
                    l.describe(),
                    r.describe()
                ),
            );
        }
        let item = match (left.item, right.item) {
            (Some(a), Some(b)) => Some(a.as_ref().clone().either(&b).into()),
            _ => None,
        };
        Ok(Type {
            item,
            ..Type::of(both)
        })
    }

    fn function(&mut self, id: u64, call: &'e CallExpr) -> Found {
        let name = call.func_name.as_str();
        if let Some((_, form)) = MACROS.into_iter().find(|(known, _)| *known == name) {
            return fault(id, format!("`{name}` is called as `{form}`"));
        }
        let Some(function) = FUNCTIONS.iter().find(|function| function.name == name) else {
            let names = FUNCTIONS
                .iter()
                .map(|f| f.name)
                .chain(MACROS.iter().map(|(name, _)| *name));
            let hint = hints::of_word(name).unwrap_or_else(|| did_you_mean(name, names.clone()));
            let all: Vec<&str> = names.collect();
            let hint = if hint.is_empty() {
                format!("; expected one of {}", all.join(", "))
            } else {
                hint
            };
            return fault(id, format!("unknown function `{}`{hint}", shorten(name)));
        };
        let args: Vec<&IdedExpr> = call
            .target
            .as_deref()
            .into_iter()
            .chain(&call.args)
            .collect();
        let well_called = if call.target.is_some() {
            function.after_dot
        } else {
            function.alone
        };
        if !well_called || args.len() != function.takes.len() {
            let arguments = if function.takes.len() > 1 { "b" } else { "" };
            let form = if function.after_dot {
                format!("a.{name}({arguments})")
            } else {
                format!("{name}(a)")
            };
            return fault(id, format!("`{name}` is called as `{form}`"));
        }
        for (arg, takes) in args.into_iter().zip(function.takes) {
            let found = self.expr(arg)?.kinds;
            if !found.has(*takes) {
                return fault(
                    arg.id,
                    format!(
                        "`{name}` takes {}, found {}",
                        takes.describe(),
                        found.describe()
                    ),
                );
            }
        }
        Ok(Type::of(function.gives))
    }
}

/// Whether values of these kinds can be equal: a number of either kind can equal one of the other.
fn fits(a: Kinds, b: Kinds) -> bool {
    a.has(b) || a.has(Kinds::NUMBER) && b.has(Kinds::NUMBER)
}

fn comparable(id: u64, left: &Type, right: &Type) -> Result<(), Fault> {
    if !fits(left.kinds, right.kinds) {
        let (left, right) = (left.kinds.describe(), right.kinds.describe());
        return fault(id, format!("{left} is never equal to {right}"));
    }
    let (Some(a), Some(b)) = (&left.values, &right.values) else {
        return Ok(());
    };
    // Two numbers may be equal although their texts differ.
    if a.iter().any(|value| b.contains(value) || value.is_number()) {
        return Ok(());
    }
    let (wanted, allowed) = if a.len() == 1 {
        (left, right)
    } else {
        (right, left)
    };
    let allowed = allowed.named_values();
    fault(
        id,
        format!(
            "{} is never equal to a value that is always one of {allowed}",
            wanted.named_values()
        ),
    )
}
