//! How much an expression can cost at most with the values at hand, counted before it is evaluated.

use std::collections::HashMap;

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, operators};
use serde_json::Value;

use super::macros::{Gives, Macro};
use super::reads::Reads;
use super::{StepResults, Variable, entries};

/// Bytes of text that cost as much as one step.
const BYTES_PER_STEP: usize = 16;

/// The size of a value: an upper bound.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    /// Of all of it: a step for each value in it, and for each [`BYTES_PER_STEP`] of text.
    whole: u64,
    /// The most items of any list or map in it.
    longest: u64,
}

/// A value that is not there yet.
#[derive(Clone, Copy)]
enum Shape<'v> {
    Known(&'v Value),
    Results(&'v StepResults<'v>),
    Bound(Size),
}

/// What an expression costs, and what comes out of it.
struct Estimate<'v> {
    cost: u64,
    shape: Shape<'v>,
}

/// The steps that evaluating `expr` takes at most.
pub(super) fn cost<'v>(expr: &IdedExpr, variable: &dyn Fn(&str) -> Option<Variable<'v>>) -> u64 {
    Estimator {
        variable: &|name| variable(name).map(Shape::of),
        names: Vec::new(),
        measured: HashMap::new(),
        items: HashMap::new(),
    }
    .expr(expr)
    .cost
}

/// The steps that it takes at most with documents of this many bytes together, whatever is in them.
pub(super) fn cost_for(expr: &IdedExpr, bytes: usize) -> u64 {
    // Each value takes two bytes at least, with what divides it from the next.
    let any = Size {
        whole: 1 + bytes as u64,
        longest: 1 + bytes as u64 / 2,
    };
    let variable = |_: &str| Some(Shape::Bound(any));
    Estimator {
        variable: &variable,
        names: Vec::new(),
        measured: HashMap::new(),
        items: HashMap::new(),
    }
    .expr(expr)
    .cost
}

/// The steps that it takes to make ready what is read of a variable.
pub(super) fn size(variable: Variable<'_>, reads: &Reads) -> u64 {
    match variable {
        Variable::Document(value) => part_size(value, reads),
        Variable::Results(results) => results
            .iter()
            .filter_map(|(step, value)| Some(part_size(value, reads.of_part(step)?)))
            .fold(1, u64::saturating_add),
    }
}

fn part_size(value: &Value, reads: &Reads) -> u64 {
    match value {
        _ if reads.whole => measure(value).whole,
        Value::Object(map) => {
            let parts = reads
                .parts
                .iter()
                .filter_map(|(name, reads)| Some(part_size(map.get(name)?, reads)));
            parts.fold(1, u64::saturating_add)
        }
        _ => 1,
    }
}

struct Estimator<'v, 'e> {
    variable: &'e dyn Fn(&str) -> Option<Shape<'v>>,
    names: Vec<(&'e str, Size)>,
    /// By the place of the value, so that each is measured once.
    measured: HashMap<*const Value, Size>,
    /// The largest item, by the place of the list or map.
    items: HashMap<*const Value, (u64, Size)>,
}

impl<'v> Shape<'v> {
    fn of(variable: Variable<'v>) -> Self {
        match variable {
            Variable::Document(value) => Shape::Known(value),
            Variable::Results(results) => Shape::Results(results),
        }
    }
}

impl<'v, 'e> Estimator<'v, 'e> {
    fn size(&mut self, shape: Shape<'v>) -> Size {
        match shape {
            Shape::Bound(size) => size,
            Shape::Known(value) => *self.measured.entry(value).or_insert_with(|| measure(value)),
            Shape::Results(results) => results.values().fold(
                Size {
                    whole: 1,
                    longest: results.len() as u64,
                },
                |size, value| {
                    let value = measure(value);
                    Size {
                        whole: size.whole.saturating_add(value.whole),
                        longest: size.longest.max(value.longest),
                    }
                },
            ),
        }
    }

