//! Parses the source of an expression.

use std::sync::Arc;

use cel::common::ast::{IdedExpr, SourceInfo};

use super::check::{self, Fault};
use super::reads::{self, Reads};
use super::types::Kinds;
use super::{
    ENV, Expression, ExpressionProblem, MAX_EXPRESSION_BYTES, MAX_EXPRESSION_DEPTH, Scope, hints,
};
use crate::text::{Pos, cut};

/// [`MAX_EXPRESSION_DEPTH`] in the type of the parser.
const PARSER_DEPTH: u16 = MAX_EXPRESSION_DEPTH as u16;
/// Stack of the parser's thread. The parser recurses through its whole grammar for each level of
/// nesting, for which the stacks of a server's own threads are too small.
const PARSER_STACK_BYTES: usize = 32 * 1024 * 1024;

/// A parsed expression before its check. Parsing depends on the source alone, so one parse serves
/// each scope.
#[derive(Debug, Clone)]
pub(crate) struct Parsed(pub(super) Arc<Tree>);

#[derive(Debug)]
pub(super) struct Tree {
    pub source: String,
    pub expr: IdedExpr,
    places: SourceInfo,
    pub reads: Reads,
    /// The names of an expression of the form `a.b.c`.
    pub path: Option<Vec<String>>,
}

impl Parsed {
    /// Parses `source` in a thread whose stack is large enough for the parser.
    pub fn of(source: &str) -> Result<Parsed, ExpressionProblem> {
        let start = |message: String| ExpressionProblem {
            line: 1,
            column: 1,
            message,
        };
        // Before the thread is started: a refused source costs no stack.
        if source.len() > MAX_EXPRESSION_BYTES {
            let bytes = source.len();
            let message = format!(
                "the expression has {bytes} bytes, but at most {MAX_EXPRESSION_BYTES} are allowed"
            );
            return Err(start(message));
        }
        std::thread::scope(|scope| {
            let parser = std::thread::Builder::new()
                .name("expression".into())
                .stack_size(PARSER_STACK_BYTES);
            match parser
                .spawn_scoped(scope, || parse(source))
                .map(std::thread::ScopedJoinHandle::join)
            {
                Ok(Ok(parsed)) => parsed,
                // The parser panicked; that refuses the source and leaves the server running.
                Ok(Err(_)) => Err(start("the expression cannot be read".into())),
                Err(error) => Err(start(format!(
                    "the thread that parses the expression cannot be started: {error}"
                ))),
            }
        })
    }

    fn check(self, scope: &Scope<'_>, condition: bool) -> Result<Expression, ExpressionProblem> {
        let found = check::check(&self.0.expr, scope).map_err(|fault| self.place(fault))?;
        if condition && !found.kinds.has(Kinds::BOOL) {
            let message = format!(
                "expected a condition, which is true or false, found {}",
                found.kinds.describe()
            );
            return Err(ExpressionProblem {
                line: 1,
                column: 1,
                message,
            });
        }
        Ok(Expression(self))
    }

    /// Checks the expression as a condition.
    pub fn condition(self, scope: &Scope<'_>) -> Result<Expression, ExpressionProblem> {
        self.check(scope, true)
    }

    /// Checks the expression as a value of any type.
    pub fn value(self, scope: &Scope<'_>) -> Result<Expression, ExpressionProblem> {
        self.check(scope, false)
    }

    fn place(&self, fault: Fault) -> ExpressionProblem {
        // A node that the expansion of a macro made may have no place; the start stands for it.
        let offset = self
            .0
            .places
            .offset_for(fault.id)
            .map_or(0, |(start, _)| start as usize);
        let (line, column) = line_and_column(&self.0.source, offset);
        ExpressionProblem {
            line,
            column,
            message: fault.message,
        }
    }
}

fn parse(source: &str) -> Result<Parsed, ExpressionProblem> {
    let parser = ENV.parser().max_recursion_depth(PARSER_DEPTH);
    match parser.parse_with_source_info(source) {
        Ok((expr, places)) => {
            // Path and reads depend on the tree alone, and are computed once for all evaluations.
            let path = reads::path(&expr).map(|path| path.into_iter().map(str::to_owned).collect());
            let reads = Reads::of(&expr);
            Ok(Parsed(Arc::new(Tree {
                source: source.to_owned(),
                expr,
                places,
                reads,
                path,
            })))
        }
        Err(errors) => Err(syntax_problem(source, &errors)),
    }
}

/// The first error; those after it are often only its consequences.
fn syntax_problem(source: &str, errors: &cel::ParseErrors) -> ExpressionProblem {
    let Some(error) = errors.errors.first() else {
        return ExpressionProblem {
            line: 1,
            column: 1,
            message: "the expression cannot be read".into(),
        };
    };
    let at = Pos::of(
        error.pos.0.max(1).unsigned_abs(),
        error.pos.1.max(1).unsigned_abs(),
    );
    let text = error
        .msg
        .strip_prefix("Syntax error: ")
        .unwrap_or(&error.msg);
    let message = if source.trim().is_empty() {
        "expected an expression, found nothing".into()
    } else if text.contains("Recursion limit") {
        format!("nested deeper than {MAX_EXPRESSION_DEPTH} levels")
    } else {
        // The parser's list of all expected tokens is too long to help a reader.
        let short = text.split(" expecting {").next().unwrap_or(text);
        cut(&format!(
            "expected an expression in CEL: {short}{}",
            hints::of_syntax(source)
        ))
    };
    ExpressionProblem {
        line: at.line,
        column: at.column,
        message,
    }
}

/// Line and column, both from 1, of a byte offset from 0.
pub(crate) fn line_and_column(source: &str, offset: usize) -> (u32, u32) {
    let (mut line, mut column) = (1, 1);
    for (_, char) in source.char_indices().take_while(|(at, _)| *at < offset) {
        (line, column) = if char == '\n' {
            (line + 1, 1)
        } else {
            (line, column + 1)
        };
    }
    let at = Pos::of(line, column);
    (at.line, at.column)
}
