//! Postgres refuses to run as root. Under root, its processes and its data belong to an
//! unprivileged user.

use std::{
    fs, io,
    os::unix::{fs::MetadataExt, fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

use crate::error::Error;

/// The unprivileged user that a Postgres started by root runs as.
#[derive(Debug, Clone)]
pub(crate) struct Owner {
    pub(crate) name: &'static str,
    uid: u32,
    gid: u32,
}

impl Owner {
    /// `None` if this process is not root: Postgres then runs as the same user.
    pub(crate) fn needed() -> Result<Option<Self>, Error> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        ["postgres", "nobody"]
            .into_iter()
            .find_map(Self::named)
            .map(Some)
            .ok_or(Error::NoUser)
    }

    /// Asks `id`, which knows every source of users that the system is configured with.
    fn named(name: &'static str) -> Option<Self> {
        let ask = |flag| {
            let output = Command::new("id").args([flag, name]).output().ok()?;
            String::from_utf8(output.stdout).ok()?.trim().parse().ok()
        };
        Some(Self {
            name,
            uid: ask("-u")?,
            gid: ask("-g")?,
        })
        .filter(|owner| owner.uid != 0)
    }

    /// Makes the command run as this user, with no group but the user's own.
    pub(crate) fn run(&self, command: &mut Command) {
        // The standard library drops all supplementary groups when root sets a uid.
        command.uid(self.uid).gid(self.gid);
    }

    pub(crate) fn own(&self, path: &Path) -> io::Result<()> {
        chown(path, Some(self.uid), Some(self.gid))
    }

    /// The first folder on the way to `dir` that this user may not enter.
    pub(crate) fn blocked(&self, dir: &Path) -> Option<PathBuf> {
        let mut way: Vec<&Path> = dir
            .ancestors()
            .filter(|p| !p.as_os_str().is_empty())
            .collect();
        // From the root, so that the answer is the outermost obstacle.
        way.reverse();
        way.into_iter()
            .find(|step| fs::metadata(step).is_ok_and(|m| !self.may_enter(&m)))
            .map(Path::to_owned)
    }

    fn may_enter(&self, dir: &fs::Metadata) -> bool {
        // The first matching class decides, even if a later one would permit it.
        let bit = if dir.uid() == self.uid {
            0o100
        } else if dir.gid() == self.gid {
            0o010
        } else {
            0o001
        };
        dir.mode() & bit != 0
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn folder_that_a_user_may_not_enter_is_named() {
        let dir = std::env::temp_dir().join(format!("tasker-owner-{}", std::process::id()));
        let (closed, inside) = (dir.join("closed"), dir.join("closed/inside"));
        fs::create_dir_all(&inside).unwrap();
        let mode =
            |dir: &Path, mode| fs::set_permissions(dir, fs::Permissions::from_mode(mode)).unwrap();
        mode(&dir, 0o711);
        mode(&closed, 0o700);
        let stranger = Owner {
            name: "stranger",
            uid: 4_000_000,
            gid: 4_000_000,
        };
        assert_eq!(stranger.blocked(&inside), Some(closed.clone()));
        let us = fs::metadata(&closed).unwrap();
        let us = Owner {
            name: "us",
            uid: us.uid(),
            gid: us.gid(),
        };
        assert_eq!(us.blocked(&inside), None);
        mode(&closed, 0o711);
        assert_eq!(stranger.blocked(&closed), None);
        fs::remove_dir_all(&dir).unwrap();
    }
}
