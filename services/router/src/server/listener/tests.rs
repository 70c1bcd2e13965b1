use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::dispatch::testing::metrics;

async fn listener(max_connections: usize) -> (Listener, SocketAddr) {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let limits = ConnectionLimits {
        max_connections,
        first_bytes: Duration::from_secs(5),
    };
    (Listener::new(tcp, limits, metrics()), address)
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_is_closed() {
    let (listener, address) = listener(1).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"PRI").await.unwrap();
    let (mut connection, _) = listener.next().await;
    let mut bytes = Vec::new();
    let ended = connection.read_to_end(&mut bytes).await;
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_spoke_may_be_silent_afterwards() {
    let (listener, address) = listener(1).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(&[b'x'; FIRST_BYTES]).await.unwrap();
    let (mut connection, _) = listener.next().await;
    connection.read_exact(&mut [0; FIRST_BYTES]).await.unwrap();
    tokio::time::advance(Duration::from_secs(60)).await;
    client.write_all(b"y").await.unwrap();
    assert_eq!(connection.read_u8().await.unwrap(), b'y');
}

#[tokio::test]
async fn connections_over_the_limit_are_closed_and_closed_ones_make_room() {
    let (listener, address) = listener(1).await;
    let _first_client = TcpStream::connect(address).await.unwrap();
    let (first, _) = listener.next().await;
    let mut second_client = TcpStream::connect(address).await.unwrap();
    let mut accepting = Box::pin(listener.next());
    let mut byte = [0];
    tokio::select! {
        _ = &mut accepting => panic!("accepted over the limit"),
        read = second_client.read(&mut byte) => assert!(matches!(read, Ok(0) | Err(_))),
    }
    drop(first);
    let third_client = TcpStream::connect(address).await.unwrap();
    let (_third, peer) = accepting.await;
    assert_eq!(peer, third_client.local_addr().unwrap());
}
