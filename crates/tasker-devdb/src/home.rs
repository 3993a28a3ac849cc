//! The folder of one private Postgres: its data, its password, its log, and the lock that excludes
//! a second process.
//!
//! ```text
//! <dir>/lock           held while a process uses the folder; contains its process id
//! <dir>/password       of the superuser `postgres`, readable by its owner alone
//! <dir>/postgres.log   the output of the server and of initdb
//! <dir>/data/          created by initdb; belongs to the user that the server runs as
//! ```

use std::{
    env,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::{fs::OpenOptionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{ChildStdin, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use uuid::Uuid;

use crate::{
    error::Error,
    find::{Binaries, find, find_major},
    options::Options,
    owner::Owner,
    process::{describe, postmaster_of},
    tree::{copy_tree, create_dir, remove_tree, sync, sync_tree},
};

/// With less free memory, even temporary data goes to the disk.
const MIN_MEMORY_BYTES: u64 = 1 << 30;
/// How long a server that lost its parent may take for its last checkpoint before it counts as an
/// orphan.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(15);
/// A log longer than this is set aside at the next start.
const MAX_LOG_BYTES: u64 = 16 << 20;
const TAIL_LINES: usize = 20;
/// Variables that locate programs and libraries; a Postgres that was built by hand or comes from a
/// separate package manager needs both.
const INHERITED: [&str; 4] = [
    "PATH",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "DYLD_FALLBACK_LIBRARY_PATH",
];

/// Where the data of a development database is kept between runs: one folder per major version, in
/// the user's data home. Root's is `/var/lib/tasker`, since the user that Postgres then runs as
/// cannot enter root's own home.
pub fn default_dir(major: u32) -> Result<PathBuf, Error> {
    let name = format!("postgres-{major}");
    if rustix::process::geteuid().is_root() {
        return Ok(Path::new("/var/lib/tasker").join(name));
    }
    let absolute = |variable| {
        env::var_os(variable)
            .map(PathBuf::from)
            .filter(|p| p.is_absolute())
    };
    let home = absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")));
    Ok(home.ok_or(Error::NoDataHome)?.join("tasker").join(name))
}

/// A locked folder, with data that the binaries can open.
#[derive(Debug)]
pub(crate) struct Home {
    pub(crate) binaries: Binaries,
    pub(crate) owner: Option<Owner>,
    pub(crate) password: String,
    pub(crate) temporary: bool,
    dir: PathBuf,
    /// Held until the folder is released.
    _lock: File,
    /// The process that removes a temporary folder if this process cannot.
    _broom: Option<ChildStdin>,
}

impl Home {
    /// Locks the folder, and creates the data if there is none yet. Blocks: initdb takes about half
    /// a second.
    pub(crate) fn open(options: &Options) -> Result<Self, Error> {
        let owner = Owner::needed()?;
        let temporary = options.data_dir.is_none();
        let (dir, lock) = match &options.data_dir {
            Some(dir) => take(dir, owner.as_ref())?,
            None => take_temporary(owner.as_ref(), options.durable)?,
        };
        let binaries = match &options.binaries {
            Some(binaries) => binaries.clone(),
            None => match made_by(&dir) {
                Some(major) => find_major(major)?,
                None => find()?,
            },
        };
        // Before the data exists, so that nothing stays behind even if this process dies during
        // initdb.
        let broom = temporary.then(|| remove_when_we_end(&dir)).transpose()?;
        let mut home = Self {
            binaries,
            owner,
            password: String::new(),
            temporary,
            dir,
            _lock: lock,
            _broom: broom,
        };
        // A predecessor must have left the data before it is read or made.
        home.await_predecessor()?;
        home.prepare_data(options)?;
        Ok(home)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.dir.join("postgres.log")
    }

    /// The log, opened for appending, and the offset at which the output of this run begins.
    pub(crate) fn open_log(&self) -> Result<(File, u64), Error> {
        let path = self.log_path();
        if fs::metadata(&path).is_ok_and(|m| m.len() > MAX_LOG_BYTES) {
            fs::rename(&path, path.with_extension("log.old"))
                .map_err(Error::io("set aside", &path))?;
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path);
        let log = log.map_err(Error::io("open", &path))?;
        let start = log.metadata().map_err(Error::io("read", &path))?.len();
        Ok((log, start))
    }

    /// The last lines that the server logged after `start`.
    pub(crate) fn log_tail(&self, start: u64) -> String {
        let read = || -> io::Result<String> {
            let mut file = File::open(self.log_path())?;
            file.seek(SeekFrom::Start(start))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        // An unreadable log must not hide the error that it was to explain.
        let text = read().unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    /// A command of the server, run as the right user in the right directory. From the caller's
    /// environment it inherits only the variables that it needs to run: the others may change the
    /// behaviour of Postgres, or hold secrets that every process of the server would expose.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(
            INHERITED
                .iter()
                .filter_map(|name| Some((name, env::var_os(name)?))),
        );
        // English and C regardless of the user's locale: `launch` parses the log.
        command.env("LC_ALL", "C").current_dir("/");
        if let Some(owner) = &self.owner {
            owner.run(&mut command);
        }
        command
    }

    /// Waits for the end of a predecessor: a server whose parent was killed still writes its
    /// checkpoint.
    fn await_predecessor(&self) -> Result<(), Error> {
        let until = Instant::now() + ORPHAN_PATIENCE;
        while let Some(pid) = postmaster_of(&self.data()) {
            if Instant::now() >= until {
                return Err(Error::Orphan {
                    dir: self.dir.clone(),
                    pid,
                });
            }
            thread::sleep(Duration::from_millis(20));
        }
        // No server of this folder runs now, so the file is stale. If it stayed, Postgres would
        // trust it as soon as its number belongs to another process of the same user.
        match fs::remove_file(self.data().join("postmaster.pid")) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("remove", self.data())(e))
            }
            _ => Ok(()),
        }
    }

    fn prepare_data(&mut self, options: &Options) -> Result<(), Error> {
        let major = self.binaries.major;
        match made_by(&self.dir) {
            Some(made_by) if made_by != major => {
                return Err(Error::Major {
                    dir: self.dir.clone(),
                    made_by,
                    major,
                });
            }
            Some(_) => {}
            None => self.create_data(options)?,
        }
        // From the file in either case: a copy of a cached cluster has the password of the cache.
        let path = self.dir.join("password");
        self.password = fs::read_to_string(&path)
            .map_err(Error::io("read the password in", &path))?
            .trim()
            .to_owned();
        Ok(())
    }

    fn create_data(&self, options: &Options) -> Result<(), Error> {
        let Some(cache) = &options.initdb_cache else {
            return self.initdb(options);
        };
        let kind = if options.durable { "durable" } else { "fast" };
        let cached = cache.join(format!("postgres-{}-{kind}", self.binaries.version));
        if cached.join("password").is_file() {
            return self.copy_data(&cached, options.durable);
        }
        self.initdb(options)?;
        // Completed first, then renamed: another process sees all of it or nothing. Losing that
        // race is harmless.
        let making = cache.join(format!("making-{}", Uuid::now_v7()));
        create_dir(&making.join("data"), 0o700)?;
        copy_tree(&self.data(), &making.join("data"), None)?;
        if options.durable {
            sync_tree(&making)?;
        }
        write_secret(&making.join("password"), &read(&self.dir.join("password"))?)?;
        if fs::rename(&making, &cached).is_err() {
            remove_tree(&making);
        }
        Ok(())
    }

    /// An empty folder that becomes the data by [`Self::complete`]: data that was left half made is
    /// not taken for a cluster.
    fn incomplete_data(&self) -> Result<PathBuf, Error> {
        let making = self.dir.join("data.new");
        remove_tree(&making);
        create_dir(&making, 0o700)?;
        if let Some(owner) = &self.owner {
            owner
                .own(&making)
                .map_err(Error::io("give away", &making))?;
        }
        Ok(making)
    }

    fn complete(&self, making: &Path, durable: bool) -> Result<(), Error> {
        fs::rename(making, self.data()).map_err(Error::io("move", making))?;
        if durable { sync(&self.dir) } else { Ok(()) }
    }

    fn copy_data(&self, cached: &Path, durable: bool) -> Result<(), Error> {
        let making = self.incomplete_data()?;
        write_secret(&self.dir.join("password"), &read(&cached.join("password"))?)?;
        copy_tree(&cached.join("data"), &making, self.owner.as_ref())?;
        // Before the rename: after a crash of the machine, a complete name must have complete files.
        if durable {
            sync_tree(&making)?;
        }
        self.complete(&making, durable)
    }

    fn initdb(&self, options: &Options) -> Result<(), Error> {
        tracing::info!(dir = %self.dir.display(), version = %self.binaries.version, "creating a new Postgres cluster");
        let (password, making) = (self.dir.join("password"), self.incomplete_data()?);
        write_secret(&password, &Uuid::new_v4().simple().to_string())?;
        // initdb reads the password as the user that it runs as.
        let password_for_initdb = self.dir.join("password.new");
        write_secret(&password_for_initdb, &read(&password)?)?;
        if let Some(owner) = &self.owner {
            owner
                .own(&password_for_initdb)
                .map_err(Error::io("give away", &password_for_initdb))?;
        }
        let mut command = self.command(&self.binaries.initdb());
        // An explicit time zone spares initdb the search for the system's.
        command
            .env("TZ", "UTC")
            .arg("--pgdata")
            .arg(&making)
            .arg("--pwfile")
            .arg(&password_for_initdb);
        command.args([
            "--username=postgres",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--no-locale",
        ]);
        if !options.durable {
            // Small WAL files: less to copy for a short-lived database.
            command.args(["--no-sync", "--wal-segsize=4"]);
        }
        let output = command
            .output()
            .map_err(Error::io("run", self.binaries.initdb()));
        let removed = fs::remove_file(&password_for_initdb);
        let output = output?;
        removed.map_err(Error::io("remove", &password_for_initdb))?;
        if !output.status.success() {
            let words = [output.stdout, output.stderr].concat();
            let status = describe(output.status);
            return Err(Error::Initdb {
                status,
                output: String::from_utf8_lossy(&words).trim().to_owned(),
            });
        }
        self.complete(&making, options.durable)
    }

    /// Removes a temporary folder. Called when the server has ended.
    pub(crate) fn clean_up(&self) {
        if !self.temporary {
            return;
        }
        // A killed server leaves this file, whose seventh line ends in the id of a shared memory
        // segment that only its next start would have removed.
        let pid_file = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        if let Some(segment) = pid_file
            .lines()
            .nth(6)
            .and_then(|line| line.split_whitespace().last())
        {
            let _ = Command::new("ipcrm")
                .args(["-m", segment])
                .stderr(Stdio::null())
                .status();
        }
        remove_tree(&self.dir);
    }
}

