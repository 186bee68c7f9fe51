//! Rendered emails, and how replies of a scripted mail server are classified.

use std::io::{Read, Write};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use dca_core::users::{Locale, Provider};
use dca_core::{accounts::emails::EmailData, outbox::EmailTemplate};
use lettre::Message;
use rustls::{ServerConfig, ServerConnection, StreamOwned, crypto::ring, pki_types::PrivatePkcs8KeyDer};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use uuid::Uuid;

use super::mail::Mailer;
use super::{domains::Domains, mail_error::MailError, smtp::Server};
use crate::config::Config;

fn config(settings: &[(&str, &str)]) -> Config {
    let mut env = BTreeMap::from([
        ("DCA_PUBLIC_URL", "https://auth.example"),
        ("DCA_FRONTEND_URL", "https://app.example/shop"),
        ("DCA_MAIL_FROM", "Makers <no-reply@makers.example>"),
        ("DCA_APP_NAME", "Makers & Co"),
    ]);
    env.extend(settings.iter().copied());
    Config::load(env.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()).unwrap()
}

fn mailer(settings: &[(&str, &str)]) -> Mailer {
    Mailer::new(&config(settings)).unwrap()
}

fn email_data(template: EmailTemplate, locale: Locale) -> EmailData {
    let token = "0123456789abcdef".repeat(4);
    let link = match template {
        EmailTemplate::VerifyEmail | EmailTemplate::ChangeEmail => Some(("/verify", token)),
        EmailTemplate::ResetPassword => Some(("/reset-password", token)),
        _ => None,
    };
    let linked = vec![(Provider::Discord, Some("ana".to_owned())), (Provider::Google, None)];
    EmailData { to: "ana@example.com".to_owned(), name: Some("Ana".to_owned()), locale, linked, link }
}

