//! Identifies the peer that listens where a Tasker server was expected. The error of a broken call
//! states only "transport error"; so the probe connects once more, sends the bytes with which every
//! gRPC client begins, and identifies the peer by the first bytes of its answer.

use std::{io, time::Duration};

use tasker_worker::client;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{
    error::{CliError, exit},
    peer::Peer,
    render::term::clean,
};

/// Time limit of connecting, and then of the answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// The port of an `http` URL that names none.
const HTTP_PORT: u16 = 80;
/// The probe stops reading the answer after this many bytes.
const MAX_ANSWER_BYTES: usize = 512;
/// The opening of an HTTP/2 client: the preface, and a SETTINGS frame without settings.
const BEGINNING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Adds the kind of peer at the address to the error of a call whose connection broke.
pub async fn explain(error: CliError, url: &str) -> CliError {
    let (Some(what), Some((host, port))) = (&error.broken, host_and_port(url)) else {
        return error;
    };
    match look(&host, port).await.description() {
        // The peer answers like a Tasker server, so the error of the call explains more.
        None => error,
        Some((is, next)) => {
            CliError::new(exit::UNAVAILABLE, format!("{what}: {} {is}", clean(url))).hint(next)
        }
    }
}

/// The host and the port of a URL, if it is the URL of a server.
fn host_and_port(url: &str) -> Option<(String, u16)> {
    // The parser of the client, so that both take the same part of the URL for the host.
    let endpoint = client::endpoint(url).ok()?;
    let uri = endpoint.uri();
    // The resolver expects an address of IPv6 without its brackets.
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
    Some((host.to_owned(), uri.port_u16().unwrap_or(HTTP_PORT)))
}

async fn look(host: &str, port: u16) -> Peer {
    let mut stream = match timeout(PATIENCE, TcpStream::connect((host, port))).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Peer::of_connect(&error),
        Err(_) => return Peer::NoWay,
    };
    // Outside of the future, so that a time-out keeps the bytes that have arrived.
    let mut answer = Vec::new();
    let listen = async {
        stream.write_all(BEGINNING).await?;
        // These two are known by their first bytes; of other answers the first line is shown.
        while answer.len() < MAX_ANSWER_BYTES
            && !matches!(Peer::of_answer(&answer), Some(Peer::Http2 | Peer::Tls))
        {
            if stream.read_buf(&mut answer).await? == 0 {
                break;
            }
        }
        Ok::<(), io::Error>(())
    };
    // An error after the first bytes does not matter, as these identify the peer.
    let silent = timeout(PATIENCE, listen).await.is_err();
    Peer::of_answer(&answer).unwrap_or(if silent { Peer::Silent } else { Peer::Closes })
}
