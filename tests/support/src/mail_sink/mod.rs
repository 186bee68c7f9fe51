//! A Sim of the receiving mail servers: it accepts email over SMTP, tests read it, and deliveries can be made to
//! fail.
//!
//! ```no_run
//! # use dca_test_support::{MailFault, MailSink};
//! # async fn example() {
//! let sink = MailSink::start().await;
//! // … start the app with sink.host() and sink.port() …
//! sink.fault(MailFault::Greylist450.times(2).to("slow.example"));
//! let token = sink.next("ana@slow.example").await.token();
//! sink.finish();
//! # }
//! ```
//!
//! STARTTLS is not supported.

mod fault;
mod mail;
mod smtp;
mod state;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::task::Poll;

use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::shared::{LIMIT, Shared};
use state::State;

pub use fault::{MailFault, MailScript, SmtpStep};
pub use mail::Mail;

/// The length of the accept queue.
const BACKLOG: u32 = 1024;

/// A simulated mail server on a local port. Clones share the same server.
#[derive(Clone)]
pub struct MailSink {
    shared: Arc<Shared<State>>,
    /// Stops the server when the last handle is dropped.
    _server: Arc<DropGuard>,
}

/// Server and configuration.
impl MailSink {
    /// Starts on a free port.
    pub async fn start() -> Self {
        Self::start_on(0).await
    }

    /// Starts on a given port, for a demo with a fixed configuration.
    ///
    /// # Panics
    /// If the port is taken.
    #[expect(clippy::unused_async, reason = "every Sim starts this way, and it needs a runtime")]
    pub async fn start_on(port: u16) -> Self {
        let reserved = reserve(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let address = reserved.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared::new(State {
            _reserved: reserved,
            address,
            listener: Some(listen(address)),
            connection_token: CancellationToken::new(),
            credentials: None,
            scripts: Vec::new(),
            accepted: Vec::new(),
            connections: 0,
            attempts: 0,
            held: 0,
            releases: 0,
            violations: Vec::new(),
            history: Vec::new(),
        }));
        shared.lock().connection_token = shared.shutdown.child_token();
        tokio::spawn(accept(Arc::clone(&shared)));
        let server = shared.shutdown.clone().drop_guard();
        Self { shared, _server: Arc::new(server) }
    }

    /// The SMTP host.
    pub fn host(&self) -> String {
        self.shared.lock().address.ip().to_string()
    }

    /// The SMTP port. It stays the same through [`Self::down`] and [`Self::up`].
    pub fn port(&self) -> u16 {
        self.shared.lock().address.port()
    }

    /// Requires authentication (`PLAIN` or `LOGIN`): 530 without, 535 with wrong credentials.
    pub fn require_auth(&self, user: &str, password: &str) {
        self.shared.change(|state| state.credentials = Some((user.to_owned(), password.to_owned())));
    }

    /// The history, one line per event, as panics print it.
    pub fn history(&self) -> String {
        self.shared.history()
    }

    /// Malformed messages, which other mail servers might refuse.
    pub fn violations(&self) -> Vec<String> {
        self.shared.lock().violations.clone()
    }

    /// Ends a test and checks the sink.
    ///
    /// # Panics
    /// If a message was malformed or not read.
    pub fn finish(&self) {
        let state = self.shared.lock();
        let unread = state.accepted.iter().filter(|accepted| !accepted.unread.is_empty());
        let unread: Vec<_> = unread.map(|accepted| (&accepted.unread, &accepted.mail.subject)).collect();
        let violations = &state.violations;
        let clean = violations.is_empty() && unread.is_empty();
        let report = format!("violations: {violations:#?}\nunread email: {unread:#?}");
        drop(state);
        assert!(clean, "MailSink:\n{report}\n{}", self.history());
    }
}

/// Reading email.
impl MailSink {
    /// Waits for the oldest unread email to an address and marks it as read.
    ///
    /// # Panics
    /// If none arrives within ten seconds.
    pub async fn next(&self, to: &str) -> Mail {
        self.shared.wait(&format!("mail to {to}"), LIMIT, |state| state.read(to)).await
    }

