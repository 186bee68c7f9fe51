//! Sends emails through the mail server or, without one, writes them to files.
//!
//! ```text
//! EmailData -> prepare (text, link, headers: identical for every attempt) -> permit for the domain -> server | file
//! ```
//! Links start with a configured URL, never with the `Host` of a request. Error messages contain no address, token
//! or link.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use chrono::{DateTime, Datelike, Utc};
use dca_core::limiter::{Bucket, Rate};
use dca_core::{Core, accounts::emails::EmailData, log_limit::LogLimit, outbox::EmailTemplate, users::Provider};
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart, SinglePart};
use lettre::{Address, Message};
use tokio::{fs, io::AsyncWriteExt};
use tracing::{error, info};
use url::Host;
use uuid::Uuid;

use super::templates::{EmailText, one_line};
use super::{domains::Domains, mail_error::MailError, smtp::Server};
use crate::{config::Config, wording};

pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(90);

/// How long an email waits if no mail server is configured.
const RETRY_INTERVAL: Duration = Duration::from_mins(1);

/// Sends emails. Cheap to clone.
#[derive(Clone)]
pub struct Mailer(Arc<Inner>);

struct Inner {
    destination: MailDestination,
    from: Mailbox,
    /// The base URL of links, without trailing slash.
    base: String,
    app_name: String,
    domains: Domains,
    reports: LogLimit,
}

enum MailDestination {
    Server(Server),
    Folder(PathBuf),
    /// Emails stay queued: instances that share a database would each write to a folder of their own.
    Disabled,
}

#[derive(Debug)]
pub(super) struct PreparedEmail {
    id: Uuid,
    /// The recipient's domain, in ASCII.
    domain: String,
    pub(super) message: Message,
}

impl Mailer {
    /// Prepares the configured mail server.
    pub fn new(config: &Config) -> Result<Self> {
        let from: Mailbox = config.mail.from.parse().context("DCA_MAIL_FROM is not a valid sender")?;
        let email = to_ascii(&from.email).context("DCA_MAIL_FROM does not have a valid domain")?;
        let destination = match Server::new(config, email.domain())? {
            Some(server) => MailDestination::Server(server),
            None if config.storage.sqlite_file().is_none() => MailDestination::Disabled,
            None => MailDestination::Folder(config.storage.data_dir.join("mail")),
        };
        Ok(Self(Arc::new(Inner {
            destination,
            from: Mailbox::new(from.name, email),
            base: config.accounts.frontend_url.clone().unwrap_or_else(|| config.http.public_url.clone()),
            app_name: config.accounts.app_name.clone(),
            domains: Domains::new(Rate::per_minute(config.limits.emails_per_minute).every),
            reports: LogLimit::default(),
        })))
    }

    pub fn can_send(&self) -> bool {
        !matches!(self.0.destination, MailDestination::Disabled)
    }

    /// What happens to emails without a mail server, for the start line.
    pub fn disabled_reason(&self) -> Option<String> {
        match &self.0.destination {
            MailDestination::Server(_) => None,
            MailDestination::Folder(folder) => {
                Some(format!("mail: no DCA_SMTP_HOST, emails are written to {}", folder.display()))
            }
            MailDestination::Disabled => Some("mail: no DCA_SMTP_HOST, emails stay queued".to_owned()),
        }
    }

    /// Sends the email of delivery `id`, dated `created_at`.
    pub async fn send(
        &self,
        core: &Core,
        id: Uuid,
        created_at: DateTime<Utc>,
        template: EmailTemplate,
        data: &EmailData,
    ) -> Result<(), MailError> {
        let email = self.prepare(id, created_at, template, data)?;
        match &self.0.destination {
            MailDestination::Server(server) => self.send_to_server(core, server, &email).await,
            MailDestination::Folder(folder) => write_file(folder, &email).await,
            MailDestination::Disabled => Err(MailError::Wait(RETRY_INTERVAL)),
        }
    }

    /// Connects and authenticates to the mail server and names the sender; `None` without a server.
    pub async fn check_connection(&self) -> Option<Result<(), MailError>> {
        let MailDestination::Server(server) = &self.0.destination else { return None };
        Some(server.check_connection(&self.0.from.email).await)
    }

