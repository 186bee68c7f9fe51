//! Sending email, with every kind of SMTP failure.

use std::{collections::HashSet, os::unix::fs::PermissionsExt};

use chrono::TimeDelta;
use dca_core::{
    Clock, Core,
    accounts::{self, ClientInfo, SignUp},
    ids::UserId,
    outbox,
    users::Locale,
};
use dca_test_support::{MailFault, MailSink, SmtpStep};
use serde_json::Value;

use crate::{
    cli::cluster::Process,
    support::{
        fixtures::rows,
        harness::{TestApp, it_unstarted, services, start_time},
    },
};

fn client(locale: Locale) -> ClientInfo {
    ClientInfo { network: "192.0.2.0/24".to_owned(), agent: None, device: None, sign_up: None, locale }
}

const PASSWORD: &str = "correct horse battery";

async fn verify(core: &Core, token: &str) {
    accounts::verify_email(core, &client(Locale::En), token, Some(PASSWORD)).await.unwrap();
}

async fn sign_up_in(core: &Core, locale: Locale, email: &str) -> UserId {
    let (email, name) = (email.to_owned(), "Ana".to_owned());
    let form = SignUp { email, password: PASSWORD.to_owned(), name };
    accounts::sign_up(core, &client(locale), form).await.unwrap().user
}

async fn sign_up(core: &Core, email: &str) -> UserId {
    sign_up_in(core, Locale::En, email).await
}

/// Starts the app without a bot and with a mail sink.
async fn start_with_mail_sink(t: &mut TestApp) -> MailSink {
    t.set("DCA_PASSWORD_MEMORY_KIB", "12288");
    // The limiter uses real time, which hardly passes in a test.
    t.set("DCA_MAILS_PER_MINUTE", "60000");
    t.set("DCA_MAIL_FROM", "Makers <no-reply@makers.example>");
    let sink = t.start_mail_sink().await;
    t.start_without_bot().await;
    sink
}

/// The emails in the outbox, oldest first.
async fn emails(core: &Core) -> Vec<Value> {
    rows(core.db.writer(), "SELECT state, attempt, last_error FROM outbox WHERE kind = 'mail' ORDER BY id").await
}

async fn email_states(core: &Core) -> Vec<String> {
    emails(core).await.iter().map(|row| row["state"].as_str().unwrap().to_owned()).collect()
}

/// Advances the clock in steps of five seconds and lets due deliveries complete at each step.
async fn advance_in_steps(t: &TestApp, seconds: i64) {
    for _ in 0..seconds / 5 {
        t.advance(TimeDelta::seconds(5));
        t.wait_until_idle().await;
    }
}

#[test]
fn a_verification_email_contains_the_only_copy_of_its_token() {
    it_unstarted(|mut t| async {
        t.set("DCA_FRONTEND_URL", "https://app.example");
        let sink = start_with_mail_sink(&mut t).await;
        let core = t.core().clone();
        sign_up_in(&core, Locale::Es, "ana@example.com").await;
        let email = sink.next("ana@example.com").await;
        assert_eq!(email.subject, "Verifica tu cuenta");
        assert_eq!((email.from.as_str(), email.to.len()), ("no-reply@makers.example", 1));
        assert_eq!(email.header("Auto-Submitted"), Some("auto-generated"));
        let token = email.token();
        assert_eq!(email.link(), format!("https://app.example/verify?token={token}"));
        assert!(email.html.contains(&format!("href=\"{}\"", email.link())), "{}", email.html);
        t.wait_until_idle().await;
        let table = rows(core.db.writer(), "SELECT * FROM outbox").await;
        assert!(!format!("{table:?}").contains(&token), "{table:?}");
        for secret in [token.as_str(), "ana@", "/verify?"] {
            assert!(!t.log.text().contains(secret), "{secret} is in the log");
        }
        verify(&core, &token).await;
        assert_eq!(sink.next("ana@example.com").await.subject, "¡Bienvenido!");
        sign_up(&core, "ana@example.com").await;
        assert_eq!(sink.next("ana@example.com").await.subject, "Ya tienes una cuenta", "in the account's language");
        sink.finish();
        t
    });
}

#[test]
fn without_a_mail_server_emails_are_written_to_private_files() {
    if services().0.is_some() {
        return crate::support::harness::print_line(
            "skipped on PostgreSQL: emails are written to files in embedded mode only",
        );
    }
    it_unstarted(|mut t| async {
        t.set("DCA_PASSWORD_MEMORY_KIB", "12288");
        t.start_without_bot().await;
        sign_up(t.core(), "ana@example.com").await;
        t.wait_until_idle().await;
        let folder = t.dir().join("mail");
        let files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        assert_eq!(files[0].extension().unwrap(), "eml");
        let mode = |path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&files[0])), (0o700, 0o600));
        assert!(std::fs::read_to_string(&files[0]).unwrap().contains("To: ana@example.com"));
        let line = format!("mail: no DCA_SMTP_HOST, emails are written to {}", folder.display());
        assert!(t.log.text().contains(&line), "missing in the startup line");
        assert_eq!(email_states(t.core()).await, ["sent"]);
        t
    });
}

