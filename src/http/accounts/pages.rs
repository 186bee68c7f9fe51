//! Pages of our own, where there is no frontend: what a link in a letter opens, and what a provider sends a
//! browser back to. They work without JavaScript. Opening one changes nothing, since mail programs open links
//! too: a token counts when its form is posted.

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
    accounts::{self, EmailVerification, Locale, providers},
};
use serde::Deserialize;
use url::Url;

use super::auth::append;
use crate::{
    App,
    http::{
        compat::Dialect,
        cookies::{self, CookieKind, Cookies},
        extract::{Client, PathParams, Query},
        problem::Problem,
    },
};

/// Nothing but our own style sheet, and forms that come back here or, by a redirect, to the frontend: some
/// browsers hold a form's redirects against `form-action` too.
fn csp(app: &App) -> String {
    let frontend = app.config.frontend_url.as_deref().and_then(|url| Url::parse(url).ok());
    let frontend = frontend.map_or_else(String::new, |url| format!(" {}", url.origin().ascii_serialization()));
    format!(
        "default-src 'none'; style-src 'self'; form-action 'self'{frontend}; base-uri 'none'; frame-ancestors 'none'"
    )
}

/// A browser that may tell nobody where it was sends `Origin: null` with a form, which the gate refuses.
const REFERRER: &str = "same-origin";

/// The pages and their style sheet.
pub(in crate::http) fn routes() -> Router<App> {
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
    form: Option<FormOf<'a>>,
}

struct FormOf<'a> {
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

/// What a page text.
#[derive(Clone, Copy)]
pub(super) enum PageText {
    /// Prove the address?
    Verify,
    /// It is proved.
    Verified,
    /// It is proved, and a letter about the password is on its way.
    NeedsPassword,
    /// Which password?
    Reset,
    /// It is set.
    WasReset,
    /// Which code?
    SecondFactor,
    /// Signed in.
    SignedIn,
    /// Linked.
    Linked,
    /// Something was refused.
    Refused,
}

impl PageText {
    /// Title, text, label of the field, button.
    const fn words(self, locale: Locale) -> [&'static str; 4] {
        match (self, locale) {
            (Self::Verify, Locale::En) => {
                ["Confirm your address", "Press the button to confirm that this address is yours.", "", "Confirm"]
            }
            (Self::Verify, Locale::Es) => {
                ["Confirma tu dirección", "Pulsa el botón para confirmar que esta dirección es tuya.", "", "Confirmar"]
            }
            (Self::Verified, Locale::En) => ["Your address is confirmed", "You can sign in now.", "", ""],
            (Self::Verified, Locale::Es) => ["Tu dirección está confirmada", "Ya puedes iniciar sesión.", "", ""],
            (Self::NeedsPassword, Locale::En) => [
                "Your address is confirmed",
                "Somebody signed up with it more than once, so we mailed you a link to choose a password.",
                "",
                "",
            ],
            (Self::NeedsPassword, Locale::Es) => [
                "Tu dirección está confirmada",
                "Alguien se registró con ella más de una vez: te enviamos un enlace para elegir una contraseña.",
                "",
                "",
            ],
            (Self::Reset, Locale::En) => [
                "Choose a new password",
                "8 characters or more. You will be signed out everywhere.",
                "New password",
                "Set password",
            ],
            (Self::Reset, Locale::Es) => [
                "Elige una contraseña nueva",
                "8 caracteres o más. Se cerrarán todas tus sesiones.",
                "Contraseña nueva",
                "Guardar",
            ],
            (Self::WasReset, Locale::En) => ["Your password is set", "You can sign in with it now.", "", ""],
            (Self::WasReset, Locale::Es) => {
                ["Tu contraseña está guardada", "Ya puedes iniciar sesión con ella.", "", ""]
            }
            (Self::SecondFactor, Locale::En) => {
                ["One more step", "Enter the code of your authenticator app, or a recovery code.", "Code", "Sign in"]
            }
            (Self::SecondFactor, Locale::Es) => {
                ["Un paso más", "Escribe el código de tu aplicación, o un código de recuperación.", "Código", "Entrar"]
            }
            (Self::SignedIn, Locale::En) => ["You are signed in", "You can close this page.", "", ""],
            (Self::SignedIn, Locale::Es) => ["Has iniciado sesión", "Puedes cerrar esta página.", "", ""],
            (Self::Linked, Locale::En) => ["The account is linked", "You can close this page.", "", ""],
            (Self::Linked, Locale::Es) => ["La cuenta está vinculada", "Puedes cerrar esta página.", "", ""],
            (Self::Refused, Locale::En) => ["That did not work", "Go back and begin again.", "", ""],
            (Self::Refused, Locale::Es) => ["No ha funcionado", "Vuelve atrás y empieza de nuevo.", "", ""],
        }
    }

    fn form(self, token: Option<&str>, locale: Locale) -> Option<FormOf<'_>> {
        let [.., label, button] = self.words(locale);
        let (action, field) = match self {
            Self::Verify => ("/verify", None),
            Self::Reset => ("/reset-password", Some(("password", "password", "new-password"))),
            Self::SecondFactor => ("/second-factor", Some(("code", "text", "one-time-code"))),
            _ => return None,
        };
        let field = field.map(|(name, kind, autocomplete)| Field { label, name, kind, autocomplete });
        Some(FormOf { action, token, field, button })
    }
}