    async fn send_to_server(&self, core: &Core, server: &Server, email: &PreparedEmail) -> Result<(), MailError> {
        let domains = &self.0.domains;
        let permit = domains.acquire(&email.domain, core.clock.now()).map_err(MailError::Wait)?;
        if let Err(wait) = core.limiter.check(Bucket::Email, &email.domain).await {
            return Err(MailError::Wait(domains.queue(&permit, wait, core.clock.now())));
        }
        let result = server.send(&email.message).await;
        match &result {
            Err(MailError::Deferred(_)) => domains.pause(&permit, core.clock.now()),
            Err(error @ MailError::Misconfigured { .. }) if self.0.reports.allows() => {
                error!("{error}. Emails stay queued and are retried. {}", error.fix());
            }
            _ => {}
        }
        result
    }

    /// Prepares the email, identical for every attempt, so that duplicates have the same `Message-ID`.
    pub(super) fn prepare(
        &self,
        id: Uuid,
        created_at: DateTime<Utc>,
        template: EmailTemplate,
        data: &EmailData,
    ) -> Result<PreparedEmail, MailError> {
        let invalid_address = || MailError::Rejected("invalid recipient address".to_owned());
        let render_error = |error: String| MailError::Transient(format!("cannot render the email {template}: {error}"));
        let inner = &self.0;
        let to = to_ascii(&data.to.parse().map_err(|_| invalid_address())?).ok_or_else(invalid_address)?;
        let domain = to.domain().to_owned();
        let text = EmailText {
            template,
            locale: data.locale,
            name: &one_line(data.name.as_deref().unwrap_or_default()),
            app_name: &inner.app_name,
            linked: &linked(&data.linked),
            url: &link(&inner.base, data.link.as_ref()),
        };
        let rendered = text.render_email(created_at.year()).map_err(|error| render_error(error.to_string()))?;
        let message = Message::builder()
            .from(inner.from.clone())
            .to(Mailbox::new(None, to))
            .subject(rendered.subject)
            .date(created_at.into())
            .message_id(Some(format!("<{id}@{}>", inner.from.email.domain())))
            .raw_header(HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".to_owned()))
            .multipart(
                MultiPart::alternative()
                    .boundary(id.simple().to_string())
                    .singlepart(SinglePart::plain(rendered.text))
                    .singlepart(SinglePart::html(rendered.html)),
            )
            .map_err(|error| render_error(error.to_string()))?;
        Ok(PreparedEmail { id, domain, message })
    }
}

fn link(base: &str, link: Option<&(&'static str, String)>) -> String {
    link.map_or_else(|| base.to_owned(), |(path, token)| format!("{base}{path}?token={token}"))
}

/// The linked accounts as text, for example `Discord (ana), Google`.
fn linked(accounts: &[(Provider, Option<String>)]) -> String {
    let account = |(provider, name): &(Provider, Option<String>)| match name {
        Some(name) => format!("{} ({})", wording::provider(*provider), one_line(name)),
        None => wording::provider(*provider).to_owned(),
    };
    accounts.iter().map(account).collect::<Vec<_>>().join(", ")
}

/// Converts the domain to ASCII (Punycode), which every mail server supports.
fn to_ascii(address: &Address) -> Option<Address> {
    let Host::Domain(domain) = Host::parse(address.domain()).ok()? else { return None };
    Address::new(address.user(), domain).ok()
}

/// Writes an email to the directory, readable by its owner only. The file is renamed once it is complete.
async fn write_file(folder: &Path, email: &PreparedEmail) -> Result<(), MailError> {
    let path = folder.join(format!("{}.eml", email.id));
    let temporary = path.with_extension("tmp");
    let write = async {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).await?;
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary).await?;
        file.write_all(&email.message.formatted()).await?;
        file.sync_all().await?;
        fs::rename(&temporary, &path).await
    };
    write.await.map_err(|error| MailError::Transient(format!("cannot write the email to DCA_DATA_DIR: {error}")))?;
    info!(file = %path.display(), "wrote an email to a file; set DCA_SMTP_HOST to send emails");
    Ok(())
}
