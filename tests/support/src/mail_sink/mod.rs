//! A stand-in for the world's mail servers: it takes mail over SMTP, a test reads it, and whatever can
//! go wrong with a delivery can be made to.
//!
//! ```no_run
//! # use dca_test_support::{MailFault, MailSink};
//! # async fn example() {
//! let sink = MailSink::start().await;
//! // … start the product with sink.host() and sink.port() …
//! sink.fault(MailFault::Greylist450.times(2).to("slow.example"));
//! let token = sink.next("ana@slow.example").await.token();
//! sink.finish();
//! # }
//! ```
//!
//! STARTTLS is not spoken.

mod fault;
mod mail;
mod smtp;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::task::Poll;

use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::shared::{History, LIMIT, Shared};

pub use fault::{MailFault, MailScript, SmtpStep};
pub use mail::Mail;

/// How many connections wait to be accepted.
const BACKLOG: u32 = 1024;

/// A message and those who have not read it yet.
struct Accepted {
    mail: Mail,
    unread: Vec<String>,
}

/// Everything, behind the sink's one lock.
struct State {
    /// Bound but not listening: the port stays ours while the sink is down.
    _claim: TcpSocket,
    address: SocketAddr,
    listener: Option<TcpListener>,
    /// Ends when the sink goes down, and all conversations with it.
    era: CancellationToken,
    credentials: Option<(String, String)>,
    scripts: Vec<MailScript>,
    accepted: Vec<Accepted>,
    connections: usize,
    attempts: usize,
    /// Answers held back now, and how often `release()` was called.
    held: usize,
    releases: usize,
    violations: Vec<String>,
    history: Vec<String>,
}

impl History for State {
    const SIM: &'static str = "MailSink";

    fn history_lines(&self) -> &[String] {
        &self.history
    }
}

impl State {
    fn note(&mut self, line: impl Into<String>) {
        self.history.push(line.into());
    }

    fn attempt(&mut self, how: &str) {
        self.attempts += 1;
        self.note(format!("attempt {}: {how}", self.attempts));
    }

    /// Whether this fault happens here and now; if so, that is one time less.
    fn take(&mut self, fault: MailFault, recipients: &[String]) -> bool {
        let Some(script) = self.scripts.iter_mut().find(|script| script.hits(fault, recipients)) else {
            return false;
        };
        script.times = script.times.saturating_sub(usize::from(script.times < usize::MAX));
        self.scripts.retain(|script| script.times > 0);
        self.note(format!("fault {fault:?} {recipients:?}"));
        true
    }

    fn accept(&mut self, from: &str, to: &[String], eight_bit: bool, raw: &[u8]) {
        let mail = Mail::parse(self.accepted.len() + 1, from, to, raw);
        self.note(format!("accepted mail {} to {to:?}: {}", mail.number, mail.subject));
        let undeclared = (!raw.is_ascii() && !eight_bit).then(|| "eight bits without BODY=8BITMIME".to_owned());
        for flaw in mail.flaws().into_iter().chain(undeclared) {
            self.violations.push(format!("mail {} to {to:?}: {flaw}", mail.number));
        }
        self.accepted.push(Accepted { mail, unread: to.to_vec() });
    }

    /// The oldest unread mail to an address, which is then read.
    fn read(&mut self, to: &str) -> Option<Mail> {
        self.accepted.iter_mut().find_map(|accepted| {
            let index = accepted.unread.iter().position(|unread| unread.eq_ignore_ascii_case(to))?;
            accepted.unread.remove(index);
            Some(accepted.mail.clone())
        })
    }
}

/// A mail server of one's own on a local port. Clones are handles to the same one.
#[derive(Clone)]
pub struct MailSink {
    room: Arc<Shared<State>>,
    /// The server ends with the last handle.
    _server: Arc<DropGuard>,
}

/// Running it, and what the product is configured with.
impl MailSink {
    /// Starts on a free port.
    pub async fn start() -> Self {
        Self::start_on(0).await
    }