/// The major version that made the data in a folder, if there is data.
pub fn made_by(dir: &Path) -> Option<u32> {
    fs::read_to_string(dir.join("data/PG_VERSION"))
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// Creates the folder if necessary, and locks it.
fn take(dir: &Path, owner: Option<&Owner>) -> Result<(PathBuf, File), Error> {
    // Postgres' user only passes through; the modes of the files inside decide on reading.
    create_dir(dir, if owner.is_some() { 0o711 } else { 0o700 })?;
    let dir = dir.canonicalize().map_err(Error::io("find", dir))?;
    if let Some((owner, blocked)) = owner.and_then(|owner| Some((owner, owner.blocked(&dir)?))) {
        return Err(Error::Unreachable {
            user: owner.name.to_owned(),
            blocked,
        });
    }
    let lock = lock(&dir)?;
    Ok((dir, lock))
}

/// A new folder for one run, in the first temporary location that the server's user can reach. Data
/// that need not last goes into memory where there is plenty: a database is a thousand small files,
/// which some disks are slow to create.
fn take_temporary(owner: Option<&Owner>, durable: bool) -> Result<(PathBuf, File), Error> {
    let memory = Some(PathBuf::from("/dev/shm"))
        .filter(|memory| !durable && free_bytes(memory) >= MIN_MEMORY_BYTES);
    let places: Vec<PathBuf> = memory
        .into_iter()
        .chain([env::temp_dir(), "/tmp".into(), "/var/tmp".into()])
        .collect();
    let reachable = |place: &&PathBuf| {
        place.is_dir() && owner.is_none_or(|owner| owner.blocked(place).is_none())
    };
    let place = places.iter().find(reachable).unwrap_or(&places[0]);
    take(
        &place.join(format!("tasker-postgres-{}", Uuid::now_v7().simple())),
        owner,
    )
}

fn free_bytes(dir: &Path) -> u64 {
    rustix::fs::statvfs(dir).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
}

fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path);
    // Not truncated so far: before the lock is taken, the file has the pid of its holder.
    let mut file = file.map_err(Error::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            let pid = fs::read_to_string(&path)
                .ok()
                .and_then(|pid| pid.trim().parse().ok());
            return Err(Error::InUse {
                dir: dir.to_owned(),
                pid,
            });
        }
        Err(fs::TryLockError::Error(e)) => return Err(Error::io("lock", &path)(e)),
    }
    file.set_len(0)
        .and_then(|()| write!(file, "{}", std::process::id()))
        .map_err(Error::io("write", &path))?;
    Ok(file)
}

