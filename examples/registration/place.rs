//! The address that a part of the demo listens on.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr},
};

use anyhow::Context as _;
use tokio::net::TcpListener;

/// An address, and the behaviour if a port there is taken.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    host: IpAddr,
    or_any_port: bool,
}

impl Place {
    /// For the demo, which must not fail because another program uses port 3000.
    pub const HERE_OR_ON_ANY_PORT: Self = Self {
        host: IpAddr::V4(Ipv4Addr::LOCALHOST),
        or_any_port: true,
    };

    #[cfg(test)]
    pub const HERE: Self = Self {
        host: IpAddr::V4(Ipv4Addr::LOCALHOST),
        or_any_port: false,
    };

    pub fn at(host: IpAddr) -> Self {
        Self {
            host,
            or_any_port: false,
        }
    }

    /// Opens a listener, and returns the URL by which it is reached from this machine. Port 0 is
    /// any free one; `flag` names the option that chooses another port.
    pub async fn bind(self, port: u16, flag: &str) -> anyhow::Result<(TcpListener, String)> {
        let listener = match TcpListener::bind((self.host, port)).await {
            Err(error) if error.kind() == ErrorKind::AddrInUse && self.or_any_port => {
                let listener = TcpListener::bind((self.host, 0)).await?;
                eprintln!(
                    "port {port} is taken, using {} instead (see {flag})",
                    listener.local_addr()?.port()
                );
                listener
            }
            opened => opened.with_context(|| {
                format!(
                    "cannot listen on {}:{port}; choose another port with {flag} (0 takes any)",
                    self.host
                )
            })?,
        };
        let address = listener.local_addr()?;
        let url = if self.host.is_unspecified() {
            format!("http://127.0.0.1:{}", address.port())
        } else {
            format!("http://{address}")
        };
        Ok((listener, url))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn taken_port_is_an_error_or_replaced() {
        let (taken, _) = Place::HERE.bind(0, "--port").await.unwrap();
        let port = taken.local_addr().unwrap().port();
        let refused = Place::HERE.bind(port, "--port").await.unwrap_err();
        assert!(
            refused
                .to_string()
                .contains("choose another port with --port"),
            "{refused}"
        );
        let (other, url) = Place::HERE_OR_ON_ANY_PORT
            .bind(port, "--port")
            .await
            .unwrap();
        assert_ne!(other.local_addr().unwrap().port(), port);
        assert_eq!(url, format!("http://{}", other.local_addr().unwrap()));
    }
}
