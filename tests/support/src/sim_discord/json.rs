//! Helpers for the JSON of messages and members.

use serde_json::{Value, json};

/// The epoch of snowflakes, in milliseconds since the Unix epoch.
const DISCORD_EPOCH: u64 = 1_420_070_400_000;
const EPHEMERAL: u64 = 1 << 6;
pub(super) const LOADING: u64 = 1 << 7;

/// The creation time of a snowflake, which the Sim uses as its clock.
pub(super) fn timestamp(id: u64) -> String {
    let millis = (id >> 22) + DISCORD_EPOCH;
    let time = i64::try_from(millis).ok().and_then(chrono::DateTime::from_timestamp_millis);
    time.expect("a snowflake's time").format("%Y-%m-%dT%H:%M:%S%.6f+00:00").to_string()
}

/// `base` with the keys of `overlay` added or replaced.
pub(super) fn merged(mut base: Value, overlay: Value) -> Value {
    if let (Value::Object(base), Value::Object(overlay)) = (&mut base, overlay) {
        base.extend(overlay);
    }
    base
}

pub(super) fn is_ephemeral(message: &Value) -> bool {
    message["flags"].as_u64().unwrap_or(0) & EPHEMERAL != 0
}

/// Copies content, embeds and components of a request into a message.
pub(super) fn write_content(message: &mut Value, request: &Value) {
    if let Some(content) = request.get("content") {
        message["content"] = json!(content.as_str().unwrap_or(""));
    }
    if let Some(embeds) = request.get("embeds") {
        message["embeds"] = without_nulls(embeds);
        for embed in message["embeds"].as_array_mut().into_iter().flatten() {
            embed["type"] = json!("rich");
        }
    }
    if let Some(rows) = request.get("components") {
        message["components"] = without_nulls(rows);
        number_components(&mut message["components"], &mut 0);
    }
}

/// Adds the `id` of each component and the number of values of selects.
fn number_components(components: &mut Value, last: &mut u64) {
    for component in components.as_array_mut().into_iter().flatten() {
        *last += 1;
        let mut defaults = json!({ "id": *last });
        if matches!(component["type"].as_u64(), Some(3 | 5..=8)) {
            defaults["min_values"] = json!(1);
            defaults["max_values"] = json!(1);
        }
        *component = merged(defaults, component.take());
        if let Some(inner) = component.get_mut("components") {
            number_components(inner, last);
        }
    }
}

/// Removes null members, as Discord does, and reads a null list as an empty one.
pub(super) fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let entries = map.iter().filter(|(_, value)| !value.is_null());
            entries.map(|(key, value)| (key.clone(), without_nulls(value))).collect()
        }
        Value::Array(list) => list.iter().map(without_nulls).collect(),
        Value::Null => json!([]),
        other => other.clone(),
    }
}
