//! The author and the reason of an order; the server keeps both with it.

use std::{env, fs};

/// The list of users on a Unix machine.
const PASSWD: &str = "/etc/passwd";

#[derive(Debug, clap::Args)]
pub struct Who {
    /// Reason of the order
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    by: By,
}

/// As [`Who`], for a command with a dry run.
#[derive(Debug, clap::Args)]
pub struct WhoUnlessDryRun {
    /// Reason of the order; a dry run needs none
    #[arg(long, required_unless_present = "dry_run")]
    reason: Option<String>,
    #[command(flatten)]
    by: By,
}

#[derive(Debug, clap::Args)]
struct By {
    /// Author of the order; by default your user name: $USER, $LOGNAME, or the system's name for
    /// the user of this process
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

impl Who {
    /// The author and the reason.
    pub fn resolve(self) -> (String, String) {
        (self.by.name(), self.reason)
    }
}

impl WhoUnlessDryRun {
    /// The author and the reason, which is empty for a dry run without one.
    pub fn resolve(self) -> (String, String) {
        (self.by.name(), self.reason.unwrap_or_default())
    }
}

impl By {
    fn name(self) -> String {
        self.by.unwrap_or_else(user)
    }
}

/// The user of this process. Containers and jobs often have neither $USER nor an entry in the list
/// of users; then the number of the user takes its place.
fn user() -> String {
    let named = ["USER", "LOGNAME"]
        .into_iter()
        .filter_map(|name| env::var(name).ok());
    let named = named
        .map(|name| name.trim().to_owned())
        .find(|name| !name.is_empty());
    let uid = rustix::process::getuid().as_raw();
    named
        .or_else(|| user_of(&fs::read_to_string(PASSWD).ok()?, uid))
        .unwrap_or_else(|| format!("uid-{uid}"))
}

/// The name of a user in lines of the form `name:password:uid:…`.
fn user_of(list: &str, uid: u32) -> Option<String> {
    list.lines().find_map(|line| {
        let mut fields = line.split(':');
        // `nth(1)` skips the field of the password.
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (number.parse() == Ok(uid) && !name.is_empty()).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_name_is_found_by_uid() {
        let list = "root:x:0:0:root:/root:/bin/bash\n# note\n\n:x:7:7::/:\nann:x:1000:1000:Ann:/home/ann:/bin/sh\n";
        assert_eq!(user_of(list, 0).as_deref(), Some("root"));
        assert_eq!(user_of(list, 1_000).as_deref(), Some("ann"));
        assert_eq!(
            (user_of(list, 100), user_of(list, 7), user_of("", 0)),
            (None, None, None)
        );
    }
}
