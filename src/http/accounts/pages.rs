//! HTML pages for email links and OAuth callbacks if no frontend is configured. They work without JavaScript. Opening
//! a page changes nothing, because mail programs prefetch links: tokens are only used when the form is submitted.

use askama::Template;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::{Form, Router, extract::State, extract::rejection::FormRejection, routing::get, routing::post};
use dca_core::accounts::{self, EmailVerification, providers};
use dca_core::{Code, users::Locale};
use serde::Deserialize;
use url::Url;

use super::page_text::PageText;
use crate::http::cookies::{CookieKind, Cookies};
use crate::http::extract::{Client, Query, locale};
use crate::{App, http::problem::Problem};

/// Allows the own style sheet, and forms that are submitted to this origin. The frontend is included because some
/// browsers apply `form-action` to redirects after the submission too.
fn csp(app: &App) -> String {
    let frontend = app.config.accounts.frontend_url.as_deref().and_then(|url| Url::parse(url).ok());
    let frontend = frontend.map_or_else(String::new, |url| format!(" {}", url.origin().ascii_serialization()));
    format!(
        "default-src 'none'; style-src 'self'; form-action 'self'{frontend}; base-uri 'none'; frame-ancestors 'none'"
    )
}

/// With `no-referrer`, browsers submit forms with `Origin: null`, which the CSRF check rejects.
const REFERRER: &str = "same-origin";

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/verify", get(verify).post(submit_verify))
        .route("/verify/resend", post(resend_verification))
        .route("/reset-password", get(reset).post(submit_reset))
        .route("/reset-password/resend", post(resend_reset))
        .route("/second-factor", get(second_factor).post(submit_second_factor))
        .route("/pages.css", get(style))
}

async fn style() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], include_str!("../../../templates/pages/pages.css"))
}

#[derive(Template)]
#[template(path = "pages/page.html")]
struct Page<'a> {
    lang: &'static str,
    app_name: &'a str,
    title: &'static str,
    text: &'static str,
    problem: Option<&'a str>,
    form: Option<PageForm<'a>>,
}

struct PageForm<'a> {
    action: &'static str,
    token: Option<&'a str>,
    field: Option<Field>,
    button: &'static str,
    /// A second button, which submits `without_password`.
    alternative: Option<&'static str>,
}

struct Field {
    label: &'static str,
    name: &'static str,
    kind: &'static str,
    autocomplete: &'static str,
}

/// Name, kind and autocomplete of the fields.
const NEW_PASSWORD: [&str; 3] = ["password", "password", "new-password"];
const CURRENT_PASSWORD: [&str; 3] = ["password", "password", "current-password"];
const EMAIL: [&str; 3] = ["email", "email", "email"];
const CODE: [&str; 3] = ["code", "text", "one-time-code"];

impl PageText {
    fn form(self, token: Option<&str>, locale: Locale) -> Option<PageForm<'_>> {
        let or = |english, spanish| if locale == Locale::Es { spanish } else { english };
        let password = (or("Password", "Contraseña"), CURRENT_PASSWORD);
        let new_password = (or("New password", "Contraseña nueva"), NEW_PASSWORD);
        let email = (or("Email address", "Correo electrónico"), EMAIL);
        let send = or("Send a new link", "Enviar un enlace nuevo");
        let (action, button, field) = match self {
            Self::Verify => ("/verify", or("Confirm", "Confirmar"), None),
            Self::VerifyWithPassword => ("/verify", or("Confirm", "Confirmar"), Some(password)),
            Self::VerifyAgain => ("/verify/resend", send, Some(email)),
            Self::Reset => ("/reset-password", or("Set password", "Guardar contraseña"), Some(new_password)),
            Self::ResetAgain => ("/reset-password/resend", send, Some(email)),
            Self::SecondFactor => {
                ("/second-factor", or("Sign in", "Iniciar sesión"), Some((or("Code", "Código"), CODE)))
            }
            _ => return None,
        };
        let field = field.map(|(label, [name, kind, autocomplete])| Field { label, name, kind, autocomplete });
        let without_password = or("Continue without a password", "Continuar sin contraseña");
        let alternative = matches!(self, Self::VerifyWithPassword).then_some(without_password);
        Some(PageForm { action, token, field, button, alternative })
    }
}

