//! The modules of a crate, and the paths by which each file names items of others.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::source::{Source, files};
use crate::token::Token;

/// The path of a module below the crate: `["engine", "hub"]`.
pub type Module = Vec<String>;

pub struct Crate {
    /// The modules that have a file, with the paths that the file names, resolved to the crate.
    pub modules: BTreeMap<Module, BTreeSet<Module>>,
    /// The names that a module imports, and where they come from; children see them as its own.
    imported: BTreeMap<Module, BTreeMap<String, Module>>,
}

impl Crate {
    pub fn read(src: &Path) -> Self {
        let sources = files(src);
        let program = |s: &&Source| !s.is_test() && !s.path.ends_with("main.rs");
        let mut found = Self {
            modules: BTreeMap::new(),
            imported: BTreeMap::new(),
        };
        for source in sources.iter().filter(program) {
            found.add(
                module_of(source.path.strip_prefix(src).unwrap()),
                &source.tokens(),
            );
        }
        found
    }

    fn add(&mut self, module: Module, tokens: &[Token]) {
        let mut paths = BTreeSet::new();
        let mut names = BTreeMap::new();
        for (at, token) in tokens.iter().enumerate() {
            // `use<…>` in a type lists captured parameters and imports nothing.
            let captures = tokens.get(at + 1).is_some_and(|next| next.text == "<");
            if token.text == "use" && !captures {
                let mut tree = Vec::new();
                use_tree(&tokens[at + 1..], &[], &mut tree);
                for (path, name) in tree {
                    if let Some(path) = resolve(&module, &path) {
                        names.insert(name, path.clone());
                        paths.insert(path);
                    }
                }
            } else if is_path_start(tokens, at)
                && let Some(path) = resolve(&module, &plain_path(&tokens[at..]))
            {
                paths.insert(path);
            }
        }
        self.modules.insert(module.clone(), paths);
        self.imported.insert(module, names);
    }

    /// The module with a file to which a path leads, through the imports of the modules on its way.
    pub fn target(&self, path: &[String]) -> Module {
        let mut path = path.to_vec();
        // An import can lead to another import, but not endlessly.
        for _ in 0..8 {
            let known = (0..=path.len())
                .rev()
                .find(|&n| self.modules.contains_key(&path[..n]));
            let module = path[..known.unwrap_or(0)].to_vec();
            let Some(origin) = path
                .get(module.len())
                .and_then(|name| self.imported.get(&module)?.get(name))
            else {
                return module;
            };
            let rest = &path[module.len() + 1..];
            path = [origin.as_slice(), rest].concat();
        }
        path
    }
}

/// `hub/reservation.rs` and `hub/reservation/mod.rs` are `["hub", "reservation"]`.
fn module_of(path: &Path) -> Module {
    let parts = path.with_extension("");
    let mut module: Module = parts
        .iter()
        .map(|p| p.to_string_lossy().into_owned())
        .collect();
    if module.last().is_some_and(|l| l == "mod" || l == "lib") {
        module.pop();
    }
    module
}

/// The paths of a `use` item after its keyword, each with the name that it introduces.
/// Returns the number of tokens read.
fn use_tree(tokens: &[Token], prefix: &[String], found: &mut Vec<(Module, String)>) -> usize {
    let mut path = prefix.to_vec();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        match token.text {
            "::" => {}
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|t| t.text != "}") {
                    at += use_tree(&tokens[at..], &path, found);
                    at += usize::from(tokens.get(at).is_some_and(|t| t.text == ","));
                }
                return at + 1;
            }
            "as" => {
                let name = tokens.get(at + 1).map_or("", |t| t.text);
                found.push((path, name.to_owned()));
                return at + 2;
            }
            "," | ";" | "}" => break,
            "self" if !path.is_empty() => {}
            name => path.push(name.to_owned()),
        }
        at += 1;
    }
    let name = path.last().cloned().unwrap_or_default();
    found.push((path, name));
    at
}

fn is_path_start(tokens: &[Token], at: usize) -> bool {
    let starts = ["crate", "super", "self"].contains(&tokens[at].text);
    let continues = at > 0 && tokens[at - 1].text == "::";
    starts && !continues && tokens.get(at + 1).is_some_and(|t| t.text == "::")
}

/// A path in an expression or a type, up to its parameters.
fn plain_path(tokens: &[Token]) -> Module {
    let words = tokens.chunks(2).map_while(|pair| match pair {
        [word, next] => Some((word, next.text == "::")),
        _ => None,
    });
    let mut path = Module::new();
    for (word, goes_on) in words {
        path.push(word.text.to_owned());
        if !goes_on {
            break;
        }
    }
    path
}

/// The path from the root of the crate; none if it leads to another crate.
fn resolve(module: &[String], path: &[String]) -> Option<Module> {
    let supers = path.iter().take_while(|p| *p == "super").count();
    let (base, rest) = match path.first()?.as_str() {
        "crate" => (&module[..0], &path[1..]),
        "self" => (module, &path[1..]),
        "super" => (
            &module[..module.len().checked_sub(supers)?],
            &path[supers..],
        ),
        _ => return None,
    };
    Some([base, rest].concat())
}
