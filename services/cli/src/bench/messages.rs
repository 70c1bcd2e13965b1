//! Messages between router and workers, as the router counts them.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::error::Error;

const COUNTER: &str = "kr_worker_messages_total";
const TIMEOUT: Duration = Duration::from_secs(5);

/// Returns the count so far over both directions and all workers, or `None` where no address is given.
///
/// # Errors
/// Nobody answers, or what answers has no such page.
pub(super) async fn count(http: Option<&str>) -> Result<Option<f64>, Error> {
    let Some(http) = http else { return Ok(None) };
    let address = http.trim_start_matches("http://").trim_end_matches('/');
    let page = tokio::time::timeout(TIMEOUT, get_metrics(address)).await;
    let page = page.map_err(|_| Error::Input(format!("--http {http}: no answer within {TIMEOUT:?}")))?;
    let page = page.map_err(|error| Error::Input(format!("--http {http}: {error}")))?;
    sum(&page).map(Some).ok_or_else(|| {
        Error::Input(format!(
            "--http {http}: no /metrics there; name the router's HTTP address"
        ))
    })
}

async fn get_metrics(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut page = String::new();
    stream.read_to_string(&mut page).await?;
    Ok(page)
}

/// Adds up all series of the counter; a router whose workers exchanged nothing yet has none.
fn sum(page: &str) -> Option<f64> {
    let (head, _) = page.split_once("\r\n")?;
    head.contains(" 200 ").then(|| {
        let series = page.lines().filter(|line| line.starts_with(COUNTER));
        series
            .filter_map(|line| line.rsplit_once(' ')?.1.trim().parse::<f64>().ok())
            .sum()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_are_added_up() {
        let page = "HTTP/1.1 200 OK\r\n\r\n# HELP kr_worker_messages_total x\nkr_worker_messages_total{direction=\"sent\"} 3\n\
                    kr_worker_messages_total{direction=\"received\"} 40\nother_total 7\n";
        assert_eq!(sum(page), Some(43.0));
    }

    #[test]
    fn an_error_page_is_no_count() {
        assert_eq!(sum("HTTP/1.1 404 Not Found\r\n\r\n"), None);
    }
}