fn page(app: &App, locale: Locale, page_text: PageText, token: Option<&str>, problem: Option<&Problem>) -> Response {
    let (title, text) = page_text.in_language(locale);
    let page = Page {
        lang: locale.as_str(),
        app_name: &app.config.accounts.app_name,
        title,
        text,
        problem: problem.map(|problem| problem.detail_in(locale)),
        form: page_text.form(token, locale),
    };
    let status = problem.map_or(StatusCode::OK, |problem| problem.status);
    match page.render() {
        Ok(html) => {
            let headers = [(header::CONTENT_SECURITY_POLICY, csp(app)), (header::REFERRER_POLICY, REFERRER.to_owned())];
            let mut response = (status, headers, Html(html)).into_response();
            response.headers_mut().extend(problem.into_iter().flat_map(|problem| problem.headers.clone()));
            response
        }
        Err(error) => {
            tracing::error!(%error, "cannot render a page");
            Problem::of(Code::Internal).into_response()
        }
    }
}

pub(crate) fn wants_page(headers: &HeaderMap) -> bool {
    headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).is_some_and(|text| text.contains("text/html"))
}

/// A page without a problem or token.
pub(super) fn text_page(app: &App, headers: &HeaderMap, page_text: PageText) -> Response {
    page(app, locale(headers), page_text, None, None)
}

/// A problem, as a page if the client accepts HTML.
pub(super) fn problem_page(app: &App, headers: &HeaderMap, refused: Problem) -> Response {
    if wants_page(headers) {
        return page(app, locale(headers), PageText::Refused, None, Some(&refused));
    }
    refused.into_response()
}

type FormResult<T> = Result<Form<T>, FormRejection>;

/// The parameters of an email link.
#[derive(Deserialize)]
struct LinkParams {
    #[serde(default)]
    token: String,
}

async fn verify(client: Client, Query(link): Query<LinkParams>) -> Response {
    verify_page(&client, &link.token).await
}

/// Asks to confirm the email that the token was sent to.
pub(crate) async fn verify_page(client: &Client, token: &str) -> Response {
    let asks = accounts::asks_for_password(&client.app.core, &client.info, token).await;
    let text = asks.map(|asks| if asks { PageText::VerifyWithPassword } else { PageText::Verify });
    link_page(client, text, PageText::VerifyAgain, token)
}

