//! Parses untrusted YAML into a tree of JSON values with positions, or into problems with
//! positions.
//!
//! The builder reads the parser's events directly: a deserializer would stop at the first error and
//! lose the positions.

pub(crate) mod fields;
mod mapping;
pub(crate) mod node;
pub(crate) mod position;
pub(crate) mod problem;
mod scalar;

use std::collections::HashMap;

use granit_parser::{
    ErrorKind, Event, Marker, Options, Parser, ScalarStyle, Span, Tag, YamlVersion,
};

use crate::limits::MAX_TEMPLATE_BYTES;
use crate::text::shorten;
use mapping::{MERGE, Mapping, Refused};
use node::{Data, Key, Node};
use position::Pos;
use problem::{Problems, child, item};
use scalar::Plain;

/// Largest nesting depth of lists and mappings.
const MAX_DEPTH: usize = 64;
/// The most values in a file, with its aliases expanded.
const MAX_NODES: usize = 100_000;
/// The most text in a file, with its aliases expanded, in bytes.
const MAX_TEXT_BYTES: usize = 2 * MAX_TEMPLATE_BYTES;

/// Parses the one document of `text`. `None` if there is no tree to continue with; problems are
/// added in either case.
pub(crate) fn parse(text: &str, problems: &mut Problems) -> Option<Node> {
    // YAML allows no NUL, and Postgres could not store it.
    if let Some(offset) = text.find('\0') {
        problems.add(
            pos_of_offset(text, offset),
            "",
            "the file contains a NUL character; expected text",
        );
        return None;
    }
    let mut builder = Builder::new(problems);
    for next in Parser::new_from_str_with_options(text, parser_options()) {
        let outcome = match next {
            Ok((event, span)) => builder.event(event, &span),
            Err(error) => {
                let message = match error.kind() {
                    ErrorKind::RecursionLimitExceeded => too_deep(),
                    _ => format!("the YAML is invalid: {}", error.info()),
                };
                Err(Fatal {
                    pos: pos(error.marker()),
                    message,
                })
            }
        };
        // Neither the parser nor the builder can go on after such an error.
        if let Err(fatal) = outcome {
            let path = builder.path();
            builder.problems.add(fatal.pos, path, fatal.message);
            return None;
        }
    }
    builder.finish()
}

fn parser_options() -> Options {
    granit_parser::options! {
        emit_comments: false,
        // One level more than the builder allows; the scanner reaches this limit first where it
        // looks ahead.
        flow_nesting_limit: MAX_DEPTH + 1,
        block_nesting_limit: MAX_DEPTH + 1,
    }
}

fn too_deep() -> String {
    format!("nested deeper than {MAX_DEPTH} levels")
}

/// An error after which the file cannot be read.
struct Fatal {
    pos: Pos,
    message: String,
}

struct Frame {
    pos: Pos,
    /// 0 when the container has no anchor.
    anchor: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Map(Mapping),
}

struct Anchored {
    node: Node,
    cost: Cost,
}

/// The cost that an alias adds to the tree.
#[derive(Clone, Copy, Default)]
struct Cost {
    nodes: usize,
    text_bytes: usize,
}

struct Builder<'p> {
    problems: &'p mut Problems,
    open: Vec<Frame>,
    anchors: HashMap<usize, Anchored>,
    spent: Cost,
    documents: usize,
    root: Option<Node>,
}

impl<'p> Builder<'p> {
    fn new(problems: &'p mut Problems) -> Self {
        Builder {
            problems,
            open: Vec::new(),
            anchors: HashMap::new(),
            spent: Cost::default(),
            documents: 0,
            root: None,
        }
    }

    fn event(&mut self, event: Event<'_>, span: &Span) -> Result<(), Fatal> {
        let at = pos(&span.start);
        match event {
            Event::DocumentStart(_, version) => self.document(version, at),
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_tag(tag.as_deref(), span);
                // As a value, or in quotes, `<<` is an ordinary text.
                if style == ScalarStyle::Plain && text == MERGE && self.expects_key() {
                    return self.merge_key(at);
                }
                let data = self.scalar(&text, style, at);
                self.complete(Node { pos: at, data }, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.refuse_tag(tag.as_deref(), span);
                self.enter(Frame {
                    pos: at,
                    anchor,
                    content: Content::List(Vec::new()),
                })
            }
            Event::MappingStart(_, anchor, tag) => {
                self.refuse_tag(tag.as_deref(), span);
                self.enter(Frame {
                    pos: at,
                    anchor,
                    content: Content::Map(Mapping::default()),
                })
            }
            Event::SequenceEnd | Event::MappingEnd => self.leave(),
            Event::Alias(anchor) => self.alias(anchor, at),
            _ => Ok(()),
        }
    }

