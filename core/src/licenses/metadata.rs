//! The metadata of licenses: any JSON object within limits.

use serde_json::Value;

use crate::{Reason, Result};

/// The largest metadata, in bytes of JSON.
const MAX_BYTES: usize = 16 * 1024;
/// The most members, those of nested objects included.
const MAX_KEYS: usize = 64;
/// The deepest nesting; the object itself is the first level.
const MAX_DEPTH: usize = 4;

/// Refused with `VALIDATION_ERROR` if the metadata is too large, or has a text that cannot be stored.
pub(super) fn check_metadata(metadata: &Value) -> Result<()> {
    let (keys, depth) = size(metadata);
    let text = metadata.to_string();
    // Postgres cannot store a NUL.
    let is_valid = keys <= MAX_KEYS && depth <= MAX_DEPTH && text.len() <= MAX_BYTES && !text.contains("\\u0000");
    if is_valid { Ok(()) } else { Err(Reason::InvalidMetadata.refusal()) }
}

/// The number of members, and the depth.
fn size(value: &Value) -> (usize, usize) {
    let (own, values): (usize, Vec<&Value>) = match value {
        Value::Object(members) => (members.len(), members.values().collect()),
        Value::Array(values) => (0, values.iter().collect()),
        _ => return (0, 0),
    };
    let sizes = values.into_iter().map(size);
    let (keys, depth) = sizes.fold((own, 0), |(keys, depth), (more, below)| (keys + more, depth.max(below)));
    (keys, depth + 1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn metadata_has_limits() {
        let wide = |members: usize| Value::Object((0..members).map(|n| (n.to_string(), json!(n))).collect());
        let nul = |text: &str| json!({ "a": text });
        for (metadata, is_valid) in [
            (wide(64), true),
            (wide(65), false),
            (json!({ "a": wide(63) }), true),
            (json!({ "a": wide(64) }), false),
            (json!({ "a": [wide(64)] }), false),
            (json!({ "a": { "b": { "c": { "d": 1 } } } }), true),
            (json!({ "a": { "b": { "c": { "d": {} } } } }), false),
            (json!({ "a": [[[[]]]] }), false),
            (json!({ "a": "x".repeat(16 * 1024 - 8) }), true),
            (json!({ "a": "x".repeat(16 * 1024 - 7) }), false),
            (nul("a\0b"), false),
            (json!({ "a\0": 1 }), false),
            (nul("u0000 日本 🎫"), true),
        ] {
            assert_eq!(check_metadata(&metadata).is_ok(), is_valid, "{:.80}", metadata.to_string());
        }
    }
}
