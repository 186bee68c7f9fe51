//! Letters as they are read, and a mail server in a few lines: what it answers is what is classify_result.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use dca_core::accounts::{
    Locale,
    emails::{EmailData, EmailTemplate},
};
use lettre::Message;
use rustls::{ServerConfig, ServerConnection, StreamOwned, crypto::ring, pki_types::PrivatePkcs8KeyDer};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
};
use uuid::Uuid;

use super::{
    domains::Domains,
    mail::{MailError, Mailer},
    smtp::Server,
};
use crate::Config;

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
    Mailer::new(&config(settings), false).unwrap()
}

fn email_data(template: EmailTemplate, locale: Locale) -> EmailData {
    let token = "0123456789abcdef".repeat(4);
    let link = match template {
        EmailTemplate::VerifyEmail => Some(("/verify", token)),
        EmailTemplate::ResetPassword => Some(("/reset-password", token)),
        _ => None,
    };
    EmailData { to: "ana@example.com".to_owned(), name: Some("Ana".to_owned()), locale, link }
}

fn dawn() -> DateTime<Utc> {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn email(mailer: &Mailer, template: EmailTemplate, data: &EmailData) -> Message {
    mailer.prepare(Uuid::from_u128(7), dawn(), template, data).expect("it can be email").message
}

fn text(message: &Message) -> String {
    String::from_utf8(message.formatted()).unwrap()
}

/// Quoted-printable, undone.
fn decoded(text: &str) -> String {
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

/// The two parts of a template, as they are read.
fn parts(message: &Message) -> (String, String) {
    let text = text(message);
    let boundary = format!("--{}", Uuid::from_u128(7).simple());
    let parts: Vec<_> = text.split(&boundary).collect();
    let body = |part: &str| decoded(part.split_once("\r\n\r\n").unwrap().1.trim_end()).replace("\r\n", "\n");
    (body(parts[1]), body(parts[2]))
}

#[test]
fn every_letter_reads_well_in_every_language() {
    let mailer = mailer(&[]);
    for locale in Locale::ALL {
        let emails = EmailTemplate::ALL.iter().map(|template| {
            let message = email(&mailer, *template, &email_data(*template, *locale));
            let subject = message.headers().get::<lettre::message::header::Subject>().unwrap();
            format!("{template}: {}\n\n{}", subject.as_ref(), parts(&message).0)
        });
        insta::assert_snapshot!(format!("letters_{locale}"), emails.collect::<Vec<_>>().join("\n\n\n"));
    }
}

#[test]
fn the_page_of_a_letter_has_a_button_and_escapes_everything() {
    let page =
        parts(&email(&mailer(&[]), EmailTemplate::VerifyEmail, &email_data(EmailTemplate::VerifyEmail, Locale::Es))).1;
    insta::assert_snapshot!(page);
}

#[test]
fn a_link_begins_with_a_setting() {
    let reset = email_data(EmailTemplate::ResetPassword, Locale::En);
    let linked = |settings: &[(&str, &str)]| {
        let text = parts(&email(&mailer(settings), EmailTemplate::ResetPassword, &reset)).0;
        text.lines().find(|line| line.starts_with("http")).unwrap().to_owned()
    };
    let token = "0123456789abcdef".repeat(4);
    assert_eq!(linked(&[]), format!("https://app.example/shop/reset-password?token={token}"));
    assert_eq!(
        linked(&[("DCA_FRONTEND_URL", "")]),
        format!("https://auth.example/reset-password?token={token}"),
        "our own pages"
    );
}

#[test]
fn headers_are_ours_and_the_same_at_every_try() {
    let mailer = mailer(&[]);
    let template = EmailTemplate::WelcomeEmail;
    let message = text(&email(&mailer, template, &email_data(template, Locale::Es)));
    assert!(message.is_ascii(), "no server needs an extension for it");
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
fn a_name_makes_neither_a_header_nor_a_paragraph_nor_markup() {
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
        assert_eq!(page.matches("https://app.example").count(), 2, "a name is no template: {page}");
    }
    for to in ["a@example.com\r\nBcc: x@example.com", "a b@example.com", "", "a@", "a@[127.0.0.1]"] {
        let data = EmailData { to: to.to_owned(), ..email_data(EmailTemplate::VerifyEmail, Locale::En) };
        let answer = mailer.prepare(Uuid::nil(), dawn(), EmailTemplate::VerifyEmail, &data);
        assert_eq!(answer.err(), Some(MailError::Rejected("no address".to_owned())), "{to}");
    }
}

#[test]
fn a_domain_in_any_script_is_written_to_in_ascii() {
    let data = EmailData { to: "ana@mañana.example".to_owned(), ..email_data(EmailTemplate::VerifyEmail, Locale::Es) };
    let message = email(&mailer(&[]), EmailTemplate::VerifyEmail, &data);
    assert_eq!(message.envelope().to()[0].to_string(), "ana@xn--maana-pta.example");
}

#[test]
fn a_domain_gets_few_letters_at_once_and_its_queue_moves_back() {
    let (domains, now) = (Domains::new(Duration::from_secs(1)), dawn());
    let permits = [0, 1].map(|_| domains.acquire("a.example", now).ok().unwrap());
    let waits = [0, 1, 2].map(|_| domains.acquire("a.example", now).err().unwrap().as_secs());
    assert_eq!(waits, [1, 2, 3], "each behind the one before it");
    assert!(domains.acquire("b.example", now).is_ok(), "another domain is free");
    domains.pause(&permits[0], now);
    drop(permits);
    assert!(domains.acquire("a.example", now).err().unwrap() > Duration::from_secs(30), "it asked for a rest");
    assert!(domains.acquire("a.example", now + Duration::from_secs(30)).is_ok());
}

/// A server that says these lines: the first at once, each other when it was last_report something.
async fn server(script: &'static [&'static str]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let (read, mut write) = socket.into_split();
        let mut last_report = BufReader::new(read).lines();
        let mut in_letter = false;
        for says in script {
            write.write_all(format!("{says}\r\n").as_bytes()).await.unwrap();
            loop {
                let Ok(Some(line)) = last_report.next_line().await else { return };
                if !in_letter || line == "." {
                    in_letter = line == "DATA";
                    break;
                }
            }
        }
        // A script that is over is a server that says no more.
        std::future::pending::<()>().await;
    });
    port
}

