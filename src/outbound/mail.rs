//! Letters on their destination: rendered, headers, and the mail server; without one, a file.
//!
//! ```text
//! Open -> write (rendered, link, headers: the same bytes at every try) -> permit at the domain -> server | file
//! ```
//! A link begins with a setting and never with what a request said of its own host. What goes wrong is last_report
//! without address, token or link.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use chrono::{DateTime, Datelike, Utc};
use dca_core::{
    Core,
    accounts::emails::{EmailData, EmailTemplate},
    limiter::{Bucket, Rate},
};
use lettre::{
    Address, Message,
    message::{
        Mailbox, MultiPart, SinglePart,
        header::{HeaderName, HeaderValue},
    },
};
use tokio::{fs, io::AsyncWriteExt, time::Instant};
use tracing::{error, info};
use url::Host;
use uuid::Uuid;

use super::{
    domains::Domains,
    smtp::Server,
    templates::{Templates, Values, one_line},
};
use crate::Config;

/// The longest attempt to send a letter.
pub const ATTEMPT: Duration = Duration::from_secs(90);

/// How often the operator is last_report that the mail server does not work with us.
const REPORT_INTERVAL: Duration = Duration::from_mins(1);

/// Sends emails; cheap to clone.
#[derive(Clone)]
pub struct Mailer(Arc<Inner>);

struct Inner {
    templates: Templates,
    destination: MailDestination,
    from: Mailbox,
    /// What links begin with, without trailing slash.
    base: String,
    app_name: String,
    domains: Domains,
    last_report: Mutex<Option<Instant>>,
}

/// Where letters go.
enum MailDestination {
    Server(Server),
    Folder(PathBuf),
    Nowhere,
}

/// Why a letter was not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MailError {
    /// Its domain is busy or rests: not our permit for so long.
    Wait(Duration),
    /// The recipient cannot be email to.
    Rejected(String),
    /// The recipient's side says: later. Its domain rests.
    Deferred(String),
    /// It may pass.
    Transient(String),
    /// The operator must act.
    Misconfigured {
        /// The settings to look at.
        setting: &'static str,
        /// What was seen.
        why: String,
    },
}

/// A letter, ready to go.
#[derive(Debug)]
pub(super) struct PreparedEmail {
    id: Uuid,
    /// Of the recipient, in ASCII.
    domain: String,
    pub(super) message: Message,
}

impl Mailer {
    /// Compiles the templates and prepares what the settings name. Without a mail server letters become
    /// files, unless instances share the database: each would have a folder of its own.
    ///
    /// # Errors
    /// A broken template, a sender or server that cannot be used.
    pub fn new(config: &Config, is_shared: bool) -> Result<Self> {
        let from: Mailbox = config.mail.from.parse().context("DCA_MAIL_FROM is no sender")?;
        let email = in_ascii(&from.email).context("DCA_MAIL_FROM: its domain is none")?;
        let destination = match Server::new(&config.mail, email.domain())? {
            Some(server) => MailDestination::Server(server),
            None if is_shared => MailDestination::Nowhere,
            None => MailDestination::Folder(config.data_dir.join("mail")),
        };
        Ok(Self(Arc::new(Inner {
            templates: Templates::compile()?,
            destination,
            from: Mailbox::new(from.name, email),
            base: config.frontend_url.clone().unwrap_or_else(|| config.public_url.clone()),
            app_name: config.app_name.clone(),
            domains: Domains::new(Rate::per_minute(config.emails_per_minute).every),
            last_report: Mutex::default(),
        })))
    }

    /// Whether letters go anywhere.
    #[must_use]
    pub fn can_send(&self) -> bool {
        !matches!(self.0.destination, MailDestination::Nowhere)
    }

    /// What is not as it is with a mail server, for the start line.
    #[must_use]
    pub fn disabled_reason(&self) -> Option<String> {
        match &self.0.destination {
            MailDestination::Server(_) => None,
            MailDestination::Folder(folder) => {
                Some(format!("mail: no DCA_SMTP_HOST, letters become files in {}", folder.display()))
            }
            MailDestination::Nowhere => Some("mail: no DCA_SMTP_HOST, letters wait".to_owned()),
        }
    }

    /// Sends one letter: the delivery `id`, email at `at`.
    ///
    /// # Errors
    /// Why it was not sent.
    pub async fn send(
        &self,
        core: &Core,
        id: Uuid,
        at: DateTime<Utc>,
        template: EmailTemplate,
        data: &EmailData,
    ) -> Result<(), MailError> {
        let email = self.prepare(id, at, template, data)?;
        match &self.0.destination {
            MailDestination::Server(server) => self.hand_over(core, server, &email).await,
            MailDestination::Folder(folder) => file(folder, &email).await,
            MailDestination::Nowhere => Err(MailError::Wait(REPORT_INTERVAL)),
        }
    }

