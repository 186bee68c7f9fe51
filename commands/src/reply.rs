//! The bot's texts. Names chosen by users are escaped, and no message pings anyone.

use std::fmt::Display;

use dca_core::entitlements::breaker::Stopped;
use dca_core::events::{Event, EventKind};
use dca_core::licenses::{Command, EndedLicense, KeyMessage, License, LicenseState, MemberLicense};
use dca_core::log_channel::LogEntry;
use dca_core::mappings::{Announce, Mapping};
use dca_core::products::{Policy, Product};
use dca_core::{ChannelId, DiscordUserId, GuildId, Reason, Refusal, RoleId};

use crate::rest::DiscordError;

/// Discord allows 2,000 characters per message; the rest is left for what is added.
const MAX_CHARS: usize = 1_800;

pub(crate) const FOREIGN_CHANNEL: &str = "❌ That channel is not in this server.";
pub(crate) const MISMATCHED_CHOICE: &str = "❌ This button or menu does not work. Run the command again.";
pub(crate) const MISSING_PERMISSION: &str =
    "❌ You need the Manage Server permission for this. Ask an admin of this server.";
pub(crate) const GUILD_ONLY: &str = "❌ Use this command in a server, not in a direct message.";
pub(crate) const NOT_YOURS: &str = "❌ This was shown to another admin. Run the command yourself.";
pub(crate) const NO_LICENSE: &str =
    "You have no license in this server. If you just got the role, try again in a minute.";
pub(crate) const IS_BOT: &str = "❌ That is a bot. Choose a member of this server.";
pub(crate) const NOT_A_MEMBER: &str =
    "❌ That user is not in this server, so they could not receive the key. Ask them to join, then try again.";
const DMS_CLOSED: &str = "⚠️ The bot could not send you a key, because you do not accept direct messages from this server. To receive \
     the next key by direct message, allow direct messages in this server's Privacy Settings.";
pub(crate) const NO_ROLE: &str = "❌ Choose the role, or for a deleted one, enter its ID from `/mapping list`.";
pub(crate) const REMOVE_MAPPING_LABEL: &str = "Remove the mapping";
pub(crate) const NO_LOG_CHANNEL: &str = "There is no log channel. Use `/setup` to choose one.";
pub(crate) const SYNC_RUNS: &str = "✅ The sync of roles with licenses is running.";
pub(crate) const SYNC_CONFIRMED: &str =
    "✅ Confirmed. The sync starts now and may revoke the licenses it was stopped for.";

/// Escapes text, so that Discord shows no Markdown, mention or link.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_punctuation() && !matches!(c, '.' | ',' | '\'' | '"' | '!' | '?' | ';' | '%' | '&' | '=' | '$') {
            escaped.push('\\');
        }
        escaped.push(if c.is_control() { ' ' } else { c });
    }
    escaped
}

/// The text of a refusal. Every reason that a command can meet has one; others show what their code means.
pub(crate) fn refusal(refusal: &Refusal) -> String {
    let text: String = match &refusal.reason {
        Reason::NoLicense => "No such license.".into(),
        Reason::NoMemberLicense => {
            "This member has no license for that product. Use `/license show` to see their licenses.".into()
        }
        Reason::NoProduct { wanted, known, total } => no_product(wanted, known, *total),
        Reason::RoleNotMapped { product } => {
            format!("That role is not mapped to {}. Use `/mapping list` to see the mappings.", escape(product))
        }
        Reason::RoleAlreadyMapped { product } => format!("That role is already mapped to {}.", escape(product)),
        Reason::ServerNotSetUp => "This server is not set up. Invite the bot again.".into(),
        Reason::NothingToConfirm => {
            "There is nothing to confirm: no sync was stopped, or its numbers have changed. Use `/sync status`.".into()
        }
        Reason::PrefixIsFixed { product, prefix } => {
            format!("{} already has the prefix {prefix}, which cannot be changed.", escape(product))
        }
        Reason::PrefixTaken { prefix, free } => {
            format!("The key prefix {prefix}, or one that looks like it, is taken. Try {free}.")
        }
        Reason::AlreadyLicensed => {
            "This member already has a license for that product. Use `/license show` for details.".into()
        }
        Reason::NotAllowed { command: Command::Revoke, .. } => "This license is already revoked.".into(),
        Reason::NotAllowed { command, state } => format!("A license that is {state} does not allow this ({command})."),
        Reason::TrialUsed => "This member has had a trial of that product, and there is one for each member.".into(),
        Reason::UserBanned => "This member is banned from that product. Lift the ban first.".into(),
        Reason::InvalidProductName => "A product name must have 1 to 80 visible characters, for example Studio.".into(),
        Reason::InvalidPrefix => "A key prefix must have 2 to 8 letters A–Z or digits, for example STUDIO.".into(),
        Reason::NotOneLine { field, max } => format!("The {field} must be one line of 1 to {max} characters."),
        other => format!("This was refused ({}).", other.code()),
    };
    format!("❌ {text}")
}

