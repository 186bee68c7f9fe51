//! `dca-auth key`.

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use clap::Subcommand;
use dca_core::licenses::{Change, LicenseBatch, Renewal, Run};
use dca_core::precondition::IfMatch;
use dca_core::users::{self, Provider};
use dca_core::{Caller, Scope, entitlements, ids::UserId, licenses, products};
use serde_json::json;

use super::output::Output;
use super::tenant::{TenantArg, operator_of};
use crate::app::App;

pub(super) const EXAMPLES: &str = "\
Examples:
  dca-auth key issue --product Studio --member 123456789012345678
  dca-auth key inspect - < key.txt      Keys in arguments are visible to other users of the machine
  dca-auth key revoke 01a1fc38-462e-700d-8a24-1b00a6834fc4 --reason refunded";

#[derive(Debug, Subcommand)]
pub(super) enum Key {
    /// Create a license and print its key
    Issue {
        /// The product's name or ID
        #[arg(long)]
        product: String,
        /// The ID of the Discord user to assign it to; without it, the key is not assigned
        #[arg(long, value_parser = discord_id)]
        member: Option<u64>,
    },
    /// Revoke a license immediately
    Revoke {
        /// The license ID or key; `-` reads it from standard input
        license: String,
        /// The reason, for the audit log
        #[arg(long, default_value = "operator_decision")]
        reason: String,
    },
    /// Suspend a license; its key is not valid until it is resumed
    Suspend {
        /// The license ID or key; `-` reads it from standard input
        license: String,
        /// The reason, for the audit log
        #[arg(long, default_value = "operator_decision")]
        reason: String,
    },
    /// Resume a suspended license
    Resume {
        /// The license ID or key; `-` reads it from standard input
        license: String,
    },
    /// Move the expiry of a license by the duration of its policy, or until a time
    Renew {
        /// The license ID or key; `-` reads it from standard input
        license: String,
        /// The new expiry, for example 2030-01-01T00:00:00Z
        #[arg(long)]
        until: Option<DateTime<Utc>>,
    },
    /// Show a license as JSON
    Inspect {
        /// The license ID or key; `-` reads it from standard input
        license: String,
    },
}

pub(super) async fn run(app: &App, command: Key, tenant_arg: &TenantArg) -> Result<Output> {
    let core = &app.core;
    match command {
        Key::Issue { product, member } => {
            let caller = operator_of(app, tenant_arg, async |scope| products::get(core, scope, &product).await.is_ok());
            let caller = caller.await?;
            let product = products::get(core, &caller.scope(), &product).await?;
            let key = if let Some(member) = member {
                let user = users::ensure(core, Provider::Discord, &member.to_string()).await?;
                grant(app, &caller, &product, user).await?
            } else {
                let batch = LicenseBatch::one_of(product.id);
                let generated = licenses::generate_all(core, &caller, batch, Run::Real).await?;
                licenses::reveal_key(core, &generated[0].license)?
            };
            Ok(Output::new(json!({ "key": key, "productId": product.id }), key))
        }
        Key::Revoke { license, reason } => {
            let (caller, license) = find(app, tenant_arg, license).await?;
            let (license, _) = licenses::inspect(core, &caller.scope(), &license).await?;
            let license = licenses::revoke(core, &caller, license.id, &reason).await?;
            let text = format!("revoked {} ({})", license.key_hint, license.id);
            Ok(Output::new(json!({ "id": license.id, "keyHint": license.key_hint, "state": "revoked" }), text))
        }
        Key::Suspend { license, reason } => change(app, tenant_arg, license, Change::Suspend { reason }).await,
        Key::Resume { license } => change(app, tenant_arg, license, Change::Resume).await,
        Key::Renew { license, until } => {
            let renewal = until.map_or(Renewal::Once, Renewal::Until);
            change(app, tenant_arg, license, Change::Renew(renewal)).await
        }
        Key::Inspect { license } => {
            let (caller, license) = find(app, tenant_arg, license).await?;
            let (license, state) = licenses::inspect(core, &caller.scope(), &license).await?;
            let details = json!({
                "id": license.id, "keyHint": license.key_hint, "state": state,
                "productId": license.product_id, "policyId": license.policy_id, "userId": license.user_id,
                "createdAt": license.created_at, "assignedAt": license.assigned_at, "activatedAt": license.activated_at,
                "expiresAt": license.expires_at, "revokedAt": license.revoked_at, "revokeReason": license.revoke_reason,
            });
            let text = serde_json::to_string_pretty(&details)?;
            Ok(Output::new(details, text))
        }
    }
}

async fn change(app: &App, tenant_arg: &TenantArg, license: String, change: Change) -> Result<Output> {
    let (core, (caller, license)) = (&app.core, find(app, tenant_arg, license).await?);
    let (license, _) = licenses::inspect(core, &caller.scope(), &license).await?;
    let changed = licenses::change(core, &caller, license.id, &IfMatch::default(), change).await?;
    let (hint, state) = (&changed.key_hint, changed.state(core.clock.now()));
    let expiry = changed.expires_at.map_or_else(String::new, |at| format!(", and expires at {at:?}"));
    let text = format!("{hint} ({}) is {state}{expiry}", changed.id);
    let json = json!({ "id": changed.id, "keyHint": hint, "state": state, "expiresAt": changed.expires_at });
    Ok(Output::new(json, text))
}

fn discord_id(text: &str) -> Result<u64, &'static str> {
    let id = text.parse().ok().filter(|id| (1..=i64::MAX.cast_unsigned()).contains(id));
    id.ok_or("a Discord user ID is a number such as 80351110224678912")
}

/// The operator as a caller for the tenant of a license, and its ID or key.
async fn find(app: &App, tenant_arg: &TenantArg, license: String) -> Result<(Caller, String)> {
    let license = or_stdin(license)?;
    let has = async |scope: &Scope| licenses::inspect(&app.core, scope, &license).await.is_ok();
    Ok((operator_of(app, tenant_arg, has).await?, license))
}

/// The argument, or standard input if it is `-`: other users of the machine can see arguments.
fn or_stdin(argument: String) -> Result<String> {
    match argument.as_str() {
        "-" => Ok(std::io::read_to_string(std::io::stdin())?.trim().to_owned()),
        _ => Ok(argument),
    }
}

/// Issues a license to a user and returns its key.
pub(super) async fn grant(app: &App, caller: &Caller, product: &products::Product, user: UserId) -> Result<String> {
    let id = entitlements::grant(&app.core, caller, product.id, user).await?;
    let licenses = licenses::list_usable(&app.core, &caller.scope(), user).await?;
    let license = licenses.into_iter().find(|license| license.id == id);
    license.map(|license| license.key).context("the license was revoked before its key could be read")
}
