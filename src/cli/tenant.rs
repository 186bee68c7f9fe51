//! `dca-auth tenant`, and the argument `--tenant`.

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use dca_core::{Caller, Scope, guilds, ids::TenantId, tenants};
use serde_json::json;

use super::output::Output;
use crate::app::App;

#[derive(Debug, Subcommand)]
pub(super) enum Tenant {
    /// List tenants with their Discord servers
    List,
}

pub(super) async fn run(app: &App, command: &Tenant) -> Result<Output> {
    let Tenant::List = command;
    let guilds = guilds::list_joined(&app.core).await?;
    let rows = tenants::list(&app.core).await?.into_iter().map(|(id, name)| {
        let own = guilds.iter().filter(|guild| guild.tenant_id == id);
        let servers: Vec<String> = own.map(|guild| guild.id.to_string()).collect();
        json!({ "id": id, "name": name, "servers": servers })
    });
    Ok(Output::table(&[("id", "ID"), ("name", "NAME"), ("servers", "SERVERS")], rows.collect(), NO_TENANT))
}

const NO_TENANT: &str = "No tenant yet. Invite the bot to a server, or run `dca-auth seed demo`.";

#[derive(Args, Debug)]
pub(super) struct TenantArg {
    /// The tenant's name or ID, or a Discord server ID; required if several tenants have what the command names
    #[arg(long, global = true)]
    tenant: Option<String>,
}

/// Returns the operator as a caller for the given tenant, or for the only one.
pub(super) async fn operator(app: &App, tenant_arg: &TenantArg) -> Result<Caller> {
    operator_of(app, tenant_arg, async |_| true).await
}

/// The same, but if there are several tenants, for the only one that has what the command is about.
pub(super) async fn operator_of(
    app: &App,
    tenant_arg: &TenantArg,
    has: impl AsyncFn(&Scope) -> bool,
) -> Result<Caller> {
    let all = tenants::list(&app.core).await?;
    let id = match &tenant_arg.tenant {
        Some(name) => find_tenant(app, name, &all).await?,
        None => match all.as_slice() {
            [(only, _)] => *only,
            [] => bail!(NO_TENANT),
            several => {
                let mut owners = Vec::new();
                for (id, _) in several {
                    let caller = Caller::operator(*id);
                    owners.extend(has(&caller.scope()).await.then_some(caller));
                }
                if owners.len() == 1 {
                    return Ok(owners.remove(0));
                }
                let names: Vec<_> = several.iter().map(|(id, name)| format!("  {id}  {name}")).collect();
                bail!("There are several tenants. Choose one with --tenant:\n{}", names.join("\n"))
            }
        },
    };
    Ok(Caller::operator(id))
}

async fn find_tenant(app: &App, name: &str, all: &[(TenantId, String)]) -> Result<TenantId> {
    if let Some((id, _)) = all.iter().find(|(id, known)| id.to_string() == name || known == name) {
        return Ok(*id);
    }
    let guild = match name.parse::<u64>() {
        Ok(id) => guilds::find(&app.core, id.into()).await?,
        Err(_) => None,
    };
    let guild = guild.with_context(|| format!("No tenant {name:?}. Use its name or ID, or a Discord server ID."))?;
    Ok(guild.tenant_id)
}
