//! Folders and their content: created, copied, written to the disk, and removed.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::Path,
};

use crate::{error::Error, owner::Owner};

pub(crate) fn create_dir(dir: &Path, mode: u32) -> Result<(), Error> {
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    }
    match DirBuilder::new().mode(mode).create(dir) {
        // The umask may have removed bits.
        Ok(()) => fs::set_permissions(dir, fs::Permissions::from_mode(mode))
            .map_err(Error::io("set the mode of", dir)),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        Err(e) => Err(Error::io("create", dir)(e)),
    }
}

/// Copies a folder's content into another, which may exist; folders below it get the server's user
/// and mode 0700.
pub(crate) fn copy_tree(from: &Path, to: &Path, owner: Option<&Owner>) -> Result<(), Error> {
    for entry in fs::read_dir(from).map_err(Error::io("read", from))? {
        let entry = entry.map_err(Error::io("read", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().map_err(Error::io("read", &source))?;
        if kind.is_dir() {
            create_dir(&target, 0o700)?;
            copy_tree(&source, &target, owner)?;
        } else {
            fs::copy(&source, &target).map_err(Error::io("copy", &source))?;
        }
        if let Some(owner) = owner {
            owner
                .own(&target)
                .map_err(Error::io("give away", &target))?;
        }
    }
    Ok(())
}

/// Writes a folder's files and names to the disk.
pub(crate) fn sync_tree(dir: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let entry = entry.map_err(Error::io("read", dir))?;
        match entry.file_type().map_err(Error::io("read", entry.path()))? {
            kind if kind.is_dir() => sync_tree(&entry.path())?,
            _ => sync(&entry.path())?,
        }
    }
    sync(dir)
}

pub(crate) fn sync(path: &Path) -> Result<(), Error> {
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.map_err(Error::io("sync", path))
}

/// Best effort: a folder that cannot be removed does no harm.
pub(crate) fn remove_tree(dir: &Path) {
    if let Err(error) = fs::remove_dir_all(dir)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(dir = %dir.display(), %error, "cannot remove a folder");
    }
}