#[test]
fn cluster_instances_without_a_mail_server_send_no_email() {
    if services().0.is_none() {
        return crate::support::harness::print_line("skipped on SQLite: requires instances that share a database");
    }
    it_unstarted(|t| async {
        let app = t.assemble(&[]).await.unwrap();
        assert!(!app.mailer.can_send());
        assert!(app.mailer.disabled_reason().unwrap().contains("no DCA_SMTP_HOST"));
        t
    });
}

#[test]
fn a_mail_server_outage_loses_and_duplicates_no_email() {
    it_unstarted(|mut t| async {
        let sink = start_with_mail_sink(&mut t).await;
        sink.down();
        let addresses: Vec<_> = (0..6).map(|n| format!("p{n}@d{}.example", n % 3)).collect();
        for email in &addresses {
            sign_up(t.core(), email).await;
        }
        t.wait_until_idle().await;
        advance_in_steps(&t, 120).await;
        assert!(email_states(t.core()).await.iter().all(|state| state == "pending"));
        sink.up();
        advance_in_steps(&t, 180).await;
        for email in &addresses {
            sink.next(email).await;
        }
        assert_eq!(sink.count(), addresses.len());
        sink.finish();
        t
    });
}

#[test]
fn a_stalled_mail_server_does_not_delay_direct_messages() {
    it_unstarted(|mut t| async {
        t.set("DCA_PASSWORD_MEMORY_KIB", "12288");
        let sink = t.start_mail_sink().await;
        t.start().await;
        sink.fault(MailFault::Tarpit(SmtpStep::Mail).always());
        let addresses: Vec<_> = (0..6).map(|n| format!("ana@d{n}.example")).collect();
        for email in &addresses {
            sign_up(t.core(), email).await;
        }
        sink.attempts(4).await;
        let (_, gold, ana) = t.guild_with_product("Tools", 24).await;
        ana.grant(gold);
        t.discord.next_dm(&ana).await;
        sink.heal();
        sink.release();
        for email in &addresses {
            sink.next(email).await;
        }
        sink.finish();
        t
    });
}

#[test]
fn a_stalled_domain_does_not_delay_other_domains() {
    it_unstarted(|mut t| async {
        let sink = start_with_mail_sink(&mut t).await;
        sink.fault(MailFault::Tarpit(SmtpStep::Rcpt).always().to("slow.example"));
        for n in 0..5 {
            sign_up(t.core(), &format!("p{n}@slow.example")).await;
        }
        sink.attempts(2).await;
        sign_up(t.core(), "ana@quick.example").await;
        sink.next("ana@quick.example").await;
        assert_eq!(sink.attempt_count(), 3, "at most two connections per domain");
        sink.heal();
        sink.release();
        t.wait_until_idle().await;
        advance_in_steps(&t, 30).await;
        for n in 0..5 {
            sink.next(&format!("p{n}@slow.example")).await;
        }
        sink.finish();
        t
    });
}

#[test]
fn a_greylisting_domain_is_paused_while_others_are_served() {
    it_unstarted(|mut t| async {
        let sink = start_with_mail_sink(&mut t).await;
        sink.fault(MailFault::Greylist450.to("slow.example"));
        sign_up(t.core(), "ana@slow.example").await;
        t.wait_until_idle().await;
        assert_eq!(emails(t.core()).await[0]["last_error"], "450: recipient not accepted");
        sign_up(t.core(), "ben@slow.example").await;
        sign_up(t.core(), "ana@quick.example").await;
        sink.next("ana@quick.example").await;
        advance_in_steps(&t, 25).await;
        assert_eq!(sink.attempt_count(), 2, "no attempt while the domain is paused");
        let pending = emails(t.core()).await.into_iter().filter(|row| row["state"] == "pending");
        let attempts: HashSet<_> = pending.map(|row| row["attempt"].as_i64()).collect();
        assert_eq!(attempts, HashSet::from([Some(0), Some(1)]), "waiting does not count as an attempt");
        advance_in_steps(&t, 10).await;
        sink.next("ana@slow.example").await;
        sink.next("ben@slow.example").await;
        sink.finish();
        t
    });
}

#[test]
fn a_temporary_failure_is_retried() {
    it_unstarted(|mut t| async {
        let sink = start_with_mail_sink(&mut t).await;
        for fault in [MailFault::Busy421, MailFault::Refuse, MailFault::CutBeforeData] {
            sink.fault(fault);
            let email = format!("{fault:?}@example.com").to_lowercase();
            sign_up(t.core(), &email).await;
            t.wait_until_idle().await;
            assert_eq!(email_states(t.core()).await.last().unwrap(), "pending", "{fault:?}");
            advance_in_steps(&t, 5).await;
            sink.next(&email).await;
        }
        assert_eq!(sink.count(), 3);
        sink.finish();
        t
    });
}

