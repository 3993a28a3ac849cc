//! A wall clock that jumps, for one process: libfaketime, controlled by a file. The monotonic clock
//! stays unchanged, as on a machine whose time is set.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// The path of Debian's libfaketime, below a library directory.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// The clock of one process.
pub struct Clock {
    library: PathBuf,
    file: PathBuf,
}

impl Clock {
    /// `None` when this machine has no libfaketime.
    pub fn new(file: PathBuf) -> Option<Self> {
        let clock = Self {
            library: library()?,
            file,
        };
        clock.jump(0);
        Some(clock)
    }

    /// Puts a process under this clock.
    pub fn rule(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", &self.library)
            .env("FAKETIME_TIMESTAMP_FILE", &self.file)
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("FAKETIME_CACHE_DURATION", "1")
            // Its semaphores and shared memory would outlive a killed process.
            .env("FAKETIME_DONT_RESET", "1")
            .env("NO_FAKE_STAT", "1");
    }

    /// Sets the clock off by this many seconds; the process follows within a second.
    pub fn jump(&self, seconds: i64) {
        // The rename is atomic, so that no process reads half of the file.
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{seconds:+}\n")).unwrap();
        std::fs::rename(&new, &self.file).unwrap();
    }
}

fn library() -> Option<PathBuf> {
    let machine = std::env::consts::ARCH;
    let places = [
        format!("/usr/lib/{machine}-linux-gnu"),
        "/usr/lib".into(),
        "/usr/lib64".into(),
    ];
    places
        .iter()
        .map(|place| Path::new(place).join(LIBRARY))
        .find(|path| path.exists())
}

#[test]
fn clock_jumps_while_its_process_runs() {
    let file = std::env::temp_dir().join(format!("torture-clock-{}", std::process::id()));
    let Some(clock) = Clock::new(file.clone()) else {
        println!("skipped: libfaketime is not installed, so no clock jumps");
        return;
    };
    let mut command = Command::new("sh");
    command.args(["-c", "date +%s; sleep 1.5; date +%s; sleep 1.5; date +%s"]);
    clock.rule(&mut command);
    let child = command
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(700));
    clock.jump(3_600);
    std::thread::sleep(std::time::Duration::from_millis(1_500));
    clock.jump(-3_600);
    let output = child.wait_with_output().unwrap();
    let times: Vec<i64> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|l| l.parse().unwrap())
        .collect();
    assert!((3_600..3_605).contains(&(times[1] - times[0])), "{times:?}");
    assert!(
        (-7_200..-7_190).contains(&(times[2] - times[1])),
        "{times:?}"
    );
    std::fs::remove_file(file).unwrap();
}
