//! Counts of files, functions and lines of the program, and their limits.

use std::collections::BTreeSet;

use crate::source::{Source, closing, crates, files};
use crate::token::{Kind, Token};

/// Lines of a file, of tests too.
const MAX_FILE: usize = 500;
/// Lines of a function, without blank lines and comments; also a lint (`clippy.toml`).
const MAX_FUNCTION: usize = 70;
/// Words, literals and characters of punctuation in a line of code. By this count mini-redis has
/// 7.9, and steno 6.5.
const MAX_TOKENS: f64 = 8.5;
/// Comments of the program that are not documentation, in percent of its lines.
const MIN_COMMENTS: f64 = 2.0;
/// `let name = |…|` in 1,000 lines.
const MAX_CLOSURES: f64 = 4.5;

/// Files that are not split yet. A file that keeps the limit must be removed here.
const LONG: &[&str] = &[];

struct Function<'a> {
    name: &'a str,
    line: usize,
    lines: usize,
    /// Whether an attribute permits more lines, with a reason.
    is_excused: bool,
}

/// All functions with a body, also those inside of others.
fn functions<'a>(tokens: &[Token<'a>]) -> Vec<Function<'a>> {
    let starts = tokens.iter().enumerate().filter(|(at, t)| {
        t.text == "fn" && tokens.get(at + 1).is_some_and(|n| n.kind == Kind::Word)
    });
    let of = |(at, _)| function(tokens, at);
    starts.filter_map(of).collect()
}

/// The function whose keyword is at this place.
fn function<'a>(tokens: &[Token<'a>], at: usize) -> Option<Function<'a>> {
    let open = at
        + tokens[at..]
            .iter()
            .position(|t| t.text == "{" || t.text == ";")?;
    let end = closing(tokens, open)?;
    let body = tokens[open + 1..end].iter().filter(|t| !t.is_comment());
    let lines: BTreeSet<usize> = body.map(|t| t.line).collect();
    let attributes = tokens[..at]
        .iter()
        .rev()
        .take_while(|t| t.text != "}" && t.text != ";");
    Some(Function {
        name: tokens[at + 1].text,
        line: tokens[at].line,
        lines: lines.len(),
        is_excused: attributes.into_iter().any(|t| t.text == "too_many_lines"),
    })
}

/// `let name = |…| …`: mostly a function without a type.
fn bound_closures(tokens: &[Token]) -> usize {
    let starts = tokens
        .windows(6)
        .filter(|w| w[0].text == "let" && w[1].kind == Kind::Word);
    let is_closure = |w: &&[Token]| {
        let value = w[2..].iter().skip_while(|t| t.text != "=").skip(1);
        let value = value
            .map(|t| t.text)
            .find(|t| *t != "move" && *t != "async");
        w[2].text == "=" && value == Some("|")
    };
    starts.filter(is_closure).count()
}

fn program() -> Vec<Source> {
    let all = crates().into_iter().flat_map(|src| files(&src));
    all.filter(|source| !source.is_test()).collect()
}

#[test]
fn files_of_sources_and_tests_stay_within_the_limit() {
    let folders = ["src", "crates", "tests", "examples"];
    let all = folders.iter().flat_map(|folder| files(folder.as_ref()));
    let long: Vec<String> = all
        .filter(|source| source.text.lines().count() > MAX_FILE)
        .map(|source| source.path.to_string_lossy().into_owned())
        .collect();
    println!("files over {MAX_FILE} lines: {}", long.len());
    let new: Vec<_> = long
        .iter()
        .filter(|path| !LONG.contains(&path.as_str()))
        .collect();
    assert!(new.is_empty(), "files over {MAX_FILE} lines: {new:#?}");
    let split: Vec<_> = LONG
        .iter()
        .filter(|path| !long.iter().any(|l| l == *path))
        .collect();
    assert!(
        split.is_empty(),
        "no longer over {MAX_FILE} lines; remove them from LONG: {split:#?}"
    );
}

#[test]
fn functions_over_the_limit_have_a_reason() {
    let (mut all, mut long) = (0, Vec::new());
    for source in program() {
        let tokens = source.tokens();
        for one in functions(&tokens) {
            all += 1;
            if one.lines > MAX_FUNCTION {
                println!(
                    "{}:{} {}: {} lines",
                    source.path.display(),
                    one.line,
                    one.name,
                    one.lines
                );
                long.push(one.is_excused);
            }
        }
    }
    let percent = long.len() as f64 * 100.0 / f64::from(all);
    println!(
        "functions over {MAX_FUNCTION} lines: {} of {all}, {percent:.2} %",
        long.len()
    );
    assert!(
        percent < 0.5,
        "{percent:.2} % of the functions are too long"
    );
    assert!(
        long.iter().all(|excused| *excused),
        "a function over {MAX_FUNCTION} lines needs a reason"
    );
}

#[test]
fn density_of_the_program_stays_within_the_limits() {
    let (mut lines, mut code_lines, mut code, mut plain, mut closures) = (0, 0, 0, 0, 0);
    for source in program() {
        let tokens = source.tokens();
        let used: BTreeSet<usize> = tokens.iter().map(|t| t.line).collect();
        let without: Vec<Token> = tokens.iter().copied().filter(|t| !t.is_comment()).collect();
        let used_by_code: BTreeSet<usize> = without.iter().map(|t| t.line).collect();
        lines += used.len();
        code_lines += used_by_code.len();
        // `::` counts twice, like other punctuation of two characters.
        code += without.len() + without.iter().filter(|t| t.text == "::").count();
        plain += tokens
            .iter()
            .filter(|t| t.kind == Kind::PlainComment)
            .count();
        closures += bound_closures(&without);
    }
    let per_line = code as f64 / code_lines as f64;
    let comments = plain as f64 * 100.0 / lines as f64;
    let rate = closures as f64 * 1_000.0 / lines as f64;
    println!("lines: {lines}, of code: {code_lines}");
    println!("tokens in a line of code: {per_line:.2}");
    println!("plain comments: {comments:.2} % of the lines");
    println!("closures bound by let: {closures}, {rate:.2} in 1,000 lines");
    assert!(
        per_line <= MAX_TOKENS,
        "more than {MAX_TOKENS} tokens in a line of code"
    );
    assert!(
        comments >= MIN_COMMENTS,
        "less than {MIN_COMMENTS} % plain comments"
    );
    assert!(
        rate <= MAX_CLOSURES,
        "more than {MAX_CLOSURES} closures bound by let in 1,000 lines"
    );
}
