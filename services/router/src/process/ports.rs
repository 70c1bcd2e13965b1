//! Binding the two ports. A port that is taken is a problem of the configuration.

use std::net::SocketAddr;

use kr_boot::config::{self, Loaded, Problem};
use tokio::net::TcpListener;

use crate::config::Config;

/// Both ports, bound.
#[derive(Debug)]
pub(super) struct Ports {
    pub(super) grpc: TcpListener,
    pub(super) http: TcpListener,
    addresses: Addresses,
}

/// Where they are, with the ports the system chose where 0 was asked for.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(super) struct Addresses {
    pub(super) grpc: SocketAddr,
    pub(super) http: SocketAddr,
}

impl Ports {
    /// Binds both.
    ///
    /// # Errors
    /// A problem for each that cannot be bound.
    pub(super) async fn bind(loaded: &Loaded<Config>) -> Result<Self, config::Error> {
        let config = &loaded.value;
        let grpc = bind(loaded, "grpc.address", config.grpc.address).await;
        let http = bind(loaded, "http.address", config.http.address).await;
        match (grpc, http) {
            (Ok((grpc, at_grpc)), Ok((http, at_http))) => Ok(Self {
                grpc,
                http,
                addresses: Addresses {
                    grpc: at_grpc,
                    http: at_http,
                },
            }),
            (grpc, http) => {
                let problems = [grpc.err(), http.err()];
                Err(config::Error::Invalid(problems.into_iter().flatten().collect()))
            }
        }
    }

    pub(super) fn addresses(&self) -> Addresses {
        self.addresses
    }
}

async fn bind(loaded: &Loaded<Config>, key: &str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), Problem> {
    let bound = async {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok::<_, std::io::Error>((listener, address))
    };
    bound.await.map_err(|error| {
        let message = format!("cannot listen there ({error})");
        let cure = "stop what listens there already, or choose another port (0 takes a free one)";
        let mut problem = Problem::new(key, format!("\"{address}\""), message, cure);
        problem.origin = loaded.origin(key);
        problem
    })
}
