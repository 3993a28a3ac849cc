//! The names of this server. A web page can make its own name resolve to this machine (DNS
//! rebinding); the `Host` of its requests is then that name, and the browser treats both as one
//! site.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use axum::http::uri::Authority;

/// A name of this server in addition to those that are always allowed: exact, or `*.` and a suffix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedHost {
    /// In lower case, without `*.`.
    name: Box<str>,
    /// Whether it stands for the names below it, and not for the name itself.
    below: bool,
}

impl FromStr for AllowedHost {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "*" {
            return Err(
                "any page of the web could call this server by a name of its own, and the server has no \
                        authentication; name the hosts",
            );
        }
        let (name, below) = text
            .strip_prefix("*.")
            .map_or((text, false), |suffix| (suffix, true));
        // Underscores are not allowed in host names, but some internal resolvers accept them.
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        let is_name =
            !name.is_empty() && name.chars().all(is_plain) && !name.split('.').any(str::is_empty);
        if !is_name {
            return Err(
                "expected the name of a host without scheme and port, such as tasker.example.com or *.example.com",
            );
        }
        Ok(Self {
            name: name.to_ascii_lowercase().into(),
            below,
        })
    }
}

impl AllowedHost {
    /// `host` must be in lower case.
    fn allows(&self, host: &str) -> bool {
        match self.below {
            false => host == &*self.name,
            true => host
                .strip_suffix(&*self.name)
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
        }
    }
}

/// Whether this is a name of the server: an address, `localhost`, a name without a dot, or one of
/// `also`.
pub fn is_allowed(authority: &Authority, also: &[AllowedHost]) -> bool {
    // Only a port may follow a host; the parser accepts more after an address in brackets.
    let behind = authority
        .as_str()
        .rsplit('@')
        .next()
        .and_then(|place| place.strip_prefix(authority.host()));
    if !behind.is_some_and(|behind| behind.is_empty() || behind.starts_with(':')) {
        return false;
    }
    let host = authority.host().to_ascii_lowercase();
    // The zone of a link-local address is not part of its number.
    if let Some(v6) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        return v6
            .split('%')
            .next()
            .is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
    }
    // A final dot is the absolute form of the same name.
    let absolute = host.strip_suffix('.').unwrap_or(&host);
    // No web page has a name without a dot: the names of the web are below a top-level domain.
    !host.contains('.')
        || absolute == "localhost"
        || host.parse::<Ipv4Addr>().is_ok()
        || also.iter().any(|one| one.allows(absolute))
}

/// Host and port in the form for comparison; a missing port is the scheme's.
pub fn place(authority: &Authority, default_port: u16) -> (String, u16) {
    let host = authority.host().to_ascii_lowercase();
    (
        host.strip_suffix('.').map(str::to_owned).unwrap_or(host),
        authority.port_u16().unwrap_or(default_port),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(host: &str, also: &[&str]) -> bool {
        let also: Vec<AllowedHost> = also.iter().map(|one| one.parse().unwrap()).collect();
        is_allowed(&host.parse().unwrap(), &also)
    }

    #[test]
    fn host_that_is_an_address_or_has_no_dot_is_allowed() {
        for host in [
            "127.0.0.1:7233",
            "10.1.2.3",
            "[::1]:7233",
            "[::1]",
            "[2001:db8::1]:80",
            "localhost:7233",
            "LocalHost",
            "localhost.",
            "server:7233",
            "task_er-1",
        ] {
            assert!(allowed(host, &[]), "{host}");
        }
        for host in [
            "evil.example.com:7233",
            "evil.com",
            "127.0.0.1.evil.com",
            "a.localhost",
            "evil.",
            "1.2.3",
            "[::1].x",
        ] {
            let Ok(authority) = host.parse() else {
                continue;
            };
            assert!(!is_allowed(&authority, &[]), "{host}");
        }
    }

    #[test]
    fn host_is_allowed_by_its_name_or_suffix() {
        let also = ["tasker.example.com", "*.corp.example.com"];
        for host in [
            "tasker.example.com:7233",
            "TASKER.example.com.",
            "a.corp.example.com",
            "a.b.corp.example.com:1",
        ] {
            assert!(allowed(host, &also), "{host}");
        }
        for host in [
            "x.tasker.example.com",
            "corp.example.com",
            ".corp.example.com",
            "evilcorp.example.com",
            "example.com",
        ] {
            assert!(!allowed(host, &also), "{host}");
        }
        for wrong in [
            "*",
            "",
            "*.",
            "https://a.b",
            "a.b:7233",
            "a..b",
            "a.b/",
            "a b",
            "*a.b",
            "a.*",
        ] {
            assert!(wrong.parse::<AllowedHost>().is_err(), "{wrong}");
        }
    }
}
