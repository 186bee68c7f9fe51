//! A TCP proxy with the faults of a network: latency, and connections that stay open but carry nothing.

use std::{net::SocketAddr, time::Duration};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf};
use tokio::sync::watch;

/// A proxy in front of a server, until it is dropped.
pub struct TcpProxy {
    address: SocketAddr,
    blocked: watch::Sender<bool>,
}

impl TcpProxy {
    /// Starts a proxy that forwards to `server`; each direction takes `latency`.
    ///
    /// # Panics
    /// If no port is free.
    pub async fn start(server: String, latency: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("the address of the proxy");
        let blocked = watch::Sender::new(false);
        let block = blocked.subscribe();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&server).await else { continue };
                _ = (client.set_nodelay(true), server.set_nodelay(true));
                let ((client_in, client_out), (server_in, server_out)) = (client.into_split(), server.into_split());
                tokio::spawn(forward(client_in, server_out, latency, block.clone()));
                tokio::spawn(forward(server_in, client_out, latency, block.clone()));
            }
        });
        Self { address, blocked }
    }

    /// The address to connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops or resumes forwarding, in both directions. No connection is closed.
    pub fn set_blocked(&self, blocked: bool) {
        self.blocked.send_replace(blocked);
    }
}

async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    latency: Duration,
    mut blocked: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        let sent = async {
            blocked.wait_for(|blocked| !blocked).await.ok()?;
            to.write_all(&buffer[..length]).await.ok()
        };
        if sent.await.is_none() {
            break;
        }
    }
}