fn no_product(wanted: &str, known: &[String], total: usize) -> String {
    let more = if total > known.len() { " …" } else { "" };
    let known = if known.is_empty() { "none yet".to_owned() } else { escape(&known.join(", ")) };
    let text = format!("There is no product \"{}\". Known: {known}{more}.", escape(wanted));
    text.chars().take(MAX_CHARS).collect()
}

/// Checks that a role of a guild can be mapped; the error says why it cannot, and what to do about it. Roles that
/// integrations manage and roles above the bot's can be: the bot only reads them.
pub fn check_mappable(existing: &[RoleId], guild: GuildId, role: RoleId) -> Result<(), &'static str> {
    if !existing.contains(&role) {
        return Err("That role does not exist in this server. Choose another role.");
    }
    // Discord gives @everyone the id of its guild.
    if u64::from(role) == u64::from(guild) {
        return Err("@everyone cannot be mapped: every member has it. Choose another role.");
    }
    Ok(())
}

/// Why the log channel does not work, and what to do about it.
pub(crate) fn cannot_post(channel: ChannelId, missing: &[&str]) -> String {
    format!(
        "The bot cannot post in <#{channel}>. Open that channel's settings → Permissions, add the bot, and allow: {}.",
        missing.join(", ")
    )
}

pub(crate) fn discord_refused(error: &DiscordError) -> String {
    format!("❌ The request to Discord failed: {error}. {}", error.fix())
}

pub(crate) fn bad_argument(error: &str) -> String {
    format!("❌ Invalid option: {}. Choose a value from the list that Discord offers.", escape(error))
}

pub(crate) fn fault(id: u64) -> String {
    format!("❌ Something went wrong on our side. Try again. If it keeps failing, send the operator this ID: {id}.")
}

/// The direct message with a license key.
pub fn key_dm(message: &KeyMessage) -> String {
    let license = &message.license;
    let expiry =
        license.expires_at.map_or_else(String::new, |at| format!("\nIt is valid until {}.", time(at.timestamp())));
    format!(
        "🔑 Your license key for **{}** from the server **{}**\n```\n{}\n```Keep it private. Use `/key` in the server to \
         see it again.{expiry}",
        escape(&license.product),
        escape(&message.server),
        license.key,
    )
}

/// A time that Discord shows in the reader's time zone.
fn time(timestamp: i64) -> String {
    format!("<t:{timestamp}:f>")
}

/// The answer to `/key`. `undelivered`: a key could not be sent, because the member does not accept messages.
pub(crate) fn keys(licenses: &[MemberLicense], ended: &[EndedLicense], undelivered: bool) -> String {
    let usable = licenses.iter().map(|license| {
        let note = match (license.state, license.ends_at) {
            (LicenseState::Expired, _) => " (expired)".to_owned(),
            (LicenseState::Suspended, _) => " (suspended: ask an admin of this server)".to_owned(),
            (_, Some(at)) => format!(" (ends {}, because you no longer have the role)", time(at.timestamp())),
            _ => String::new(),
        };
        format!("**{}**{note}\n```\n{}\n```", escape(&license.product), license.key)
    });
    let ended = ended.iter().map(|ended| {
        let (product, at) = (escape(&ended.product), time(ended.at.timestamp()));
        if ended.by_admin {
            format!(
                "❌ An admin of this server revoked your license for **{product}** on {at}. Ask them for the reason."
            )
        } else {
            format!("Your license for **{product}** ended on {at}, because you no longer had the role.")
        }
    });
    let note = undelivered.then(|| DMS_CLOSED.to_owned());
    list(usable.chain(note).chain(ended)).unwrap_or_else(|| NO_LICENSE.to_owned())
}

pub(crate) fn mapped(role: RoleId, product: &str, announce: Announce) -> String {
    let holders = match announce {
        Announce::Silently => "Members who already have the role get theirs now, without a message: `/key` shows it.",
        Announce::ByDm => "Members who already have the role get their key by direct message, one every few seconds.",
    };
    format!("✅ Members with <@&{role}> now get a license for **{}**. {holders}", escape(product))
}