#[test]
fn an_unknown_mailbox_is_tried_once() {
    it_unstarted(|mut t| async {
        let sink = start_with_mail_sink(&mut t).await;
        sink.fault(MailFault::Reject550.always().to("nobody@example.com"));
        sign_up(t.core(), "nobody@example.com").await;
        t.wait_until_idle().await;
        let row = &emails(t.core()).await[0];
        assert_eq!((&row["state"], &row["last_error"]), (&"undelivered".into(), &"550: recipient not accepted".into()));
        t.advance(TimeDelta::days(1));
        t.wait_until_idle().await;
        assert_eq!(sink.attempt_count(), 1);
        sink.finish();
        t
    });
}

#[test]
fn a_connection_lost_after_the_data_sends_at_most_one_identical_copy() {
    it_unstarted(|mut t| async {
        let sink = start_with_mail_sink(&mut t).await;
        sink.fault(MailFault::CutAfterData);
        sign_up(t.core(), "ana@example.com").await;
        sink.next("ana@example.com").await;
        t.wait_until_idle().await;
        advance_in_steps(&t, 60).await;
        let copies = sink.all_to("ana@example.com");
        assert_eq!(copies.len(), 2, "sent again, because the outcome was unknown");
        assert_eq!(copies[0].raw, copies[1].raw, "Message-ID, date and token are the same");
        sink.finish();
        t
    });
}

#[test]
fn an_email_with_an_expired_token_is_not_sent() {
    it_unstarted(|mut t| async {
        let sink = start_with_mail_sink(&mut t).await;
        let core = t.core().clone();
        sign_up(&core, "ana@example.com").await;
        let token = sink.next("ana@example.com").await.token();
        sink.down();
        sign_up(&core, "ben@example.com").await;
        accounts::resend_verification(&core, &client(Locale::En), "ana@example.com").await.unwrap();
        t.wait_until_idle().await;
        verify(&core, &token).await;
        sink.up();
        advance_in_steps(&t, 5).await;
        assert_eq!(sink.next("ana@example.com").await.subject, "Welcome!", "the superseded link was not sent");
        sink.next("ben@example.com").await;

        sink.down();
        sign_up(&core, "eva@example.com").await;
        t.wait_until_idle().await;
        t.advance(TimeDelta::hours(24));
        t.wait_until_idle().await;
        sink.up();
        advance_in_steps(&t, 5).await;
        assert_eq!(sink.count(), 3);
        let all = emails(&core).await;
        assert_eq!(all.last().unwrap()["last_error"], "expired before it could be sent");
        assert_eq!(all.iter().filter(|row| row["state"] == "undelivered").count(), 2);
        sink.finish();
        t
    });
}

#[test]
fn wrong_smtp_credentials_are_logged_once_and_keep_the_queue() {
    it_unstarted(|mut t| async {
        t.set("DCA_SMTP_USER", "makers");
        t.set("DCA_SMTP_PASSWORD", "right");
        t.expect_error("Check DCA_SMTP_USER, DCA_SMTP_PASSWORD.");
        let sink = start_with_mail_sink(&mut t).await;
        sink.require_auth("makers", "another");
        let addresses = ["ana@a.example", "ben@b.example", "eva@c.example"];
        for email in addresses {
            sign_up(t.core(), email).await;
        }
        t.wait_until_idle().await;
        assert_eq!(t.log.text().matches(" ERROR ").count(), 1);
        sink.require_auth("makers", "right");
        advance_in_steps(&t, 5).await;
        for email in addresses {
            sink.next(email).await;
        }
        sink.finish();
        t
    });
}

#[test]
fn an_email_survives_a_killed_process_at_every_step() {
    it_unstarted(|mut t| async {
        // Child processes use the system clock, so this test does too.
        t.clock.advance(Clock::system().now() - start_time());
        t.set("DCA_PASSWORD_MEMORY_KIB", "12288");
        t.set("DCA_DISCORD_TOKEN", "");
        let sink = t.start_mail_sink().await;
        let core = t.instance().await;
        let faults = [
            MailFault::Tarpit(SmtpStep::Greeting),
            MailFault::Tarpit(SmtpStep::Rcpt),
            MailFault::Tarpit(SmtpStep::Data),
            MailFault::HoldAfterData,
        ];
        for (n, fault) in faults.into_iter().enumerate() {
            let process = Process::start(t.env(), "workers");
            sink.fault(fault);
            sign_up(&core, &format!("p{n}@d{n}.example")).await;
            sink.held().await;
            process.kill();
            sink.release();
        }
        t.start_without_bot().await;
        assert_eq!(outbox::queue_depth(t.core()).await.unwrap().claimed, faults.len() as u64, "still claimed");
        t.advance(TimeDelta::minutes(5));
        t.wait_until_idle().await;
        assert_eq!(email_states(t.core()).await, ["sent"; 4]);
        for n in 0..faults.len() {
            let copies = sink.all_to(&format!("p{n}@d{n}.example"));
            let ids: HashSet<_> = copies.iter().map(|mail| mail.header("Message-ID").unwrap().to_owned()).collect();
            assert!((1..=2).contains(&copies.len()) && ids.len() == 1, "{copies:#?}");
        }
        assert_eq!(sink.count(), 5, "one email was accepted before the kill");
        sink.finish();
        t
    });
}
