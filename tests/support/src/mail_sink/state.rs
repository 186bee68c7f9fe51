//! The state of the sink: the accepted messages, the faults, and what happened.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;

use super::fault::{MailFault, MailScript};
use super::mail::Mail;
use crate::shared::History;

/// A message, and the recipients that no test has read it for.
pub(super) struct Accepted {
    pub mail: Mail,
    pub unread: Vec<String>,
}

/// The state of the sink.
pub(super) struct State {
    /// Bound but not listening, so that the port stays reserved while the sink is down.
    pub _reserved: TcpSocket,
    pub address: SocketAddr,
    pub listener: Option<TcpListener>,
    /// Closes all current connections when cancelled.
    pub connection_token: CancellationToken,
    pub credentials: Option<(String, String)>,
    pub scripts: Vec<MailScript>,
    pub accepted: Vec<Accepted>,
    pub connections: usize,
    pub attempts: usize,
    /// How many replies are held, and how often `release()` was called.
    pub held: usize,
    pub releases: usize,
    pub violations: Vec<String>,
    pub history: Vec<String>,
}

impl History for State {
    const SIM: &'static str = "MailSink";

    fn history_lines(&self) -> &[String] {
        &self.history
    }
}

impl State {
    pub fn note(&mut self, line: impl Into<String>) {
        self.history.push(line.into());
    }

    pub fn attempt(&mut self, description: &str) {
        self.attempts += 1;
        self.note(format!("attempt {}: {description}", self.attempts));
    }

    /// Whether this fault applies now; if so, uses it up once.
    pub fn take(&mut self, fault: MailFault, recipients: &[String]) -> bool {
        let Some(script) = self.scripts.iter_mut().find(|script| script.applies(fault, recipients)) else {
            return false;
        };
        script.times = script.times.saturating_sub(usize::from(script.times < usize::MAX));
        self.scripts.retain(|script| script.times > 0);
        self.note(format!("fault {fault:?} {recipients:?}"));
        true
    }

    pub fn accept(&mut self, from: &str, to: &[String], eight_bit: bool, raw: &[u8]) {
        let mail = Mail::parse(self.accepted.len() + 1, from, to, raw);
        self.note(format!("accepted mail {} to {to:?}: {}", mail.number, mail.subject));
        let undeclared = (!raw.is_ascii() && !eight_bit).then(|| "8-bit content without BODY=8BITMIME".to_owned());
        for flaw in mail.flaws().into_iter().chain(undeclared) {
            self.violations.push(format!("mail {} to {to:?}: {flaw}", mail.number));
        }
        self.accepted.push(Accepted { mail, unread: to.to_vec() });
    }

    /// Marks the oldest unread email to an address as read and returns it.
    pub fn read(&mut self, to: &str) -> Option<Mail> {
        self.accepted.iter_mut().find_map(|accepted| {
            let index = accepted.unread.iter().position(|unread| unread.eq_ignore_ascii_case(to))?;
            accepted.unread.remove(index);
            Some(accepted.mail.clone())
        })
    }
}