/// The page of a link, or the one that offers a new link if the token is invalid.
fn link_page(client: &Client, text: dca_core::Result<PageText>, again: PageText, token: &str) -> Response {
    let (app, locale) = (&client.app, client.info.locale);
    match text.map_err(Problem::from) {
        Ok(text) => page(app, locale, text, Some(token), None),
        Err(problem) if problem.code == Code::InvalidOneTimeToken => page(app, locale, again, None, None),
        Err(problem) => page(app, locale, PageText::Refused, None, Some(&problem)),
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct VerifyForm {
    token: String,
    password: String,
    without_password: String,
}

async fn submit_verify(client: Client, headers: HeaderMap, form: FormResult<VerifyForm>) -> Response {
    let form = form.map(|Form(form)| form).unwrap_or_default();
    let app = &client.app;
    let password = form.without_password.is_empty().then_some(form.password.as_str());
    match accounts::verify_email(&app.core, &client.info, &form.token, password).await {
        Ok(EmailVerification::Ready) => text_page(app, &headers, PageText::Verified),
        Ok(EmailVerification::NeedsPassword) => text_page(app, &headers, PageText::NeedsPassword),
        Err(refused) => {
            let problem = Problem::from(refused);
            let (text, token) = match problem.code {
                Code::InvalidCredentials => (PageText::VerifyWithPassword, Some(form.token.as_str())),
                Code::InvalidOneTimeToken => (PageText::VerifyAgain, None),
                _ => (PageText::Refused, None),
            };
            page(app, client.info.locale, text, token, Some(&problem))
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct EmailForm {
    email: String,
}

async fn resend_verification(client: Client, form: FormResult<EmailForm>) -> Response {
    let email = form.map(|Form(form)| form.email).unwrap_or_default();
    let sent = accounts::resend_verification(&client.app.core, &client.info, &email).await;
    sent_page(&client, sent, PageText::VerifyAgain)
}

async fn resend_reset(client: Client, form: FormResult<EmailForm>) -> Response {
    let email = form.map(|Form(form)| form.email).unwrap_or_default();
    let sent = accounts::request_reset(&client.app.core, &client.info, &email).await;
    sent_page(&client, sent, PageText::ResetAgain)
}

fn sent_page(client: &Client, sent: dca_core::Result<()>, again: PageText) -> Response {
    let (app, locale) = (&client.app, client.info.locale);
    match sent.map_err(Problem::from) {
        Ok(()) => page(app, locale, PageText::LinkSent, None, None),
        Err(problem) => page(app, locale, again, None, Some(&problem)),
    }
}

async fn reset(client: Client, Query(link): Query<LinkParams>) -> Response {
    let is_valid = accounts::check_reset_token(&client.app.core, &link.token).await;
    link_page(&client, is_valid.map(|()| PageText::Reset), PageText::ResetAgain, &link.token)
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NewPassword {
    token: String,
    password: String,
}

async fn submit_reset(State(app): State<App>, headers: HeaderMap, form: FormResult<NewPassword>) -> Response {
    let form = form.map(|Form(form)| form).unwrap_or_default();
    match accounts::reset_password(&app.core, &form.token, &form.password).await {
        Ok(()) => text_page(&app, &headers, PageText::PasswordSet),
        Err(refused) => {
            let problem = Problem::from(refused);
            let (text, token) = match problem.code {
                Code::ValidationError => (PageText::Reset, Some(form.token.as_str())),
                Code::InvalidOneTimeToken => (PageText::ResetAgain, None),
                _ => (PageText::Refused, None),
            };
            page(&app, locale(&headers), text, token, Some(&problem))
        }
    }
}

async fn second_factor(State(app): State<App>, headers: HeaderMap) -> Response {
    text_page(&app, &headers, PageText::SecondFactor)
}

#[derive(Default, Deserialize)]
struct CodeForm {
    #[serde(default)]
    code: String,
}

async fn submit_second_factor(
    client: Client,
    mut cookies: Cookies,
    headers: HeaderMap,
    form: FormResult<CodeForm>,
) -> Result<Response, Problem> {
    let token = cookies.get(CookieKind::SecondFactor)?.unwrap_or_default();
    let code = form.map(|Form(form)| form.code).unwrap_or_default();
    let signed_in = match providers::complete_with_second_factor(&client.app.core, &client.info, token, &code).await {
        Ok(signed_in) => signed_in,
        Err(refused) => {
            let problem = Problem::from(refused);
            let can_retry = problem.code == Code::InvalidSecondFactor || problem.code == Code::RequiresSecondFactor;
            let text = if can_retry { PageText::SecondFactor } else { PageText::Refused };
            return Ok(page(&client.app, locale(&headers), text, None, Some(&problem)));
        }
    };
    cookies.set_session(&client.app, CookieKind::Refresh, &signed_in);
    cookies.clear(CookieKind::SecondFactor);
    Ok(match &client.app.config.accounts.frontend_url {
        Some(frontend) => (cookies, Redirect::to(&format!("{frontend}/auth/cb"))).into_response(),
        None => (cookies, text_page(&client.app, &headers, PageText::SignedIn)).into_response(),
    })
}
