//! The functions and macros that an expression may call.

use cel::common::ast::{CallExpr, IdedExpr};

use super::{Checker, Typed, fault};
use crate::expression::hints;
use crate::expression::types::{Kinds, Type};
use crate::text::{did_you_mean, shorten};

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
    /// The type of a call of a function by its name.
    pub(super) fn function(&mut self, id: u64, call: &'e CallExpr) -> Typed {
        let name = call.func_name.as_str();
        // The parser has expanded each well-formed macro, so a call that is left has a wrong form.
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
        // The value before the dot counts as the first argument, so that both forms share one
        // signature.
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
