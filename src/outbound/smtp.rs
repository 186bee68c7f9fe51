//! The SMTP client. Each email uses its own connection, so that a session that stalled is never reused.

use std::{error::Error as _, fmt, io, net::IpAddr, time::Duration};

use anyhow::{Context, Result};
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::{ClientId, Extension, MailBodyParameter, MailParameter};
use lettre::{Address, Message, transport::smtp::Error};
use tokio::time::timeout;

use super::mail_error::MailError;
use crate::config::{Config, MailConfig, SmtpTls};
use crate::tls_roots;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// The timeout for `QUIT`; by then the server has accepted the email.
const QUIT_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) struct Server {
    host: String,
    port: u16,
    hello: ClientId,
    tls: Tls,
    credentials: Option<Credentials>,
    /// Not with `auto`, which is opportunistic only if the password stays on this machine.
    needs_tls_to_sign_in: bool,
    command_timeout: Duration,
}

enum Tls {
    None,
    Opportunistic(TlsParameters),
    Required(TlsParameters),
    Implicit(TlsParameters),
}

/// The stage of the session. It decides how an error is classified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Hello,
    Tls,
    SignIn,
    Sender,
    Recipient,
    Content,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hello => "connection to the mail server failed",
            Self::Tls => "TLS negotiation with the mail server failed",
            Self::SignIn => "authentication with the mail server failed",
            Self::Sender => "sender not accepted",
            Self::Recipient => "recipient not accepted",
            Self::Content => "message not accepted",
        })
    }
}

impl Server {
    /// The configured server, if any. `hello` is the domain sent in `EHLO`.
    pub(super) fn new(config: &Config, hello: &str) -> Result<Option<Self>> {
        let settings = &config.mail;
        let Some(host) = settings.host.clone() else { return Ok(None) };
        let private_ca = tls_roots::private(config)?;
        let tls = Tls::new(settings, &host, private_ca.as_deref()).context("cannot use DCA_SMTP_HOST with TLS")?;
        let password = settings.password.as_ref().map_or("", |password| password.expose()).to_owned();
        let credentials = settings.user.clone().map(|user| Credentials::new(user, password));
        let hello = ClientId::Domain(hello.to_owned());
        let needs_tls_to_sign_in = settings.tls == SmtpTls::Opportunistic && credentials.is_some();
        let (port, command_timeout) = (settings.port, COMMAND_TIMEOUT);
        Ok(Some(Self { host, port, hello, tls, credentials, needs_tls_to_sign_in, command_timeout }))
    }

    #[cfg(test)]
    pub(super) fn with_command_timeout(self, command_timeout: Duration) -> Self {
        Self { command_timeout, ..self }
    }

    /// Sends an email; `Ok` means that the server accepted it.
    pub(super) async fn send(&self, message: &Message) -> Result<(), MailError> {
        let mut server = self.connect().await?;
        let (envelope, bytes) = (message.envelope(), message.formatted());
        let mut extensions = Vec::new();
        if !envelope.to().iter().chain(envelope.from()).all(|address| AsRef::<str>::as_ref(address).is_ascii()) {
            if !server.server_info().supports_feature(Extension::SmtpUtfEight) {
                return Err(MailError::Rejected("the mail server accepts only ASCII addresses".to_owned()));
            }
            extensions.extend([MailParameter::SmtpUtfEight, MailParameter::Body(MailBodyParameter::EightBitMime)]);
        }
        self.step(Stage::Sender, server.command(Mail::new(envelope.from().cloned(), extensions))).await?;
        for to in envelope.to() {
            self.step(Stage::Recipient, server.command(Rcpt::new(to.clone(), Vec::new()))).await?;
        }
        self.step(Stage::Content, server.command(Data)).await?;
        // Servers take longest here, and giving up too early would send the email twice.
        in_time(Stage::Content, self.command_timeout * 2, server.message(&bytes)).await?;
        self.quit(server).await;
        Ok(())
    }

    /// Connects, authenticates, names the sender and disconnects.
    pub(super) async fn check_connection(&self, from: &Address) -> Result<(), MailError> {
        let mut server = self.connect().await?;
        self.step(Stage::Sender, server.command(Mail::new(Some(from.clone()), Vec::new()))).await?;
        self.quit(server).await;
        Ok(())
    }

    async fn quit(&self, mut server: AsyncSmtpConnection) {
        _ = timeout(QUIT_TIMEOUT.min(self.command_timeout), server.quit()).await;
    }

    async fn connect(&self) -> Result<AsyncSmtpConnection, MailError> {
        let tls = if let Tls::Implicit(parameters) = &self.tls { Some(parameters.clone()) } else { None };
        let address = (self.host.as_str(), self.port);
        let connected = AsyncSmtpConnection::connect_tokio1(address, Some(CONNECT_TIMEOUT), &self.hello, tls, None);
        let mut server = self.step(Stage::Hello, connected).await?;
        match &self.tls {
            Tls::Required(parameters) => {
                self.step(Stage::Tls, server.starttls(parameters.clone(), &self.hello)).await?;
            }
            Tls::Opportunistic(parameters) if server.can_starttls() => {
                self.step(Stage::Tls, server.starttls(parameters.clone(), &self.hello)).await?;
            }
            Tls::Opportunistic(_) if self.needs_tls_to_sign_in => {
                let reason = "the mail server does not offer TLS, so the password was not sent".to_owned();
                return Err(MailError::Misconfigured { setting: "DCA_SMTP_TLS, DCA_SMTP_USER", reason });
            }
            Tls::Opportunistic(_) | Tls::Implicit(_) | Tls::None => {}
        }
        if let Some(credentials) = &self.credentials {
            self.step(Stage::SignIn, server.auth(DEFAULT_MECHANISMS, credentials)).await?;
        }
        Ok(server)
    }