async fn sent(settings: &[(&str, &str)], port: u16) -> Result<(), MailError> {
    let port = port.to_string();
    let given = [("DCA_SMTP_HOST", "127.0.0.1"), ("DCA_SMTP_PORT", port.as_str())];
    let config = config(&[&given, settings].concat());
    let server = Server::new(&config.mail, "makers.example").unwrap().unwrap().hurried(Duration::from_millis(200));
    let message = email(&mailer(&[]), EmailTemplate::VerifyEmail, &email_data(EmailTemplate::VerifyEmail, Locale::En));
    server.send(&message).await
}

fn seen(answer: Result<(), MailError>) -> String {
    match answer {
        Ok(()) => "sent".to_owned(),
        Err(MailError::Misconfigured { setting, why }) => format!("ours, {setting}: {why}"),
        Err(MailError::Rejected(why)) => format!("refused: {why}"),
        Err(MailError::Deferred(why)) => format!("not now: {why}"),
        Err(MailError::Transient(why)) => format!("passing: {why}"),
        Err(MailError::Wait(wait)) => format!("wait {wait:?}"),
    }
}

/// Settings, what the server says, and what comes of it.
type Case = (&'static [(&'static str, &'static str)], &'static [&'static str], &'static str);

#[tokio::test]
async fn an_answer_is_judged_by_who_must_act() {
    const USER: (&str, &str) = ("DCA_SMTP_USER", "makers");
    const HELLO: &str = "250-sink\r\n250 AUTH PLAIN";
    let cases: [Case; 18] = [
        (&[], &["220 hi", "250 sink", "250 ok", "250 ok", "354 go", "250 ok", "221 bye"], "sent"),
        // What comes after the server's word changes nothing.
        (&[], &["220 hi", "250 sink", "250 ok", "250 ok", "354 go", "250 ok"], "sent"),
        (&[USER], &["220 hi", HELLO, "235 ok", "250 ok", "250 ok", "354 go", "250 ok"], "sent"),
        (
            &[USER],
            &["220 hi", HELLO, "535 5.7.8 no"],
            "ours, DCA_SMTP_USER, DCA_SMTP_PASSWORD: 535: the mail server does not let us in",
        ),
        (
            &[USER],
            &["220 hi", "250 sink"],
            "ours, DCA_SMTP_USER, DCA_SMTP_TLS: the mail server does not let us in: internal client error: No \
             compatible authentication mechanism was found",
        ),
        (
            &[("DCA_SMTP_TLS", "starttls")],
            &["220 hi", "250 sink"],
            "ours, DCA_SMTP_TLS: no encryption with the mail server: internal client error: STARTTLS is not supported \
             on this server",
        ),
        (
            &[("DCA_SMTP_TLS", "tls")],
            &["220 hi", "250 sink"],
            "ours, DCA_SMTP_HOST, DCA_SMTP_PORT, DCA_SMTP_TLS: the mail server does not greet us: Connection error: \
             Connection error: received corrupt message of type InvalidContentType",
        ),
        (&[], &["554 go away"], "ours, DCA_SMTP_HOST: 554: the mail server does not greet us"),
        (&[], &["421 later"], "passing: 421: the mail server does not greet us"),
        (
            &[],
            &["220 hi", "250 sink", "530 sign in first"],
            "ours, DCA_SMTP_USER, DCA_SMTP_PASSWORD: 530: the sender was refused",
        ),
        (&[], &["220 hi", "250 sink", "550 who"], "ours, DCA_MAIL_FROM: 550: the sender was refused"),
        (
            &[],
            &["220 hi", "250 sink", "250 ok", "450 <ana@example.com> later"],
            "not now: 450: the mailbox was refused",
        ),
        (
            &[],
            &["220 hi", "250 sink", "250 ok", "550 5.1.1 <ana@example.com> who"],
            "refused: 550: the mailbox was refused",
        ),
        (
            &[],
            &["220 hi", "250 sink", "250 ok", "554 5.7.1 <ana@example.com>: Relay access denied"],
            "ours, DCA_SMTP_HOST, DCA_SMTP_USER: 554: the mailbox was refused",
        ),
        (
            &[],
            &["220 hi", "250 sink", "250 ok", "250 ok", "354 go", "554 spam"],
            "refused: 554: the letter was refused",
        ),
        (&[], &["220 hi", "250 sink", "250 ok"], "passing: the mailbox was refused: no answer in time"),
        (&[], &[""], "passing: the mail server does not greet us: the answer is cut or makes no sense"),
        (
            &[],
            &["220 hi", "250 sink", "250 ok", "ana@example.com"],
            "passing: the mailbox was refused: the answer is cut or makes no sense",
        ),
    ];
    for (settings, script, expected) in cases {
        let plain = [("DCA_SMTP_TLS", "none")];
        let is_plain = !settings.iter().any(|(name, _)| *name == "DCA_SMTP_TLS");
        let settings = [if is_plain { &plain[..] } else { &[] }, settings].concat();
        assert_eq!(seen(sent(&settings, server(script).await).await), expected, "{settings:?} {script:?}");
    }
}

/// A server with a certificate nobody signed, which offers STARTTLS and then takes one letter.
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
        let (mut clear, _) = listener.accept().unwrap();
        for says in ["220 hi", "250-sink\r\n250 STARTTLS"] {
            clear.write_all(format!("{says}\r\n").as_bytes()).unwrap();
            assert!(clear.read(&mut [0; 1000]).unwrap() > 0);
        }
        clear.write_all(b"220 go\r\n").unwrap();
        let mut sealed = StreamOwned::new(ServerConnection::new(Arc::new(config)).unwrap(), clear);
        let mut last_report = Vec::new();
        for says in ["250 sink", "250 ok", "250 ok", "354 go", "250 ok", "221 bye"] {
            let ends: &[u8] =
                if says == "250 ok" && last_report.ends_with(b"DATA\r\n") { b"\r\n.\r\n" } else { b"\r\n" };
            last_report.clear();
            while !last_report.ends_with(ends) {
                let mut byte = [0];
                let Ok(1) = sealed.read(&mut byte) else { return };
                last_report.extend(byte);
            }
            sealed.write_all(format!("{says}\r\n").as_bytes()).unwrap();
        }
    });
    port
}

#[tokio::test]
async fn a_certificate_nobody_signed_will_do_only_where_none_would_do_as_well() {
    let answer = sent(&[("DCA_SMTP_TLS", "opportunistic")], self_signed_server()).await;
    assert_eq!(seen(answer), "sent");
    assert_eq!(seen(sent(&[("DCA_SMTP_TLS", "auto")], self_signed_server()).await), "sent", "on loopback");
    let answer = seen(sent(&[("DCA_SMTP_TLS", "starttls")], self_signed_server()).await);
    assert!(answer.starts_with("ours, DCA_SMTP_HOST, DCA_SMTP_PORT, DCA_SMTP_TLS: no encryption"), "{answer}");
    assert!(answer.contains("certificate"), "{answer}");
}
