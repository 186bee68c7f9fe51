//! The conversation: what the sink answers to each command.

use std::io;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::{MailFault, SmtpStep, State};
use crate::shared::Shared;

/// The largest message taken.
const SIZE: usize = 10 << 20;
const GREETING: &str = "220 mail.sink.example ESMTP";
const EXTENSIONS: [&str; 3] = ["PIPELINING", "8BITMIME", "SMTPUTF8"];
const LAST_EXTENSION: &str = "ENHANCEDSTATUSCODES";

/// The peer has left, or the sink has.
struct Gone;

impl From<io::Error> for Gone {
    fn from(_: io::Error) -> Self {
        Self
    }
}

/// What has been said so far.
struct Session {
    wire: BufReader<TcpStream>,
    room: Arc<Shared<State>>,
    era: CancellationToken,
    greeted: bool,
    authenticated: bool,
    envelope: Option<Envelope>,
}

#[derive(Default)]
struct Envelope {
    from: String,
    to: Vec<String>,
    eight_bit: bool,
    international: bool,
}

/// Talks with one peer until either leaves, or the sink goes down.
pub(super) async fn serve(stream: TcpStream, room: Arc<Shared<State>>) {
    let era = room.change(|state| {
        state.connections += 1;
        state.note("a connection");
        state.era.clone()
    });
    let wire = BufReader::new(stream);
    let mut session = Session { wire, room, era: era.clone(), greeted: false, authenticated: false, envelope: None };
    tokio::select! {
        biased;
        () = era.cancelled() => {}
        Err(Gone) = session.converse() => {}
    }
}

impl Session {
    async fn converse(&mut self) -> Result<(), Gone> {
        if self.hit_early(MailFault::Refuse) {
            return Err(Gone);
        }
        if self.hit_early(MailFault::Busy421) {
            self.say("421 4.3.2 too busy, come back later").await?;
            return Err(Gone);
        }
        self.tarpit(SmtpStep::Greeting, &[]).await?;
        self.say(GREETING).await?;
        loop {
            let line = self.line().await?;
            let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
            // Credentials are test data, and yet nothing to print.
            let shown = if verb.eq_ignore_ascii_case("AUTH") { "AUTH …" } else { &line };
            self.room.change(|state| state.note(format!("> {shown}")));
            match verb.to_ascii_uppercase().as_str() {
                "EHLO" => self.hello(true).await?,
                "HELO" => self.hello(false).await?,
                "AUTH" => self.auth(rest).await?,
                "MAIL" => self.mail(rest).await?,
                "RCPT" => self.rcpt(rest).await?,
                "DATA" => self.data().await?,
                "RSET" => {
                    self.envelope = None;
                    self.say("250 2.0.0 forgotten").await?;
                }
                "NOOP" => self.say("250 2.0.0 nothing done").await?,
                "QUIT" => {
                    self.say("221 2.0.0 bye").await?;
                    return Err(Gone);
                }
                _ => self.say("500 5.5.1 not a command here").await?,
            }
        }
    }

    async fn hello(&mut self, extended: bool) -> Result<(), Gone> {
        self.tarpit(SmtpStep::Hello, &[]).await?;
        (self.greeted, self.envelope) = (true, None);
        if !extended {
            return self.say("250 mail.sink.example").await;
        }
        let mut lines = vec!["mail.sink.example".to_owned(), format!("SIZE {SIZE}")];
        lines.extend(self.needs_auth().then(|| "AUTH PLAIN LOGIN".to_owned()));
        lines.extend(EXTENSIONS.map(str::to_owned));
        self.say(&format!("250-{}\r\n250 {LAST_EXTENSION}", lines.join("\r\n250-"))).await
    }