    /// Whether the mail server greets us and lets us in; `None` without one.
    pub async fn check_connection(&self) -> Option<Result<(), MailError>> {
        let MailDestination::Server(server) = &self.0.destination else { return None };
        Some(server.check_connection().await)
    }

    async fn hand_over(&self, core: &Core, server: &Server, email: &PreparedEmail) -> Result<(), MailError> {
        let domains = &self.0.domains;
        let permit = domains.acquire(&email.domain, core.clock.now()).map_err(MailError::Wait)?;
        if let Err(wait) = core.limiter.check(Bucket::Mail, &email.domain).await {
            return Err(MailError::Wait(domains.queue(&permit, wait, core.clock.now())));
        }
        let answer = server.send(&email.message).await;
        match &answer {
            Err(MailError::Deferred(_)) => domains.pause(&permit, core.clock.now()),
            Err(failure @ MailError::Misconfigured { .. }) => self.report(failure),
            _ => {}
        }
        answer
    }

    /// Tells the operator, not for every letter in the queue.
    fn report(&self, failure: &MailError) {
        let mut last_report = self.0.last_report.lock().unwrap_or_else(PoisonError::into_inner);
        if last_report.is_none_or(|last_report| last_report.elapsed() >= REPORT_INTERVAL) {
            *last_report = Some(Instant::now());
            error!("{failure}. Letters are kept and tried again. {}", failure.fix());
        }
    }

    /// The letter, the same at every try: a copy that arrives twice is known by its id.
    pub(super) fn prepare(
        &self,
        id: Uuid,
        at: DateTime<Utc>,
        template: EmailTemplate,
        data: &EmailData,
    ) -> Result<PreparedEmail, MailError> {
        let refused = || MailError::Rejected("no address".to_owned());
        let broken = |why: String| MailError::Transient(format!("the letter {template} cannot be email: {why}"));
        let it = &self.0;
        let to = in_ascii(&data.to.parse().map_err(|_| refused())?).ok_or_else(refused)?;
        let domain = to.domain().to_owned();
        let values = Values {
            name: one_line(data.name.as_deref().unwrap_or_default()),
            app_name: &it.app_name,
            url: link(&it.base, data.link.as_ref()),
            year: at.year(),
        };
        let rendered =
            it.templates.render(template, data.locale, &values).map_err(|error| broken(format!("{error:#}")))?;
        let message = Message::builder()
            .from(it.from.clone())
            .to(Mailbox::new(None, to))
            .subject(rendered.subject)
            .date(at.into())
            .message_id(Some(format!("<{id}@{}>", it.from.email.domain())))
            .raw_header(HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".to_owned()))
            .multipart(
                MultiPart::alternative()
                    .boundary(id.simple().to_string())
                    .singlepart(SinglePart::plain(rendered.text))
                    .singlepart(SinglePart::html(rendered.html)),
            )
            .map_err(|error| broken(error.to_string()))?;
        Ok(PreparedEmail { id, domain, message })
    }
}

impl fmt::Display for MailError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wait(wait) => write!(f, "not our permit for {} s", wait.as_secs()),
            Self::Rejected(why) | Self::Deferred(why) | Self::Transient(why) | Self::Misconfigured { why, .. } => {
                f.write_str(why)
            }
        }
    }
}

impl MailError {
    /// How to mend it.
    #[must_use]
    pub fn fix(&self) -> String {
        match self {
            Self::Misconfigured { setting, .. } => format!("Look at {setting}."),
            _ => "Check DCA_SMTP_HOST and DCA_SMTP_PORT, and that the server runs.".to_owned(),
        }
    }
}

/// Where a letter leads.
fn link(base: &str, link: Option<&(&'static str, String)>) -> String {
    link.map_or_else(|| base.to_owned(), |(path, token)| format!("{base}{path}?token={token}"))
}

/// The address with its domain in ASCII, as every mail server understands it.
fn in_ascii(address: &Address) -> Option<Address> {
    let Host::Domain(domain) = Host::parse(address.domain()).ok()? else { return None };
    Address::new(address.user(), domain).ok()
}

/// Writes a letter into the folder, which only its owner can read; the name appears with the whole letter.
async fn file(folder: &Path, email: &PreparedEmail) -> Result<(), MailError> {
    let path = folder.join(format!("{}.eml", email.id));
    let unfinished = path.with_extension("tmp");
    let write = async {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).await?;
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished).await?;
        file.write_all(&email.message.formatted()).await?;
        file.sync_all().await?;
        fs::rename(&unfinished, &path).await
    };
    write
        .await
        .map_err(|error| MailError::Transient(format!("the letter cannot be email into DCA_DATA_DIR: {error}")))?;
    info!(file = %path.display(), "a letter became a file");
    Ok(())
}
