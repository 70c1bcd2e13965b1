//! A channel to a worker, over a Unix socket or TCP.

use std::io;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use super::{Address, Error};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A peer across a network that answers no ping within these is gone.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects once.
///
/// # Errors
/// [`Error::Connect`].
pub(super) async fn connect(address: &Address) -> Result<Channel, Error> {
    let connected = match address {
        Address::Unix(path) => {
            let path = path.clone();
            let connector = service_fn(move |_: Uri| {
                let path = path.clone();
                async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
            });
            // The name is never looked up; HTTP/2 wants an authority.
            let endpoint = Endpoint::from_static("http://worker").connect_timeout(CONNECT_TIMEOUT);
            endpoint.connect_with_connector(connector).await
        }
        Address::Tcp(authority) => match Endpoint::from_shared(format!("http://{authority}")) {
            Ok(endpoint) => {
                let endpoint = endpoint
                    .connect_timeout(CONNECT_TIMEOUT)
                    .tcp_nodelay(true)
                    .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
                    .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
                    .keep_alive_while_idle(true);
                endpoint.connect().await
            }
            Err(error) => Err(error),
        },
    };
    connected.map_err(|source| Error::Connect {
        address: address.to_string(),
        source,
    })
}