fn start() -> DateTime<Utc> {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn email(mailer: &Mailer, template: EmailTemplate, data: &EmailData) -> Message {
    mailer.prepare(Uuid::from_u128(7), start(), template, data).expect("the email can be prepared").message
}

fn text(message: &Message) -> String {
    String::from_utf8(message.formatted()).unwrap()
}

/// Decodes quoted-printable text.
fn decode(text: &str) -> String {
    let joined = text.replace("=\r\n", "");
    let mut bytes = Vec::new();
    let mut rest = joined.as_bytes();
    while let [first, after @ ..] = rest {
        let code = after.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match code.filter(|_| *first == b'=') {
            Some(byte) => (bytes.push(byte), rest = &after[2..]).1,
            None => (bytes.push(*first), rest = after).1,
        }
    }
    String::from_utf8(bytes).unwrap()
}

/// The decoded text and HTML parts of an email.
fn parts(message: &Message) -> (String, String) {
    let text = text(message);
    let boundary = format!("--{}", Uuid::from_u128(7).simple());
    let parts: Vec<_> = text.split(&boundary).collect();
    let body = |part: &str| decode(part.split_once("\r\n\r\n").unwrap().1.trim_end()).replace("\r\n", "\n");
    (body(parts[1]), body(parts[2]))
}

#[test]
fn emails_are_rendered_in_every_language() {
    let mailer = mailer(&[]);
    for locale in Locale::ALL {
        let emails = EmailTemplate::ALL.iter().map(|template| {
            let message = email(&mailer, *template, &email_data(*template, *locale));
            let subject = message.headers().get::<lettre::message::header::Subject>().unwrap();
            format!("{template}: {}\n\n{}", subject.as_ref(), parts(&message).0)
        });
        insta::assert_snapshot!(format!("emails_{locale}"), emails.collect::<Vec<_>>().join("\n\n\n"));
    }
}

#[test]
fn html_part_has_a_button_and_escapes_values() {
    let page =
        parts(&email(&mailer(&[]), EmailTemplate::VerifyEmail, &email_data(EmailTemplate::VerifyEmail, Locale::Es))).1;
    insta::assert_snapshot!(page);
}

#[test]
fn links_start_with_the_configured_url() {
    let reset = email_data(EmailTemplate::ResetPassword, Locale::En);
    let link = |settings: &[(&str, &str)]| {
        let text = parts(&email(&mailer(settings), EmailTemplate::ResetPassword, &reset)).0;
        text.lines().find(|line| line.starts_with("http")).unwrap().to_owned()
    };
    let token = "0123456789abcdef".repeat(4);
    assert_eq!(link(&[]), format!("https://app.example/shop/reset-password?token={token}"));
    assert_eq!(
        link(&[("DCA_FRONTEND_URL", "")]),
        format!("https://auth.example/reset-password?token={token}"),
        "the built-in pages"
    );
}

#[test]
fn headers_are_the_same_for_every_attempt() {
    let mailer = mailer(&[]);
    let template = EmailTemplate::WelcomeEmail;
    let message = text(&email(&mailer, template, &email_data(template, Locale::Es)));
    assert!(message.is_ascii(), "no SMTP extension is needed");
    for line in [
        "From: Makers <no-reply@makers.example>",
        "To: ana@example.com",
        "Date: Sun, 01 Mar 2026 12:00:00 +0000",
        "Message-ID: <00000000-0000-0000-0000-000000000007@makers.example>",
        "Auto-Submitted: auto-generated",
    ] {
        assert!(message.lines().any(|known| known == line), "{line} in {message}");
    }
    assert_eq!(message, text(&email(&mailer, template, &email_data(template, Locale::Es))));
}

#[test]
fn user_name_cannot_add_headers_paragraphs_or_markup() {
    let mailer = mailer(&[]);
    for name in ["a\r\nBcc: x@example.com", "a\n\nhttps", "<b>a</b>\r\n.\r\n", "{{url}}{{#if}}", "\u{0}\u{85}a"] {
        let data = EmailData { name: Some(name.to_owned()), ..email_data(EmailTemplate::VerifyEmail, Locale::En) };
        let message = email(&mailer, EmailTemplate::VerifyEmail, &data);
        let head = text(&message).split_once("\r\n\r\n").unwrap().0.to_owned();
        assert!(!head.to_lowercase().contains("bcc"), "{head}");
        assert_eq!(message.envelope().to().len(), 1);
        let (rendered, page) = parts(&message);
        assert_eq!(rendered.split("\n\n").count(), 4, "{rendered}");
        assert!(!page.contains("<b>"), "{page}");
        assert_eq!(page.matches("https://app.example").count(), 2, "names are not rendered as templates: {page}");
    }
    for to in ["a@example.com\r\nBcc: x@example.com", "a b@example.com", "", "a@", "a@[127.0.0.1]"] {
        let data = EmailData { to: to.to_owned(), ..email_data(EmailTemplate::VerifyEmail, Locale::En) };
        let result = mailer.prepare(Uuid::nil(), start(), EmailTemplate::VerifyEmail, &data);
        assert_eq!(result.err(), Some(MailError::Rejected("invalid recipient address".to_owned())), "{to}");
    }
}

#[test]
fn internationalized_domain_is_converted_to_ascii() {
    let data = EmailData { to: "ana@mañana.example".to_owned(), ..email_data(EmailTemplate::VerifyEmail, Locale::Es) };
    let message = email(&mailer(&[]), EmailTemplate::VerifyEmail, &data);
    assert_eq!(message.envelope().to()[0].to_string(), "ana@xn--maana-pta.example");
}

#[test]
fn domain_limits_concurrent_emails_and_queues_the_rest() {
    let (domains, now) = (Domains::new(Duration::from_secs(1)), start());
    let permits = [0, 1].map(|_| domains.acquire("a.example", now).ok().unwrap());
    let waits = [0, 1, 2].map(|_| domains.acquire("a.example", now).err().unwrap().as_secs());
    assert_eq!(waits, [1, 2, 3], "each waits behind the one before it");
    assert!(domains.acquire("b.example", now).is_ok(), "another domain is not limited");
    domains.pause(&permits[0], now);
    drop(permits);
    assert!(domains.acquire("a.example", now).err().unwrap() > Duration::from_secs(30), "the domain is paused");
    assert!(domains.acquire("a.example", now + Duration::from_secs(30)).is_ok());
}

/// A server that sends the first line at once, and each other line after a command.
async fn server(script: &'static [&'static str]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let (read, mut write) = socket.into_split();
        let mut commands = BufReader::new(read).lines();
        let mut in_message = false;
        for reply in script {
            write.write_all(format!("{reply}\r\n").as_bytes()).await.unwrap();
            loop {
                let Ok(Some(line)) = commands.next_line().await else { return };
                if !in_message || line == "." {
                    in_message = line == "DATA";
                    break;
                }
            }
        }
        // After the script, the server no longer responds.
        std::future::pending::<()>().await;
    });
    port
}

