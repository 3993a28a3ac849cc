//! The address that a server listens on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use crate::cli::error::{CliError, exit};

/// Parses the address to listen on. The only name accepted is `localhost`: without authentication,
/// a resolver must not decide which address the server opens.
pub fn address(listen: &str) -> Result<SocketAddr, CliError> {
    // From the right: an address of IPv6 has colons of its own.
    let named = listen
        .rsplit_once(':')
        .and_then(|(host, number)| match host {
            "" => Some(SocketAddr::new(every_address(), port(number)?)),
            host if host.eq_ignore_ascii_case("localhost") => {
                Some((Ipv4Addr::LOCALHOST, port(number)?).into())
            }
            _ => None,
        });
    named.or_else(|| listen.parse().ok()).ok_or_else(|| {
        let message = format!(
            "--listen `{listen}` is not an address: expected such as 127.0.0.1:7233, [::1]:7233, localhost:7233, or :7233 \
             for every address of this machine"
        );
        CliError::new(exit::CONFIG, message)
    })
}

/// A number without a sign, which the parser of numbers would accept.
fn port(text: &str) -> Option<u16> {
    let is_number = text.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

/// The wildcard of IPv6, which accepts IPv4 as well; on a machine without IPv6, that of IPv4.
fn every_address() -> IpAddr {
    // A datagram socket takes no port that the server could need, and connects to nothing.
    match UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)) {
        Ok(_) => Ipv6Addr::UNSPECIFIED.into(),
        Err(_) => Ipv4Addr::UNSPECIFIED.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_of_a_port_binds_every_address_and_localhost_the_loopback() {
        for (listen, expected) in [
            ("localhost:7233", "127.0.0.1:7233"),
            ("LocalHost:0", "127.0.0.1:0"),
            ("[::1]:65535", "[::1]:65535"),
        ] {
            assert_eq!(
                address(listen).map(|a| a.to_string()).as_deref(),
                Ok(expected),
                "{listen}"
            );
        }
        let every = address(":7233").expect("an address");
        assert!(
            every.ip().is_unspecified() && every.port() == 7233,
            "{every}"
        );
        for wrong in [
            "",
            ":",
            "7233",
            "localhost",
            "localhost:",
            "localhost:65536",
            ":+80",
            "::1",
            "tasker.internal:7233",
        ] {
            assert_eq!(address(wrong).expect_err(wrong).code, exit::CONFIG);
        }
    }
}
