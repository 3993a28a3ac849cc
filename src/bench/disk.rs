//! The time of one disk sync, which every commit pays.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::Path,
    time::Instant,
};

/// A page of Postgres, the least that a commit writes.
const PAGE_BYTES: u64 = 8 << 10;
const PAGES: u64 = 256;

/// The median time of writing 8 KiB and `fdatasync`, in µs, in a folder. The pages exist
/// beforehand, as in a reused log segment, so the time to extend the file is not included.
pub fn fdatasync_us(dir: &Path) -> io::Result<f64> {
    let path = dir.join("fdatasync.bench");
    let measured = measure(&path);
    let _ = fs::remove_file(&path);
    measured
}

fn measure(path: &Path) -> io::Result<f64> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?;
    let page = vec![0x5a; PAGE_BYTES as usize];
    for n in 0..PAGES {
        file.write_all_at(&page, n * PAGE_BYTES)?;
    }
    // The size of the file is durable, so the syncs below write only a page.
    file.sync_all()?;
    let mut times = Vec::with_capacity(PAGES as usize);
    for n in 0..PAGES {
        let started = Instant::now();
        file.write_all_at(&page, n * PAGE_BYTES)?;
        file.sync_data()?;
        times.push(started.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_unstable_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fdatasync_is_measured_and_leaves_no_file() {
        let dir = std::env::temp_dir().join(format!("tasker-disk-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        assert!(fdatasync_us(&dir).unwrap() > 0.0);
        // Fails unless it is empty.
        fs::remove_dir(&dir).unwrap();
    }
}
