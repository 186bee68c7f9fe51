//! HTML pages for email links and OAuth callbacks if no frontend is configured. They work without JavaScript.
//! Opening a page changes nothing, because mail programs prefetch links: tokens are only used when the form is
//! submitted.

use askama::Template;
use axum::{
    Form, Router,
    extract::{State, rejection::FormRejection},
    http::{HeaderMap, StatusCode, header},
    response::{Html, IntoResponse, Redirect, Response},
    routing::get,
};
use dca_core::{
    Code,
    accounts::{self, EmailVerification, providers},
    users::Locale,
};
use serde::Deserialize;
use url::Url;

use crate::{
    App,
    http::{
        cookies::{CookieKind, Cookies},
        extract::{Client, Query, locale},
        problem::Problem,
    },
};

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

/// The pages and their style sheet.
pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/verify", get(verify).post(submit_verify))
        .route("/reset-password", get(reset).post(submit_reset))
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
}

struct Field {
    label: &'static str,
    name: &'static str,
    kind: &'static str,
    autocomplete: &'static str,
}

/// The text of a page.
#[derive(Clone, Copy)]
pub(super) enum PageText {
    /// Asks to confirm the email.
    Verify,
    /// The email is confirmed.
    Verified,
    /// The email is confirmed, and an email with a link to choose a password was sent.
    NeedsPassword,
    /// Asks for a new password.
    Reset,
    /// The password was set.
    PasswordSet,
    /// Asks for a two-factor code.
    SecondFactor,
    SignedIn,
    /// A provider account was linked.
    Linked,
    /// An error.
    Refused,
}

impl PageText {
    /// Title, text, label of the field and label of the button.
    const fn texts(self, locale: Locale) -> [&'static str; 4] {
        match (self, locale) {
            (Self::Verify, Locale::En) => {
                ["Confirm your email address", "Select Confirm if this email address is yours.", "", "Confirm"]
            }
            (Self::Verify, Locale::Es) => [
                "Confirma tu correo electrónico",
                "Pulsa Confirmar si este correo electrónico es tuyo.",
                "",
                "Confirmar",
            ],
            (Self::Verified, Locale::En) => ["Your email address is confirmed", "You can now sign in.", "", ""],
            (Self::Verified, Locale::Es) => {
                ["Tu correo electrónico está confirmado", "Ya puedes iniciar sesión.", "", ""]
            }
            (Self::NeedsPassword, Locale::En) => [
                "Your email address is confirmed",
                "There was more than one sign-up with it, so we emailed you a link to choose a password.",
                "",
                "",
            ],
            (Self::NeedsPassword, Locale::Es) => [
                "Tu correo electrónico está confirmado",
                "Hubo más de un registro con él. Te hemos enviado un enlace para elegir una contraseña.",
                "",
                "",
            ],
            (Self::Reset, Locale::En) => [
                "Choose a new password",
                "Use at least 8 characters. You will be signed out on all devices.",
                "New password",
                "Set password",
            ],
            (Self::Reset, Locale::Es) => [
                "Elige una contraseña nueva",
                "Usa al menos 8 caracteres. Se cerrará la sesión en todos tus dispositivos.",
                "Contraseña nueva",
                "Guardar contraseña",
            ],
            (Self::PasswordSet, Locale::En) => {
                ["Your password is set", "You can now sign in with your new password.", "", ""]
            }
            (Self::PasswordSet, Locale::Es) => {
                ["Tu contraseña está guardada", "Ya puedes iniciar sesión con tu contraseña nueva.", "", ""]
            }
            (Self::SecondFactor, Locale::En) => [
                "Two-factor authentication",
                "Enter the code from your authenticator app, or a recovery code.",
                "Code",
                "Sign in",
            ],
            (Self::SecondFactor, Locale::Es) => [
                "Autenticación en dos pasos",
                "Escribe el código de tu aplicación de autenticación o un código de recuperación.",
                "Código",
                "Iniciar sesión",
            ],
            (Self::SignedIn, Locale::En) => ["You are signed in", "You can close this page.", "", ""],
            (Self::SignedIn, Locale::Es) => ["Has iniciado sesión", "Puedes cerrar esta página.", "", ""],
            (Self::Linked, Locale::En) => ["Your account is linked", "You can close this page.", "", ""],
            (Self::Linked, Locale::Es) => ["Tu cuenta está vinculada", "Puedes cerrar esta página.", "", ""],
            (Self::Refused, Locale::En) => ["Something went wrong", "Go back and try again.", "", ""],
            (Self::Refused, Locale::Es) => ["Algo ha salido mal", "Vuelve atrás e inténtalo de nuevo.", "", ""],
        }
    }

