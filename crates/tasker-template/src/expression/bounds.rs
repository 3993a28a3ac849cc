//! Upper bounds of the cost of an evaluation with given values, computed before it begins.

use std::collections::HashMap;

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, operators};
use serde_json::Value;

use super::macros::{Gives, Macro};
use super::reads::Reads;
use super::{StepResults, Variable, entries};

/// Bytes of text that cost as much as one step.
const BYTES_PER_STEP: usize = 16;
/// The longest text of a double, in bytes: `string` writes all zeros of 1e308, and of 1e-308 before
/// its 17 digits, with a sign and a point.
const MAX_DOUBLE_BYTES: usize = 330;

/// Upper bound of the size of a value.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    /// Total size: one step for each value in it, and one for each [`BYTES_PER_STEP`] of text.
    whole: u64,
    /// The most items of a list or map in it.
    longest: u64,
    /// Size of the largest text in it, in steps.
    text: u64,
    /// Whether a number in it may have a fraction: one that is written with a dot or an exponent.
    fractions: bool,
}

impl Size {
    /// The size of a list or a map without its items.
    fn empty(count: usize) -> Self {
        Size {
            longest: count as u64,
            ..ONE
        }
    }

    fn of_text(bytes: usize) -> Self {
        let whole = text_size(bytes);
        Size {
            whole,
            text: whole,
            ..ONE
        }
    }

    /// The size with one more item.
    fn with(self, part: Size) -> Self {
        Size {
            whole: self.whole.saturating_add(part.whole),
            longest: self.longest.max(part.longest),
            text: self.text.max(part.text),
            fractions: self.fractions || part.fractions,
        }
    }

    /// The size of a value that is one of the two.
    fn or(self, other: Size) -> Self {
        Size {
            whole: self.whole.max(other.whole),
            ..self.with(other)
        }
    }

    /// The size of the concatenation of two texts or two lists.
    fn and(self, other: Size) -> Self {
        Size {
            longest: self.longest.saturating_add(other.longest),
            text: self.text.saturating_add(other.text),
            ..self.with(other)
        }
    }
}

/// A value at the time of the estimate: known, or only bounded.
#[derive(Clone, Copy)]
enum Operand<'v> {
    Known(&'v Value),
    Results(&'v StepResults<'v>),
    Bound(Size),
}

/// The cost of an expression, and its value as far as it is known.
struct Estimate<'v> {
    cost: u64,
    shape: Operand<'v>,
}

/// The most steps that evaluating `expr` takes.
pub(super) fn cost<'v>(expr: &IdedExpr, variable: &dyn Fn(&str) -> Option<Variable<'v>>) -> u64 {
    Estimator {
        variable: &|name| variable(name).map(Operand::of),
        names: Vec::new(),
        measured: HashMap::new(),
        items: HashMap::new(),
    }
    .expr(expr)
    .cost
}

/// The steps of preparing the parts of a variable that an expression reads.
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
        // Follows `values::part`, which does the work that is counted here.
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
    variable: &'e dyn Fn(&str) -> Option<Operand<'v>>,
    names: Vec<(&'e str, Size)>,
    /// Sizes by the address of the value, so that each value is measured once.
    measured: HashMap<*const Value, Size>,
    /// The number of items and the largest item, by the address of the list or map.
    items: HashMap<*const Value, (u64, Size)>,
}

impl<'v> Operand<'v> {
    fn of(variable: Variable<'v>) -> Self {
        match variable {
            Variable::Document(value) => Operand::Known(value),
            Variable::Results(results) => Operand::Results(results),
        }
    }
}

impl<'v, 'e> Estimator<'v, 'e> {
    fn size(&mut self, shape: Operand<'v>) -> Size {
        match shape {
            Operand::Bound(size) => size,
            Operand::Known(value) => *self.measured.entry(value).or_insert_with(|| measure(value)),
            // The check refuses `results` as a whole, so this arm is only a safe bound and not
            // cached.
            Operand::Results(results) => {
                results
                    .iter()
                    .fold(Size::empty(results.len()), |size, (step, value)| {
                        let name = Size::of_text(step.len());
                        Size {
                            text: size.text.max(name.text),
                            ..size.with(measure(value))
                        }
                    })
            }
        }
    }

