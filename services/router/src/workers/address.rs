//! Where a worker listens.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Written `unix:/path` or `tcp://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Unix(PathBuf),
    /// `host:port`.
    Tcp(String),
}

/// The text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no worker address: write unix:/path/to.socket or tcp://host:port")]
pub(crate) struct ParseAddressError(String);

impl FromStr for Address {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseAddressError(text.into());
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return if path.is_absolute() {
                Ok(Self::Unix(path))
            } else {
                Err(error())
            };
        }
        let authority = text.strip_prefix("tcp://").ok_or_else(error)?;
        let (host, port) = authority.rsplit_once(':').ok_or_else(error)?;
        let valid = !host.is_empty() && !host.contains(['/', '@']) && port.parse::<u16>().is_ok_and(|port| port > 0);
        if valid {
            Ok(Self::Tcp(authority.into()))
        } else {
            Err(error())
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(authority) => write!(f, "tcp://{authority}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_way_through_text() {
        for text in ["unix:/run/kr/a.socket", "tcp://worker-0:50052", "tcp://[::1]:7"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn other_text_is_refused() {
        for text in [
            "",
            "unix:relative",
            "tcp://host",
            "tcp://:1",
            "tcp://host:0",
            "http://host:1",
            "tcp://a/b:1",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