    async fn step<T>(&self, stage: Stage, command: impl Future<Output = Result<T, Error>>) -> Result<T, MailError> {
        in_time(stage, self.command_timeout, command).await
    }
}

impl Tls {
    fn new(settings: &MailConfig, host: &str, private_ca: Option<&[u8]>) -> Result<Self, Error> {
        let parameters = || {
            let private = Certificate::from_pem(private_ca.unwrap_or_default())?;
            TlsParameters::builder(host.to_owned()).add_root_certificate(private).build_rustls()
        };
        // An attacker who can forge a certificate can also remove the STARTTLS offer, so verification would add no
        // protection here, and would reject the self-signed servers that this mode is for.
        let unchecked = || {
            let builder = TlsParameters::builder(host.to_owned());
            builder.dangerous_accept_invalid_certs(true).dangerous_accept_invalid_hostnames(true).build_rustls()
        };
        Ok(match settings.tls {
            SmtpTls::None => Self::None,
            SmtpTls::Auto if settings.port == 465 => Self::Implicit(parameters()?),
            SmtpTls::Auto if is_loopback(host) => Self::Opportunistic(unchecked()?),
            SmtpTls::Auto | SmtpTls::StartTls => Self::Required(parameters()?),
            SmtpTls::Tls => Self::Implicit(parameters()?),
            SmtpTls::Opportunistic => Self::Opportunistic(unchecked()?),
        })
    }
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// Waits for a command at most this long.
async fn in_time<T>(
    stage: Stage,
    limit: Duration,
    command: impl Future<Output = Result<T, Error>>,
) -> Result<T, MailError> {
    // Boxed, because futures of the SMTP library are large.
    match timeout(limit, Box::pin(command)).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(classify(stage, &error)),
        Err(_) => Err(MailError::Transient(format!("{stage}: no response in time"))),
    }
}

/// Classifies an error. The text of the server's reply is left out because it may contain the address.
fn classify(stage: Stage, error: &Error) -> MailError {
    if let Some(code) = error.status() {
        let reply = error.source().map(ToString::to_string).unwrap_or_default();
        return classify_reply(stage, code.into(), &reply);
    }
    let misconfigured = |setting| MailError::Misconfigured { setting, reason: format!("{stage}: {error}") };
    match stage {
        // Client errors contain no reply; they say what the server does not support.
        Stage::Tls if error.is_client() => misconfigured("DCA_SMTP_TLS"),
        Stage::SignIn if error.is_client() => misconfigured("DCA_SMTP_USER, DCA_SMTP_TLS"),
        Stage::Hello | Stage::Tls if is_tls_error(error) => {
            misconfigured("DCA_SMTP_HOST, DCA_SMTP_PORT, DCA_SMTP_TLS, DCA_TLS_CA_FILE")
        }
        _ if error.is_response() => MailError::Transient(format!("{stage}: incomplete or invalid response")),
        _ => MailError::Transient(format!("{stage}: {error}")),
    }
}

fn classify_reply(stage: Stage, code: u16, reply: &str) -> MailError {
    let reason = format!("{code}: {stage}");
    // A server that refuses to relay for us says so at the recipient.
    let is_relay_denied = || reply.to_ascii_lowercase().contains("relay");
    // "Must issue a STARTTLS command first", "Encryption required for requested authentication mechanism".
    let needs_tls = || code == 538 || ["tls", "encrypt"].iter().any(|word| reply.to_ascii_lowercase().contains(word));
    match (stage, code) {
        (Stage::Hello | Stage::Tls | Stage::SignIn, 400..=499) => MailError::Transient(reason),
        (_, 400..=499) => MailError::Deferred(reason),
        (_, 530 | 538) if needs_tls() => MailError::Misconfigured { setting: "DCA_SMTP_TLS", reason },
        (_, 530) => MailError::Misconfigured { setting: "DCA_SMTP_USER", reason },
        (_, 534 | 535) | (Stage::SignIn, _) => {
            MailError::Misconfigured { setting: "DCA_SMTP_USER, DCA_SMTP_PASSWORD", reason }
        }
        (Stage::Hello, _) => MailError::Misconfigured { setting: "DCA_SMTP_HOST", reason },
        (Stage::Tls, _) => MailError::Misconfigured { setting: "DCA_SMTP_TLS", reason },
        (Stage::Sender, _) => MailError::Misconfigured { setting: "DCA_MAIL_FROM", reason },
        (_, 550 | 554) if is_relay_denied() => {
            MailError::Misconfigured { setting: "DCA_SMTP_HOST, DCA_SMTP_USER", reason }
        }
        (_, 501 | 550..=554) => MailError::Rejected(reason),
        _ => MailError::Transient(reason),
    }
}

/// Whether the TLS handshake failed, rather than the network.
fn is_tls_error(error: &Error) -> bool {
    let mut source = error.source();
    while let Some(error) = source {
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::InvalidData) {
            return true;
        }
        source = error.source();
    }
    false
}
