//! Why an email was not sent.

use std::{fmt, time::Duration};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MailError {
    /// The recipient's domain is busy or paused; try again after this time.
    Wait(Duration),
    /// The recipient's address does not work.
    Rejected(String),
    /// The mail server deferred the email; the domain is paused.
    Deferred(String),
    Transient(String),
    /// The operator must change a setting.
    Misconfigured {
        setting: &'static str,
        reason: String,
    },
}

impl fmt::Display for MailError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wait(wait) => write!(f, "the recipient's domain is busy; retrying in {} s", wait.as_secs()),
            Self::Rejected(reason)
            | Self::Deferred(reason)
            | Self::Transient(reason)
            | Self::Misconfigured { reason, .. } => f.write_str(reason),
        }
    }
}

impl MailError {
    pub fn fix(&self) -> String {
        match self {
            Self::Misconfigured { setting: "DCA_SMTP_TLS", .. } => {
                "The encryption does not fit the server. Try DCA_SMTP_TLS=starttls with DCA_SMTP_PORT=587, or \
                 DCA_SMTP_TLS=tls with DCA_SMTP_PORT=465."
                    .to_owned()
            }
            Self::Misconfigured { setting: "DCA_SMTP_USER", .. } => {
                "The server requires authentication. Set DCA_SMTP_USER, for example no-reply@example.com, and \
                 DCA_SMTP_PASSWORD."
                    .to_owned()
            }
            Self::Misconfigured { setting: "DCA_MAIL_FROM", .. } => {
                "Use a sender that the server accepts, for example DCA_MAIL_FROM='Example <no-reply@example.com>'.".to_owned()
            }
            Self::Misconfigured { setting: setting @ "DCA_SMTP_USER, DCA_SMTP_PASSWORD", .. } => {
                format!("Check {setting}. Some providers require an app password.")
            }
            Self::Misconfigured { setting, .. } => format!("Check {setting}."),
            _ => "Check that the mail server is running, and DCA_SMTP_HOST and DCA_SMTP_PORT, for example smtp.example.com and 587.".to_owned(),
        }
    }
}
