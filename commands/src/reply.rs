//! Every sentence the bot says. Names that people chose are escaped; nobody is ever pinged.

use dca_core::{
    Refusal, Snowflake,
    events::Event,
    licenses::{License, LicenseState, MemberLicense},
    mappings::Mapping,
};

use crate::rest::DiscordError;

/// Discord takes 2,000 characters a message; this many leave room for what is added.
const ROOM: usize = 1_800;

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
    // Names that people chose are part of it; our own backticks stay.
    let mut text = String::from("❌ ");
    for c in refusal.detail.chars().take(ROOM) {
        if "*_~|[]()<>@#\\".contains(c) {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

pub(crate) fn discord_refused(why: &DiscordError) -> String {
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
pub fn key_dm(held: &MemberLicense) -> String {
    let ends = held.expires_at.map_or_else(String::new, |at| format!("\nIt is valid until <t:{}:f>.", at.timestamp()));
    format!(
        "🔑 Your license for **{}**\n```\n{}\n```Keep it to yourself. `/key` in the server shows it again.{ends}",
        plain(&held.product),
        held.key,
    )
}

pub(crate) fn keys(held: &[MemberLicense]) -> String {
    if held.is_empty() {
        return "You hold no license here. If you have just got the role, try again in a minute.".to_owned();
    }
    let line = |held: &MemberLicense| {
        let state = match held.state {
            LicenseState::Expired => " (expired)",
            _ => "",
        };
        format!("**{}**{state}\n```\n{}\n```", plain(&held.product), held.key)
    };
    list(held.iter().map(line)).unwrap_or_default()
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
    let line = |(mapping, product): (&Mapping, &str)| {
        let rests = match mapping.role_deleted_at {
            Some(_) => " ⚠️ the role was deleted: its licenses are kept; `/mapping remove` lets them end",
            None => "",
        };
        format!("<@&{}> (`{}`) → **{}**{rests}", mapping.role_id, mapping.role_id, plain(product))
    };
    list(rows.map(line)).unwrap_or_else(|| "No role earns anything yet. `/setup` begins.".to_owned())
}

pub(crate) fn licenses<'a>(
    member: Snowflake,
    rows: impl Iterator<Item = (&'a License, LicenseState, &'a str)>,
) -> String {
    let line = |(license, state, product): (&License, LicenseState, &str)| {
        let why = license.revoke_reason.as_deref().map_or_else(String::new, |why| format!(" ({})", plain(why)));
        let ended = license.revoked_at.map_or_else(String::new, |at| format!(" <t:{}:f>", at.timestamp()));
        let issued = license.created_at.timestamp();
        format!("**{}** `{}` issued <t:{issued}:f>, {state}{ended}{why}", plain(product), license.key_hint)
    };
    list(rows.map(line)).unwrap_or_else(|| format!("<@{member}> never had a license here."))
}

/// One per line, as far as a message reaches; `None` for none.
fn list(lines: impl Iterator<Item = String>) -> Option<String> {
    let lines: Vec<String> = lines.collect();
    let mut text = String::new();
    for (at, line) in lines.iter().enumerate() {
        if text.len() + line.len() > ROOM {
            return Some(format!("{text}… and {} more", lines.len() - at));
        }
        text += line;
        text.push('\n');
    }
    (!lines.is_empty()).then_some(text)
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

/// A line of the log channel, about this member.
#[must_use]
pub fn log_line(event: &Event, member: Option<Snowflake>) -> String {
    let fact = |name: &str| event.after.as_ref().and_then(|after| after.get(name));
    let text = |name: &str| fact(name).and_then(|value| value.as_str()).map(plain);
    let member = member.map_or_else(String::new, |member| format!(" · <@{member}>"));
    let license = event.license_id.map_or_else(String::new, |id| format!(" · license `{id}`"));
    let reason = text("reason").map_or_else(String::new, |why| format!(" · {why}"));
    let change = match fact("held").and_then(serde_json::Value::as_bool) {
        Some(true) => " gained",
        Some(false) => " lost",
        None => "",
    };
    let role = text("roleId").map_or_else(String::new, |role| format!(" ·{change} role <@&{role}>"));
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
    let actor = event.actor.strip_prefix("discord:").map_or_else(|| plain(&event.actor), |id| format!("<@{id}>"));
    let line = format!("`{}`{member}{license}{role}{reason} · by {actor}{request}", event.kind);
    line.chars().take(ROOM).chain(hint.chars()).collect()
}