fn page(app: &App, locale: Locale, page_text: PageText, token: Option<&str>, problem: Option<&Problem>) -> Response {
    let [title, body, ..] = page_text.words(locale);
    let page = Page {
        lang: locale.as_str(),
        app_name: &app.config.app_name,
        title,
        text: body,
        problem: problem.map(|problem| problem_text(problem, locale)),
        form: page_text.form(token, locale),
    };
    let status = problem.map_or(StatusCode::OK, Problem::http_status);
    match page.render() {
        Ok(html) => {
            let headers = [(header::CONTENT_SECURITY_POLICY, csp(app)), (header::REFERRER_POLICY, REFERRER.to_owned())];
            let mut response = (status, headers, Html(html)).into_response();
            response.headers_mut().extend(problem.and_then(Problem::retry));
            response
        }
        Err(error) => {
            tracing::error!(%error, "a page was not rendered");
            Problem::of(Code::Internal).into_response()
        }
    }
}

/// The sentence of a problem in the reader's language.
fn problem_text(problem: &Problem, locale: Locale) -> &str {
    match (locale, problem.code()) {
        (Locale::En, _) => problem.detail(),
        (_, Code::InvalidOneTimeToken) => "El enlace no es válido o ha caducado.",
        (_, Code::ValidationError) => "La contraseña debe tener de 8 a 128 caracteres y no ser fácil de adivinar.",
        (_, Code::InvalidSecondFactor) => "El código no es correcto.",
        (_, Code::RequiresSecondFactor) => "Falta el código.",
        (_, Code::RateLimitExceeded) => "Demasiados intentos; espera antes del siguiente.",
        (_, Code::AccountSuspended) => "La cuenta está suspendida.",
        (_, Code::AccountBanned) => "La cuenta está bloqueada.",
        (_, Code::Conflict) => "La cuenta ya está vinculada.",
        (_, Code::Unavailable) => "El servicio no responde; inténtalo de nuevo.",
        (_, _) => "No se ha completado la acción.",
    }
}

fn locale(headers: &HeaderMap) -> Locale {
    let speaks = headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if speaks.trim_start().to_ascii_lowercase().starts_with("es") { Locale::Es } else { Locale::En }
}

/// Whether a person looks at the answer.
pub(super) fn wants_page(headers: &HeaderMap) -> bool {
    headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).is_some_and(|text| text.contains("text/html"))
}

/// A page that text one thing.
pub(super) fn text_page(app: &App, headers: &HeaderMap, page_text: PageText) -> Response {
    page(app, locale(headers), page_text, None, None)
}

/// A refusal, as a page where a person looks at it.
pub(super) fn for_browser(app: &App, headers: &HeaderMap, refused: Problem) -> Response {
    if wants_page(headers) {
        return page(app, locale(headers), PageText::Refused, None, Some(&refused));
    }
    refused.into_response()
}

/// What a letter's link carries.
#[derive(Deserialize)]
struct LinkParams {
    #[serde(default)]
    token: String,
}

async fn verify(State(app): State<App>, headers: HeaderMap, Query(link): Query<LinkParams>) -> Response {
    page(&app, locale(&headers), PageText::Verify, Some(&link.token), None)
}

/// The same, where earlier links had the token in the path.
pub(in crate::http) async fn verify_by_path(
    State(app): State<App>,
    headers: HeaderMap,
    PathParams(token): PathParams<String>,
) -> Response {
    page(&app, locale(&headers), PageText::Verify, Some(&token), None)
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
        Ok(()) => text_page(&app, &headers, PageText::WasReset),
        Err(refused) => {
            let problem = Problem::from(refused);
            // A weak password may be chosen again; a token that is over may not.
            let again = problem.code() == Code::ValidationError;
            let text = if again { PageText::Reset } else { PageText::Refused };
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
    headers: HeaderMap,
    form: Result<Form<CodeForm>, FormRejection>,
) -> Result<Response, Problem> {
    let cookies = Cookies::of(&headers);
    let token = cookies.one(&CookieKind::SecondFactor.name(&app.config))?.unwrap_or_default();
    let code = form.map(|Form(form)| form.code).unwrap_or_default();
    let signed_in = match providers::complete_with_mfa(&app.core, &client, token, &code).await {
        Ok(signed_in) => signed_in,
        Err(refused) => {
            let problem = Problem::from(refused);
            let again = problem.code() == Code::InvalidSecondFactor || problem.code() == Code::RequiresSecondFactor;
            let text = if again { PageText::SecondFactor } else { PageText::Refused };
            return Ok(page(&app, locale(&headers), text, None, Some(&problem)));
        }
    };
    let mut granted = cookies::grant(&app, Dialect::Native, &signed_in);
    append(&mut granted, cookies::clear(&app.config, &[CookieKind::SecondFactor]));
    Ok(match &app.config.frontend_url {
        Some(frontend) => (granted, Redirect::to(&format!("{frontend}/auth/cb"))).into_response(),
        None => (granted, text_page(&app, &headers, PageText::SignedIn)).into_response(),
    })
}
