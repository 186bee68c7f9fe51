//! Letters, through a mail server that fails in every way mail servers do.

use std::{collections::HashSet, os::unix::fs::PermissionsExt};

use chrono::TimeDelta;
use dca_core::{
    Clock, Core,
    accounts::{self, ClientInfo, Locale, SignUp},
    ids::UserId,
    outbox,
};
use dca_test_support::{MailFault, MailSink, SmtpStep};
use serde_json::Value;

use crate::{
    cluster::Process,
    fixtures::rows,
    harness::{TestApp, it_unstarted, services, start_time},
};

fn client(locale: Locale) -> ClientInfo {
    ClientInfo { network: "192.0.2.0/24".to_owned(), agent: None, device: None, locale }
}

async fn sign_up_in(core: &Core, locale: Locale, email: &str) -> UserId {
    let (email, name) = (email.to_owned(), "Ana".to_owned());
    let form = SignUp { email, password: "correct horse battery".to_owned(), name };
    accounts::sign_up(core, &client(locale), form).await.unwrap()
}

async fn sign_up(core: &Core, email: &str) -> UserId {
    sign_up_in(core, Locale::En, email).await
}

/// A process without a bot that mails to this sink.
async fn mailing(t: &mut TestApp) -> MailSink {
    t.set("DCA_PASSWORD_MEMORY_KIB", "12288");
    // The limiter counts in our own time, which tests spend none of.
    t.set("DCA_MAILS_PER_MINUTE", "60000");
    t.set("DCA_MAIL_FROM", "Makers <no-reply@makers.example>");
    let sink = t.mail_sink().await;
    t.start_without_bot().await;
    sink
}

/// The letters in the outbox, oldest first.
async fn letters(core: &Core) -> Vec<Value> {
    rows(core.db.writer(), "SELECT state, attempt, last_error FROM outbox WHERE kind = 'mail' ORDER BY id").await
}

async fn states(core: &Core) -> Vec<String> {
    letters(core).await.iter().map(|row| row["state"].as_str().unwrap().to_owned()).collect()
}

/// Lets so many seconds pass in steps of five, and the relay try at each.
async fn pass(t: &TestApp, seconds: i64) {
    for _ in 0..seconds / 5 {
        t.advance(TimeDelta::seconds(5));
        t.idle().await;
    }
}

#[test]
fn a_letter_proves_an_address_and_its_token_is_nowhere_else() {
    it_unstarted(|mut t| async {
        t.set("DCA_FRONTEND_URL", "https://app.example");
        let sink = mailing(&mut t).await;
        let core = t.core().clone();
        sign_up_in(&core, Locale::Es, "ana@example.com").await;
        let letter = sink.next("ana@example.com").await;
        assert_eq!(letter.subject, "Verifica tu cuenta");
        assert_eq!((letter.from.as_str(), letter.to.len()), ("no-reply@makers.example", 1));
        assert_eq!(letter.header("Auto-Submitted"), Some("auto-generated"));
        let token = letter.token();
        assert_eq!(letter.link(), format!("https://app.example/verify?token={token}"));
        assert!(letter.html.contains(&format!("href=\"{}\"", letter.link())), "{}", letter.html);
        t.idle().await;
        let table = rows(core.db.writer(), "SELECT * FROM outbox").await;
        assert!(!format!("{table:?}").contains(&token), "{table:?}");
        for word in [token.as_str(), "ana@", "/verify?"] {
            assert!(!t.log.text().contains(word), "{word} is in the log");
        }
        accounts::verify_email(&core, &token).await.unwrap();
        assert_eq!(sink.next("ana@example.com").await.subject, "¡Bienvenido!");
        sign_up(&core, "ana@example.com").await;
        assert_eq!(sink.next("ana@example.com").await.subject, "Ya tienes una cuenta", "the owner's language");
        sink.finish();
        t
    });
}

#[test]
fn without_a_mail_server_letters_become_files_that_only_their_owner_reads() {
    if services().0.is_some() {
        return crate::harness::say("not run on Postgres: letters become files in embedded mode alone");
    }
    it_unstarted(|mut t| async {
        t.set("DCA_PASSWORD_MEMORY_KIB", "12288");
        t.start_without_bot().await;
        sign_up(t.core(), "ana@example.com").await;
        t.idle().await;
        let folder = t.dir().join("mail");
        let files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        assert_eq!(files[0].extension().unwrap(), "eml");
        let mode = |path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&files[0])), (0o700, 0o600));
        assert!(std::fs::read_to_string(&files[0]).unwrap().contains("To: ana@example.com"));
        let says = format!("mail: no DCA_SMTP_HOST, letters become files in {}", folder.display());
        assert!(t.log.text().contains(&says), "the start line says so");
        assert_eq!(states(t.core()).await, ["sent"]);
        t
    });
}

