//! Closes connections that do not identify their protocol in time, or do not read the data sent to
//! them. After the beginning of a request hyper has time-outs of its own: 30 s for the rest of the
//! headers and between two requests of HTTP/1, pings for HTTP/2.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::connection_limit::Permit;

/// Limit on the time until a connection identifies its protocol.
const PATIENCE: Duration = Duration::from_secs(30);
/// Size of the preface of HTTP/2; until it has arrived, hyper waits for it without a time-out.
const OPENING_BYTES: usize = 24;

/// Limit on the time in which a connection takes no byte of the data sent to it.
const UNREAD: Duration = Duration::from_secs(60);

/// A connection with limits on the wait for its first bytes and on a blocked write.
pub struct TimedStream {
    stream: TcpStream,
    /// Releases the connection's place on the drop.
    _permit: Permit,
    missing: usize,
    until: Option<Pin<Box<Sleep>>>,
    /// Set while a write waits.
    unread: Option<Pin<Box<Sleep>>>,
}

impl TimedStream {
    pub fn new(stream: TcpStream, permit: Permit) -> Self {
        let until = Some(Box::pin(sleep(PATIENCE)));
        Self {
            stream,
            _permit: permit,
            missing: OPENING_BYTES,
            until,
            unread: None,
        }
    }

    /// The result of a write; one that waits too long fails.
    fn written<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        // Any progress restarts the limit: a slow reader is accepted, a stopped one is not.
        if written.is_ready() {
            self.unread = None;
            return written;
        }
        // The timer begins with the first blocked write and spans the repeated ones.
        let unread = self.unread.get_or_insert_with(|| Box::pin(sleep(UNREAD)));
        ready!(unread.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the peer reads nothing",
        )))
    }
}

impl AsyncRead for TimedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        // Read before the timer is polled, so that data that has arrived is never given up.
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let Some(until) = &mut self.until else {
            return read;
        };
        if read.is_pending() {
            ready!(until.as_mut().poll(cx));
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the peer sent nothing",
            )));
        }
        self.missing = self.missing.saturating_sub(buf.filled().len() - before);
        // With these bytes hyper knows the protocol, and its own time-outs apply.
        if self.missing == 0 {
            self.until = None;
        }
        read
    }
}

impl AsyncWrite for TimedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.written(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.written(cx, written)
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

impl Connected for TimedStream {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt as _, net::TcpListener, time::Instant};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn write_to_a_peer_that_reads_nothing_times_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _peer = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let mut connection = TimedStream::new(listener.accept().await.unwrap().0, Permit::only());
        let started = Instant::now();
        let written = connection.write_all(&vec![0; 64 << 20]).await;
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() >= UNREAD, "{:?}", started.elapsed());
    }
}
