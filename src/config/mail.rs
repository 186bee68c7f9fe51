//! The mail server and the sender.

use std::net::IpAddr;

use super::{
    parse::{number, text},
    reader::Reader,
    secret::Secret,
    setting::setting,
};

/// Mail server and sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailConfig {
    /// Host name or IP address; if `None`, emails are written to files.
    pub host: Option<String>,
    /// Port.
    pub port: u16,
    /// User name.
    pub user: Option<String>,
    /// Password.
    pub password: Option<Secret>,
    /// Encryption of the connection.
    pub tls: SmtpTls,
    /// Sender: an address, or `Name <address>`.
    pub from: String,
}

/// Encryption of the connection to the mail server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SmtpTls {
    /// `Tls` on port 465, `Opportunistic` on loopback, otherwise `StartTls`.
    Auto,
    /// STARTTLS; fails if the server does not offer it.
    StartTls,
    /// Implicit TLS.
    Tls,
    /// STARTTLS if the server offers it, without verifying the certificate.
    Opportunistic,
    /// No encryption.
    None,
}

const TLS_ABOUT: &str =
    "Encryption of the mail server connection. auto is tls on port 465, opportunistic on loopback, else starttls.";
const TEXT: &str = "text without control characters";

impl MailConfig {
    pub(super) fn read(r: &mut Reader) -> Self {
        Self {
            host: setting("DCA_SMTP_HOST")
                .about("Mail server. If unset, emails are written to DCA_DATA_DIR/mail.")
                .expects("a host name or IP address without port, for example smtp.example.com")
                .fallback("MAIL_HOST")
                .optional(r, host),
            port: setting("DCA_SMTP_PORT")
                .about("Port of the mail server.")
                .expects("a port from 1 to 65535, for example 587")
                .default("587")
                .fallback("MAIL_PORT")
                .read(r, number(1..=u16::MAX)),
            user: setting("DCA_SMTP_USER")
                .about("User name for the mail server. If unset, the service does not authenticate.")
                .expects(TEXT)
                .fallback("MAIL_USER")
                .optional(r, text),
            password: setting("DCA_SMTP_PASSWORD")
                .about("Password for the mail server.")
                .expects(TEXT)
                .secret()
                .fallback("MAIL_PASS")
                .optional(r, |value| text(value).map(Secret)),
            tls: setting("DCA_SMTP_TLS")
                .about(TLS_ABOUT)
                .expects("auto, starttls, tls, opportunistic or none")
                .default("auto")
                .read(r, smtp_tls),
            from: setting("DCA_MAIL_FROM")
                .about("Sender of emails.")
                .expects("an address, with or without a name, for example Example <no-reply@example.com>")
                .default("DCA-Auth <no-reply@localhost>")
                .fallback("MAIL_FROM")
                .read(r, mailbox),
        }
    }
}

fn host(value: &str) -> Option<String> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    (value.chars().all(is_allowed) || value.parse::<IpAddr>().is_ok()).then(|| value.to_owned())
}

fn smtp_tls(value: &str) -> Option<SmtpTls> {
    match value {
        "auto" => Some(SmtpTls::Auto),
        "starttls" => Some(SmtpTls::StartTls),
        "tls" => Some(SmtpTls::Tls),
        "opportunistic" => Some(SmtpTls::Opportunistic),
        "none" => Some(SmtpTls::None),
        _ => None,
    }
}

fn mailbox(value: &str) -> Option<String> {
    value.parse::<lettre::message::Mailbox>().ok().map(|mailbox| mailbox.to_string())
}