    async fn auth(&mut self, rest: &str) -> Result<(), Gone> {
        self.tarpit(SmtpStep::Auth, &[]).await?;
        if !self.greeted || self.authenticated || !self.needs_auth() {
            return self.say("503 5.5.1 AUTH is not awaited").await;
        }
        let (mechanism, initial) = rest.split_once(' ').unwrap_or((rest, ""));
        let given = match mechanism.to_ascii_uppercase().as_str() {
            "PLAIN" => {
                let text = if initial.is_empty() { self.ask("").await? } else { unpacked(initial) };
                let mut parts = text.split('\0').skip(1).map(str::to_owned);
                (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
            }
            "LOGIN" => {
                let user = if initial.is_empty() { self.ask("Username:").await? } else { unpacked(initial) };
                (user, self.ask("Password:").await?)
            }
            _ => return self.say("504 5.5.4 unknown mechanism").await,
        };
        self.authenticated = self.room.lock().credentials.as_ref() == Some(&given);
        if self.authenticated {
            return self.say("235 2.7.0 welcome").await;
        }
        self.room.change(|state| state.attempt("wrong credentials"));
        self.say("535 5.7.8 wrong credentials").await
    }

    /// Asks for one more line of a login.
    async fn ask(&mut self, question: &str) -> Result<String, Gone> {
        self.say(&format!("334 {}", BASE64_STANDARD.encode(question))).await?;
        Ok(unpacked(&self.line().await?))
    }

    async fn mail(&mut self, rest: &str) -> Result<(), Gone> {
        self.room.change(|state| state.attempt(&format!("MAIL {rest}")));
        self.tarpit(SmtpStep::Mail, &[]).await?;
        if !self.greeted || self.envelope.is_some() {
            return self.say("503 5.5.1 MAIL is not awaited").await;
        }
        if self.needs_auth() && !self.authenticated {
            return self.say("530 5.7.0 authentication required").await;
        }
        let Some((from, parameters)) = path(rest, "FROM:") else {
            return self.say("501 5.5.4 MAIL FROM:<address>").await;
        };
        let mut envelope = Envelope { from, ..Envelope::default() };
        for parameter in parameters.split_whitespace().map(str::to_ascii_uppercase) {
            match parameter.split_once('=').unwrap_or((&parameter, "")) {
                ("BODY", "8BITMIME") => envelope.eight_bit = true,
                ("BODY", "7BIT") => {}
                ("SMTPUTF8", "") => envelope.international = true,
                ("SIZE", size) if size.parse().is_ok_and(|size: usize| size <= SIZE) => {}
                ("SIZE", _) => return self.say("552 5.3.4 too large").await,
                _ => return self.say("555 5.5.4 unknown parameter").await,
            }
        }
        if !envelope.from.is_ascii() && !envelope.international {
            return self.say("553 5.6.7 needs SMTPUTF8").await;
        }
        self.envelope = Some(envelope);
        self.say("250 2.1.0 sender noted").await
    }

    async fn rcpt(&mut self, rest: &str) -> Result<(), Gone> {
        let Some(international) = self.envelope.as_ref().map(|envelope| envelope.international) else {
            return self.say("503 5.5.1 MAIL comes first").await;
        };
        let Some((to, _)) = path(rest, "TO:").filter(|(to, _)| to.contains('@')) else {
            return self.say("501 5.5.4 RCPT TO:<address>").await;
        };
        if !to.is_ascii() && !international {
            return self.say("553 5.6.7 needs SMTPUTF8").await;
        }
        let recipient = std::slice::from_ref(&to);
        self.tarpit(SmtpStep::Rcpt, recipient).await?;
        if self.hit(MailFault::Greylist450, recipient) {
            return self.say("450 4.2.0 greylisted, come back later").await;
        }
        if self.hit(MailFault::Reject550, recipient) {
            return self.say("550 5.1.1 no such mailbox").await;
        }
        self.envelope.iter_mut().for_each(|envelope| envelope.to.push(to.clone()));
        self.say("250 2.1.5 recipient noted").await
    }

    async fn data(&mut self) -> Result<(), Gone> {
        // The envelope is used up, whatever comes of it.
        let Some(envelope) = self.envelope.take_if(|envelope| !envelope.to.is_empty()) else {
            return self.say("503 5.5.1 RCPT comes first").await;
        };
        self.tarpit(SmtpStep::Data, &envelope.to).await?;
        if self.hit(MailFault::CutBeforeData, &envelope.to) {
            return Err(Gone);
        }
        self.say("354 go ahead, end with a lonely dot").await?;
        let raw = self.message().await?;
        if raw.len() > SIZE {
            return self.say("552 5.3.4 too large").await;
        }
        // A sink that went down a moment ago takes nothing more.
        if self.era.is_cancelled() {
            return Err(Gone);
        }
        self.room.change(|state| state.accept(&envelope.from, &envelope.to, envelope.eight_bit, &raw));
        if self.hit(MailFault::CutAfterData, &envelope.to) {
            return Err(Gone);
        }
        if self.hit(MailFault::HoldAfterData, &envelope.to) {
            self.hold().await?;
        }
        self.say("250 2.0.0 accepted").await
    }

    /// The lines up to a lonely dot, without the dots put before others. Only a line after a proper
    /// line end can be that dot, so that no second message is smuggled in.
    async fn message(&mut self) -> Result<Vec<u8>, Gone> {
        let mut message = Vec::new();
        let mut starts = true;
        loop {
            let mut line = Vec::new();
            self.wire.read_until(b'\n', &mut line).await?;
            if !line.ends_with(b"\n") {
                return Err(Gone);
            }
            if starts && line == b".\r\n" {
                return Ok(message);
            }
            let stuffed = starts && line.starts_with(b".");
            starts = line.ends_with(b"\r\n");
            // What is too large is read to its end, but not kept.
            if message.len() <= SIZE {
                message.extend_from_slice(&line[usize::from(stuffed)..]);
            }
        }
    }

    fn needs_auth(&self) -> bool {
        self.room.lock().credentials.is_some()
    }

    fn hit(&self, fault: MailFault, recipients: &[String]) -> bool {
        self.room.change(|state| state.take(fault, recipients))
    }

    /// A fault before `MAIL`: the attempt it ends is counted here.
    fn hit_early(&self, fault: MailFault) -> bool {
        let hit = self.hit(fault, &[]);
        if hit {
            self.room.change(|state| state.attempt("none, for a fault"));
        }
        hit
    }

    async fn tarpit(&mut self, step: SmtpStep, recipients: &[String]) -> Result<(), Gone> {
        let fault = MailFault::Tarpit(step);
        let early = matches!(step, SmtpStep::Greeting | SmtpStep::Hello | SmtpStep::Auth);
        let hit = if early { self.hit_early(fault) } else { self.hit(fault, recipients) };
        if hit { self.hold().await } else { Ok(()) }
    }

    /// Says nothing until the sink is told to, or the peer leaves.
    async fn hold(&mut self) -> Result<(), Gone> {
        let before = self.room.change(|state| {
            state.held += 1;
            state.releases
        });
        let released = self.room.found(|state| (state.releases > before).then_some(()));
        let wire = &mut self.wire;
        let left = async {
            // A peer that talks on has not left; from then on only the release counts.
            if wire.fill_buf().await.is_ok_and(|said| !said.is_empty()) {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = released => Ok(()),
            () = left => {
                self.room.change(|state| {
                    state.note("the peer left while it was held");
                    state.held = state.held.saturating_sub(1);
                });
                Err(Gone)
            }
        }
    }

    async fn line(&mut self) -> Result<String, Gone> {
        let mut line = Vec::new();
        self.wire.read_until(b'\n', &mut line).await?;
        if line.is_empty() {
            return Err(Gone);
        }
        Ok(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned())
    }

    async fn say(&mut self, reply: &str) -> Result<(), Gone> {
        self.room.change(|state| state.note(format!("< {reply}")));
        self.wire.write_all(format!("{reply}\r\n").as_bytes()).await?;
        Ok(self.wire.flush().await?)
    }
}

/// `FROM:<address> PARAMETERS`: the address and the parameters.
fn path(text: &str, keyword: &str) -> Option<(String, String)> {
    let (head, rest) = text.split_at_checked(keyword.len())?;
    let rest = rest.trim_start().strip_prefix('<').filter(|_| head.eq_ignore_ascii_case(keyword))?;
    let (address, parameters) = rest.split_once('>')?;
    Some((address.to_owned(), parameters.trim().to_owned()))
}

fn unpacked(text: &str) -> String {
    String::from_utf8(BASE64_STANDARD.decode(text).unwrap_or_default()).unwrap_or_default()
}
