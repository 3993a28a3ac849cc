//! The terminal: data to stdout, messages to stderr, colours and box characters only where they are
//! supported.

use std::{
    env,
    io::{self, IsTerminal as _, Write as _},
};

use anstream::AutoStream;
use anstyle::Style;
use clap::ColorChoice;
use serde_json::Value;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// The text styles in use.
pub mod style {
    use anstyle::{AnsiColor, Style};

    pub const PLAIN: Style = Style::new();
    pub const BOLD: Style = Style::new().bold();
    pub const DIM: Style = Style::new().dimmed();
    pub const RED: Style = AnsiColor::Red.on_default();
    pub const GREEN: Style = AnsiColor::Green.on_default();
    pub const YELLOW: Style = AnsiColor::Yellow.on_default();
    pub const BLUE: Style = AnsiColor::Blue.on_default();
    pub const MAGENTA: Style = AnsiColor::Magenta.on_default();
}

/// The capabilities of the output, and the functions that write to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// Whether stdout gets colours.
    pub color: bool,
    /// Whether stderr gets colours.
    pub color_stderr: bool,
    /// Whether the locale can show box characters and signs.
    pub unicode: bool,
    /// Whether stdout can be redrawn in place.
    pub interactive: bool,
    /// Whether stdout is a terminal, of whatever kind.
    pub terminal: bool,
}

impl Term {
    /// Reads the environment once.
    pub fn detect(choice: ColorChoice) -> Self {
        let (stdout, stderr) = (io::stdout(), io::stderr());
        // Without TERM, as in many jobs, the terminal is taken for one that cannot move its cursor.
        let dumb = env::var_os("TERM").is_none_or(|t| t == "dumb");
        // The precedence that POSIX defines.
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .into_iter()
            .filter_map(|n| env::var(n).ok())
            .find(|v| !v.is_empty());
        Self {
            color: has_color(choice, AutoStream::choice(&stdout)),
            color_stderr: has_color(choice, AutoStream::choice(&stderr)),
            unicode: locale.is_some_and(|l| is_utf8_locale(&l)),
            interactive: stdout.is_terminal() && !dumb,
            terminal: stdout.is_terminal(),
        }
    }

    /// Without colours, with Unicode, not redrawn: the terminal that tests compare with.
    pub const fn plain() -> Self {
        Self {
            color: false,
            color_stderr: false,
            unicode: true,
            interactive: false,
            terminal: false,
        }
    }

    /// `text` in a colour, where stdout has colours.
    pub fn paint(&self, style: Style, text: &str) -> String {
        if self.color {
            ansi(style, text)
        } else {
            text.to_owned()
        }
    }

    /// Writes one or more lines of data to stdout.
    pub fn data(&self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        if !text.ends_with('\n') {
            out.write_all(b"\n")?;
        }
        // At once, for programs that read line by line.
        out.flush()
    }

    /// Writes a stored text. A stdout that is no terminal gets it byte for byte, since it may be a
    /// file; on a terminal, characters that would move the cursor or reorder the text become
    /// escapes.
    pub fn text(&self, text: &str) -> io::Result<()> {
        if self.terminal {
            self.data(&clean_lines(text))
        } else {
            self.data(text)
        }
    }

    /// Writes one JSON document, indented.
    pub fn json(&self, document: &Value) -> io::Result<()> {
        self.data(&clean_json(format!("{document:#}")))
    }

    /// Writes one line of a JSON stream.
    pub fn json_line(&self, document: &Value) -> io::Result<()> {
        self.data(&clean_json(document.to_string()))
    }

    /// Writes one line for people to stderr. A failed write is ignored, as stderr may be closed.
    pub fn say(&self, text: &str) {
        let _ = writeln!(io::stderr(), "{text}");
    }

    /// Writes a line for people with a coloured first word: `error: …`, `hint: …`.
    pub fn say_tagged(&self, style: Style, tag: &str, text: &str) {
        let tag = format!("{tag}:");
        let tag = if self.color_stderr {
            ansi(style, &tag)
        } else {
            tag
        };
        self.say(&format!("{tag} {text}"));
    }

    /// Columns and rows of the terminal; `None` when stdout is no terminal.
    pub fn size(&self) -> Option<(usize, usize)> {
        let (width, height) = terminal_size::terminal_size_of(io::stdout())?;
        Some((width.0.into(), height.0.into()))
    }
}

/// Whether a stream gets colours: by the option, or else by the stream and the environment.
fn has_color(option: ColorChoice, detected: anstream::ColorChoice) -> bool {
    match option {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => detected != anstream::ColorChoice::Never,
    }
}

/// `text` between the escape sequences of a style.
fn ansi(style: Style, text: &str) -> String {
    match text.is_empty() {
        true => String::new(),
        false => format!("{style}{text}{style:#}"),
    }
}

