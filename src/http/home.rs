//! Where things are: the index at `/`, and the catalog of codes at `/errors`, to which problems link.

use askama::Template;
use axum::http::HeaderMap;
use axum::response::{Html, IntoResponse, Response};
use axum::{Json, Router, extract::State, routing::get};
use dca_core::{Code, licenses::VerdictCode};
use serde_json::{Map, Value};

use super::problem::{Problem, status};
use crate::{App, VERSION, http::accounts::pages::wants_page, wording};

pub(super) fn routes() -> Router<App> {
    Router::new().route("/", get(index)).route("/errors", get(errors))
}

/// Name, path and description.
type Link = (&'static str, &'static str, &'static str);

const LINKS: [Link; 6] = [
    ("docs", "/docs/", "The API reference, to read and to try"),
    ("openapi", "/openapi.json", "The API reference for code generators (OpenAPI 3.1)"),
    ("errors", "/errors", "Every error code, and what to do about it"),
    ("health", "/health", "The status of the service, its database and Discord"),
    ("ready", "/ready", "Whether this instance accepts requests"),
    ("validate", "/licenses/validate", "POST a license key here to validate it"),
];

#[derive(Template)]
#[template(path = "pages/index.html")]
struct IndexPage {
    version: &'static str,
    links: &'static [Link],
}

async fn index(State(app): State<App>, headers: HeaderMap) -> Response {
    if wants_page(&headers) {
        return html(&IndexPage { version: VERSION, links: &LINKS });
    }
    let url = |path: &str| Value::from(format!("{}{path}", app.config.http.public_url));
    let links = LINKS.iter().map(|(name, path, _)| ((*name).to_owned(), url(path)));
    let about = [("name".to_owned(), "DCA-Auth".into()), ("version".to_owned(), VERSION.into())];
    Json(about.into_iter().chain(links).collect::<Map<_, _>>()).into_response()
}

#[derive(Template)]
#[template(path = "pages/errors.html")]
struct ErrorsPage {
    /// Code, HTTP status, meaning, and what to do.
    codes: Vec<(Code, u16, &'static str, &'static str)>,
    verdicts: Vec<(VerdictCode, String)>,
}

async fn errors() -> Response {
    let code = |code: &Code| (*code, status(*code).as_u16(), wording::title(*code), wording::advice(*code));
    let codes = Code::ALL.iter().map(code).collect();
    let verdicts = VerdictCode::ALL.iter().map(|code| (*code, wording::verdict(*code, None))).collect();
    html(&ErrorsPage { codes, verdicts })
}

fn html(page: &impl Template) -> Response {
    match page.render() {
        Ok(text) => Html(text).into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot render a page");
            Problem::of(Code::Internal).into_response()
        }
    }
}
