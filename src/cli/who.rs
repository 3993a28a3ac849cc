//! Who gives an order, and why: every one is kept with both.

use std::env;

use super::error::{CliError, exit};

#[derive(Debug, clap::Args)]
pub struct Who {
    /// Why
    #[arg(long)]
    reason: String,
    /// Who; without it, $USER
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

impl Who {
    /// Who and why.
    pub fn resolve(self) -> Result<(String, String), CliError> {
        let user = || ["USER", "LOGNAME"].into_iter().filter_map(|n| env::var(n).ok()).find(|u| !u.is_empty());
        let by = self.by.or_else(user).ok_or_else(|| {
            CliError::new(exit::USAGE, "cannot tell who does this: $USER is not set").hint("say it with --by NAME")
        })?;
        Ok((by, self.reason))
    }
}