    fn document(&mut self, version: Option<YamlVersion>, at: Pos) -> Result<(), Fatal> {
        self.documents += 1;
        if self.documents > 1 {
            let message = "a second document begins here; expected one template per file".into();
            return Err(Fatal { pos: at, message });
        }
        if let Some(YamlVersion { major, minor }) =
            version.filter(|version| *version != YamlVersion::new(1, 2))
        {
            self.report(
                at,
                format!("the file declares YAML {major}.{minor}; expected 1.2, the version of this parser"),
            );
        }
        Ok(())
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, at: Pos) -> Data {
        // An escape in double quotes makes a NUL that the look at the whole file does not find.
        if text.contains('\0') {
            self.report(at, "a string must not contain the NUL character");
            return Data::Broken;
        }
        // Quotes make any scalar a string, also `"1"` and `"true"`.
        if style != ScalarStyle::Plain {
            return Data::Text(text.to_owned());
        }
        match scalar::resolve(text) {
            Plain::Null => Data::Null,
            Plain::Bool(value) => Data::Bool(value),
            Plain::Number(value) => Data::Number(value),
            Plain::Text => Data::Text(text.to_owned()),
            // Broken and not null, so that no later check reports the same value again.
            Plain::Unusable(why) => {
                self.report(at, why);
                Data::Broken
            }
        }
    }

    fn enter(&mut self, frame: Frame) -> Result<(), Fatal> {
        if self.open.len() == MAX_DEPTH {
            return Err(Fatal {
                pos: frame.pos,
                message: too_deep(),
            });
        }
        self.open.push(frame);
        Ok(())
    }

    fn leave(&mut self) -> Result<(), Fatal> {
        let Some(frame) = self.open.pop() else {
            return Ok(());
        };
        let data = match frame.content {
            Content::List(items) => Data::List(items),
            Content::Map(mapping) => Data::Map(mapping.finish()),
        };
        self.complete(
            Node {
                pos: frame.pos,
                data,
            },
            frame.anchor,
        )
    }

    fn alias(&mut self, anchor: usize, at: Pos) -> Result<(), Fatal> {
        // A value is stored under its anchor when it is complete, so one that is missing is still
        // open.
        let Some(anchored) = self.anchors.get(&anchor) else {
            return Err(Fatal {
                pos: at,
                message: "this alias is inside the value that it refers to".into(),
            });
        };
        let cost = anchored.cost;
        // Before the copy: aliases of aliases multiply, and must not exceed the memory first.
        self.spend(cost, at)?;
        let data = self.anchors[&anchor].node.data.clone();
        self.attach(Node { pos: at, data });
        Ok(())
    }

    /// Counts a value that is written out, keeps it for its aliases, and puts it into its
    /// container.
    fn complete(&mut self, node: Node, anchor: usize) -> Result<(), Fatal> {
        let text_bytes = if let Data::Text(text) = &node.data {
            text.len()
        } else {
            0
        };
        self.spend(
            Cost {
                nodes: 1,
                text_bytes,
            },
            node.pos,
        )?;
        if anchor != 0 {
            let cost = cost_of(&node);
            self.spend(cost, node.pos)?; // The copy kept for aliases takes memory, too.
            self.anchors.insert(
                anchor,
                Anchored {
                    node: node.clone(),
                    cost,
                },
            );
        }
        self.attach(node);
        Ok(())
    }

    fn spend(&mut self, cost: Cost, at: Pos) -> Result<(), Fatal> {
        self.spent.nodes += cost.nodes;
        self.spent.text_bytes += cost.text_bytes;
        if self.spent.nodes > MAX_NODES || self.spent.text_bytes > MAX_TEXT_BYTES {
            let message = format!(
                "with its aliases expanded, the file is larger than {MAX_NODES} values or {MAX_TEXT_BYTES} bytes of text"
            );
            return Err(Fatal { pos: at, message });
        }
        Ok(())
    }

