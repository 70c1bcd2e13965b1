//! Where the worker listens.

mod unix;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UnixListener};

pub(crate) use unix::SocketFile;

/// An address in configuration: `unix:PATH` or `tcp://ADDRESS:PORT` (`tcp:ADDRESS:PORT` will do).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) enum Listen {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl Listen {
    /// Returns whether only processes of this machine can connect.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp(address) => address.ip().is_loopback(),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

impl From<Listen> for String {
    fn from(listen: Listen) -> Self {
        listen.to_string()
    }
}

impl TryFrom<String> for Listen {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

/// The text is no address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address such as unix:/run/kr/worker.sock or tcp://127.0.0.1:0")]
pub(crate) struct ParseError(String);

impl FromStr for Listen {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let listen = match text.split_once(':') {
            Some(("unix", path)) if !path.is_empty() => Some(Self::Unix(path.into())),
            Some(("tcp", address)) => tcp_address(address).map(Self::Tcp),
            _ => None,
        };
        listen.ok_or_else(|| ParseError(text.to_owned()))
    }
}

fn tcp_address(text: &str) -> Option<SocketAddr> {
    let text = text.strip_prefix("//").unwrap_or(text);
    if let Some(port) = text.strip_prefix("localhost:") {
        return Some((Ipv4Addr::LOCALHOST, port.parse().ok()?).into());
    }
    text.parse().ok()
}

/// Why the worker cannot listen. Configuration's to mend.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The operating system refused.
    #[error("cannot listen there")]
    Bind(#[source] std::io::Error),
    /// Another process serves there.
    #[error("another process answers there")]
    InUse,
    /// The path holds something that is not ours to remove.
    #[error("the path exists and is no socket")]
    NotASocket,
}

impl Error {
    /// Returns what to do about it.
    pub(crate) fn cure(&self) -> &'static str {
        match self {
            Self::Bind(_) => "choose an address that is free and allowed",
            Self::InUse => "stop it, or choose another path",
            Self::NotASocket => "remove it, or choose another path",
        }
    }
}

/// A bound address.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) listener: Listener,
    /// Where others can connect: the port is the real one.
    pub(crate) address: Listen,
    /// To be dropped before the listener: who finds no file may bind another listener there.
    pub(crate) file: Option<SocketFile>,
}

/// Takes connections.
#[derive(Debug)]
pub(crate) enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// Binds `listen`.
///
/// # Errors
/// When the address is taken or not to be had.
pub(crate) async fn bind(listen: &Listen) -> Result<Bound, Error> {
    match listen {
        Listen::Unix(path) => {
            let (listener, file) = unix::bind(path).await?;
            Ok(Bound {
                listener: Listener::Unix(listener),
                address: listen.clone(),
                file: Some(file),
            })
        }
        Listen::Tcp(address) => {
            let listener = TcpListener::bind(address).await.map_err(Error::Bind)?;
            let address = listener.local_addr().map_err(Error::Bind)?;
            Ok(Bound {
                listener: Listener::Tcp(listener),
                address: Listen::Tcp(address),
                file: None,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_way_through_text() {
        for text in ["unix:/run/kr/w.sock", "tcp://127.0.0.1:0", "tcp://[::1]:50"] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), text);
        }
        assert_eq!(
            "tcp:localhost:7".parse::<Listen>().unwrap().to_string(),
            "tcp://127.0.0.1:7"
        );
    }

    #[test]
    fn other_text_is_no_address() {
        for text in [
            "",
            "unix:",
            "/run/w.sock",
            "tcp:",
            "tcp:1.2.3.4",
            "tcp:host:1",
            "udp:1.2.3.4:5",
        ] {
            assert_eq!(text.parse::<Listen>(), Err(ParseError(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn only_loopback_and_sockets_are_local() {
        for (text, local) in [
            ("unix:w.sock", true),
            ("tcp:127.0.0.2:1", true),
            ("tcp:[::1]:1", true),
            ("tcp:0.0.0.0:1", false),
            ("tcp:10.0.0.1:1", false),
        ] {
            assert_eq!(text.parse::<Listen>().unwrap().is_local(), local, "{text}");
        }
    }
}
