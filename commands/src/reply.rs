//! Every sentence the bot says. Names that people chose are escaped; nobody is ever pinged.

use dca_core::{
    Refusal, Snowflake,
    events::Event,
    guilds::Mapping,
    licenses::{Held, License, State},
};

use crate::rest;

/// Text as it is, not as Markdown, a mention or a link.
#[must_use]
pub fn plain(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_punctuation() && !matches!(c, '.' | ',' | '\'' | '"' | '!' | '?' | ';' | '%' | '&' | '=' | '$') {
            escaped.push('\\');
        }
        escaped.push(if c.is_control() { ' ' } else { c });
    }
    escaped
}

pub(crate) fn refusal(refusal: &Refusal) -> String {
    format!("❌ {}", refusal.detail)
}

pub(crate) fn discord_refused(why: &rest::Failure) -> String {
    format!("❌ {why}. {}", crate::checks::fix(why))
}

pub(crate) fn missing_permission() -> String {
    "❌ This needs the Manage Server permission. Ask an admin of this server.".to_owned()
}

pub(crate) fn guild_only() -> String {
    "❌ This works in a server, not in a direct message.".to_owned()
}

pub(crate) fn bad_argument(why: &str) -> String {
    format!("❌ An option cannot be read: {}. Choose it from the list Discord offers.", plain(why))
}

pub(crate) fn fault(id: u64) -> String {
    format!(
        "❌ Something went wrong on our side; nothing was changed halfway. If it stays so, tell the operator: {id}."
    )
}

/// The message that carries a key.
#[must_use]
pub fn key_dm(held: &Held) -> String {
    let ends = held.expires_at.map_or_else(String::new, |at| format!("\nIt is valid until <t:{}:f>.", at.timestamp()));
    format!(
        "🔑 Your license for **{}**\n```\n{}\n```Keep it to yourself. `/key` in the server shows it again.{ends}",
        plain(&held.product),
        held.key,
    )
}

pub(crate) fn keys(held: &[Held]) -> String {
    if held.is_empty() {
        return "You hold no license here. If you have just got the role, try again in a minute.".to_owned();
    }
    let lines = held.iter().map(|held| {
        let state = match held.state {
            State::Expired => " (expired)",
            _ => "",
        };
        format!("**{}**{state}\n```\n{}\n```", plain(&held.product), held.key)
    });
    lines.collect()
}

pub(crate) fn mapped(role: Snowflake, product: &str, quiet: bool) -> String {
    let holders = if quiet {
        "Members who have the role already get their license now, without a message: `/key` shows it."
    } else {
        "Members who have the role already get their key by direct message, one every few seconds."
    };
    format!("✅ <@&{role}> earns **{}** from now on. {holders}", plain(product))
}

pub(crate) fn unmapped(role: Snowflake, product: &str, holders: u64) -> String {
    let holders = match holders {
        0 => "Nobody held a license through it.".to_owned(),
        n => {
            format!("{n} licenses stood on it and end after their grace, unless something else entitles their holder.")
        }
    };
    format!("✅ <@&{role}> no longer earns **{}**. {holders}", plain(product))
}

pub(crate) fn mappings<'a>(rows: impl Iterator<Item = (&'a Mapping, &'a str)>) -> String {
    let lines: String = rows
        .map(|(mapping, product)| {
            let rests = if mapping.role_deleted_at.is_some() {
                " ⚠️ the role was deleted: its licenses are kept; `/mapping remove` lets them end"
            } else {
                ""
            };
            format!("<@&{}> (`{}`) → **{}**{rests}\n", mapping.role_id, mapping.role_id, plain(product))
        })
        .collect();
    if lines.is_empty() { "No role earns anything yet. `/setup` begins.".to_owned() } else { lines }
}

pub(crate) fn licenses<'a>(member: Snowflake, rows: impl Iterator<Item = (&'a License, State, &'a str)>) -> String {
    let lines: String = rows
        .map(|(license, state, product)| {
            let why = license.revoke_reason.as_deref().map_or_else(String::new, |why| format!(" ({})", plain(why)));
            format!(
                "**{}** `{}` {state}{why} since <t:{}:d>\n",
                plain(product),
                license.key_hint,
                license.created_at.timestamp()
            )
        })
        .collect();
    if lines.is_empty() { format!("<@{member}> never had a license here.") } else { lines }
}

pub(crate) fn granted(member: Snowflake, product: &str) -> String {
    format!("✅ <@{member}> has a license for **{}**; the key goes to them by direct message.", plain(product))
}

pub(crate) fn revoked(member: Snowflake, product: &str, hint: &str) -> String {
    format!(
        "✅ The license `{hint}` of <@{member}> for **{}** is revoked. The key is refused from now on.",
        plain(product)
    )
}

pub(crate) fn setup_panel(product: &str, prefix: &str) -> String {
    format!(
        "**{}** is ready; its keys begin with `{prefix}-`.\n\
         **1.** Choose the role that earns it. **2.** Choose a channel for the log, if you like.",
        plain(product)
    )
}

pub(crate) fn log_channel_set(channel: Snowflake) -> String {
    format!("✅ What happens to licenses is written in <#{channel}>.")
}

pub(crate) fn stale_panel() -> String {
    "❌ This panel is not yours, or too old. Run `/setup` again.".to_owned()
}

pub(crate) fn sync_confirmed() -> String {
    "✅ The next sync may end the licenses it was held for. It runs now.".to_owned()
}

/// A line of the log channel.
#[must_use]
pub fn log_line(event: &Event) -> String {
    let fact = |name: &str| event.after.as_ref().and_then(|after| after.get(name)).and_then(|v| v.as_str().map(plain));
    let subject = event.subject.map_or_else(String::new, |user| format!(" · user `{user}`"));
    let license = event.license_id.map_or_else(String::new, |id| format!(" · license `{id}`"));
    let reason = fact("reason").map_or_else(String::new, |why| format!(" · {why}"));
    let role = fact("roleId").map_or_else(String::new, |role| format!(" · role <@&{role}>"));
    let hint = match event.kind.as_str() {
        "source.unverifiable" => {
            "\n⚠️ A mapped role was deleted. Its licenses are kept; `/mapping remove` lets them end."
        }
        "sync.breaker_tripped" => {
            "\n⚠️ Too many licenses would end at once, so none did. Look first; `/sync confirm` lets them end."
        }
        _ => "",
    };
    let request = event.request_id.as_deref().map_or_else(String::new, |id| format!(" · `{id}`"));
    format!("`{}`{subject}{license}{role}{reason} · by {}{request}{hint}", event.kind, plain(&event.actor))
}