    fn attach(&mut self, node: Node) {
        match self.open.last_mut().map(|frame| &mut frame.content) {
            None => self.root = Some(node),
            Some(Content::List(items)) => items.push(node),
            Some(Content::Map(mapping)) => match mapping.take(node) {
                Ok(None) => {}
                Ok(Some(key)) => self.key(key),
                Err(Refused { pos, key, message }) => {
                    let path = child(&self.path(), &key);
                    self.problems.add(pos, path, message);
                }
            },
        }
    }

    /// Takes `node` as the next key of the open mapping.
    fn key(&mut self, node: Node) {
        let pos = node.pos;
        let (text, problem) = match node.data {
            Data::Text(text) => (text, None),
            // Reported already: the empty message only marks the key as broken.
            Data::Broken => (String::new(), Some(String::new())),
            other => {
                let message = format!(
                    "a key must be a string, but this is {}; write it in quotes",
                    other.kind()
                );
                (String::new(), Some(message))
            }
        };
        let broken = problem.is_some();
        if let Some(message) = problem.filter(|message| !message.is_empty()) {
            self.report(pos, message);
        }
        if let Some(Frame {
            content: Content::Map(mapping),
            ..
        }) = self.open.last_mut()
        {
            mapping.expect(Key { pos, text, broken }, false);
        }
    }

    fn expects_key(&self) -> bool {
        matches!(self.open.last(), Some(Frame { content: Content::Map(mapping), .. }) if mapping.key().is_none())
    }

    fn merge_key(&mut self, pos: Pos) -> Result<(), Fatal> {
        self.spend(
            Cost {
                nodes: 1,
                text_bytes: MERGE.len(),
            },
            pos,
        )?;
        if let Some(Frame {
            content: Content::Map(mapping),
            ..
        }) = self.open.last_mut()
        {
            mapping.expect(
                Key {
                    pos,
                    text: MERGE.to_owned(),
                    broken: false,
                },
                true,
            );
        }
        Ok(())
    }

    fn refuse_tag(&mut self, tag: Option<&Tag>, span: &Span) {
        // A refused tag ends nothing: the value is read without it, so that later problems are
        // found, too.
        if let Some(tag) = tag {
            let at = pos(&span.tag_start().unwrap_or(span.start));
            let tag = shorten(&tag.original());
            self.report(
                at,
                format!("the tag `{tag}` is not allowed; expected a value without a tag"),
            );
        }
    }

    fn report(&mut self, at: Pos, message: impl Into<String>) {
        let path = self.path();
        self.problems.add(at, path, message);
    }

    /// The path of the next value.
    fn path(&self) -> String {
        self.open
            .iter()
            .fold(String::new(), |path, frame| match &frame.content {
                Content::List(items) => item(&path, items.len()),
                Content::Map(mapping) => match mapping.key() {
                    Some(key) => child(&path, &key.text),
                    None => path,
                },
            })
    }

    fn finish(self) -> Option<Node> {
        if self.root.is_none() {
            self.problems.add(
                Pos::START,
                "",
                "the file is empty; expected a mapping with `task_name` and `step_templates`",
            );
        }
        self.root
    }
}

fn cost_of(node: &Node) -> Cost {
    let add = |sum: Cost, part: Cost| Cost {
        nodes: sum.nodes + part.nodes,
        text_bytes: sum.text_bytes + part.text_bytes,
    };
    let own = Cost {
        nodes: 1,
        text_bytes: 0,
    };
    match &node.data {
        Data::Text(text) => Cost {
            text_bytes: text.len(),
            ..own
        },
        Data::List(items) => items.iter().map(cost_of).fold(own, add),
        Data::Map(entries) => entries.iter().fold(own, |sum, entry| {
            let key = Cost {
                nodes: 1,
                text_bytes: entry.key.text.len(),
            };
            add(add(sum, key), cost_of(&entry.node))
        }),
        _ => own,
    }
}

fn pos(marker: &Marker) -> Pos {
    Pos::of(marker.line(), marker.col() + 1)
}

fn pos_of_offset(text: &str, offset: usize) -> Pos {
    let before = &text[..offset];
    let column = before
        .rsplit('\n')
        .next()
        .unwrap_or_default()
        .chars()
        .count();
    pos(&Marker::new(0, before.matches('\n').count() + 1, column))
}
