//! The types that operators combine.

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, operators};

use super::{Checker, Fault, Typed, fault, list_of};
use crate::expression::types::{Kinds, Type};

impl<'e> Checker<'_, 'e> {
    /// The type of a call: of an operator, or of a function.
    pub(super) fn call(&mut self, id: u64, call: &'e CallExpr) -> Typed {
        let of = |kinds| Ok(Type::of(kinds));
        // The parser writes operators as calls with names of their own, so a source cannot name
        // them.
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
                Ok(first.union(&self.expr(b)?))
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

    fn equality(&mut self, id: u64, a: &'e IdedExpr, b: &'e IdedExpr) -> Typed {
        let (left, right) = (self.expr(a)?, self.expr(b)?);
        comparable(id, &left, &right)?;
        Ok(Type::of(Kinds::BOOL))
    }

    fn order(&mut self, id: u64, a: &'e IdedExpr, b: &'e IdedExpr) -> Typed {
        let (left, right) = (self.expr(a)?.kinds, self.expr(b)?.kinds);
        // A value of an uncertain kind passes: the check refuses only comparisons that can never
        // hold.
        let both = |kinds: Kinds| left.has(kinds) && right.has(kinds);
        if both(Kinds::NUMBER) || both(Kinds::TEXT) {
            return Ok(Type::of(Kinds::BOOL));
        }
        fault(
            id,
            format!("{} has no order with {}", left.describe(), right.describe()),
        )
    }

    fn contained(&mut self, id: u64, a: &'e IdedExpr, b: &'e IdedExpr) -> Typed {
        let left = self.expr(a)?;
        let right = match &b.expr {
            Expr::List(list) => {
                // The elements are compared one by one, so that the message has the place of the
                // one that never matches. They are checked only here: a second check by `expr(b)`
                // would double the work at each level of nested lists. The list counts as a level.
                self.depth += 1;
                let items = self.items(list)?;
                self.depth -= 1;
                for (item, found) in list.elements.iter().zip(&items) {
                    comparable(item.id, &left, found)?;
                }
                list_of(items)
            }
            _ => self.expr(b)?,
        };
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

    fn index(&mut self, id: u64, of: &'e IdedExpr, index: &'e IdedExpr) -> Typed {
        // A constant name has the type of its field, as in `a.b`.
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
    ) -> Typed {
        let (left, right) = (self.expr(a)?, self.expr(b)?);
        let both = left.kinds.and(right.kinds).and(takes);
        let (l, r) = (left.kinds, right.kinds);
        // Only where both sides are certainly numbers: otherwise the sum of two texts, for example,
        // may be meant.
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
            (Some(a), Some(b)) => Some(a.as_ref().clone().union(&b).into()),
            _ => None,
        };
        Ok(Type {
            item,
            ..Type::of(both)
        })
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
    if !left.excludes(right) {
        return Ok(());
    }
    let is_constant = left.values.as_ref().is_some_and(|values| values.len() == 1);
    let (wanted, allowed) = if is_constant {
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
