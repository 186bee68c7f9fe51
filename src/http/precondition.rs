//! `If-Match` and `ETag` (RFC 9110, sections 13.1.1 and 8.8.3). The tag of an object is its revision.

use axum::extract::FromRequestParts;
use axum::http::{HeaderName, header, request::Parts};
use dca_core::{Code, precondition::IfMatch};
use utoipa::IntoParams;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::{ObjectBuilder, Required, Type};

use super::problem::Problem;
use crate::App;

/// The revisions that the client expects. Name it in `params` to document the header.
pub(super) struct Precondition(pub(super) IfMatch);

impl FromRequestParts<App> for Precondition {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        let lines: Vec<&[u8]> = parts.headers.get_all(header::IF_MATCH).iter().map(AsRef::as_ref).collect();
        let invalid = || Problem::new(Code::BadRequest, "If-Match must be a quoted ETag, for example \"3\".");
        if lines.is_empty() {
            return Ok(Self(IfMatch::default()));
        }
        let list = String::from_utf8(lines.join(&b","[..])).map_err(|_| invalid())?;
        if_match(&list).map(Self).ok_or_else(invalid)
    }
}

/// Parses `*` or a list of entity tags. Weak tags and those that are no revision match nothing.
fn if_match(list: &str) -> Option<IfMatch> {
    if list.trim() == "*" {
        return Some(IfMatch::default());
    }
    let (mut rest, mut revisions) = (list, Vec::new());
    loop {
        rest = rest.trim_start();
        let strong = rest.strip_prefix("W/");
        let (tag, after) = strong.unwrap_or(rest).strip_prefix('"')?.split_once('"')?;
        revisions.extend(tag.parse().ok().filter(|rev: &i64| strong.is_none() && rev.to_string() == tag));
        rest = after.trim_start();
        if rest.is_empty() {
            return Some(IfMatch::one_of(revisions));
        }
        rest = rest.strip_prefix(',')?;
    }
}

/// The `ETag` of an object with this revision, for the response.
pub(super) fn etag(rev: i64) -> [(HeaderName, String); 1] {
    [(header::ETAG, format!("\"{rev}\""))]
}

impl IntoParams for Precondition {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let parameter = ParameterBuilder::new()
            .name("If-Match")
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .description(Some("The `ETag` that you read. If the object has changed since, nothing is changed."))
            .schema(Some(ObjectBuilder::new().schema_type(Type::String).build()));
        vec![parameter.build()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn if_match_is_a_list_of_strong_tags() {
        for (header, matches_three) in [
            ("*", Some(true)),
            ("\"3\"", Some(true)),
            (" \"2\" ,\"3\" ", Some(true)),
            ("\"a,b\", \"3\"", Some(true)),
            ("W/\"2\", \"3\"", Some(true)),
            ("\"2\"", Some(false)),
            ("W/\"3\"", Some(false)),
            ("\"03\"", Some(false)),
            ("\"+3\"", Some(false)),
            ("\"\"", Some(false)),
            ("", None),
            ("3", None),
            ("\"3", None),
            ("\"3\" \"4\"", None),
            ("\"3\",", None),
            ("\"3\", *", None),
        ] {
            assert_eq!(if_match(header).map(|if_match| if_match.check(3).is_ok()), matches_three, "{header}");
        }
    }
}