/// Whether a value of LC_ALL, LC_CTYPE or LANG names a UTF-8 locale, such as `de_DE.UTF-8` or
/// `C.utf8`.
fn is_utf8_locale(locale: &str) -> bool {
    let locale = locale.to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

/// Whether a terminal acts on this character instead of showing it: control characters, the
/// bidirectional marks that reorder text, and the separators that some terminals treat as the end
/// of a line.
fn is_acted_on(c: char) -> bool {
    let reorders = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || reorders || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Text from a server or a user, made safe for a terminal: line breaks become spaces, and other
/// characters that could move the cursor, forge output or reorder it become escapes.
pub fn clean(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.trim_end().chars() {
        match c {
            '\n' | '\r' | '\t' => safe.push(' '),
            c if is_acted_on(c) => safe.extend(c.escape_unicode()),
            c => safe.push(c),
        }
    }
    safe
}

/// As [`clean`], for a text of several lines: line breaks and indentation stay.
pub fn clean_lines(text: &str) -> String {
    let mut safe = text.lines().map(clean_line).collect::<Vec<_>>().join("\n");
    if text.ends_with('\n') {
        safe.push('\n');
    }
    safe
}

/// As [`clean`], with the indentation.
fn clean_line(line: &str) -> String {
    let end = line.len() - line.trim_start_matches([' ', '\t']).len();
    line[..end].to_owned() + &clean(&line[end..])
}

/// JSON of the same meaning that every terminal shows unchanged: a serializer does not escape
/// U+007F and above.
pub fn clean_json(json: String) -> String {
    // Such characters occur only in strings, and the serializer has escaped those below U+0020;
    // line breaks are the serializer's own.
    let acted_on = |c: char| c != '\n' && is_acted_on(c);
    if !json.contains(acted_on) {
        return json;
    }
    let mut safe = String::with_capacity(json.len() + 64);
    for c in json.chars() {
        // All of these are in the basic plane, so one escape of four digits is enough.
        if acted_on(c) {
            safe += &format!("\\u{:04x}", u32::from(c));
        } else {
            safe.push(c);
        }
    }
    safe
}

/// The terminal columns that `text` takes; the escape sequences of a style take none.
pub fn width(text: &str) -> usize {
    if !text.contains('\x1b') {
        return text.width();
    }
    pieces(text)
        .map(|(piece, escape)| if escape { 0 } else { piece.width() })
        .sum()
}

/// `text` cut to `max` columns, with `…` (or `...`) in place of the rest; colours are kept and
/// closed.
pub fn fit(text: &str, max: usize, unicode: bool) -> String {
    if width(text) <= max {
        return text.to_owned();
    }
    let mark = if unicode { "…" } else { "..." };
    let room = max.saturating_sub(mark.width());
    let (mut cut, mut used, mut full, mut colored) = (String::new(), 0, false, false);
    for (piece, escape) in pieces(text) {
        if escape {
            if !full {
                // A style ends with the reset, so any other sequence begins one.
                colored = piece != "\x1b[0m";
                cut.push_str(piece);
            }
            continue;
        }
        for c in piece.chars() {
            let w = c.width().unwrap_or(0);
            if full || used + w > room {
                full = true;
                break;
            }
            used += w;
            cut.push(c);
        }
    }
    cut.push_str(mark);
    if colored {
        cut.push_str("\x1b[0m");
    }
    cut
}

/// Splits into plain text and escape sequences of the form `ESC [ … m`.
fn pieces(text: &str) -> impl Iterator<Item = (&str, bool)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        // Texts from elsewhere are cleaned, so each escape is one of ours and ends in `m`.
        let escape = rest.starts_with('\x1b');
        let end = if escape {
            rest.find('m').map(|i| i + 1)
        } else {
            rest.find('\x1b')
        };
        let (piece, tail) = rest.split_at(end.unwrap_or(rest.len()));
        rest = tail;
        Some((piece, escape))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clean_escapes_control_characters() {
        assert_eq!(
            clean("a\x1b[2Jb\nc\td\u{202e}\n"),
            "a\\u{1b}[2Jb c d\\u{202e}"
        );
        assert_eq!(
            clean("\u{9b}2J\u{7f}\u{2028}\u{200f}"),
            "\\u{9b}2J\\u{7f}\\u{2028}\\u{200f}"
        );
        assert_eq!(clean("größe 日本 🚀"), "größe 日本 🚀");
        assert_eq!(
            clean_lines("a:\r\n\tb: \u{9b}x\n\n  c\rd\n"),
            "a:\n\tb: \\u{9b}x\n\n  c d\n"
        );
        assert_eq!(clean_lines("no end"), "no end");
    }

    #[test]
    fn clean_json_keeps_the_meaning_and_escapes_control_characters() {
        let hostile: String = (0..0x3000)
            .filter_map(char::from_u32)
            .chain("日本🚀\u{1f6a8}".chars())
            .collect();
        let document = serde_json::json!({ hostile.as_str(): [hostile.as_str(), 1] });
        for text in [format!("{document:#}"), document.to_string()] {
            let safe = clean_json(text);
            assert!(
                !safe.contains(|c: char| c != '\n' && is_acted_on(c)),
                "{safe}"
            );
            assert_eq!(
                serde_json::from_str::<Value>(&safe).expect("JSON"),
                document
            );
            assert!(
                safe.contains("\\u009b") && safe.contains("\\u202e") && safe.contains("日本🚀")
            );
        }
        assert_eq!(clean_json("{\n  \"ä\": 1\n}".into()), "{\n  \"ä\": 1\n}");
    }

    #[test]
    fn width_counts_columns_without_escapes() {
        assert_eq!(width("日本"), 4);
        assert_eq!(width("\x1b[32mok\x1b[0m!"), 3);
    }

    #[test]
    fn fit_cuts_to_the_width_and_closes_the_colour() {
        assert_eq!(fit("abcdef", 6, true), "abcdef");
        assert_eq!(fit("abcdef", 4, true), "abc…");
        assert_eq!(fit("abcdef", 4, false), "a...");
        assert_eq!(fit("日本語", 4, true), "日…");
        assert_eq!(fit("\x1b[32mabcdef\x1b[0m", 3, true), "\x1b[32mab…\x1b[0m");
    }

    #[test]
    fn utf8_locales_are_recognised_by_their_suffix() {
        assert!(is_utf8_locale("de_DE.UTF-8") && is_utf8_locale("C.utf8"));
        assert!(
            !is_utf8_locale("C") && !is_utf8_locale("POSIX") && !is_utf8_locale("de_DE.ISO-8859-1")
        );
    }
}