    fn expr(&mut self, expr: &'e IdedExpr) -> Estimate<'v> {
        match &expr.expr {
            Expr::Literal(literal) => {
                let size = match literal {
                    LiteralValue::String(text) => Size::of_text(text.inner().len()),
                    LiteralValue::Double(_) => FRACTION,
                    _ => ONE,
                };
                bound(1, size)
            }
            Expr::Ident(name) => {
                // The innermost macro first, as in the check.
                let shape = match self.names.iter().rev().find(|(known, _)| known == name) {
                    Some((_, size)) => Operand::Bound(*size),
                    None => (self.variable)(name).unwrap_or(Operand::Bound(Size::default())),
                };
                Estimate { cost: 1, shape }
            }
            Expr::Select(select) => {
                let of = self.expr(&select.operand);
                self.field(of, &select.field)
            }
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
                // The check has refused such a loop; if one came through, no budget would pay for
                // it.
                None => bound(u64::MAX, Size::default()),
            },
            Expr::Call(call) => self.call(call),
            Expr::Struct(_) | Expr::Unspecified => bound(u64::MAX, Size::default()),
        }
    }

    /// `of.field`.
    fn field(&mut self, of: Estimate<'v>, field: &str) -> Estimate<'v> {
        // A known value stays known along its fields, so only the selected part counts.
        let found = match of.shape {
            Operand::Known(Value::Object(map)) => map.get(field),
            Operand::Results(results) => results.get(field).copied(),
            // A field of a bounded value is at most as large as the value.
            shape => return bound(of.cost.saturating_add(1), self.size(shape)),
        };
        Estimate {
            cost: of.cost.saturating_add(1),
            shape: found.map_or(Operand::Bound(Size::default()), Operand::Known),
        }
    }

    /// `of[key]`. The evaluator hashes a key, and copies it into the error if the map lacks it.
    /// With a fraction as an index, the error holds a copy of the whole list, and a macro continues
    /// with the next round after that error.
    fn index(&mut self, of: &'e IdedExpr, key: &'e IdedExpr) -> Estimate<'v> {
        let of = self.expr(of);
        match &key.expr {
            Expr::Literal(LiteralValue::String(name)) => return self.field(of, name.inner()),
            Expr::Literal(LiteralValue::Int(at)) => {
                if let Operand::Known(Value::Array(items)) = of.shape {
                    let item = usize::try_from(*at.inner())
                        .ok()
                        .and_then(|at| items.get(at));
                    return Estimate {
                        cost: add(of.cost, [1, 1]),
                        shape: item.map_or(Operand::Bound(Size::default()), Operand::Known),
                    };
                }
            }
            _ => {}
        }
        let key = self.expr(key);
        let (key_cost, key) = (key.cost, self.size(key.shape));
        let size = self.size(of.shape);
        let copied = match of.shape {
            Operand::Known(Value::Array(_)) if key.fractions => size.whole,
            // A known map or set of results is searched for a text key only.
            Operand::Known(_) | Operand::Results(_) => key.text,
            Operand::Bound(_) if key.fractions => key.whole.saturating_add(size.whole),
            Operand::Bound(_) => key.whole,
        };
        bound(add(of.cost, [1, key_cost, copied]), size)
    }