pub(crate) fn confirm_unmapping(role: RoleId, product: &str, affected: u64) -> String {
    format!("Remove the mapping of <@&{role}> to **{}**? {}", escape(product), affected_licenses(affected))
}

pub(crate) fn unmapped(role: RoleId, product: &str, affected: u64) -> String {
    format!("✅ <@&{role}> is no longer mapped to **{}**. {}", escape(product), affected_licenses(affected))
}

fn affected_licenses(affected: u64) -> String {
    match affected {
        0 => "No license depends on it.".to_owned(),
        n => format!("Licenses affected: {n}. They are revoked after their grace period."),
    }
}

pub(crate) fn confirm_sync_label(losing: usize) -> String {
    format!("Revoke the licenses of {}", count(losing, "member"))
}

/// Why the sync was stopped. A loss is a mapped role, its product, and how many members no longer have it.
pub(crate) fn sync_stopped<'a>(stopped: &Stopped, losses: impl Iterator<Item = (RoleId, &'a str, usize)>) -> String {
    let line = |(role, product, members): (RoleId, &str, usize)| {
        format!("<@&{role}> → **{}**: {} lost it", escape(product), count(members, "member"))
    };
    let summary = format!(
        "⚠️ The sync was stopped: it would revoke the licenses of {} of {}. If that is intended, use `/sync confirm`. If \
         not, restore the roles. Nothing has been revoked.",
        stopped.losing,
        count(stopped.holders, "member"),
    );
    list(std::iter::once(summary).chain(losses.map(line))).unwrap_or_default()
}

/// Whether the log channel works. `missing` are the permissions the bot lacks there; `None` if the channel is gone.
pub(crate) fn log_channel_status(channel: ChannelId, missing: Option<&[&str]>) -> String {
    match missing {
        None => format!("⚠️ The log channel `{channel}` was deleted. Use `/setup` to choose another one."),
        Some([]) => format!("✅ License events are posted in <#{channel}>."),
        Some(missing) => format!("⚠️ {}", cannot_post(channel, missing)),
    }
}

pub(crate) fn mappings<'a>(rows: impl Iterator<Item = (&'a Mapping, &'a str)>) -> String {
    let line = |(mapping, product): (&Mapping, &str)| {
        let note = match mapping.role_deleted_at {
            Some(_) => " ⚠️ The role was deleted. Its licenses are kept until you use `/mapping remove`.",
            None => "",
        };
        format!("<@&{}> (`{}`) → **{}**{note}", mapping.role_id, mapping.role_id, escape(product))
    };
    list(rows.map(line)).unwrap_or_else(|| "No role is mapped yet. Use `/setup` to map one.".to_owned())
}

/// A license in the answer to `/license show`.
pub(crate) struct LicenseRow<'a> {
    pub license: &'a License,
    pub state: LicenseState,
    pub product: &'a str,
    /// Whether the member does not accept messages.
    pub is_undelivered: bool,
}

pub(crate) fn licenses<'a>(member: DiscordUserId, rows: impl Iterator<Item = LicenseRow<'a>>) -> String {
    let line = |LicenseRow { license, state, product, is_undelivered }: LicenseRow<'_>| {
        let reason =
            license.revoke_reason.as_deref().map_or_else(String::new, |reason| format!(" ({})", escape(reason)));
        let end = match (license.revoked_at, license.sources_end_at) {
            (Some(at), _) => format!(" {}{reason}", time(at.timestamp())),
            (None, Some(at)) if state == LicenseState::Revoked => format!(" {} (role lost)", time(at.timestamp())),
            (None, Some(at)) if state != LicenseState::Suspended => {
                format!(", ends {} (role lost)", time(at.timestamp()))
            }
            (None, _) => String::new(),
        };
        let suspended = license.suspended_at.filter(|_| state == LicenseState::Suspended);
        let suspended = suspended.map_or_else(String::new, |at| {
            let reason = escape(license.suspend_reason.as_deref().unwrap_or_default());
            format!(" since {} ({reason})", time(at.timestamp()))
        });
        let note = if is_undelivered && state != LicenseState::Revoked {
            "\n⚠️ The key was not delivered: the member does not accept direct messages. `/key` shows it to them."
        } else {
            ""
        };
        let issued = time(license.created_at.timestamp());
        format!("**{}** `{}` issued {issued}, {state}{suspended}{end}{note}", escape(product), license.key_hint)
    };
    list(rows.map(line)).unwrap_or_else(|| format!("<@{member}> has never had a license in this server."))
}

