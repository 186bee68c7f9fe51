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
            Self::Misconfigured { setting, .. } => format!("Check {setting}."),
            _ => "Check DCA_SMTP_HOST and DCA_SMTP_PORT, and that the mail server is running.".to_owned(),
        }
    }
}
