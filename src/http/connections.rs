//! How many connections the server accepts: in total, so that descriptors remain for the database, and per client, so
//! that no client uses up all of them.

use std::collections::HashMap;
use std::future::{Ready, ready};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{io, time::Duration};

use axum_server::accept::Accept;
use ipnet::IpNet;
use tokio::{net::TcpStream, time::Instant};
use tracing::warn;

use super::extract::client_addresses;
use super::idle_timeout::{ActiveService, Activity, TimedStream, Timeouts};
use crate::config::HttpConfig;

/// The longest that a client may take to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Descriptors that are not used for connections of clients.
const RESERVED_DESCRIPTORS: u64 = 256;
/// A full server says so once in this time.
const WARNING_INTERVAL: Duration = Duration::from_mins(1);

/// An acceptor that closes connections beyond the limits, and idle ones after a timeout.
#[derive(Clone)]
pub(super) struct Connections(Arc<Inner>);

struct Inner {
    max: usize,
    max_per_client: usize,
    trusted_proxies: Vec<IpNet>,
    timeouts: Timeouts,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    total: usize,
    by_client: HashMap<IpNet, usize>,
    next_warning: Option<Instant>,
}

/// An open connection, counted until it is dropped.
pub(super) struct OpenConnection {
    all: Arc<Inner>,
    client: IpNet,
}

impl Connections {
    /// Raises the limit of open files as far as the system allows. If that is too low for the configured number of
    /// connections, fewer are accepted.
    pub(super) fn new(config: &HttpConfig) -> Self {
        let descriptors = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(1024);
        let possible = usize::try_from(descriptors.saturating_sub(RESERVED_DESCRIPTORS)).unwrap_or(usize::MAX).max(16);
        let wanted = usize::try_from(config.max_connections.get()).unwrap_or(usize::MAX);
        if possible < wanted {
            warn!(
                wanted,
                possible, "too few open files are allowed for DCA_MAX_CONNECTIONS. Raise the limit (ulimit -n)"
            );
        }
        Self(Arc::new(Inner {
            max: wanted.min(possible),
            max_per_client: usize::try_from(config.max_connections_per_client.get()).unwrap_or(usize::MAX),
            trusted_proxies: config.trusted_proxies.clone(),
            timeouts: Timeouts { head: HEAD_TIMEOUT, keep_alive: config.keep_alive },
            open: Mutex::default(),
        }))
    }

    /// Counts a connection, unless a limit is reached. Trusted proxies carry the connections of many clients.
    fn open(&self, peer: IpAddr) -> Option<OpenConnection> {
        let Inner { max, max_per_client, trusted_proxies, .. } = &*self.0;
        let (peer, client) = (peer.to_canonical(), client_addresses(peer));
        let is_proxy = trusted_proxies.iter().any(|network| network.contains(&peer));
        let mut open = self.0.open();
        let of_client = open.by_client.get(&client).copied().unwrap_or_default();
        let is_full = open.total >= *max;
        if is_full || (of_client >= *max_per_client && !is_proxy) {
            if open.next_warning.is_none_or(|at| at <= Instant::now()) {
                open.next_warning = Some(Instant::now() + WARNING_INTERVAL);
                let limit = if is_full { "DCA_MAX_CONNECTIONS" } else { "DCA_MAX_CONNECTIONS_PER_CLIENT" };
                warn!(limit, %client, open = open.total, of_client, "the limit of connections is reached; new ones are closed");
            }
            return None;
        }
        open.total += 1;
        *open.by_client.entry(client).or_default() += 1;
        Some(OpenConnection { all: Arc::clone(&self.0), client })
    }
}

impl Inner {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let mut open = self.all.open();
        open.total -= 1;
        let of_client = open.by_client.entry(self.client).or_default();
        *of_client = of_client.saturating_sub(1);
        if *of_client == 0 {
            open.by_client.remove(&self.client);
        }
    }
}

impl<S> Accept<TcpStream, S> for Connections {
    type Stream = TimedStream<TcpStream, OpenConnection>;
    type Service = ActiveService<S>;
    type Future = Ready<io::Result<(Self::Stream, Self::Service)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let full = || io::Error::other("too many connections");
        let opened = stream.peer_addr().and_then(|peer| self.open(peer.ip()).ok_or_else(full));
        ready(opened.map(|opened| {
            let activity = Arc::new(Activity::new(self.0.timeouts));
            (TimedStream::new(stream, activity.clone(), opened), ActiveService::new(service, activity))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_connections_make_room_for_new_ones() {
        let config = crate::Config::load(
            [("DCA_MAX_CONNECTIONS", "3"), ("DCA_MAX_CONNECTIONS_PER_CLIENT", "2"), ("DCA_TRUSTED_PROXIES", "::1")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        );
        let connections = Connections::new(&config.unwrap().http);
        let open = |peer: &str| connections.open(peer.parse().unwrap());
        let mut kept = vec![open("2001:db8::1").unwrap(), open("2001:db8::2").unwrap()];
        assert!(open("2001:db8::3").is_none(), "a third one of the same network");
        kept.push(open("192.0.2.1").unwrap());
        assert!(open("192.0.2.2").is_none(), "a fourth one in total");
        kept.clear();
        assert!(connections.0.open().by_client.is_empty());
        let of_proxy: Vec<_> = (0..3).map_while(|_| open("::1")).collect();
        assert_eq!(of_proxy.len(), 3, "a proxy is bound by the total only");
    }
}
