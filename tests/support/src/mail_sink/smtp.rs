//! The SMTP session: the replies to each command.

use std::io;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::fault::{MailFault, SmtpStep};
use super::state::State;
use crate::shared::Shared;

/// The largest accepted message, in bytes.
const MAX_SIZE: usize = 10 << 20;
const GREETING: &str = "220 mail.sink.example ESMTP";
const EXTENSIONS: [&str; 3] = ["PIPELINING", "8BITMIME", "SMTPUTF8"];
const LAST_EXTENSION: &str = "ENHANCEDSTATUSCODES";

/// The client has disconnected, or the session must end.
struct Disconnected;

impl From<io::Error> for Disconnected {
    fn from(_: io::Error) -> Self {
        Self
    }
}

/// The state of one connection.
struct Session {
    stream: BufReader<TcpStream>,
    shared: Arc<Shared<State>>,
    connection_token: CancellationToken,
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

/// Serves one client until either side disconnects or the sink goes down.
pub(super) async fn serve(stream: TcpStream, shared: Arc<Shared<State>>) {
    let connection_token = shared.change(|state| {
        state.connections += 1;
        state.note("a connection");
        state.connection_token.clone()
    });
    let stream = BufReader::new(stream);
    let mut session = Session {
        stream,
        shared,
        connection_token: connection_token.clone(),
        greeted: false,
        authenticated: false,
        envelope: None,
    };
    tokio::select! {
        biased;
        () = connection_token.cancelled() => {}
        Err(Disconnected) = session.run() => {}
    }
}

impl Session {
    async fn run(&mut self) -> Result<(), Disconnected> {
        if self.apply_early(MailFault::Refuse) {
            return Err(Disconnected);
        }
        if self.apply_early(MailFault::Busy421) {
            self.reply("421 4.3.2 too busy, try again later").await?;
            return Err(Disconnected);
        }
        self.tarpit(SmtpStep::Greeting, &[]).await?;
        self.reply(GREETING).await?;
        loop {
            let line = self.line().await?;
            let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
            // Credentials are not printed.
            let logged = if verb.eq_ignore_ascii_case("AUTH") { "AUTH …" } else { &line };
            self.shared.change(|state| state.note(format!("> {logged}")));
            match verb.to_ascii_uppercase().as_str() {
                "EHLO" => self.hello(true).await?,
                "HELO" => self.hello(false).await?,
                "AUTH" => self.auth(rest).await?,
                "MAIL" => self.mail(rest).await?,
                "RCPT" => self.rcpt(rest).await?,
                "DATA" => self.data().await?,
                "RSET" => {
                    self.envelope = None;
                    self.reply("250 2.0.0 reset").await?;
                }
                "NOOP" => self.reply("250 2.0.0 ok").await?,
                "QUIT" => {
                    self.reply("221 2.0.0 bye").await?;
                    return Err(Disconnected);
                }
                _ => self.reply("500 5.5.1 unknown command").await?,
            }
        }
    }

    async fn hello(&mut self, extended: bool) -> Result<(), Disconnected> {
        self.tarpit(SmtpStep::Hello, &[]).await?;
        (self.greeted, self.envelope) = (true, None);
        if !extended {
            return self.reply("250 mail.sink.example").await;
        }
        let mut lines = vec!["mail.sink.example".to_owned(), format!("SIZE {MAX_SIZE}")];
        lines.extend(self.needs_auth().then(|| "AUTH PLAIN LOGIN".to_owned()));
        lines.extend(EXTENSIONS.map(str::to_owned));
        self.reply(&format!("250-{}\r\n250 {LAST_EXTENSION}", lines.join("\r\n250-"))).await
    }