    /// A list or a map that is built from copies of its parts.
    fn container(&mut self, count: usize, parts: Vec<Estimate<'v>>) -> Estimate<'v> {
        // The evaluator copies each part into the container.
        let (mut cost, mut size) = (1, Size::empty(count));
        for part in parts {
            let part_size = self.size(part.shape);
            size = size.with(part_size);
            cost = add(cost, [part.cost, part_size.whole]);
        }
        bound(cost, size)
    }

    fn macro_call(&mut self, found: &Macro<'e>) -> Estimate<'v> {
        // The list is outside the scope of the macro's variable, so it is estimated first.
        let over = self.expr(found.over);
        let (whole, (rounds, item)) = (self.size(over.shape), self.items(over.shape));
        // Each round is estimated with the largest item.
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
        // The evaluator copies the item into the macro's variable in each round.
        let round = add(3, [condition, cost, size.whole]);
        let cost = add(1, [over.cost, whole.whole, rounds.saturating_mul(round)]);
        match found.gives {
            // `exists` and `all` may end early; the bound has all rounds.
            Gives::Bool => bound(cost, ONE),
            Gives::List => {
                let whole = rounds.saturating_mul(size.whole).saturating_add(1);
                bound(
                    cost,
                    Size {
                        whole,
                        longest: size.longest.max(rounds),
                        ..size
                    },
                )
            }
        }
    }

    /// The number of items, and the size of the largest one.
    fn items(&mut self, shape: Operand<'v>) -> (u64, Size) {
        match shape {
            Operand::Bound(size) => (size.longest, size),
            Operand::Known(value) => *self.items.entry(value).or_insert_with(|| items(value)),
            Operand::Results(results) => {
                let largest = results.keys().map(|step| step.len()).max().unwrap_or(0);
                (results.len() as u64, Size::of_text(largest))
            }
        }
    }

    fn call(&mut self, call: &'e CallExpr) -> Estimate<'v> {
        if let (operators::INDEX, [of, key]) = (call.func_name.as_str(), call.args.as_slice()) {
            return self.index(of, key);
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
            // A logical operator reads one bit of each operand, so their sizes do not count.
            operators::LOGICAL_AND | operators::LOGICAL_OR | operators::LOGICAL_NOT => {
                return bound(cost, ONE);
            }
            _ => parts.iter().map(|part| self.size(part.shape)).collect(),
        };
        let all = sizes.iter().copied().fold(Size::default(), Size::and);
        let sum = all.whole;
        let looked = cost.saturating_add(sum);
        match call.func_name.as_str() {
            // The sum of condition and branches is at least as large as either branch.
            operators::CONDITIONAL => bound(cost, all),
            // A sum is a copy of both operands.
            operators::ADD => bound(looked, all),
            "string" => {
                // The text of a number is longer than its size of one step.
                let whole = sum.saturating_add(text_size(MAX_DOUBLE_BYTES));
                let size = Size {
                    whole,
                    text: whole,
                    ..ONE
                };
                bound(looked, size)
            }
            // Equality compares no more than the smaller operand has. Order comparisons are in the
            // default arm with both sizes: for values without an order, the error holds copies of
            // both.
            operators::EQUALS | operators::NOT_EQUALS => bound(
                cost.saturating_add(sizes.iter().map(|size| size.whole).min().unwrap_or(0)),
                ONE,
            ),
            "double" => bound(looked, FRACTION),
            operators::SUBSTRACT
            | operators::MULTIPLY
            | operators::DIVIDE
            | operators::MODULO
            | operators::NEGATE
                if all.fractions =>
            {
                bound(looked, FRACTION)
            }
            _ => bound(looked, ONE),
        }
    }
}

/// The size of a value without parts.
const ONE: Size = Size {
    whole: 1,
    longest: 0,
    text: 1,
    fractions: false,
};
/// The size of a number that may have a fraction.
const FRACTION: Size = Size {
    fractions: true,
    ..ONE
};

fn bound<'v>(cost: u64, size: Size) -> Estimate<'v> {
    Estimate {
        cost,
        shape: Operand::Bound(size),
    }
}

fn add<const N: usize>(sum: u64, parts: [u64; N]) -> u64 {
    parts.into_iter().fold(sum, u64::saturating_add)
}

fn text_size(bytes: usize) -> u64 {
    1 + (bytes / BYTES_PER_STEP) as u64
}

/// The number of items of a value, and the size of the largest one. The items of a map are its
/// keys.
fn items(value: &Value) -> (u64, Size) {
    match value {
        Value::Array(items) => {
            let largest = items.iter().map(measure).fold(Size::default(), Size::or);
            (items.len() as u64, largest)
        }
        Value::Object(map) => {
            let largest = map.keys().map(String::len).max().unwrap_or(0);
            (map.len() as u64, Size::of_text(largest))
        }
        _ => (0, Size::default()),
    }
}

fn measure(value: &Value) -> Size {
    match value {
        Value::Null | Value::Bool(_) => ONE,
        Value::Number(number) if number.as_str().contains(['.', 'e', 'E']) => FRACTION,
        Value::Number(_) => ONE,
        Value::String(text) => Size::of_text(text.len()),
        Value::Array(items) => items
            .iter()
            .map(measure)
            .fold(Size::empty(items.len()), Size::with),
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| Size::of_text(key.len()).with(measure(value)))
            .fold(Size::empty(map.len()), Size::with),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_double_is_within_its_bound() {
        // The smallest doubles of each number of digits; the steps visit all mantissas' lengths.
        let doubles = (0..100_000_u64)
            .step_by(7)
            .chain((0..52).map(|bit| (1 << bit) - 1))
            .chain((0..u64::from(u16::MAX)).map(|high| high << 48 | 0x5555_5555_5555))
            .map(f64::from_bits)
            .filter(|double| double.is_finite());
        let extremes = [
            f64::MIN,
            -f64::MIN_POSITIVE,
            -5e-324,
            -2.225_073_858_507_201e-308,
        ];
        let longest = doubles
            .chain(extremes)
            .map(|double| (-double.abs()).to_string().len())
            .max();
        assert!(
            longest.is_some_and(|bytes| (320..=MAX_DOUBLE_BYTES).contains(&bytes)),
            "{longest:?}"
        );
    }
}
