//! The loops into which the parser expands `all`, `exists`, `exists_one`, `map` and `filter`.

use cel::common::ast::{CallExpr, ComprehensionExpr, Expr, IdedExpr, LiteralValue, operators};

/// The type of a loop's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gives {
    Bool,
    List,
}

/// A loop with the parts of the macro's source.
#[derive(Debug, Clone, Copy)]
pub(super) struct Macro<'e> {
    pub gives: Gives,
    pub over: &'e IdedExpr,
    pub name: &'e str,
    /// The condition that is evaluated for each item.
    pub condition: Option<&'e IdedExpr>,
    /// The expression whose value `map` or `filter` collects for each item.
    pub item: Option<&'e IdedExpr>,
}

impl<'e> Macro<'e> {
    /// `None` for a loop that no macro expands to.
    pub fn of(made: &'e ComprehensionExpr) -> Option<Self> {
        // The parser keeps no name of a macro, so each is recognised by its expansion: the start
        // value of the accumulator, and the operator of the loop's step.
        let step = call(&made.loop_step)?;
        let (gives, condition, item) = match (&made.accu_init.expr, step.func_name.as_str()) {
            (
                Expr::Literal(LiteralValue::Boolean(_)),
                operators::LOGICAL_AND | operators::LOGICAL_OR,
            ) => (Gives::Bool, step.args.get(1), None),
            (Expr::Literal(LiteralValue::Int(_)), operators::CONDITIONAL) => {
                (Gives::Bool, step.args.first(), None)
            }
            (Expr::List(_), operators::CONDITIONAL) => (
                Gives::List,
                step.args.first(),
                Some(collected(call(step.args.get(1)?)?)?),
            ),
            (Expr::List(_), operators::ADD) => (Gives::List, None, Some(collected(step)?)),
            _ => return None,
        };
        Some(Macro {
            gives,
            over: &made.iter_range,
            name: &made.iter_var,
            condition,
            item,
        })
    }
}

fn call(expr: &IdedExpr) -> Option<&CallExpr> {
    match &expr.expr {
        Expr::Call(call) => Some(call),
        _ => None,
    }
}

/// The `x` of `@result + [x]`.
fn collected(step: &CallExpr) -> Option<&IdedExpr> {
    match &step.args.get(1)?.expr {
        Expr::List(list) => list.elements.first(),
        _ => None,
    }
}