fn write_secret(path: &Path, secret: &str) -> Result<(), Error> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path);
    file.and_then(|mut file| file.write_all(secret.as_bytes()))
        .map_err(Error::io("write", path))
}

fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(Error::io("read", path))
}

/// Starts a small process that waits for the end of this one, however it ends, then for the end of
/// the server, and removes the folder. The kernel ends the server itself.
fn remove_when_we_end(dir: &Path) -> Result<ChildStdin, Error> {
    const SCRIPT: &str = r#"read -r _
        while [ -e "$1/data/postmaster.pid" ] && kill -0 "$(head -n 1 "$1/data/postmaster.pid")"; do sleep 0.1; done
        rm -rf -- "$1""#;
    let mut broom = Command::new("/bin/sh");
    broom
        .args(["-c", SCRIPT, "sh"])
        .arg(dir)
        .current_dir("/")
        .process_group(0);
    broom
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut broom = broom.spawn().map_err(Error::io("run", "/bin/sh"))?;
    let lifeline = broom
        .stdin
        .take()
        .ok_or_else(|| Error::io("talk to", "/bin/sh")(io::ErrorKind::BrokenPipe.into()))?;
    // Reaped when it ends, which is when the cluster is dropped.
    thread::spawn(move || broom.wait());
    Ok(lifeline)
}
