//! HTML pages for email links and OAuth callbacks if no frontend is configured. They work without JavaScript. Opening
//! a page changes nothing, because mail programs prefetch links: tokens are only used when the form is submitted.

use askama::Template;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::{Form, Router, extract::State, extract::rejection::FormRejection, routing::get};
use dca_core::accounts::{self, EmailVerification, providers};
use dca_core::{Code, users::Locale};
use serde::Deserialize;
use url::Url;

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

/// Name, kind and autocomplete of the fields.
const PASSWORD: [&str; 3] = ["password", "password", "new-password"];
const CODE: [&str; 3] = ["code", "text", "one-time-code"];

#[derive(Clone, Copy)]
pub(super) enum PageText {
    Verify,
    Verified,
    /// The email is confirmed, and an email with a link to choose a password was sent.
    NeedsPassword,
    Reset,
    PasswordSet,
    SecondFactor,
    SignedIn,
    Linked,
    Refused,
}

impl PageText {
    const fn texts(self, locale: Locale) -> (&'static str, &'static str) {
        use Locale::{En, Es};
        match (self, locale) {
            (Self::Verify, En) => ("Confirm your email address", "Select Confirm if this email address is yours."),
            (Self::Verify, Es) => {
                ("Confirma tu correo electrónico", "Pulsa Confirmar si este correo electrónico es tuyo.")
            }
            (Self::Verified, En) => ("Your email address is confirmed", "You can now sign in."),
            (Self::Verified, Es) => ("Tu correo electrónico está confirmado", "Ya puedes iniciar sesión."),
            (Self::NeedsPassword, En) => (
                "Your email address is confirmed",
                "There was more than one sign-up with it, so we emailed you a link to choose a password.",
            ),
            (Self::NeedsPassword, Es) => (
                "Tu correo electrónico está confirmado",
                "Hubo más de un registro con él. Te hemos enviado un enlace para elegir una contraseña.",
            ),
            (Self::Reset, En) => {
                ("Choose a new password", "Use at least 8 characters. You will be signed out on all devices.")
            }
            (Self::Reset, Es) => (
                "Elige una contraseña nueva",
                "Usa al menos 8 caracteres. Se cerrará la sesión en todos tus dispositivos.",
            ),
            (Self::PasswordSet, En) => ("Your password is set", "You can now sign in with your new password."),
            (Self::PasswordSet, Es) => {
                ("Tu contraseña está guardada", "Ya puedes iniciar sesión con tu contraseña nueva.")
            }
            (Self::SecondFactor, En) => {
                ("Two-factor authentication", "Enter the code from your authenticator app, or a recovery code.")
            }
            (Self::SecondFactor, Es) => (
                "Autenticación en dos pasos",
                "Escribe el código de tu aplicación de autenticación o un código de recuperación.",
            ),
            (Self::SignedIn, En) => ("You are signed in", "You can close this page."),
            (Self::SignedIn, Es) => ("Has iniciado sesión", "Puedes cerrar esta página."),
            (Self::Linked, En) => ("Your account is linked", "You can close this page."),
            (Self::Linked, Es) => ("Tu cuenta está vinculada", "Puedes cerrar esta página."),
            (Self::Refused, En) => ("Something went wrong", "Go back and try again."),
            (Self::Refused, Es) => ("Algo ha salido mal", "Vuelve atrás e inténtalo de nuevo."),
        }
    }

    fn form(self, token: Option<&str>, locale: Locale) -> Option<PageForm<'_>> {
        let (action, button, field) = match (self, locale) {
            (Self::Verify, Locale::En) => ("/verify", "Confirm", None),
            (Self::Verify, Locale::Es) => ("/verify", "Confirmar", None),
            (Self::Reset, Locale::En) => ("/reset-password", "Set password", Some(("New password", PASSWORD))),
            (Self::Reset, Locale::Es) => {
                ("/reset-password", "Guardar contraseña", Some(("Contraseña nueva", PASSWORD)))
            }
            (Self::SecondFactor, Locale::En) => ("/second-factor", "Sign in", Some(("Code", CODE))),
            (Self::SecondFactor, Locale::Es) => ("/second-factor", "Iniciar sesión", Some(("Código", CODE))),
            _ => return None,
        };
        let field = field.map(|(label, [name, kind, autocomplete])| Field { label, name, kind, autocomplete });
        Some(PageForm { action, token, field, button })
    }
}

fn page(app: &App, locale: Locale, page_text: PageText, token: Option<&str>, problem: Option<&Problem>) -> Response {
    let (title, text) = page_text.texts(locale);
    let page = Page {
        lang: locale.as_str(),
        app_name: &app.config.accounts.app_name,
        title,
        text,
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

type FormResult<T> = Result<Form<T>, FormRejection>;

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

async fn submit_verify(State(app): State<App>, headers: HeaderMap, form: FormResult<LinkParams>) -> Response {
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
            // A weak password can be corrected, an expired token cannot.
            let can_retry = problem.code == Code::ValidationError;
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
