//! Expands the files and folders that a command line names into template files.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::cli::{
    error::{CliError, exit},
    render::term::clean,
};

/// Extensions of template files.
const EXTENSIONS: [&str; 2] = ["yaml", "yml"];

/// Replaces each folder by its YAML files, sorted by name; other names stay.
pub fn expand(named: &[String]) -> Result<Vec<String>, CliError> {
    let mut files = Vec::new();
    for name in named {
        // `-` is stdin, even where a folder has that name.
        if name == "-" || !Path::new(name).is_dir() {
            files.push(name.clone());
            continue;
        }
        let found = templates(Path::new(name)).map_err(|e| {
            CliError::new(
                exit::FAILURE,
                format!("cannot read the folder {}: {e}", clean(name)),
            )
            .hint("check its name and its permissions")
        })?;
        if found.is_empty() {
            let message = format!(
                "the folder {} has no file that ends in .yaml or .yml",
                clean(name)
            );
            return Err(CliError::new(exit::FAILURE, message)
                .hint("name the files themselves; subfolders are not read"));
        }
        files.extend(found);
    }
    Ok(files)
}

/// The YAML files of a folder, as a shell's `*.yaml *.yml` finds them, sorted by name.
fn templates(folder: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if is_template(&path) {
            found.push(path);
        }
    }
    // A folder is read in the order of the file system, which differs between machines.
    found.sort();
    found.into_iter().map(text).collect()
}

fn text(path: PathBuf) -> io::Result<String> {
    path.into_os_string().into_string().map_err(|name| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("the name {name:?} is not UTF-8"),
        )
    })
}

fn is_template(path: &Path) -> bool {
    let hidden = path
        .file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with('.'));
    let yaml = path.extension().is_some_and(|end| {
        EXTENSIONS
            .iter()
            .any(|known| end.eq_ignore_ascii_case(known))
    });
    yaml && !hidden && path.is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_expands_to_its_yaml_files_in_name_order() {
        let folder =
            std::env::temp_dir().join(format!("tasker-files-{}", uuid::Uuid::new_v4().simple()));
        let inner = folder.join("d.yaml");
        fs::create_dir_all(&inner).expect("a folder");
        let name = |file: &str| folder.join(file).to_str().expect("UTF-8").to_owned();
        let named = vec!["-".to_owned(), "x.yaml".to_owned(), name("")];
        assert_eq!(
            expand(&named).expect_err("an empty folder").code,
            exit::FAILURE
        );
        for file in [
            "b.yml",
            "a.yaml",
            "c.YAML",
            "notes.txt",
            "yaml",
            ".hidden.yaml",
            "d.yaml/inner.yaml",
        ] {
            fs::write(folder.join(file), "").expect("a file");
        }
        let expected = [
            "-".to_owned(),
            "x.yaml".to_owned(),
            name("a.yaml"),
            name("b.yml"),
            name("c.YAML"),
        ];
        assert_eq!(expand(&named).expect("a list"), expected);
        fs::remove_dir_all(&folder).expect("removed");
    }
}
