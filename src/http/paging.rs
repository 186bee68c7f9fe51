//! Pages of lists: the parameters `cursor` and `limit`, and the link to the next page (RFC 8288).

use axum::Json;
use axum::extract::FromRequestParts;
use axum::http::{HeaderMap, HeaderValue, header, request::Parts};
use dca_core::page::{Page, PageRequest};
use serde::{Deserialize, Serialize};
use url::form_urlencoded;
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::{IntoParams, ToSchema};

use super::{extract::Query, problem::Problem};
use crate::App;

/// The page that the client asks for. Name it in `params` to document the parameters. Filters are a `Query` of their own.
pub(super) struct Paging {
    pub(super) request: PageRequest,
    /// The URL of the list.
    url: String,
    filters: Vec<(String, String)>,
}

#[derive(Deserialize, IntoParams)]
struct PagingQuery {
    /// `nextCursor` of the previous page. Send the same filters with it.
    #[param(nullable = false)]
    cursor: Option<String>,
    /// The number of entries per page.
    #[param(nullable = false, minimum = 1, maximum = 100, default = 50)]
    limit: Option<u64>,
}

/// A page of a list, newest first.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct PageView<T> {
    data: Vec<T>,
    /// Send it as `cursor` to get the next page. `null` on the last page.
    next_cursor: Option<String>,
}

/// A page as a handler returns it, or a problem.
pub(super) type PageResult<T> = Result<(HeaderMap, Json<PageView<T>>), Problem>;

impl FromRequestParts<App> for Paging {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let Query(PagingQuery { cursor, limit }) = Query::from_request_parts(parts, app).await?;
        let query = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).into_owned();
        Ok(Self {
            request: PageRequest::new(cursor, limit)?,
            url: format!("{}{}", app.config.http.public_url, parts.uri.path()),
            filters: query.filter(|(name, _)| !["cursor", "limit"].contains(&name.as_str())).collect(),
        })
    }
}

impl Paging {
    /// Renders a page, with a link to the next one.
    pub(super) fn render<T, V: From<T>>(self, page: Page<T>) -> (HeaderMap, Json<PageView<V>>) {
        let link = page.next.as_deref().and_then(|next| HeaderValue::from_str(&self.link(next)).ok());
        let headers = link.map(|link| (header::LINK, link)).into_iter().collect();
        let page = page.map(V::from);
        (headers, Json(PageView { data: page.items, next_cursor: page.next }))
    }

    fn link(&self, cursor: &str) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(&self.filters).append_pair("cursor", cursor);
        query.append_pair("limit", &self.request.limit().to_string());
        format!("<{}?{}>; rel=\"next\"", self.url, query.finish())
    }
}

impl IntoParams for Paging {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        PagingQuery::into_params(|| Some(ParameterIn::Query))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_to_the_next_page_keeps_the_filters() {
        let page = |next: Option<&str>| {
            let filters = vec![("state".to_owned(), "a b&c>".to_owned())];
            let url = "https://auth.example.com/licenses".to_owned();
            let paging = Paging { request: PageRequest::new(None, Some(2)).unwrap(), url, filters };
            paging.render::<u8, u8>(Page { items: vec![2, 1], next: next.map(str::to_owned) })
        };
        let (headers, Json(view)) = page(Some("c-1_"));
        let link = "<https://auth.example.com/licenses?state=a+b%26c%3E&cursor=c-1_&limit=2>; rel=\"next\"";
        assert_eq!(headers[header::LINK], link);
        assert_eq!(serde_json::to_string(&view).unwrap(), r#"{"data":[2,1],"nextCursor":"c-1_"}"#);
        let (headers, Json(view)) = page(None);
        assert!(headers.is_empty());
        assert_eq!(serde_json::to_string(&view).unwrap(), r#"{"data":[2,1],"nextCursor":null}"#);
    }
}