    async fn auth(&mut self, rest: &str) -> Result<(), Disconnected> {
        self.tarpit(SmtpStep::Auth, &[]).await?;
        if !self.greeted || self.authenticated || !self.needs_auth() {
            return self.reply("503 5.5.1 AUTH is not allowed now").await;
        }
        let (mechanism, initial) = rest.split_once(' ').unwrap_or((rest, ""));
        let credentials = match mechanism.to_ascii_uppercase().as_str() {
            "PLAIN" => {
                let text = if initial.is_empty() { self.challenge("").await? } else { decode_base64(initial) };
                let mut parts = text.split('\0').skip(1).map(str::to_owned);
                (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
            }
            "LOGIN" => {
                let user = if initial.is_empty() { self.challenge("Username:").await? } else { decode_base64(initial) };
                (user, self.challenge("Password:").await?)
            }
            _ => return self.reply("504 5.5.4 unknown mechanism").await,
        };
        self.authenticated = self.shared.lock().credentials.as_ref() == Some(&credentials);
        if self.authenticated {
            return self.reply("235 2.7.0 authenticated").await;
        }
        self.shared.change(|state| state.attempt("wrong credentials"));
        self.reply("535 5.7.8 wrong credentials").await
    }

    /// Sends a challenge and returns the decoded response.
    async fn challenge(&mut self, question: &str) -> Result<String, Disconnected> {
        self.reply(&format!("334 {}", BASE64_STANDARD.encode(question))).await?;
        Ok(decode_base64(&self.line().await?))
    }

    async fn mail(&mut self, rest: &str) -> Result<(), Disconnected> {
        self.shared.change(|state| state.attempt(&format!("MAIL {rest}")));
        self.tarpit(SmtpStep::Mail, &[]).await?;
        if !self.greeted || self.envelope.is_some() {
            return self.reply("503 5.5.1 MAIL is not allowed now").await;
        }
        if self.needs_auth() && !self.authenticated {
            return self.reply("530 5.7.0 authentication required").await;
        }
        let Some((from, parameters)) = path(rest, "FROM:") else {
            return self.reply("501 5.5.4 MAIL FROM:<address>").await;
        };
        let mut envelope = Envelope { from, ..Envelope::default() };
        for parameter in parameters.split_whitespace().map(str::to_ascii_uppercase) {
            match parameter.split_once('=').unwrap_or((&parameter, "")) {
                ("BODY", "8BITMIME") => envelope.eight_bit = true,
                ("BODY", "7BIT") => {}
                ("SMTPUTF8", "") => envelope.international = true,
                ("SIZE", size) if size.parse().is_ok_and(|size: usize| size <= MAX_SIZE) => {}
                ("SIZE", _) => return self.reply("552 5.3.4 too large").await,
                _ => return self.reply("555 5.5.4 unknown parameter").await,
            }
        }
        if !envelope.from.is_ascii() && !envelope.international {
            return self.reply("553 5.6.7 needs SMTPUTF8").await;
        }
        self.envelope = Some(envelope);
        self.reply("250 2.1.0 sender ok").await
    }

    async fn rcpt(&mut self, rest: &str) -> Result<(), Disconnected> {
        let Some(international) = self.envelope.as_ref().map(|envelope| envelope.international) else {
            return self.reply("503 5.5.1 send MAIL first").await;
        };
        let Some((to, _)) = path(rest, "TO:").filter(|(to, _)| to.contains('@')) else {
            return self.reply("501 5.5.4 RCPT TO:<address>").await;
        };
        if !to.is_ascii() && !international {
            return self.reply("553 5.6.7 needs SMTPUTF8").await;
        }
        let recipient = std::slice::from_ref(&to);
        self.tarpit(SmtpStep::Rcpt, recipient).await?;
        if self.apply(MailFault::Greylist450, recipient) {
            return self.reply("450 4.2.0 greylisted, try again later").await;
        }
        if self.apply(MailFault::Reject550, recipient) {
            return self.reply("550 5.1.1 no such mailbox").await;
        }
        self.envelope.iter_mut().for_each(|envelope| envelope.to.push(to.clone()));
        self.reply("250 2.1.5 recipient ok").await
    }

    async fn data(&mut self) -> Result<(), Disconnected> {
        // DATA consumes the envelope, whatever the result.
        let Some(envelope) = self.envelope.take_if(|envelope| !envelope.to.is_empty()) else {
            return self.reply("503 5.5.1 send RCPT first").await;
        };
        self.tarpit(SmtpStep::Data, &envelope.to).await?;
        if self.apply(MailFault::CutBeforeData, &envelope.to) {
            return Err(Disconnected);
        }
        self.reply("354 go ahead, end with <CRLF>.<CRLF>").await?;
        let raw = self.message().await?;
        if raw.len() > MAX_SIZE {
            return self.reply("552 5.3.4 too large").await;
        }
        // A sink that went down in the meantime accepts nothing.
        if self.connection_token.is_cancelled() {
            return Err(Disconnected);
        }
        self.shared.change(|state| state.accept(&envelope.from, &envelope.to, envelope.eight_bit, &raw));
        if self.apply(MailFault::CutAfterData, &envelope.to) {
            return Err(Disconnected);
        }
        if self.apply(MailFault::HoldAfterData, &envelope.to) {
            self.hold().await?;
        }
        self.reply("250 2.0.0 accepted").await
    }

    /// Reads the message up to the line with a single dot, and removes dot stuffing. The final dot counts only
    /// after CR LF, which prevents SMTP smuggling.
    async fn message(&mut self) -> Result<Vec<u8>, Disconnected> {
        let mut message = Vec::new();
        let mut at_line_start = true;
        loop {
            let mut line = Vec::new();
            self.stream.read_until(b'\n', &mut line).await?;
            if !line.ends_with(b"\n") {
                return Err(Disconnected);
            }
            if at_line_start && line == b".\r\n" {
                return Ok(message);
            }
            let stuffed = at_line_start && line.starts_with(b".");
            at_line_start = line.ends_with(b"\r\n");
            // A message that is too large is read to its end but not stored.
            if message.len() <= MAX_SIZE {
                message.extend_from_slice(&line[usize::from(stuffed)..]);
            }
        }
    }

    fn needs_auth(&self) -> bool {
        self.shared.lock().credentials.is_some()
    }

    fn apply(&self, fault: MailFault, recipients: &[String]) -> bool {
        self.shared.change(|state| state.take(fault, recipients))
    }

    /// Checks a fault that occurs before `MAIL`, and counts it as an attempt.
    fn apply_early(&self, fault: MailFault) -> bool {
        let applies = self.apply(fault, &[]);
        if applies {
            self.shared.change(|state| state.attempt("ended by a fault"));
        }
        applies
    }

    async fn tarpit(&mut self, step: SmtpStep, recipients: &[String]) -> Result<(), Disconnected> {
        let fault = MailFault::Tarpit(step);
        let early = matches!(step, SmtpStep::Greeting | SmtpStep::Hello | SmtpStep::Auth);
        let applies = if early { self.apply_early(fault) } else { self.apply(fault, recipients) };
        if applies { self.hold().await } else { Ok(()) }
    }

    /// Holds the reply until `release()`, or until the client disconnects.
    async fn hold(&mut self) -> Result<(), Disconnected> {
        let before = self.shared.change(|state| {
            state.held += 1;
            state.releases
        });
        let released = self.shared.wait_unlimited(|state| (state.releases > before).then_some(()));
        let stream = &mut self.stream;
        let disconnected = async {
            // A client that sends data is still connected; from then on only the release ends the wait.
            if stream.fill_buf().await.is_ok_and(|data| !data.is_empty()) {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = released => Ok(()),
            () = disconnected => {
                self.shared.change(|state| {
                    state.note("the client disconnected while its reply was held");
                    state.held = state.held.saturating_sub(1);
                });
                Err(Disconnected)
            }
        }
    }

    async fn line(&mut self) -> Result<String, Disconnected> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).await?;
        if line.is_empty() {
            return Err(Disconnected);
        }
        Ok(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned())
    }

    async fn reply(&mut self, reply: &str) -> Result<(), Disconnected> {
        self.shared.change(|state| state.note(format!("< {reply}")));
        self.stream.write_all(format!("{reply}\r\n").as_bytes()).await?;
        Ok(self.stream.flush().await?)
    }
}

/// `FROM:<address> PARAMETERS`: the address and the parameters.
fn path(text: &str, keyword: &str) -> Option<(String, String)> {
    let (head, rest) = text.split_at_checked(keyword.len())?;
    let rest = rest.trim_start().strip_prefix('<').filter(|_| head.eq_ignore_ascii_case(keyword))?;
    let (address, parameters) = rest.split_once('>')?;
    Some((address.to_owned(), parameters.trim().to_owned()))
}

fn decode_base64(text: &str) -> String {
    String::from_utf8(BASE64_STANDARD.decode(text).unwrap_or_default()).unwrap_or_default()
}
