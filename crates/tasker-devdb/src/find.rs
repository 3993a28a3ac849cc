//! Finds the Postgres that is already on the machine, so that no setting has to name it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The oldest major version that the statements of the store run on.
pub const MIN_MAJOR: u32 = 14;

/// The environment variable that names the folder of the binaries; if it is set, no other folder is
/// searched.
pub const BIN_VARIABLE: &str = "TASKER_POSTGRES_BIN";

/// The server's programs, of one version and in one folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// The folder with `postgres` and `initdb`.
    pub dir: PathBuf,
    /// The major version, such as 15.
    pub major: u32,
    /// The whole version, such as `15.8` or `17beta1`.
    pub version: String,
}

impl Binaries {
    /// The binaries in `dir`, with the version that they report; the error is the reason why they
    /// are not usable.
    pub fn at(dir: &Path) -> Result<Self, String> {
        for name in ["postgres", "initdb"] {
            if !dir.join(name).is_file() {
                return Err(format!("there is no `{name}` in it"));
            }
        }
        // Asked for and not taken from the path: a folder may have any name.
        let output = Command::new(dir.join("postgres"))
            .arg("--version")
            .output()
            .map_err(|e| format!("cannot run it: {e}"))?;
        let words = String::from_utf8_lossy(&output.stdout);
        let (version, major) = parse_version(&words)
            .ok_or_else(|| format!("`postgres --version` prints {:?}", words.trim()))?;
        Ok(Self {
            dir: dir.to_owned(),
            major,
            version,
        })
    }

    /// The path of the server.
    pub fn postgres(&self) -> PathBuf {
        self.dir.join("postgres")
    }

    /// The path of the program that creates a data folder.
    pub fn initdb(&self) -> PathBuf {
        self.dir.join("initdb")
    }
}

/// Why no usable Postgres was found; the message names the package to install.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The folder that the environment names is not usable.
    #[error("{BIN_VARIABLE}={}: {why}", dir.display())]
    Named {
        /// The folder that the variable names.
        dir: PathBuf,
        /// The reason.
        why: String,
    },
    /// No folder has a server of a usable version.
    #[error(
        "found no PostgreSQL {wanted} on this machine{}; {}, or name the folder of its binaries in {BIN_VARIABLE}",
        found(unusable),
        install_hint()
    )]
    None {
        /// The version looked for, in words.
        wanted: String,
        /// Servers that were found and are not usable.
        unusable: Vec<Binaries>,
    },
}

/// The Postgres to use: the one that [`BIN_VARIABLE`] names, else the one on the `PATH`, else the
/// newest installed.
pub fn find() -> Result<Binaries, FindError> {
    pick(format!("{MIN_MAJOR} or newer"), |b| b.major >= MIN_MAJOR)
}

/// The Postgres of one major version, for a data folder that only this version can open.
pub fn find_major(major: u32) -> Result<Binaries, FindError> {
    pick(format!("{major}"), |b| b.major == major)
}

fn pick(wanted: String, serves: impl Fn(&Binaries) -> bool) -> Result<Binaries, FindError> {
    if let Some(dir) = env::var_os(BIN_VARIABLE).filter(|v| !v.is_empty()) {
        let dir = PathBuf::from(dir);
        return match Binaries::at(&dir) {
            Ok(found) if serves(&found) => Ok(found),
            Ok(found) => Err(FindError::Named {
                dir,
                why: format!("has PostgreSQL {}, and needs {wanted}", found.version),
            }),
            Err(why) => Err(FindError::Named { dir, why }),
        };
    }
    let mut unusable = Vec::new();
    for dir in candidates() {
        match Binaries::at(&dir) {
            Ok(found) if serves(&found) => return Ok(found),
            Ok(found) => unusable.push(found),
            // Most folders of the `PATH` have no Postgres.
            Err(_) => {}
        }
    }
    Err(FindError::None { wanted, unusable })
}

/// Folders to search, the best first.
fn candidates() -> Vec<PathBuf> {
    // The `PATH` first, since it is the user's own choice; then the folders of the usual packages.
    let mut dirs: Vec<PathBuf> = env::var_os("PATH")
        .iter()
        .flat_map(env::split_paths)
        .collect();
    dirs.extend(newest_first("/usr/lib/postgresql", "", "bin"));
    dirs.extend(newest_first("/usr", "pgsql-", "bin"));
    dirs.extend(newest_first("/usr/libexec", "postgresql", ""));
    for prefix in [
        "/opt/homebrew/opt",
        "/usr/local/opt",
        "/home/linuxbrew/.linuxbrew/opt",
    ] {
        dirs.extend(newest_first(prefix, "postgresql@", "bin"));
    }
    dirs.extend(newest_first(
        "/Applications/Postgres.app/Contents/Versions",
        "",
        "bin",
    ));
    dirs.push("/usr/local/pgsql/bin".into());
    dirs
}

