//! The kinds of peers that can listen where a Tasker server was expected.

use std::io;

use super::render::term::clean;

/// Characters of the answer's first line that are shown.
const MAX_SHOWN_CHARS: usize = 60;

/// The kind of peer at the address.
#[derive(Debug, PartialEq, Eq)]
pub enum Peer {
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

impl Peer {
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
    pub fn of_answer(answer: &[u8]) -> Option<Self> {
        // Only to find the words of HTTP and to show a line; binary answers are compared as bytes.
        let text = String::from_utf8_lossy(answer);
        Some(match answer {
            [] => return None,
            // A TLS alert. Go and nginx answer in HTTP/1 that their port expects HTTPS.
            [0x15, 0x03, ..] => Self::Tls,
            _ if text.starts_with("HTTP/1.") && text.contains("HTTPS") => Self::Tls,
            _ if text.starts_with("HTTP/1.") => Self::Http1(first_line(&text)),
            // The SETTINGS frame with which an HTTP/2 server begins: three bytes of length, the
            // type, the flags, and stream 0.
            [_, _, _, 0x04, _, 0, 0, 0, 0, ..] => Self::Http2,
            _ => Self::Other(first_line(&text)),
        })
    }

    /// A description to put after the URL, and the next step; `None` if the peer may be a Tasker
    /// server.
    pub fn description(&self) -> Option<(String, &'static str)> {
        const PORT: &str = "set --server to the port of a Tasker server, by default 7233";
        Some(match self {
            Self::Nothing => ("refuses the connection: no process listens there".into(), "start one with `tasker dev`, or set --server"),
            Self::NoSuchHost => {
                ("names a host that has no address".into(), "check the name of the host in --server or TASKER_SERVER")
            }
            Self::NoWay => (
                "cannot be reached: the connection is not established".into(),
                "check the address in --server, and the network and firewalls on the way",
            ),
            Self::Silent => ("accepts connections and sends no answer, so it is not a Tasker server".into(), PORT),
            Self::Closes => (
                "closes the connection without an answer, so it is not a Tasker server: perhaps a database, or it expects TLS".into(),
                PORT,
            ),
            Self::Tls => (
                "expects TLS, which this client does not support".into(),
                "set --server to the server's plain port, or to a proxy on this machine that adds TLS",
            ),
            Self::Http1(line) => (
                format!("supports HTTP/1 only, so it is not a Tasker server: it answers `{line}`"),
                "set --server to the port of a Tasker server; a proxy in front of it must forward HTTP/2",
            ),
            Self::Other(line) => (format!("does not use HTTP, so it is not a Tasker server: it answers `{line}`"), PORT),
            Self::Http2 => return None,
        })
    }
}

/// The beginning of the answer's first line.
fn first_line(answer: &str) -> String {
    let line = answer.lines().next().unwrap_or_default();
    clean(&line.chars().take(MAX_SHOWN_CHARS).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_answer_identifies_the_peer_by_its_first_bytes() {
        let settings = b"\0\0\x0c\x04\0\0\0\0\0\0\x03\0\0\0\x64";
        for (answer, found) in [
            (&settings[..], Peer::Http2),
            (b"\x15\x03\x01\0\x02\x02\x46", Peer::Tls),
            (b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n", Peer::Tls),
            (b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n", Peer::Http1("HTTP/1.1 400 Bad Request".into())),
            (b"SSH-2.0-OpenSSH_9.2\r\n", Peer::Other("SSH-2.0-OpenSSH_9.2".into())),
            (b"\x1b[2J\n", Peer::Other("\\u{1b}[2J".into())),
        ] {
            assert_eq!(Peer::of_answer(answer), Some(found));
        }
        assert_eq!(Peer::of_answer(b""), None);
        let long = Peer::of_answer(&[b'x'; 512]);
        assert_eq!(long, Some(Peer::Other("x".repeat(MAX_SHOWN_CHARS))));
    }

    #[test]
    fn of_connect_tells_a_refusal_an_unknown_host_and_a_time_out_apart() {
        assert_eq!(
            Peer::of_connect(&io::Error::from(io::ErrorKind::ConnectionRefused)),
            Peer::Nothing
        );
        assert_eq!(
            Peer::of_connect(&io::Error::from(io::ErrorKind::TimedOut)),
            Peer::NoWay
        );
        let unknown =
            io::Error::other("failed to lookup address information: Name or service not known");
        assert_eq!(Peer::of_connect(&unknown), Peer::NoSuchHost);
    }
}
