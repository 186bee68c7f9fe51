//! Letters on their way: words, headers, and the mail server; without one, a file.
//!
//! ```text
//! Open -> write (words, link, headers: the same bytes at every try) -> turn at the domain -> server | file
//! ```
//! A link begins with a setting and never with what a request said of its own host. What goes wrong is told
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
    accounts::letters::{Letter, Open},
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

/// How often the operator is told that the mail server does not work with us.
const TELL: Duration = Duration::from_mins(1);

/// Sends letters; cheap to clone.
#[derive(Clone)]
pub struct Mailer(Arc<Inner>);

struct Inner {
    templates: Templates,
    way: Way,
    from: Mailbox,
    /// What links begin with, without trailing slash.
    base: String,
    app_name: String,
    domains: Domains,
    told: Mutex<Option<Instant>>,
}

/// Where letters go.
enum Way {
    Server(Server),
    Folder(PathBuf),
    Nowhere,
}

/// Why a letter was not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Its domain is busy or rests: not our turn for so long.
    Wait(Duration),
    /// The recipient cannot be written to.
    Refused(String),
    /// The recipient's side says: later. Its domain rests.
    NotNow(String),
    /// It may pass.
    Passing(String),
    /// The operator must act.
    Ours {
        /// The settings to look at.
        setting: &'static str,
        /// What was seen.
        why: String,
    },
}

/// A letter, ready to go.
#[derive(Debug)]
pub(super) struct Written {
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
        let way = match Server::new(&config.mail, email.domain())? {
            Some(server) => Way::Server(server),
            None if is_shared => Way::Nowhere,
            None => Way::Folder(config.data_dir.join("mail")),
        };
        Ok(Self(Arc::new(Inner {
            templates: Templates::compile()?,
            way,
            from: Mailbox::new(from.name, email),
            base: config.frontend_url.clone().unwrap_or_else(|| config.public_url.clone()),
            app_name: config.app_name.clone(),
            domains: Domains::new(Rate::per_minute(config.mails_per_minute).every),
            told: Mutex::default(),
        })))
    }

    /// Whether letters go anywhere.
    #[must_use]
    pub fn is_able(&self) -> bool {
        !matches!(self.0.way, Way::Nowhere)
    }

    /// What is not as it is with a mail server, for the start line.
    #[must_use]
    pub fn off(&self) -> Option<String> {
        match &self.0.way {
            Way::Server(_) => None,
            Way::Folder(folder) => {
                Some(format!("mail: no DCA_SMTP_HOST, letters become files in {}", folder.display()))
            }
            Way::Nowhere => Some("mail: no DCA_SMTP_HOST, letters wait".to_owned()),
        }
    }

    /// Sends one letter: the delivery `id`, written at `at`.
    ///
    /// # Errors
    /// Why it was not sent.
    pub async fn send(
        &self,
        core: &Core,
        id: Uuid,
        at: DateTime<Utc>,
        letter: Letter,
        open: &Open,
    ) -> Result<(), Failure> {
        let written = self.write(id, at, letter, open)?;
        match &self.0.way {
            Way::Server(server) => self.hand_over(core, server, &written).await,
            Way::Folder(folder) => file(folder, &written).await,
            Way::Nowhere => Err(Failure::Wait(TELL)),
        }
    }

    /// Whether the mail server greets us and lets us in; `None` without one.
    pub async fn greet(&self) -> Option<Result<(), Failure>> {
        let Way::Server(server) = &self.0.way else { return None };
        Some(server.greet().await)
    }

    async fn hand_over(&self, core: &Core, server: &Server, written: &Written) -> Result<(), Failure> {
        let domains = &self.0.domains;
        let turn = domains.enter(&written.domain, core.clock.now()).map_err(Failure::Wait)?;
        if let Err(wait) = core.limiter.check(Bucket::Mail, &written.domain).await {
            return Err(Failure::Wait(domains.queue(&turn, wait, core.clock.now())));
        }
        let answer = server.send(&written.message).await;
        match &answer {
            Err(Failure::NotNow(_)) => domains.rest(&turn, core.clock.now()),
            Err(failure @ Failure::Ours { .. }) => self.tell(failure),
            _ => {}
        }
        answer
    }

    /// Tells the operator, not for every letter in the queue.
    fn tell(&self, failure: &Failure) {
        let mut told = self.0.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| told.elapsed() >= TELL) {
            *told = Some(Instant::now());
            error!("{failure}. Letters are kept and tried again. {}", failure.fix());
        }
    }

    /// The letter, the same at every try: a copy that arrives twice is known by its id.
    pub(super) fn write(&self, id: Uuid, at: DateTime<Utc>, letter: Letter, open: &Open) -> Result<Written, Failure> {
        let refused = || Failure::Refused("no address".to_owned());
        let broken = |why: String| Failure::Passing(format!("the letter {letter} cannot be written: {why}"));
        let it = &self.0;
        let to = in_ascii(&open.to.parse().map_err(|_| refused())?).ok_or_else(refused)?;
        let domain = to.domain().to_owned();
        let values = Values {
            name: one_line(open.name.as_deref().unwrap_or_default()),
            app_name: &it.app_name,
            url: link(&it.base, open.link.as_ref()),
            year: at.year(),
        };
        let words = it.templates.render(letter, open.locale, &values).map_err(|error| broken(format!("{error:#}")))?;
        let message = Message::builder()
            .from(it.from.clone())
            .to(Mailbox::new(None, to))
            .subject(words.subject)
            .date(at.into())
            .message_id(Some(format!("<{id}@{}>", it.from.email.domain())))
            .raw_header(HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".to_owned()))
            .multipart(
                MultiPart::alternative()
                    .boundary(id.simple().to_string())
                    .singlepart(SinglePart::plain(words.text))
                    .singlepart(SinglePart::html(words.html)),
            )
            .map_err(|error| broken(error.to_string()))?;
        Ok(Written { id, domain, message })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wait(wait) => write!(f, "not our turn for {} s", wait.as_secs()),
            Self::Refused(why) | Self::NotNow(why) | Self::Passing(why) | Self::Ours { why, .. } => f.write_str(why),
        }
    }
}

impl Failure {
    /// How to mend it.
    #[must_use]
    pub fn fix(&self) -> String {
        match self {
            Self::Ours { setting, .. } => format!("Look at {setting}."),
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
async fn file(folder: &Path, written: &Written) -> Result<(), Failure> {
    let path = folder.join(format!("{}.eml", written.id));
    let unfinished = path.with_extension("tmp");
    let write = async {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).await?;
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished).await?;
        file.write_all(&written.message.formatted()).await?;
        file.sync_all().await?;
        fs::rename(&unfinished, &path).await
    };
    write
        .await
        .map_err(|error| Failure::Passing(format!("the letter cannot be written into DCA_DATA_DIR: {error}")))?;
    info!(file = %path.display(), "a letter became a file");
    Ok(())
}
