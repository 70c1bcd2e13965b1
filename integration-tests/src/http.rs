//! The little HTTP that tests need.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::PATIENCE;

/// Gets a page from `HOST:PORT`: status code and body.
///
/// # Panics
/// When nobody answers, not in time or not in HTTP.
pub async fn get(address: &str, path: &str) -> (u16, String) {
    let work = async {
        let mut stream = TcpStream::connect(address)
            .await
            .unwrap_or_else(|error| panic!("{address}: {error}"));
        // HTTP/1.0: the body ends with the connection and comes in one piece.
        let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
        stream
            .write_all(request.as_bytes())
            .await
            .expect("a request can be sent");
        let mut page = String::new();
        stream.read_to_string(&mut page).await.expect("an answer comes");
        page
    };
    let page = tokio::time::timeout(PATIENCE, work)
        .await
        .expect("an answer comes in time");
    let (head, body) = page.split_once("\r\n\r\n").expect("an HTTP answer has a head");
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .expect("a status code");
    (status, body.to_owned())
}

/// Escapes what may not stand in a query.
#[must_use]
pub(crate) fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}
