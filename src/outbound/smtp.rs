//! One conversation with the mail server, a connection of its own for each letter: what a server that
//! stalls leaves half said is never continued with the next letter.

use std::{error::Error as _, fmt, io, net::IpAddr, time::Duration};

use anyhow::{Context, Result};
use lettre::{
    Message,
    transport::smtp::{
        Error,
        authentication::{Credentials, DEFAULT_MECHANISMS},
        client::{AsyncSmtpConnection, TlsParameters},
        commands::{Data, Mail, Rcpt},
        extension::{ClientId, Extension, MailBodyParameter, MailParameter},
    },
};
use tokio::time::timeout;

use super::mail::MailError;
use crate::config::{MailSettings, SmtpTls};

/// Until a connection stands.
const CONNECT: Duration = Duration::from_secs(10);

/// Until a command is answered.
const COMMAND: Duration = Duration::from_secs(30);

/// Until a farewell is answered; the letter is on its destination by then.
const QUIT_TIMEOUT: Duration = Duration::from_secs(2);

/// The mail server.
pub(super) struct Server {
    host: String,
    port: u16,
    hello: ClientId,
    tls: Tls,
    credentials: Option<Credentials>,
    command: Duration,
}

enum Tls {
    None,
    Opportunistic(TlsParameters),
    Required(TlsParameters),
    Implicit(TlsParameters),
}

/// Where a conversation ended: it decides whose fault an answer is.
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
            Self::Hello => "the mail server does not greet us",
            Self::Tls => "no encryption with the mail server",
            Self::SignIn => "the mail server does not let us in",
            Self::Sender => "the sender was refused",
            Self::Recipient => "the mailbox was refused",
            Self::Content => "the letter was refused",
        })
    }
}

impl Server {
    /// The server in the settings, if there is one; `hello` is how we introduce ourselves.
    ///
    /// # Errors
    /// When its name fits no certificate.
    pub(super) fn new(settings: &MailSettings, hello: &str) -> Result<Option<Self>> {
        let Some(host) = settings.host.clone() else { return Ok(None) };
        let tls = Tls::new(settings, &host).context("DCA_SMTP_HOST: TLS cannot be prepared")?;
        let password = settings.password.as_ref().map_or("", |password| password.expose()).to_owned();
        let credentials = settings.user.clone().map(|user| Credentials::new(user, password));
        let hello = ClientId::Domain(hello.to_owned());
        Ok(Some(Self { host, port: settings.port, hello, tls, credentials, command: COMMAND }))
    }

    /// The same, with little timeout.
    #[cfg(test)]
    pub(super) fn hurried(self, command: Duration) -> Self {
        Self { command, ..self }
    }

    /// Hands a letter over: `Ok` is the server's word that it will carry it.
    pub(super) async fn send(&self, message: &Message) -> Result<(), MailError> {
        let mut server = self.connect().await?;
        let (envelope, bytes) = (message.envelope(), message.formatted());
        let mut extensions = Vec::new();
        if !envelope.to().iter().chain(envelope.from()).all(|address| AsRef::<str>::as_ref(address).is_ascii()) {
            if !server.server_info().supports_feature(Extension::SmtpUtfEight) {
                return Err(MailError::Rejected("the mail server takes ASCII addresses alone".to_owned()));
            }
            extensions.extend([MailParameter::SmtpUtfEight, MailParameter::Body(MailBodyParameter::EightBitMime)]);
        }
        self.step(Stage::Sender, server.command(Mail::new(envelope.from().cloned(), extensions))).await?;
        for to in envelope.to() {
            self.step(Stage::Recipient, server.command(Rcpt::new(to.clone(), Vec::new()))).await?;
        }
        self.step(Stage::Content, server.command(Data)).await?;
        // Here a server thinks longest; to give up too early is to send it twice.
        let sent = timeout(self.command * 2, server.message(&bytes)).await;
        classify_result(Stage::Content, sent)?;
        self.quit(server).await;
        Ok(())
    }

    /// Says hello, signs in and leaves.
    pub(super) async fn check_connection(&self) -> Result<(), MailError> {
        let server = self.connect().await?;
        self.quit(server).await;
        Ok(())
    }

    async fn quit(&self, mut server: AsyncSmtpConnection) {
        _ = timeout(QUIT_TIMEOUT.min(self.command), server.quit()).await;
    }