    /// Starts on a given port, for a demo whose configuration is written down.
    ///
    /// # Panics
    /// If the port is taken.
    #[expect(clippy::unused_async, reason = "it starts like every Sim, and needs a runtime")]
    pub async fn start_on(port: u16) -> Self {
        let claim = claim(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let address = claim.local_addr().expect("a bound socket has an address");
        let room = Arc::new(Shared::new(State {
            _claim: claim,
            address,
            listener: Some(listen(address)),
            era: CancellationToken::new(),
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
        room.lock().era = room.shutdown.child_token();
        tokio::spawn(accept(Arc::clone(&room)));
        let server = room.shutdown.clone().drop_guard();
        Self { room, _server: Arc::new(server) }
    }

    /// The host to send mail to.
    pub fn host(&self) -> String {
        self.room.lock().address.ip().to_string()
    }

    /// The port to send mail to. It stays the same through [`Self::down`] and [`Self::up`].
    pub fn port(&self) -> u16 {
        self.room.lock().address.port()
    }

    /// From now on mail is taken only after a login (`PLAIN` or `LOGIN`): 530 before, 535 if it is wrong.
    pub fn require_auth(&self, user: &str, password: &str) {
        self.room.change(|state| state.credentials = Some((user.to_owned(), password.to_owned())));
    }

    /// Everything that happened, one line each, as panics print it.
    pub fn history(&self) -> String {
        self.room.history()
    }

    /// What other mail servers might not have taken: messages of a wrong form.
    pub fn violations(&self) -> Vec<String> {
        self.room.lock().violations.clone()
    }

    /// Ends a test.
    ///
    /// # Panics
    /// If a message was of a wrong form, or nobody read it.
    pub fn finish(&self) {
        let state = self.room.lock();
        let unread = state.accepted.iter().filter(|accepted| !accepted.unread.is_empty());
        let unread: Vec<_> = unread.map(|accepted| (&accepted.unread, &accepted.mail.subject)).collect();
        let violations = &state.violations;
        let clean = violations.is_empty() && unread.is_empty();
        let report = format!("violations: {violations:#?}\nmails nobody read: {unread:#?}");
        drop(state);
        assert!(clean, "MailSink:\n{report}\n{}", self.history());
    }
}

/// Reading mail.
impl MailSink {
    /// The oldest mail to an address that was not read yet; it is read then.
    ///
    /// # Panics
    /// If none comes within ten seconds.
    pub async fn next(&self, to: &str) -> Mail {
        self.room.wait(&format!("mail to {to}"), LIMIT, |state| state.read(to)).await
    }

    /// All mail an address ever got; it is read then.
    pub fn all_to(&self, to: &str) -> Vec<Mail> {
        self.forget(to);
        let state = self.room.lock();
        let mails = state.accepted.iter().map(|accepted| &accepted.mail);
        mails.filter(|mail| mail.to.iter().any(|known| known.eq_ignore_ascii_case(to))).cloned().collect()
    }

    /// How many messages were accepted.
    pub fn count(&self) -> usize {
        self.room.lock().accepted.len()
    }

    /// The mail to an address so far need not be read.
    pub fn forget(&self, to: &str) {
        self.room.change(|state| while state.read(to).is_some() {});
    }
}

/// Faults.
impl MailSink {
    /// Lets a fault happen to the next deliveries it fits.
    pub fn fault(&self, script: impl Into<MailScript>) {
        self.room.change(|state| state.scripts.push(script.into()));
    }

    /// Nothing goes wrong any more, except for what is held back already.
    pub fn heal(&self) {
        self.room.change(|state| state.scripts.clear());
    }

    /// From now on connections are refused, and those there were are cut.
    pub fn down(&self) {
        self.room.change(|state| {
            state.note("down");
            state.listener = None;
            state.era.cancel();
        });
    }

    /// Takes connections again, on the same port.
    ///
    /// # Panics
    /// If it is not down.
    pub fn up(&self) {
        self.room.change(|state| {
            assert!(state.listener.is_none(), "MailSink: it is not down");
            state.note("up");
            state.listener = Some(listen(state.address));
            state.era = self.room.shutdown.child_token();
        });
    }

    /// Every connection there is gets cut, as a server does with those that idle for long. What then
    /// comes is a new one, which faults of the greeting can hit.
    pub fn hang_up(&self) {
        self.room.change(|state| {
            state.note("hangs up");
            state.era.cancel();
            state.era = self.room.shutdown.child_token();
        });
    }

    /// Waits until an answer is being held back, by [`MailFault::Tarpit`] or [`MailFault::HoldAfterData`].
    pub async fn held(&self) {
        self.room.wait("held answer", LIMIT, |state| (state.held > 0).then_some(())).await;
    }

    /// Lets all held answers go.
    pub fn release(&self) {
        self.room.change(|state| {
            state.held = 0;
            state.releases += 1;
        });
    }

    /// Waits until somebody has connected.
    pub async fn seen_connection(&self) {
        self.room.wait("connection", LIMIT, |state| (state.connections > 0).then_some(())).await;
    }

    /// Waits until that many deliveries were tried since the start: every `MAIL`, and every conversation
    /// that a fault or a wrong password ended before it. A connection refused while down is not seen.
    pub async fn attempts(&self, count: usize) {
        let enough = |state: &mut State| (state.attempts >= count).then_some(());
        self.room.wait(&format!("attempt number {count}"), LIMIT, enough).await;
    }

    /// How many deliveries were tried.
    pub fn attempt_count(&self) -> usize {
        self.room.lock().attempts
    }
}

/// A socket that owns a port and does not listen on it.
fn claim(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    // Both sides say so, or the one that listens could not share the port with this one.
    socket.set_reuseaddr(true).expect("a socket option");
    socket.bind(address).expect("a free local port");
    socket
}

fn listen(address: SocketAddr) -> TcpListener {
    claim(address).listen(BACKLOG).expect("a claimed port")
}

/// Accepts while there is a listener; each change may bring or take it.
async fn accept(room: Arc<Shared<State>>) {
    let mut changed = room.changed.subscribe();
    loop {
        let accepted = poll_fn(|cx| match &room.lock().listener {
            Some(listener) => listener.poll_accept(cx),
            None => Poll::Pending,
        });
        tokio::select! {
            () = room.shutdown.cancelled() => break,
            _ = changed.changed() => {}
            Ok((stream, _)) = accepted => {
                tokio::spawn(smtp::serve(stream, Arc::clone(&room)));
            }
        }
    }
}
