//! A mapping under construction, with the entries that merge keys (`<<`) add to it.
//!
//! Merge keys belong to YAML 1.1 and not to 1.2, but many files use them: `<<: *defaults`, or
//! `<<: [*first, *second]`. The mapping's own entries take precedence, wherever the merge key
//! stands; of several sources the first one does.

use std::collections::HashSet;

use super::node::{Data, Entry, Key, Node};
use super::position::Pos;

/// The merge key, without quotes; in quotes it is an ordinary key.
pub(crate) const MERGE: &str = "<<";

/// A mapping that may receive more entries.
#[derive(Default)]
pub(crate) struct Mapping {
    entries: Vec<Entry>,
    /// The key whose value comes next; true for a merge key.
    key: Option<(Key, bool)>,
    seen: HashSet<String>,
    merged: Option<Vec<Entry>>,
}

/// A key that the mapping refuses with its value.
pub(crate) struct Refused {
    pub pos: Pos,
    pub key: String,
    pub message: String,
}

impl Mapping {
    /// The key whose value comes next.
    pub fn key(&self) -> Option<&Key> {
        self.key.as_ref().map(|(key, _)| key)
    }

    /// Takes a key.
    pub fn expect(&mut self, key: Key, is_merge: bool) {
        self.key = Some((key, is_merge));
    }

    /// Takes the value of the pending key. Returns the node if no key is pending: the node is then
    /// a key itself.
    pub fn take(&mut self, node: Node) -> Result<Option<Node>, Refused> {
        let Some((key, is_merge)) = self.key.take() else {
            return Ok(Some(node));
        };
        if is_merge {
            self.merge(key, node)?;
        } else if key.broken || self.seen.insert(key.text.clone()) {
            self.entries.push(Entry { key, node });
        } else {
            // The first value stays, so that it is checked as well.
            let message = "the key appears twice in the same mapping".to_owned();
            return Err(Refused {
                pos: key.pos,
                key: key.text,
                message,
            });
        }
        Ok(None)
    }

    fn merge(&mut self, key: Key, node: Node) -> Result<(), Refused> {
        let refused = |pos: Pos, message: String| Refused {
            pos,
            key: key.text.clone(),
            message,
        };
        if self.merged.is_some() {
            let message = "the merge key appears twice in the same mapping; expected one with a list: `<<: [*first, *second]`";
            return Err(refused(key.pos, message.to_owned()));
        }
        let sources = match node {
            Node {
                data: Data::List(items),
                ..
            } => items,
            one => vec![one],
        };
        // Set before the sources are read, so that a second merge key is found even after a refused
        // source.
        let merged = self.merged.insert(Vec::new());
        for source in sources {
            match source.data {
                Data::Map(entries) => merged.extend(entries),
                Data::Broken => {}
                other => {
                    let found = other.kind();
                    let message = format!(
                        "expected a mapping to merge, or a list of mappings, found {found}"
                    );
                    return Err(refused(source.pos, message));
                }
            }
        }
        Ok(())
    }

    /// The entries of the finished mapping, with those of the merge key appended.
    pub fn finish(self) -> Vec<Entry> {
        let Mapping {
            mut entries,
            mut seen,
            merged,
            ..
        } = self;
        let added = merged.unwrap_or_default().into_iter();
        // Own keys are in `seen` already, and the first of several sources enters its keys first.
        entries
            .extend(added.filter(|entry| entry.key.broken || seen.insert(entry.key.text.clone())));
        entries
    }
}
