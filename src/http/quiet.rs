//! Closes connections that do not say what they want. Once the beginning of a request is there, hyper has time-outs of its
//! own: 30 s for the rest of the headers and between two requests of HTTP/1, pings for HTTP/2.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{Stream, StreamExt as _};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// How long a connection may take to say which protocol it speaks.
const PATIENCE: Duration = Duration::from_secs(30);
/// The opening of HTTP/2, in bytes; until they are there, hyper waits for them and for nothing else.
const OPENING_BYTES: usize = 24;

/// The same connections, each of them closed if it stays quiet.
pub fn closed(incoming: impl Stream<Item = io::Result<TcpStream>>) -> impl Stream<Item = io::Result<NotQuiet>> {
    incoming.map(|stream| {
        stream.map(|stream| NotQuiet { stream, missing: OPENING_BYTES, until: Some(Box::pin(sleep(PATIENCE))) })
    })
}

/// A connection that has to say something in time.
pub struct NotQuiet {
    stream: TcpStream,
    missing: usize,
    until: Option<Pin<Box<Sleep>>>,
}

impl AsyncRead for NotQuiet {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let Some(until) = &mut self.until else { return read };
        if read.is_pending() {
            ready!(until.as_mut().poll(cx));
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the connection said nothing")));
        }
        self.missing = self.missing.saturating_sub(buf.filled().len() - before);
        if self.missing == 0 {
            self.until = None;
        }
        read
    }
}

impl AsyncWrite for NotQuiet {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Connected for NotQuiet {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}