    fn expr(&mut self, expr: &'e IdedExpr) -> Estimate<'v> {
        match &expr.expr {
            Expr::Literal(literal) => {
                let bytes = if let LiteralValue::String(text) = literal {
                    text.inner().len()
                } else {
                    0
                };
                bound(
                    1,
                    Size {
                        whole: text_size(bytes),
                        longest: 0,
                    },
                )
            }
            Expr::Ident(name) => {
                let shape = match self.names.iter().rev().find(|(known, _)| known == name) {
                    Some((_, size)) => Shape::Bound(*size),
                    None => (self.variable)(name).unwrap_or(Shape::Bound(Size::default())),
                };
                Estimate { cost: 1, shape }
            }
            Expr::Select(select) => self.field(&select.operand, Some(&select.field)),
            Expr::List(list) => {
                let items: Vec<Estimate<'v>> =
                    list.elements.iter().map(|item| self.expr(item)).collect();
                self.container(items.len(), items)
            }
            Expr::Map(map) => {
                let parts: Vec<Estimate<'v>> = entries(map)
                    .flat_map(|(key, value)| [self.expr(key), self.expr(value)])
                    .collect();
                self.container(parts.len() / 2, parts)
            }
            Expr::Comprehension(made) => match Macro::of(made) {
                Some(found) => self.macro_call(&found),
                None => bound(u64::MAX, Size::default()),
            },
            Expr::Call(call) => self.call(call),
            Expr::Struct(_) | Expr::Unspecified => bound(u64::MAX, Size::default()),
        }
    }

    /// `of.field`, or `of[…]` where the field is not known.
    fn field(&mut self, of: &'e IdedExpr, field: Option<&str>) -> Estimate<'v> {
        let of = self.expr(of);
        let shape = match (of.shape, field) {
            (Shape::Known(Value::Object(map)), Some(field)) => map
                .get(field)
                .map_or(Shape::Bound(Size::default()), Shape::Known),
            (Shape::Results(results), Some(field)) => results
                .get(field)
                .map_or(Shape::Bound(Size::default()), |value| Shape::Known(value)),
            (shape, _) => Shape::Bound(self.size(shape)),
        };
        Estimate {
            cost: of.cost.saturating_add(1),
            shape,
        }
    }

    /// A list or a map that is made of copies of its parts.
    fn container(&mut self, count: usize, parts: Vec<Estimate<'v>>) -> Estimate<'v> {
        let (mut cost, mut size) = (
            1,
            Size {
                whole: 1,
                longest: count as u64,
            },
        );
        for part in parts {
            let part_size = self.size(part.shape);
            size.whole = size.whole.saturating_add(part_size.whole);
            size.longest = size.longest.max(part_size.longest);
            cost = add(cost, [part.cost, part_size.whole]);
        }
        bound(cost, size)
    }

    fn macro_call(&mut self, found: &Macro<'e>) -> Estimate<'v> {
        let over = self.expr(found.over);
        let (whole, (rounds, item)) = (self.size(over.shape), self.items(over.shape));
        self.names.push((found.name, item));
        let condition = found
            .condition
            .map_or(1, |condition| self.expr(condition).cost);
        let collected = found.item.map(|item| {
            let item = self.expr(item);
            (item.cost, self.size(item.shape))
        });
        self.names.pop();
        let (cost, size) = collected.unwrap_or_default();
        // Each round sets its name to a copy of the item.
        let round = add(3, [condition, cost, size.whole]);
        let cost = add(1, [over.cost, whole.whole, rounds.saturating_mul(round)]);
        match found.gives {
            Gives::Bool => bound(
                cost,
                Size {
                    whole: 1,
                    longest: 0,
                },
            ),
            Gives::List => {
                let whole = rounds.saturating_mul(size.whole).saturating_add(1);
                bound(
                    cost,
                    Size {
                        whole,
                        longest: size.longest.max(rounds),
                    },
                )
            }
        }
    }

    /// How many items there are, and how large one of them is.
    fn items(&mut self, shape: Shape<'v>) -> (u64, Size) {
        match shape {
            Shape::Bound(size) => (size.longest, size),
            Shape::Known(value) => *self.items.entry(value).or_insert_with(|| items(value)),
            Shape::Results(results) => {
                let largest = results.keys().map(|step| step.len()).max().unwrap_or(0);
                (
                    results.len() as u64,
                    Size {
                        whole: text_size(largest),
                        longest: 0,
                    },
                )
            }
        }
    }

    fn call(&mut self, call: &'e CallExpr) -> Estimate<'v> {
        if let (operators::INDEX, [of, index]) = (call.func_name.as_str(), call.args.as_slice()) {
            let cost = self.expr(index).cost;
            let literal = match &index.expr {
                Expr::Literal(LiteralValue::String(name)) => Some(name.inner()),
                _ => None,
            };
            let found = self.field(of, literal);
            return Estimate {
                cost: found.cost.saturating_add(cost),
                ..found
            };
        }
        let parts: Vec<Estimate<'v>> = call
            .target
            .as_deref()
            .into_iter()
            .chain(&call.args)
            .map(|part| self.expr(part))
            .collect();
        let cost = parts
            .iter()
            .fold(1_u64, |cost, part| cost.saturating_add(part.cost));
        let sizes: Vec<Size> = match call.func_name.as_str() {
            // These look at one bit.
            operators::LOGICAL_AND | operators::LOGICAL_OR | operators::LOGICAL_NOT => {
                return bound(cost, ONE);
            }
            _ => parts.iter().map(|part| self.size(part.shape)).collect(),
        };
        let sum = sizes
            .iter()
            .fold(0_u64, |sum, size| sum.saturating_add(size.whole));
        let longest = sizes
            .iter()
            .fold(0_u64, |sum, size| sum.saturating_add(size.longest));
        match call.func_name.as_str() {
            operators::CONDITIONAL => bound(
                cost,
                Size {
                    whole: sum,
                    longest,
                },
            ),
            // A sum is a copy of both.
            operators::ADD => bound(
                cost.saturating_add(sum),
                Size {
                    whole: sum,
                    longest,
                },
            ),
            "string" => bound(
                cost.saturating_add(sum),
                Size {
                    whole: sum.saturating_add(4),
                    longest: 0,
                },
            ),
            // Equality looks at no more than the smaller one has.
            operators::EQUALS | operators::NOT_EQUALS => bound(
                cost.saturating_add(sizes.iter().map(|size| size.whole).min().unwrap_or(0)),
                ONE,
            ),
            _ => bound(cost.saturating_add(sum), ONE),
        }
    }
}

const ONE: Size = Size {
    whole: 1,
    longest: 0,
};

fn bound<'v>(cost: u64, size: Size) -> Estimate<'v> {
    Estimate {
        cost,
        shape: Shape::Bound(size),
    }
}

fn add<const N: usize>(sum: u64, parts: [u64; N]) -> u64 {
    parts.into_iter().fold(sum, u64::saturating_add)
}

fn text_size(bytes: usize) -> u64 {
    1 + (bytes / BYTES_PER_STEP) as u64
}

/// How many items a value has, and the largest of them. The items of a map are its keys.
fn items(value: &Value) -> (u64, Size) {
    match value {
        Value::Array(items) => {
            let largest = items.iter().fold(Size::default(), |size, item| {
                let item = measure(item);
                Size {
                    whole: size.whole.max(item.whole),
                    longest: size.longest.max(item.longest),
                }
            });
            (items.len() as u64, largest)
        }
        Value::Object(map) => {
            let largest = map.keys().map(String::len).max().unwrap_or(0);
            (
                map.len() as u64,
                Size {
                    whole: text_size(largest),
                    longest: 0,
                },
            )
        }
        _ => (0, Size::default()),
    }
}

fn measure(value: &Value) -> Size {
    let of_parts = |count: usize, parts: &mut dyn Iterator<Item = Size>| {
        parts.fold(
            Size {
                whole: 1,
                longest: count as u64,
            },
            |size, part| Size {
                whole: size.whole.saturating_add(part.whole),
                longest: size.longest.max(part.longest),
            },
        )
    };
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => ONE,
        Value::String(text) => Size {
            whole: text_size(text.len()),
            longest: 0,
        },
        Value::Array(items) => of_parts(items.len(), &mut items.iter().map(measure)),
        Value::Object(map) => of_parts(
            map.len(),
            &mut map.iter().map(|(key, value)| {
                let value = measure(value);
                Size {
                    whole: value.whole.saturating_add(text_size(key.len())),
                    ..value
                }
            }),
        ),
    }
}