/// `parent/<prefix><number>/<inside>` for each number that exists, the highest first.
fn newest_first(parent: &str, prefix: &str, inside: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(parent) else {
        return Vec::new();
    };
    let mut found: Vec<(u32, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let number = entry
                .file_name()
                .to_str()?
                .strip_prefix(prefix)?
                .parse()
                .ok()?;
            Some((number, entry.path().join(inside)))
        })
        .collect();
    found.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    found.into_iter().map(|(_, dir)| dir).collect()
}

/// `postgres (PostgreSQL) 15.8 (Debian 15.8-0+deb12u1)` → `("15.8", 15)`.
fn parse_version(words: &str) -> Option<(String, u32)> {
    let version = words
        .split_once("(PostgreSQL) ")?
        .1
        .split_whitespace()
        .next()?;
    let digits = version
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(version.len());
    Some((version.to_owned(), version[..digits].parse().ok()?))
}

fn found(unusable: &[Binaries]) -> String {
    let list: Vec<String> = unusable
        .iter()
        .map(|b| format!("{} in {}", b.version, b.dir.display()))
        .collect();
    if list.is_empty() {
        String::new()
    } else {
        format!(" (only {})", list.join(", "))
    }
}

/// The command that installs a Postgres on this system.
fn install_hint() -> &'static str {
    if cfg!(target_os = "macos") {
        return "install it with `brew install postgresql@17`";
    }
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    install_hint_for(&release)
}

fn install_hint_for(os_release: &str) -> &'static str {
    let families: Vec<&str> = os_release
        .lines()
        .filter_map(|line| {
            line.strip_prefix("ID=")
                .or_else(|| line.strip_prefix("ID_LIKE="))
        })
        .flat_map(|value| value.trim_matches('"').split_whitespace())
        .collect();
    let is = |names: &[&str]| families.iter().any(|family| names.contains(family));
    if is(&["debian", "ubuntu"]) {
        "install it with `apt-get install postgresql`"
    } else if is(&["fedora", "rhel", "centos"]) {
        "install it with `dnf install postgresql-server`"
    } else if is(&["alpine"]) {
        "install it with `apk add postgresql`"
    } else if is(&["arch"]) {
        "install it with `pacman -S postgresql`"
    } else if is(&["suse", "opensuse"]) {
        "install it with `zypper install postgresql-server`"
    } else {
        "install your system's PostgreSQL server package (`postgresql` on Debian and Ubuntu)"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_output_of_each_vendor_is_parsed() {
        for (words, version, major) in [
            (
                "postgres (PostgreSQL) 15.8 (Debian 15.8-0+deb12u1)\n",
                "15.8",
                15,
            ),
            ("postgres (PostgreSQL) 17beta1", "17beta1", 17),
            ("postgres (PostgreSQL) 9.6.24\n", "9.6.24", 9),
            ("postgres (PostgreSQL) 18devel", "18devel", 18),
        ] {
            assert_eq!(
                parse_version(words),
                Some((version.to_owned(), major)),
                "{words}"
            );
        }
        assert_eq!(parse_version("postgres 15"), None);
        assert_eq!(parse_version("postgres (PostgreSQL) x"), None);
    }

    #[test]
    fn install_hint_matches_the_system() {
        assert!(install_hint_for("ID=debian\n").contains("apt-get install postgresql"));
        assert!(
            install_hint_for("NAME=Mint\nID=linuxmint\nID_LIKE=\"ubuntu debian\"\n")
                .contains("apt-get")
        );
        assert!(install_hint_for("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n").contains("dnf"));
        assert!(install_hint_for("").contains("Debian"));
    }

    #[test]
    fn folder_without_a_server_names_the_missing_program() {
        let why = Binaries::at(Path::new("/nonexistent")).unwrap_err();
        assert_eq!(why, "there is no `postgres` in it");
    }

    #[test]
    fn old_server_is_named_in_the_error() {
        let old = Binaries {
            dir: "/usr/lib/postgresql/13/bin".into(),
            major: 13,
            version: "13.16".into(),
        };
        let error = FindError::None {
            wanted: "14 or newer".into(),
            unusable: vec![old],
        };
        let words = error.to_string();
        assert!(
            words.contains("(only 13.16 in /usr/lib/postgresql/13/bin)"),
            "{words}"
        );
        assert!(words.contains("install"), "{words}");
    }
}
