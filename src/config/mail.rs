//! The mail server and the sender.

use std::net::IpAddr;

use super::parse::{Secret, number, one_of, text};
use super::reader::settings;

settings! {
    /// Mail server and sender.
    MailConfig {
        /// Mail server. If unset, emails are written to the folder mail in DCA_DATA_DIR.
        host: Option<String> = "DCA_SMTP_HOST", optional(host), fallback("MAIL_HOST"),
            expects("a host name or IP address without port, for example smtp.example.com");
        /// Port of the mail server.
        port: u16 = "DCA_SMTP_PORT", or("587", number(1..=u16::MAX)), fallback("MAIL_PORT"),
            expects("a port from 1 to 65535, for example 587");
        /// User name for the mail server. If unset, the service does not authenticate.
        user: Option<String> = "DCA_SMTP_USER", optional(text), fallback("MAIL_USER"),
            expects("text without control characters, for example no-reply@example.com");
        /// Password for the mail server.
        password: Option<Secret> = "DCA_SMTP_PASSWORD", optional(|value| text(value).map(Secret)), secret(),
            fallback("MAIL_PASS"), expects("text without control characters, for example an app password");
        /// Encryption of the mail server connection. auto is tls on port 465, opportunistic on loopback, else starttls. opportunistic sends no password without TLS.
        tls: SmtpTls = "DCA_SMTP_TLS", or("auto", one_of(&TLS_MODES)), expects("auto, starttls, tls, opportunistic or none");
        /// Sender of emails.
        from: String = "DCA_MAIL_FROM", or("DCA-Auth <no-reply@localhost>", mailbox), fallback("MAIL_FROM"),
            expects("an address, with or without a name, for example Example <no-reply@example.com>");
    }
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
    /// STARTTLS if the server offers it, without verifying the certificate. Without TLS, no password is sent.
    Opportunistic,
    /// No encryption.
    None,
}

const TLS_MODES: [(&str, SmtpTls); 5] = [
    ("auto", SmtpTls::Auto),
    ("starttls", SmtpTls::StartTls),
    ("tls", SmtpTls::Tls),
    ("opportunistic", SmtpTls::Opportunistic),
    ("none", SmtpTls::None),
];

fn host(value: &str) -> Option<String> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    (value.chars().all(is_allowed) || value.parse::<IpAddr>().is_ok()).then(|| value.to_owned())
}

fn mailbox(value: &str) -> Option<String> {
    value.parse::<lettre::message::Mailbox>().ok().map(|mailbox| mailbox.to_string())
}