    fn form(self, token: Option<&str>, locale: Locale) -> Option<PageForm<'_>> {
        let [.., label, button] = self.texts(locale);
        let (action, field) = match self {
            Self::Verify => ("/verify", None),
            Self::Reset => ("/reset-password", Some(("password", "password", "new-password"))),
            Self::SecondFactor => ("/second-factor", Some(("code", "text", "one-time-code"))),
            _ => return None,
        };
        let field = field.map(|(name, kind, autocomplete)| Field { label, name, kind, autocomplete });
        Some(PageForm { action, token, field, button })
    }
}

fn page(app: &App, locale: Locale, page_text: PageText, token: Option<&str>, problem: Option<&Problem>) -> Response {
    let [title, body, ..] = page_text.texts(locale);
    let page = Page {
        lang: locale.as_str(),
        app_name: &app.config.accounts.app_name,
        title,
        text: body,
        problem: problem.map(|problem| problem.detail_in(locale)),
        form: page_text.form(token, locale),
    };
    let status = problem.map_or(StatusCode::OK, Problem::http_status);
    match page.render() {
        Ok(html) => {
            let headers = [(header::CONTENT_SECURITY_POLICY, csp(app)), (header::REFERRER_POLICY, REFERRER.to_owned())];
            let mut response = (status, headers, Html(html)).into_response();
            response.headers_mut().extend(problem.and_then(Problem::retry_after_header));
            response
        }
        Err(error) => {
            tracing::error!(%error, "cannot render a page");
            Problem::of(Code::Internal).into_response()
        }
    }
}

/// Whether the client accepts HTML.
pub(super) fn wants_page(headers: &HeaderMap) -> bool {
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

/// The parameters of an email link.
#[derive(Deserialize)]
struct LinkParams {
    #[serde(default)]
    token: String,
}

async fn verify(State(app): State<App>, headers: HeaderMap, Query(link): Query<LinkParams>) -> Response {
    verify_page(&app, &headers, &link.token)
}

/// Asks to confirm the email that the token was sent to.
pub(crate) fn verify_page(app: &App, headers: &HeaderMap, token: &str) -> Response {
    page(app, locale(headers), PageText::Verify, Some(token), None)
}

async fn submit_verify(
    State(app): State<App>,
    headers: HeaderMap,
    form: Result<Form<LinkParams>, FormRejection>,
) -> Response {
    let token = form.map(|Form(form)| form.token).unwrap_or_default();
    match accounts::verify_email(&app.core, &token).await {
        Ok(EmailVerification::Ready) => text_page(&app, &headers, PageText::Verified),
        Ok(EmailVerification::NeedsPassword) => text_page(&app, &headers, PageText::NeedsPassword),
        Err(refused) => page(&app, locale(&headers), PageText::Refused, None, Some(&refused.into())),
    }
}

async fn reset(State(app): State<App>, headers: HeaderMap, Query(link): Query<LinkParams>) -> Response {
    page(&app, locale(&headers), PageText::Reset, Some(&link.token), None)
}

#[derive(Default, Deserialize)]
struct NewPassword {
    #[serde(default)]
    token: String,
    #[serde(default)]
    password: String,
}

async fn submit_reset(
    State(app): State<App>,
    headers: HeaderMap,
    form: Result<Form<NewPassword>, FormRejection>,
) -> Response {
    let form = form.map(|Form(form)| form).unwrap_or_default();
    match accounts::reset_password(&app.core, &form.token, &form.password).await {
        Ok(()) => text_page(&app, &headers, PageText::PasswordSet),
        Err(refused) => {
            let problem = Problem::from(refused);
            // A weak password can be corrected, an expired token cannot.
            let can_retry = problem.code() == Code::ValidationError;
            let text = if can_retry { PageText::Reset } else { PageText::Refused };
            page(&app, locale(&headers), text, Some(&form.token), Some(&problem))
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
    State(app): State<App>,
    Client(client): Client,
    mut cookies: Cookies,
    headers: HeaderMap,
    form: Result<Form<CodeForm>, FormRejection>,
) -> Result<Response, Problem> {
    let token = cookies.get(CookieKind::SecondFactor)?.unwrap_or_default();
    let code = form.map(|Form(form)| form.code).unwrap_or_default();
    let signed_in = match providers::complete_with_second_factor(&app.core, &client, token, &code).await {
        Ok(signed_in) => signed_in,
        Err(refused) => {
            let problem = Problem::from(refused);
            let can_retry = problem.code() == Code::InvalidSecondFactor || problem.code() == Code::RequiresSecondFactor;
            let text = if can_retry { PageText::SecondFactor } else { PageText::Refused };
            return Ok(page(&app, locale(&headers), text, None, Some(&problem)));
        }
    };
    cookies.set_session(&app, CookieKind::Refresh, &signed_in);
    cookies.clear(CookieKind::SecondFactor);
    Ok(match &app.config.accounts.frontend_url {
        Some(frontend) => (cookies, Redirect::to(&format!("{frontend}/auth/cb"))).into_response(),
        None => (cookies, text_page(&app, &headers, PageText::SignedIn)).into_response(),
    })
}