#[test]
fn instances_without_a_mail_server_leave_letters_alone() {
    if services().0.is_none() {
        return crate::harness::say("not run on SQLite: instances that share a database");
    }
    it_unstarted(|t| async {
        let app = t.assemble(&[]).await.unwrap();
        assert!(!app.mailer.can_send());
        assert!(app.mailer.disabled_reason().unwrap().contains("no DCA_SMTP_HOST"));
        t
    });
}

#[test]
fn two_minutes_without_the_mail_server_lose_no_letter_and_double_none() {
    it_unstarted(|mut t| async {
        let sink = mailing(&mut t).await;
        sink.down();
        let people: Vec<_> = (0..6).map(|n| format!("p{n}@d{}.example", n % 3)).collect();
        for email in &people {
            sign_up(t.core(), email).await;
        }
        t.idle().await;
        pass(&t, 120).await;
        assert!(states(t.core()).await.iter().all(|state| state == "pending"));
        sink.up();
        pass(&t, 180).await;
        for email in &people {
            sink.next(email).await;
        }
        assert_eq!(sink.count(), people.len());
        sink.finish();
        t
    });
}

#[test]
fn a_tarpit_holds_up_no_direct_message() {
    it_unstarted(|mut t| async {
        t.set("DCA_PASSWORD_MEMORY_KIB", "12288");
        let sink = t.mail_sink().await;
        t.start().await;
        sink.fault(MailFault::Tarpit(SmtpStep::Mail).always());
        let people: Vec<_> = (0..6).map(|n| format!("ana@d{n}.example")).collect();
        for email in &people {
            sign_up(t.core(), email).await;
        }
        sink.attempts(4).await;
        let (_, gold, ana) = t.guild_with_product("Tools", 24).await;
        ana.grant(gold);
        t.discord.next_dm(&ana).await;
        sink.heal();
        sink.release();
        for email in &people {
            sink.next(email).await;
        }
        sink.finish();
        t
    });
}

#[test]
fn one_domain_that_stalls_holds_up_no_other() {
    it_unstarted(|mut t| async {
        let sink = mailing(&mut t).await;
        sink.fault(MailFault::Tarpit(SmtpStep::Rcpt).always().to("slow.example"));
        for n in 0..5 {
            sign_up(t.core(), &format!("p{n}@slow.example")).await;
        }
        sink.attempts(2).await;
        sign_up(t.core(), "ana@quick.example").await;
        sink.next("ana@quick.example").await;
        assert_eq!(sink.attempt_count(), 3, "two at once for one domain");
        sink.heal();
        sink.release();
        t.idle().await;
        pass(&t, 30).await;
        for n in 0..5 {
            sink.next(&format!("p{n}@slow.example")).await;
        }
        sink.finish();
        t
    });
}

#[test]
fn a_domain_that_says_later_rests_while_others_are_served() {
    it_unstarted(|mut t| async {
        let sink = mailing(&mut t).await;
        sink.fault(MailFault::Greylist450.to("slow.example"));
        sign_up(t.core(), "ana@slow.example").await;
        t.idle().await;
        assert_eq!(letters(t.core()).await[0]["last_error"], "450: the mailbox was refused");
        sign_up(t.core(), "ben@slow.example").await;
        sign_up(t.core(), "ana@quick.example").await;
        sink.next("ana@quick.example").await;
        pass(&t, 25).await;
        assert_eq!(sink.attempt_count(), 2, "the domain was left alone");
        let pending = letters(t.core()).await.into_iter().filter(|row| row["state"] == "pending");
        let attempts: HashSet<_> = pending.map(|row| row["attempt"].as_i64()).collect();
        assert_eq!(attempts, HashSet::from([Some(0), Some(1)]), "to wait costs no attempt");
        pass(&t, 10).await;
        sink.next("ana@slow.example").await;
        sink.next("ben@slow.example").await;
        sink.finish();
        t
    });
}

#[test]
fn a_busy_server_is_asked_again() {
    it_unstarted(|mut t| async {
        let sink = mailing(&mut t).await;
        for fault in [MailFault::Busy421, MailFault::Refuse, MailFault::CutBeforeData] {
            sink.fault(fault);
            let email = format!("{fault:?}@example.com").to_lowercase();
            sign_up(t.core(), &email).await;
            t.idle().await;
            assert_eq!(states(t.core()).await.last().unwrap(), "pending", "{fault:?}");
            pass(&t, 5).await;
            sink.next(&email).await;
        }
        assert_eq!(sink.count(), 3);
        sink.finish();
        t
    });
}