async fn send(settings: &[(&str, &str)], port: u16) -> Result<(), MailError> {
    let port = port.to_string();
    let server_settings = [("DCA_SMTP_HOST", "127.0.0.1"), ("DCA_SMTP_PORT", port.as_str())];
    let config = config(&[&server_settings, settings].concat());
    let server =
        Server::new(&config, "makers.example").unwrap().unwrap().with_command_timeout(Duration::from_millis(200));
    let message = email(&mailer(&[]), EmailTemplate::VerifyEmail, &email_data(EmailTemplate::VerifyEmail, Locale::En));
    server.send(&message).await
}

fn describe(result: Result<(), MailError>) -> String {
    match result {
        Ok(()) => "sent".to_owned(),
        Err(MailError::Misconfigured { setting, reason }) => format!("misconfigured, {setting}: {reason}"),
        Err(MailError::Rejected(why)) => format!("rejected: {why}"),
        Err(MailError::Deferred(why)) => format!("deferred: {why}"),
        Err(MailError::Transient(why)) => format!("transient: {why}"),
        Err(MailError::Wait(wait)) => format!("wait {wait:?}"),
    }
}

/// Settings, the server's replies, and the expected result.
type Case = (&'static [(&'static str, &'static str)], &'static [&'static str], &'static str);

#[tokio::test]
async fn smtp_errors_are_classified_by_stage_and_code() {
    const USER: (&str, &str) = ("DCA_SMTP_USER", "makers");
    const HELLO: &str = "250-sink\r\n250 AUTH PLAIN";
    let cases: &[Case] = &[
        (&[], &["220 hi", "250 sink", "250 ok", "250 ok", "354 go", "250 ok", "221 bye"], "sent"),
        // A missing reply to QUIT does not matter.
        (&[], &["220 hi", "250 sink", "250 ok", "250 ok", "354 go", "250 ok"], "sent"),
        (&[USER], &["220 hi", HELLO, "235 ok", "250 ok", "250 ok", "354 go", "250 ok"], "sent"),
        (
            &[USER],
            &["220 hi", HELLO, "535 5.7.8 no"],
            "misconfigured, DCA_SMTP_USER, DCA_SMTP_PASSWORD: 535: authentication with the mail server failed",
        ),
        (
            &[USER],
            &["220 hi", "250 sink"],
            "misconfigured, DCA_SMTP_USER, DCA_SMTP_TLS: authentication with the mail server failed: internal client \
             error: No compatible authentication mechanism was found",
        ),
        (
            &[("DCA_SMTP_TLS", "starttls")],
            &["220 hi", "250 sink"],
            "misconfigured, DCA_SMTP_TLS: TLS negotiation with the mail server failed: internal client error: STARTTLS \
             is not supported on this server",
        ),
        (
            &[("DCA_SMTP_TLS", "tls")],
            &["220 hi", "250 sink"],
            "misconfigured, DCA_SMTP_HOST, DCA_SMTP_PORT, DCA_SMTP_TLS, DCA_TLS_CA_FILE: connection to the mail server failed: \
             Connection error: Connection error: received corrupt message of type InvalidContentType",
        ),
        // On loopback, `auto` may send the password without TLS.
        (
            &[USER, ("DCA_SMTP_TLS", "auto")],
            &["220 hi", HELLO, "235 ok", "250 ok", "250 ok", "354 go", "250 ok"],
            "sent",
        ),
        (
            &[USER, ("DCA_SMTP_TLS", "opportunistic")],
            &["220 hi", HELLO, "235 ok"],
            "misconfigured, DCA_SMTP_TLS, DCA_SMTP_USER: the mail server does not offer TLS, so the password was not sent",
        ),
        (&[], &["554 go away"], "misconfigured, DCA_SMTP_HOST: 554: connection to the mail server failed"),
        (&[], &["421 later"], "transient: 421: connection to the mail server failed"),
        (&[], &["220 hi", "250 sink", "530 sign in first"], "misconfigured, DCA_SMTP_USER: 530: sender not accepted"),
        (
            &[],
            &["220 hi", "250 sink", "530 5.7.0 Must issue a STARTTLS command first"],
            "misconfigured, DCA_SMTP_TLS: 530: sender not accepted",
        ),
        (
            &[USER],
            &["220 hi", HELLO, "538 5.7.11 Encryption required"],
            "misconfigured, DCA_SMTP_TLS: 538: authentication with the mail server failed",
        ),
        (&[], &["220 hi", "250 sink", "550 who"], "misconfigured, DCA_MAIL_FROM: 550: sender not accepted"),
        (
            &[],
            &["220 hi", "250 sink", "250 ok", "450 <ana@example.com> later"],
            "deferred: 450: recipient not accepted",
        ),
        (
            &[],
            &["220 hi", "250 sink", "250 ok", "550 5.1.1 <ana@example.com> who"],
            "rejected: 550: recipient not accepted",
        ),
        (
            &[],
            &["220 hi", "250 sink", "250 ok", "554 5.7.1 <ana@example.com>: Relay access denied"],
            "misconfigured, DCA_SMTP_HOST, DCA_SMTP_USER: 554: recipient not accepted",
        ),
        (&[], &["220 hi", "250 sink", "250 ok", "250 ok", "354 go", "554 spam"], "rejected: 554: message not accepted"),
        (&[], &["220 hi", "250 sink", "250 ok"], "transient: recipient not accepted: no response in time"),
        (&[], &[""], "transient: connection to the mail server failed: incomplete or invalid response"),
        (
            &[],
            &["220 hi", "250 sink", "250 ok", "ana@example.com"],
            "transient: recipient not accepted: incomplete or invalid response",
        ),
    ];
    for &(settings, script, expected) in cases {
        let plain = [("DCA_SMTP_TLS", "none")];
        let is_plain = !settings.iter().any(|(name, _)| *name == "DCA_SMTP_TLS");
        let settings = [if is_plain { &plain[..] } else { &[] }, settings].concat();
        assert_eq!(describe(send(&settings, server(script).await).await), expected, "{settings:?} {script:?}");
    }
}

/// A server with a self-signed certificate that offers STARTTLS and accepts one email.
fn self_signed_server() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(signed.signing_key.serialize_der()).into();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![signed.cert.der().clone()], key)
        .unwrap();
    std::thread::spawn(move || {
        let (mut plain, _) = listener.accept().unwrap();
        for reply in ["220 hi", "250-sink\r\n250 STARTTLS"] {
            plain.write_all(format!("{reply}\r\n").as_bytes()).unwrap();
            assert!(plain.read(&mut [0; 1000]).unwrap() > 0);
        }
        plain.write_all(b"220 go\r\n").unwrap();
        let mut tls = StreamOwned::new(ServerConnection::new(Arc::new(config)).unwrap(), plain);
        let mut command = Vec::new();
        for reply in ["250 sink", "250 ok", "250 ok", "354 go", "250 ok", "221 bye"] {
            let ends: &[u8] = if reply == "250 ok" && command.ends_with(b"DATA\r\n") { b"\r\n.\r\n" } else { b"\r\n" };
            command.clear();
            while !command.ends_with(ends) {
                let mut byte = [0];
                let Ok(1) = tls.read(&mut byte) else { return };
                command.extend(byte);
            }
            tls.write_all(format!("{reply}\r\n").as_bytes()).unwrap();
        }
    });
    port
}

#[tokio::test]
async fn self_signed_certificate_is_accepted_only_with_opportunistic_tls() {
    let result = send(&[("DCA_SMTP_TLS", "opportunistic")], self_signed_server()).await;
    assert_eq!(describe(result), "sent");
    assert_eq!(describe(send(&[("DCA_SMTP_TLS", "auto")], self_signed_server()).await), "sent", "on loopback");
    let result = describe(send(&[("DCA_SMTP_TLS", "starttls")], self_signed_server()).await);
    assert!(
        result
            .starts_with("misconfigured, DCA_SMTP_HOST, DCA_SMTP_PORT, DCA_SMTP_TLS, DCA_TLS_CA_FILE: TLS negotiation"),
        "{result}"
    );
    assert!(result.contains("certificate"), "{result}");
}
