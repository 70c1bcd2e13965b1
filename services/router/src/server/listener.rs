//! Accepts connections: at most so many, each of which must speak soon. Used by both ports.

use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::stream::{self, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::metrics::Metrics;
use crate::metrics::requests::ConnectionRefusal;

/// Bounds on connections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectionLimits {
    pub(crate) max_connections: usize,
    /// Time for a connection's first bytes.
    pub(crate) first_bytes: Duration,
}

/// Bytes of HTTP/2's preface; the shortest HTTP/1 request has about as many.
const FIRST_BYTES: usize = 24;

/// Pause after a failed accept, which is usually a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound port.
#[derive(Debug)]
pub(crate) struct Listener {
    tcp: TcpListener,
    limits: ConnectionLimits,
    room: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

impl Listener {
    pub(crate) fn new(tcp: TcpListener, limits: ConnectionLimits, metrics: Arc<Metrics>) -> Self {
        let room = limits.max_connections.min(Semaphore::MAX_PERMITS);
        Self {
            tcp,
            limits,
            room: Arc::new(Semaphore::new(room)),
            metrics,
        }
    }

    /// Returns the connections as they come. Never ends.
    pub(crate) fn into_stream(self) -> impl Stream<Item = io::Result<Connection>> {
        stream::unfold(self, |listener| async move {
            let (connection, _) = listener.next().await;
            Some((Ok(connection), listener))
        })
    }

    async fn next(&self) -> (Connection, SocketAddr) {
        loop {
            let (tcp, peer) = match self.tcp.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "connection not accepted");
                    self.metrics
                        .requests
                        .connection_refused(ConnectionRefusal::AcceptFailed);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Streams of small messages must not wait for one another's acknowledgement.
            let _ = tcp.set_nodelay(true);
            match self.room.clone().try_acquire_owned() {
                Ok(permit) => return (self.connection(tcp, permit), peer),
                Err(_) => self.metrics.requests.connection_refused(ConnectionRefusal::TooMany),
            }
        }
    }

    fn connection(&self, tcp: TcpStream, permit: OwnedSemaphorePermit) -> Connection {
        self.metrics.requests.connection(1);
        Connection {
            tcp,
            silence: Some(Silence {
                until: Box::pin(tokio::time::sleep(self.limits.first_bytes)),
                bytes: 0,
            }),
            metrics: self.metrics.clone(),
            _permit: permit,
        }
    }
}

impl axum::serve::Listener for Listener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        self.next().await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

/// One client's connection.
#[derive(Debug)]
pub(crate) struct Connection {
    tcp: TcpStream,
    /// Until the first bytes are here.
    silence: Option<Silence>,
    metrics: Arc<Metrics>,
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Silence {
    until: Pin<Box<Sleep>>,
    bytes: usize,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.metrics.requests.connection(-1);
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.tcp.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let connection = &mut *self;
        if let Some(silence) = &mut connection.silence
            && silence.until.as_mut().poll(cx).is_ready()
        {
            connection
                .metrics
                .requests
                .connection_refused(ConnectionRefusal::Silent);
            connection.silence = None;
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut connection.tcp).poll_read(cx, buffer))?;
        if let Some(silence) = &mut connection.silence {
            silence.bytes += buffer.filled().len() - before;
            if silence.bytes >= FIRST_BYTES {
                connection.silence = None;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