#[test]
fn a_mailbox_that_does_not_exist_is_tried_once() {
    it_unstarted(|mut t| async {
        let sink = mailing(&mut t).await;
        sink.fault(MailFault::Reject550.always().to("nobody@example.com"));
        sign_up(t.core(), "nobody@example.com").await;
        t.idle().await;
        let row = &letters(t.core()).await[0];
        assert_eq!(
            (&row["state"], &row["last_error"]),
            (&"undelivered".into(), &"550: the mailbox was refused".into())
        );
        t.advance(TimeDelta::days(1));
        t.idle().await;
        assert_eq!(sink.attempt_count(), 1);
        sink.finish();
        t
    });
}

#[test]
fn a_cut_after_the_letter_doubles_it_at_most_and_both_copies_are_the_same() {
    it_unstarted(|mut t| async {
        let sink = mailing(&mut t).await;
        sink.fault(MailFault::CutAfterData);
        sign_up(t.core(), "ana@example.com").await;
        sink.next("ana@example.com").await;
        t.idle().await;
        pass(&t, 60).await;
        let copies = sink.all_to("ana@example.com");
        assert_eq!(copies.len(), 2, "once more, since nobody knows");
        assert_eq!(copies[0].raw, copies[1].raw, "Message-ID, date and token too");
        sink.finish();
        t
    });
}

#[test]
fn a_letter_whose_token_is_over_is_not_sent() {
    it_unstarted(|mut t| async {
        let sink = mailing(&mut t).await;
        let core = t.core().clone();
        sign_up(&core, "ana@example.com").await;
        let token = sink.next("ana@example.com").await.token();
        sink.down();
        sign_up(&core, "ben@example.com").await;
        accounts::resend_verification(&core, &client(Locale::En), "ana@example.com").await.unwrap();
        t.idle().await;
        accounts::verify_email(&core, &token).await.unwrap();
        sink.up();
        pass(&t, 5).await;
        assert_eq!(sink.next("ana@example.com").await.subject, "Welcome!", "the second link was not sent");
        sink.next("ben@example.com").await;

        sink.down();
        sign_up(&core, "eva@example.com").await;
        t.idle().await;
        t.advance(TimeDelta::hours(24));
        t.idle().await;
        sink.up();
        pass(&t, 5).await;
        assert_eq!(sink.count(), 3);
        let all = letters(&core).await;
        assert_eq!(all.last().unwrap()["last_error"], "expired before it could be sent");
        assert_eq!(all.iter().filter(|row| row["state"] == "undelivered").count(), 2);
        sink.finish();
        t
    });
}

#[test]
fn a_wrong_password_is_told_once_and_keeps_the_queue() {
    it_unstarted(|mut t| async {
        t.set("DCA_SMTP_USER", "makers");
        t.set("DCA_SMTP_PASSWORD", "right");
        t.expect_error("Look at DCA_SMTP_USER, DCA_SMTP_PASSWORD.");
        let sink = mailing(&mut t).await;
        sink.require_auth("makers", "another");
        let people = ["ana@a.example", "ben@b.example", "eva@c.example"];
        for email in people {
            sign_up(t.core(), email).await;
        }
        t.idle().await;
        assert_eq!(t.log.text().matches(" ERROR ").count(), 1);
        sink.require_auth("makers", "right");
        pass(&t, 5).await;
        for email in people {
            sink.next(email).await;
        }
        sink.finish();
        t
    });
}

#[test]
fn a_letter_survives_a_kill_wherever_it_hits() {
    it_unstarted(|mut t| async {
        // Processes live in our own time: so does this test.
        t.clock.advance(Clock::system().now() - start_time());
        t.set("DCA_PASSWORD_MEMORY_KIB", "12288");
        t.set("DCA_DISCORD_TOKEN", "");
        let sink = t.mail_sink().await;
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
        assert_eq!(outbox::depth(t.core()).await.unwrap().claimed, faults.len() as u64, "nobody settled them");
        t.advance(TimeDelta::minutes(5));
        t.idle().await;
        assert_eq!(states(t.core()).await, ["sent"; 4]);
        for n in 0..faults.len() {
            let copies = sink.all_to(&format!("p{n}@d{n}.example"));
            let ids: HashSet<_> = copies.iter().map(|mail| mail.header("Message-ID").unwrap().to_owned()).collect();
            assert!((1..=2).contains(&copies.len()) && ids.len() == 1, "{copies:#?}");
        }
        assert_eq!(sink.count(), 5, "one was there already");
        sink.finish();
        t
    });
}
