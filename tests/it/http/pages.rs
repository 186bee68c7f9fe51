//! The pages that links in emails open: they work without JavaScript, change nothing on `GET`, and their links
//! use the configured address, not the `Host` header.

use chrono::TimeDelta;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    accounts::signed_in_admin,
    browser::{Browser, PASSWORD, Response},
    fixtures::rows,
    harness::{TestApp, it_unstarted},
};

const CSP: &str = "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Opens a link as a browser with this `Accept-Language`.
async fn open(browser: &Browser, path: &str, language: &str) -> Response {
    let headers = [("accept", "text/html"), ("accept-language", language)];
    browser.ask(Method::GET, path, Value::Null, &headers).await
}

/// The value of the form's hidden `token` field.
fn token_field(page: &Response) -> &str {
    let (_, rest) = page.text.split_once(r#"name="token" value=""#).unwrap_or_default();
    rest.split('"').next().unwrap_or_default()
}

async fn one_time_tokens(t: &TestApp) -> Vec<Value> {
    rows(t.core().db.writer(), "SELECT id, used_at FROM one_time_tokens ORDER BY id").await
}

fn form(email: &str) -> Value {
    json!({ "email": email, "password": PASSWORD, "name": "Ana" })
}

#[test]
fn opening_a_verification_link_changes_nothing_and_submitting_its_form_verifies_the_email() {
    it_unstarted(|mut t| async {
        let mail = t.start_mail_sink().await;
        t.start_without_bot().await;
        for path in ["/verify?token=", "/api/auth/verify-email/"] {
            let ana = Browser::new(&t);
            let address = format!("{}@x.example", if path.starts_with("/api") { "eva" } else { "ana" });
            ana.post("/auth/signup", form(&address)).await;
            let token = mail.next(&address).await.token();
            let before = one_time_tokens(&t).await;
            for _ in 0..2 {
                let page = open(&ana, &format!("{path}{token}"), "en").await;
                assert_eq!((page.status, token_field(&page)), (200, token.as_str()), "{page:?}");
                assert!(page.text.contains(r#"<form method="post" action="/verify">"#), "{}", page.text);
                assert!(!page.text.contains("<script"), "{}", page.text);
                for (name, value) in [
                    ("content-security-policy", CSP),
                    ("content-type", "text/html; charset=utf-8"),
                    ("cache-control", "no-store"),
                    ("referrer-policy", "same-origin"),
                    ("x-frame-options", "DENY"),
                ] {
                    assert_eq!(page.header(name), value, "{name}");
                }
            }
            ana.ask(Method::HEAD, &format!("{path}{token}"), Value::Null, &[]).await;
            assert_eq!(one_time_tokens(&t).await, before);
            assert_eq!(ana.sign_in(&address).await.code(), "EMAIL_NOT_VERIFIED");
            let done = ana.submit("/verify", &[("token", &token)]).await;
            assert!(done.status == 200 && done.text.contains("Your email address is confirmed"), "{done:?}");
            mail.next(&address).await;
            let again = ana.submit("/verify", &[("token", &token)]).await;
            assert!(again.status == 400 && again.text.contains("Invalid or expired token"), "{again:?}");
            assert_eq!(ana.sign_in(&address).await.status, 200);
        }
        mail.finish();
        t
    });
}

#[test]
fn a_weak_password_shows_the_form_again_and_keeps_the_token() {
    it_unstarted(|mut t| async {
        let mail = t.start_mail_sink().await;
        t.start_without_bot().await;
        let ana = Browser::signed_in(&t, &mail, "ana@x.example").await;
        ana.post("/auth/reset-password-request", json!({ "email": "ana@x.example" })).await;
        let token = mail.next("ana@x.example").await.token();
        let before = one_time_tokens(&t).await;
        for _ in 0..2 {
            let page = open(&ana, &format!("/reset-password?token={token}"), "en").await;
            assert_eq!((page.status, token_field(&page)), (200, token.as_str()));
            assert!(page.text.contains(r#"<input name="password" type="password" autocomplete="new-password""#));
        }
        for weak in ["", "short", "password1", "ana@x.example"] {
            let page = ana.submit("/reset-password", &[("token", &token), ("password", weak)]).await;
            assert_eq!((page.status, token_field(&page)), (422, token.as_str()), "{weak}");
            assert!(page.text.contains(r#"role="alert">password "#), "{}", page.text);
            assert!(weak.is_empty() || !page.text.contains(&format!("\"{weak}\"")), "the password is echoed");
        }
        assert_eq!(one_time_tokens(&t).await, before);
        let done = ana.submit("/reset-password", &[("token", &token), ("password", "brass-Lantern-92 orbit")]).await;
        assert!(done.status == 200 && done.text.contains("Your password is set"), "{done:?}");
        mail.next("ana@x.example").await;
        let again = ana.submit("/reset-password", &[("token", &token), ("password", PASSWORD)]).await;
        assert!(again.status == 400 && !again.text.contains("type=\"password\""), "no valid token: {again:?}");
        assert_eq!(ana.get("/me").await.status, 401);
        mail.finish();
        t
    });
}

#[test]
fn pages_refuse_tokens_of_other_kinds_and_malformed_tokens() {
    it_unstarted(|mut t| async {
        let mail = t.start_mail_sink().await;
        t.start_without_bot().await;
        let ana = Browser::new(&t);
        ana.post("/auth/signup", form("ana@x.example")).await;
        let verify = mail.next("ana@x.example").await.token();
        ana.post("/auth/reset-password-request", json!({ "email": "ana@x.example" })).await;
        let reset = mail.next("ana@x.example").await.token();
        let flipped = format!("{}{}", &verify[..63], if verify.ends_with('0') { '1' } else { '0' });
        let (upper, long) = (verify.to_uppercase(), "a".repeat(4_000));
        for (path, token) in [
            ("/verify", reset.as_str()),
            ("/verify", &flipped),
            ("/verify", &upper),
            ("/verify", &verify[..32]),
            ("/verify", ""),
            ("/verify", "\0"),
            ("/verify", "ñandú"),
            ("/verify", &long),
            ("/reset-password", &verify),
            ("/reset-password", ""),
        ] {
            let page = ana.submit(path, &[("token", token), ("password", PASSWORD)]).await;
            assert!(page.status == 400 && page.text.contains("Invalid or expired token"), "{path} {token}: {page:?}");
            assert!(!page.text.contains("type=\"password\""), "{page:?}");
        }
        t.advance(TimeDelta::hours(24));
        for (path, token) in [("/verify", &verify), ("/reset-password", &reset)] {
            let page = ana.submit(path, &[("token", token), ("password", PASSWORD)]).await;
            assert!(page.status == 400 && page.text.contains("Invalid or expired token"), "{path}, expired");
        }
        mail.finish();
        t
    });
}

#[test]
fn pages_escape_all_external_input() {
    it_unstarted(|mut t| async {
        t.set("DCA_APP_NAME", "<b>A&B</b> \"Makers\"");
        t.start_without_bot().await;
        let eve = Browser::new(&t);
        let attack = "\"><script>alert(1)</script>'";
        let query = url::form_urlencoded::byte_serialize(attack.as_bytes()).collect::<String>();
        let path = query.replace('+', "%20").replace('/', "%2F");
        for path in [
            format!("/verify?token={query}"),
            format!("/reset-password?token={query}"),
            format!("/api/auth/verify-email/{path}"),
        ] {
            let page = open(&eve, &path, "en").await;
            assert_eq!(page.status, 200, "{path}");
            assert!(!page.text.contains("<script") && !page.text.contains("<b>"), "{}", page.text);
            assert!(page.text.contains("&#60;b&#62;A&#38;B"), "{}", page.text);
        }
        let again = eve.submit("/reset-password", &[("token", attack), ("password", "short")]).await;
        assert!(!again.text.contains("<script"), "{}", again.text);
        let declined = format!("/auth/discord/callback?error={query}&error_description={query}");
        let page = open(&eve, &declined, "en").await;
        assert!(page.status == 400 && !page.text.contains("<script"), "{page:?}");
        t
    });
}

#[test]
fn pages_are_available_in_english_and_spanish() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let ana = Browser::new(&t);
        for (path, english, spanish) in [
            ("/verify?token=x", "This link no longer works", "Este enlace ya no sirve"),
            ("/reset-password?token=x", "This link no longer works", "Este enlace ya no sirve"),
            ("/second-factor", "Two-factor authentication", "Autenticación en dos pasos"),
            ("/auth/discord/callback", "Something went wrong", "Algo ha salido mal"),
        ] {
            for (language, lang, title) in
                [("en-GB,es;q=0.5", "en", english), ("es-MX,en;q=0.5", "es", spanish), ("fr", "en", english)]
            {
                let page = open(&ana, path, language).await;
                assert!(page.text.contains(&format!("<html lang=\"{lang}\">")), "{path} {language}");
                assert!(page.text.contains(&format!("<h1>{title}</h1>")), "{path} {language}: {}", page.text);
            }
        }
        let refused = open(&ana, "/auth/discord/callback", "es").await;
        assert!(refused.text.contains("No se ha completado la acción."), "{}", refused.text);
        let style = ana.get("/pages.css").await;
        assert_eq!((style.status, style.header("content-type")), (200, "text/css; charset=utf-8"));
        t
    });
}

#[test]
fn links_in_emails_use_the_configured_address() {
    it_unstarted(|mut t| async {
        let mail = t.start_mail_sink().await;
        for (frontend, home) in [("", "http://dca.example"), ("https://app.example/base", "https://app.example/base")] {
            t.set("DCA_PUBLIC_URL", "http://dca.example");
            t.set("APP_FRONTEND_URL", frontend);
            // Not even a trusted proxy changes the address.
            t.set("DCA_TRUSTED_PROXIES", "127.0.0.1");
            t.start_without_bot().await;
            if frontend.is_empty() {
                signed_in_admin(&t).await;
            }
            let eve = Browser::new(&t);
            let forged = [
                ("host", "evil.example"),
                ("x-forwarded-host", "evil.example"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-prefix", "/evil"),
                ("forwarded", "host=evil.example;proto=https"),
                ("x-original-url", "http://evil.example/"),
                ("referer", "http://evil.example/"),
            ];
            let address = if frontend.is_empty() { "ana@x.example" } else { "eva@x.example" };
            for (path, body, to, link) in [
                ("/auth/signup", form(address), address, "/verify?token="),
                ("/auth/resend-verification", json!({ "email": address }), address, "/verify?token="),
                (
                    "/auth/reset-password-request",
                    json!({ "email": "root@x.example" }),
                    "root@x.example",
                    "/reset-password?token=",
                ),
            ] {
                assert_eq!(eve.ask(Method::POST, path, body, &forged).await.status, 201, "{path}");
                let email = mail.next(to).await;
                assert!(email.link().starts_with(&format!("{home}{link}")), "{}", email.link());
                assert!(!email.raw.contains("evil"), "{}", email.raw);
                // A domain receives at most two emails at once.
                t.wait_until_idle().await;
            }
            t.stop().await;
        }
        mail.finish();
        t
    });
}

#[test]
fn a_link_that_was_used_or_has_expired_offers_a_new_one_before_anything_is_typed() {
    it_unstarted(|mut t| async {
        let mail = t.start_mail_sink().await;
        t.start_without_bot().await;
        let ana = Browser::new(&t);
        ana.post("/auth/signup", form("ana@x.example")).await;
        let expired = mail.next("ana@x.example").await.token();
        t.advance_when_idle(TimeDelta::hours(24)).await;
        for (path, email_subject) in [("/verify", "Verify your account"), ("/reset-password", "Reset your password")] {
            let link = format!("{path}?token={expired}");
            for (language, title) in [("en", "This link no longer works"), ("es", "Este enlace ya no sirve")] {
                let page = open(&ana, &link, language).await;
                assert!(page.text.contains(title) && !page.text.contains("type=\"password\""), "{page:?}");
                let action = format!("action=\"{path}/resend\"");
                assert!(page.text.contains(&action) && page.text.contains("name=\"email\""), "{page:?}");
            }
            let resend = format!("{path}/resend");
            let wrong = ana.submit(&resend, &[("email", "no address")]).await;
            assert!(wrong.status == 422 && wrong.text.contains("name=\"email\""), "{wrong:?}");
            for email in ["nobody@x.example", "ana@x.example"] {
                let sent = ana.submit(&resend, &[("email", email)]).await;
                assert!(sent.status == 200 && sent.text.contains("Check your inbox"), "{sent:?}");
            }
            let email = mail.next("ana@x.example").await;
            assert_eq!(email.subject, email_subject);
            assert_eq!(token_field(&open(&ana, &format!("{path}?token={}", email.token()), "en").await), email.token());
        }
        mail.finish();
        t
    });
}

#[test]
fn a_verification_link_opened_in_another_browser_asks_for_the_password() {
    it_unstarted(|mut t| async {
        let mail = t.start_mail_sink().await;
        t.start_without_bot().await;
        for (email, choice, done) in [
            ("ana@a.example", ("password", PASSWORD), "You can now sign in."),
            ("eva@c.example", ("without_password", "yes"), "We have emailed you a link to choose a password."),
        ] {
            Browser::new(&t).post("/auth/signup", form(email)).await;
            let (token, phone) = (mail.next(email).await.token(), Browser::new(&t));
            let page = open(&phone, &format!("/verify?token={token}"), "en").await;
            for part in ["autocomplete=\"current-password\"", "Continue without a password"] {
                assert!(page.text.contains(part), "{}", page.text);
            }
            let wrong = phone.submit("/verify", &[("token", &token), ("password", "not this one")]).await;
            assert_eq!((wrong.status, token_field(&wrong)), (401, token.as_str()), "{wrong:?}");
            let page = phone.submit("/verify", &[("token", &token), choice]).await;
            assert!(page.status == 200 && page.text.contains(done), "{page:?}");
            mail.next(email).await;
        }
        mail.finish();
        t
    });
}