    /// All email to an address so far; marks it as read.
    pub fn all_to(&self, to: &str) -> Vec<Mail> {
        self.forget(to);
        let state = self.shared.lock();
        let mails = state.accepted.iter().map(|accepted| &accepted.mail);
        mails.filter(|mail| mail.to.iter().any(|recipient| recipient.eq_ignore_ascii_case(to))).cloned().collect()
    }

    /// How many messages were accepted.
    pub fn count(&self) -> usize {
        self.shared.lock().accepted.len()
    }

    /// Marks all email to an address as read.
    pub fn forget(&self, to: &str) {
        self.shared.change(|state| while state.read(to).is_some() {});
    }
}

/// Faults.
impl MailSink {
    /// Injects a fault into the next matching deliveries.
    pub fn fault(&self, script: impl Into<MailScript>) {
        self.shared.change(|state| state.scripts.push(script.into()));
    }

    /// Removes all faults. Replies that are already held stay held.
    pub fn heal(&self) {
        self.shared.change(|state| state.scripts.clear());
    }

    /// Closes all connections and refuses new ones.
    pub fn down(&self) {
        self.shared.change(|state| {
            state.note("down");
            state.listener = None;
            state.connection_token.cancel();
        });
    }

    /// Accepts connections again, on the same port.
    ///
    /// # Panics
    /// If the sink is not down.
    pub fn up(&self) {
        self.shared.change(|state| {
            assert!(state.listener.is_none(), "MailSink: the sink is not down");
            state.note("up");
            state.listener = Some(listen(state.address));
            state.connection_token = self.shared.shutdown.child_token();
        });
    }

    /// Closes all connections, as servers do after an idle time. Clients then open new ones, to which faults of
    /// the greeting apply.
    pub fn hang_up(&self) {
        self.shared.change(|state| {
            state.note("closes all connections");
            state.connection_token.cancel();
            state.connection_token = self.shared.shutdown.child_token();
        });
    }

    /// Waits until a reply is held by [`MailFault::Tarpit`] or [`MailFault::HoldAfterData`].
    pub async fn held(&self) {
        self.shared.wait("held reply", LIMIT, |state| (state.held > 0).then_some(())).await;
    }

    /// Sends all held replies.
    pub fn release(&self) {
        self.shared.change(|state| {
            state.held = 0;
            state.releases += 1;
        });
    }

    /// Waits for the first connection.
    pub async fn seen_connection(&self) {
        self.shared.wait("connection", LIMIT, |state| (state.connections > 0).then_some(())).await;
    }

    /// Waits until there were that many attempts since the start: every `MAIL`, and every connection that a fault
    /// or wrong credentials ended before it. Connections refused while the sink is down do not count.
    pub async fn attempts(&self, count: usize) {
        let reached = |state: &mut State| (state.attempts >= count).then_some(());
        self.shared.wait(&format!("attempt number {count}"), LIMIT, reached).await;
    }

    /// How many attempts there were; see [`Self::attempts`].
    pub fn attempt_count(&self) -> usize {
        self.shared.lock().attempts
    }
}

/// A socket that is bound to a port without listening.
fn reserve(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    // Both sockets need the option to share the port.
    socket.set_reuseaddr(true).expect("a socket option");
    socket.bind(address).expect("a free local port");
    socket
}

fn listen(address: SocketAddr) -> TcpListener {
    reserve(address).listen(BACKLOG).expect("a reserved port")
}

/// Accepts connections while there is a listener; each change may add or remove it.
async fn accept(shared: Arc<Shared<State>>) {
    let mut changed = shared.changed.subscribe();
    loop {
        let accepted = poll_fn(|cx| match &shared.lock().listener {
            Some(listener) => listener.poll_accept(cx),
            None => Poll::Pending,
        });
        tokio::select! {
            () = shared.shutdown.cancelled() => break,
            _ = changed.changed() => {}
            Ok((stream, _)) = accepted => {
                tokio::spawn(smtp::serve(stream, Arc::clone(&shared)));
            }
        }
    }
}
