//! Identifies the peer that listens where a Tasker server was expected. The error of a broken call
//! states only "transport error"; so the probe connects once more, sends the bytes with which every
//! gRPC client begins, and identifies the peer by the first bytes of its answer.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{
    error::{CliError, exit},
    term::clean,
};
use crate::client;

/// Time limit of connecting, and then of the answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// The probe stops reading the answer after this many bytes.
const MAX_ANSWER_BYTES: usize = 512;
/// Characters of the answer's first line that are shown.
const MAX_SHOWN_CHARS: usize = 60;
/// The opening of an HTTP/2 client: the preface, and a SETTINGS frame without settings.
const BEGINNING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// The kind of peer at the address.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// The connection is refused.
    Nothing,
    /// The name of the host has no address.
    NoSuchHost,
    /// No connection is established.
    NoWay,
    /// It accepts a connection and sends no answer.
    Silent,
    /// It closes the connection without an answer.
    Closes,
    Tls,
    /// With the first line of the answer.
    Http1(String),
    Http2,
    /// With the first line of the answer.
    Other(String),
}

/// Adds the kind of peer at the address to the error of a call whose connection broke.
pub async fn explain(error: CliError, url: &str) -> CliError {
    let (Some(what), Some((host, port))) = (&error.broken, client::host_and_port(url)) else {
        return error;
    };
    match look(&host, port).await.words() {
        // The peer answers like a Tasker server, so the error of the call explains more.
        None => error,
        Some((is, next)) => {
            CliError::new(exit::UNAVAILABLE, format!("{what}: {} {is}", clean(url))).hint(next)
        }
    }
}

async fn look(host: &str, port: u16) -> Found {
    let mut stream = match timeout(PATIENCE, TcpStream::connect((host, port))).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Found::of_connect(&error),
        Err(_) => return Found::NoWay,
    };
    let mut answer = Vec::new();
    let listen = async {
        stream.write_all(BEGINNING).await?;
        while answer.len() < MAX_ANSWER_BYTES
            && !matches!(Found::of_answer(&answer), Some(Found::Http2 | Found::Tls))
        {
            if stream.read_buf(&mut answer).await? == 0 {
                break;
            }
        }
        Ok::<(), io::Error>(())
    };
    let silent = timeout(PATIENCE, listen).await.is_err();
    Found::of_answer(&answer).unwrap_or(if silent { Found::Silent } else { Found::Closes })
}

impl Found {
    /// The reason why no connection was established.
    pub fn of_connect(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Nothing,
            // The resolver's errors have no kind of their own.
            _ if error.raw_os_error().is_none() && error.to_string().contains("lookup") => {
                Self::NoSuchHost
            }
            _ => Self::NoWay,
        }
    }

    /// The kind of peer that sends this answer; `None` for no answer.
    fn of_answer(answer: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(answer);
        let line = || {
            clean(
                &text
                    .lines()
                    .next()
                    .unwrap_or_default()
                    .chars()
                    .take(MAX_SHOWN_CHARS)
                    .collect::<String>(),
            )
        };
        Some(match answer {
            [] => return None,
            // A TLS alert. Go and nginx answer in HTTP/1 that their port expects HTTPS.
            [0x15, 0x03, ..] => Self::Tls,
            _ if text.starts_with("HTTP/1.") && text.contains("HTTPS") => Self::Tls,
            _ if text.starts_with("HTTP/1.") => Self::Http1(line()),
            // The SETTINGS frame with which an HTTP/2 server begins: three bytes of length, the
            // type, the flags, and stream 0.
            [_, _, _, 0x04, _, 0, 0, 0, 0, ..] => Self::Http2,
            _ => Self::Other(line()),
        })
    }

    /// A description to put after the URL, and the next step; `None` if the peer may be a Tasker
    /// server.
    pub fn words(&self) -> Option<(String, &'static str)> {
        const PORT: &str = "set --server to the port of a Tasker server, which is 7233 unless --listen says otherwise";
        Some(match self {
            Self::Nothing => ("is refused: nothing listens there".into(), "start one with `tasker dev`, or set --server"),
            Self::NoSuchHost => {
                ("names a host that has no address".into(), "check the name of the host in --server or TASKER_SERVER")
            }
            Self::NoWay => (
                "cannot be reached: no connection comes up".into(),
                "check the address in --server, and the network and firewalls on the way",
            ),
            Self::Silent => ("takes connections and answers nothing, so it is no Tasker server".into(), PORT),
            Self::Closes => (
                "closes the connection without an answer, so it is no Tasker server: perhaps a database, or it expects TLS".into(),
                PORT,
            ),
            Self::Tls => (
                "expects TLS, which this client does not speak".into(),
                "set --server to the server's plain port, or to a proxy on this machine that adds TLS",
            ),
            Self::Http1(line) => (
                format!("speaks HTTP/1 only, so it is no Tasker server: it answers `{line}`"),
                "set --server to the port of a Tasker server; a proxy before one has to pass HTTP/2 on",
            ),
            Self::Other(line) => (format!("does not speak HTTP, so it is no Tasker server: it answers `{line}`"), PORT),
            Self::Http2 => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_say_what_is_there() {
        let settings = b"\0\0\x0c\x04\0\0\0\0\0\0\x03\0\0\0\x64";
        for (answer, found) in [
            (&settings[..], Found::Http2),
            (b"\x15\x03\x01\0\x02\x02\x46", Found::Tls),
            (b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n", Found::Tls),
            (b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n", Found::Http1("HTTP/1.1 400 Bad Request".into())),
            (b"SSH-2.0-OpenSSH_9.2\r\n", Found::Other("SSH-2.0-OpenSSH_9.2".into())),
            (b"\x1b[2J\n", Found::Other("\\u{1b}[2J".into())),
        ] {
            assert_eq!(Found::of_answer(answer), Some(found));
        }
        assert_eq!(Found::of_answer(b""), None);
        let long = Found::of_answer(&[b'x'; MAX_ANSWER_BYTES]);
        assert_eq!(long, Some(Found::Other("x".repeat(MAX_SHOWN_CHARS))));
    }

    #[test]
    fn a_refusal_an_unknown_host_and_silence_differ() {
        assert_eq!(
            Found::of_connect(&io::Error::from(io::ErrorKind::ConnectionRefused)),
            Found::Nothing
        );
        assert_eq!(
            Found::of_connect(&io::Error::from(io::ErrorKind::TimedOut)),
            Found::NoWay
        );
        let unknown =
            io::Error::other("failed to lookup address information: Name or service not known");
        assert_eq!(Found::of_connect(&unknown), Found::NoSuchHost);
    }
}