/// One item per line, as many as fit in a message; `None` if there are none.
fn list(lines: impl Iterator<Item = String>) -> Option<String> {
    let lines: Vec<String> = lines.collect();
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        if text.len() + line.len() > MAX_CHARS {
            return Some(format!("{text}… and {} more", lines.len() - index));
        }
        text += line;
        text.push('\n');
    }
    (!lines.is_empty()).then_some(text)
}

pub(crate) fn granted(member: DiscordUserId, product: &str) -> String {
    format!("✅ <@{member}> now has a license for **{}**. The key is sent to them by direct message.", escape(product))
}

pub(crate) fn revoked(member: DiscordUserId, product: &str, hint: &str) -> String {
    format!("✅ The license `{hint}` of <@{member}> for **{}** is revoked. The key no longer works.", escape(product))
}

pub(crate) fn setup_panel(product: &Product, policy: &Policy) -> String {
    let validity = match policy.terms.duration_seconds {
        Some(seconds) => format!("are valid for {}", count(seconds / 86_400, "day")),
        None => "do not expire".to_owned(),
    };
    let grace = match policy.terms.source_grace_seconds {
        0 => "end as soon as the role is lost".to_owned(),
        seconds => format!("end {} after the role is lost", count(seconds / 3_600, "hour")),
    };
    format!(
        "**{}** is ready. Its keys begin with `{}-`. New licenses {validity} and {grace}.\n\
         **1.** Choose the role whose members get a license. **2.** Optional: choose a log channel.",
        escape(&product.name),
        product.prefix,
    )
}

/// "1 day", "2 days".
fn count(n: impl Display, unit: &str) -> String {
    let n = n.to_string();
    format!("{n} {unit}{}", if n == "1" { "" } else { "s" })
}

pub(crate) fn log_channel_set(channel: ChannelId) -> String {
    format!("✅ License events are now posted in <#{channel}>.")
}

/// A line for the log channel.
pub fn log_line(entry: &LogEntry) -> String {
    let (first, events) = (&entry.events[0], &entry.events);
    let kinds = events.iter().map(|event| format!("`{}`", event.kind));
    let member = entry.member.map(|member| format!("<@{member}>"));
    let products = entry.products.iter().map(|product| format!("**{}**", escape(product)));
    let details = events.iter().flat_map(log_details);
    let actor = first.actor.strip_prefix("discord:").map_or_else(|| escape(&first.actor), |id| format!("<@{id}>"));
    let request = first.request_id.as_deref().map(|id| format!("`{id}`"));
    let mut parts = vec![kinds.collect::<Vec<_>>().join(" ")];
    for part in member.into_iter().chain(products).chain(details).chain([format!("by {actor}")]).chain(request) {
        if !parts.contains(&part) {
            parts.push(part);
        }
    }
    let hint = events.iter().find_map(log_hint).unwrap_or_default();
    parts.join(" · ").chars().take(MAX_CHARS).chain(hint.chars()).collect()
}

fn log_details(event: &Event) -> Vec<String> {
    let value = |name: &str| event.after.as_ref().and_then(|after| after.get(name));
    let text = |name: &str| value(name).and_then(|value| value.as_str()).map(escape);
    let change = match value("held").and_then(serde_json::Value::as_bool) {
        Some(true) => "gained ",
        Some(false) => "lost ",
        None => "",
    };
    let role = text("roleId").map(|role| format!("{change}role <@&{role}>"));
    let license = match event.bulk() {
        Some(count) => Some(format!("{count} licenses")),
        None => event.license_id.map(|id| format!("license `{id}`")),
    };
    let stopped = value("ending").zip(value("holders"));
    let stopped =
        stopped.map(|(ending, holders)| format!("it would revoke the licenses of {ending} of {holders} members"));
    [role, license, text("hint"), text("reason"), stopped].into_iter().flatten().collect()
}

const fn log_hint(event: &Event) -> Option<&'static str> {
    match event.kind {
        EventKind::SourceUnverifiable => {
            Some("\n⚠️ A mapped role was deleted. Its licenses are kept until you use `/mapping remove`.")
        }
        EventKind::BreakerTripped => {
            Some("\n⚠️ The sync was stopped. Use `/sync status` to see which roles were lost.")
        }
        EventKind::KeyUndelivered => {
            Some("\n⚠️ The member does not accept direct messages. `/key` shows them the key.")
        }
        _ => None,
    }
}