    async fn connect(&self) -> Result<AsyncSmtpConnection, MailError> {
        let tls = if let Tls::Implicit(parameters) = &self.tls { Some(parameters.clone()) } else { None };
        let address = (self.host.as_str(), self.port);
        let connected = AsyncSmtpConnection::connect_tokio1(address, Some(CONNECT), &self.hello, tls, None);
        let mut server = self.step(Stage::Hello, connected).await?;
        match &self.tls {
            Tls::Required(parameters) => {
                self.step(Stage::Tls, server.starttls(parameters.clone(), &self.hello)).await?;
            }
            Tls::Opportunistic(parameters) if server.can_starttls() => {
                self.step(Stage::Tls, server.starttls(parameters.clone(), &self.hello)).await?;
            }
            Tls::Opportunistic(_) | Tls::Implicit(_) | Tls::None => {}
        }
        if let Some(credentials) = &self.credentials {
            self.step(Stage::SignIn, server.auth(DEFAULT_MECHANISMS, credentials)).await?;
        }
        Ok(server)
    }

    async fn step<T>(&self, stage: Stage, said: impl Future<Output = Result<T, Error>>) -> Result<T, MailError> {
        classify_result(stage, timeout(self.command, said).await)
    }
}

impl Tls {
    fn new(settings: &MailSettings, host: &str) -> Result<Self, Error> {
        let parameters = || TlsParameters::new(host.to_owned());
        // Whoever could forge a certificate could hide the offer as well: checking it protects nobody here,
        // and would keep out the self-signed servers this mode is for.
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

fn classify_result<T>(
    stage: Stage,
    answer: Result<Result<T, Error>, tokio::time::error::Elapsed>,
) -> Result<T, MailError> {
    match answer {
        Ok(Ok(said)) => Ok(said),
        Ok(Err(error)) => Err(classify(stage, &error)),
        Err(_) => Err(MailError::Transient(format!("{stage}: no answer in time"))),
    }
}

/// What an error means. A server's own rendered stay out: they may quote the address.
fn classify(stage: Stage, error: &Error) -> MailError {
    if let Some(code) = error.status() {
        let rendered = error.source().map(ToString::to_string).unwrap_or_default();
        return classify_reply(stage, code.into(), &rendered);
    }
    let ours = |setting| MailError::Misconfigured { setting, why: format!("{stage}: {error}") };
    match stage {
        // There was no answer to quote: an error of the client tells what the server lacks.
        Stage::Tls if error.is_client() => ours("DCA_SMTP_TLS"),
        Stage::SignIn if error.is_client() => ours("DCA_SMTP_USER, DCA_SMTP_TLS"),
        Stage::Hello | Stage::Tls if is_bad_tls(error) => ours("DCA_SMTP_HOST, DCA_SMTP_PORT, DCA_SMTP_TLS"),
        _ if error.is_response() => MailError::Transient(format!("{stage}: the answer is cut or makes no sense")),
        _ => MailError::Transient(format!("{stage}: {error}")),
    }
}

fn classify_reply(stage: Stage, code: u16, rendered: &str) -> MailError {
    let why = format!("{code}: {stage}");
    // A server that carries nothing for us says so at the recipient, whoever that is.
    let is_about_us = || rendered.to_ascii_lowercase().contains("relay");
    match (stage, code) {
        (Stage::Hello | Stage::Tls | Stage::SignIn, 400..=499) => MailError::Transient(why),
        (_, 400..=499) => MailError::Deferred(why),
        (_, 530 | 534 | 535 | 538) | (Stage::SignIn, _) => {
            MailError::Misconfigured { setting: "DCA_SMTP_USER, DCA_SMTP_PASSWORD", why }
        }
        (Stage::Hello, _) => MailError::Misconfigured { setting: "DCA_SMTP_HOST", why },
        (Stage::Tls, _) => MailError::Misconfigured { setting: "DCA_SMTP_TLS", why },
        (Stage::Sender, _) => MailError::Misconfigured { setting: "DCA_MAIL_FROM", why },
        (_, 550 | 554) if is_about_us() => MailError::Misconfigured { setting: "DCA_SMTP_HOST, DCA_SMTP_USER", why },
        (_, 501 | 550..=554) => MailError::Rejected(why),
        _ => MailError::Transient(why),
    }
}

/// Whether TLS was tried and failed, rather than the network.
fn is_bad_tls(error: &Error) -> bool {
    let mut source = error.source();
    while let Some(error) = source {
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::InvalidData) {
            return true;
        }
        source = error.source();
    }
    false
}
