//! `dca-auth product`.

use anyhow::Result;
use clap::Subcommand;
use dca_core::products;
use serde_json::json;

use super::output::Output;
use super::tenant::{TenantArg, operator};
use crate::app::App;

#[derive(Debug, Subcommand)]
pub(super) enum Product {
    /// List the products of a tenant
    List,
}

pub(super) async fn run(app: &App, command: &Product, tenant_arg: &TenantArg) -> Result<Output> {
    let Product::List = command;
    let caller = operator(app, tenant_arg).await?;
    let rows = products::list(&app.core, &caller.scope()).await?.into_iter().map(|product| {
        json!({ "id": product.id, "name": product.name, "prefix": product.prefix, "createdAt": product.created_at })
    });
    let columns = [("id", "ID"), ("name", "NAME"), ("prefix", "PREFIX"), ("createdAt", "CREATED")];
    let if_empty = "No products yet. Create one with `/setup product:NAME` in your Discord server.";
    Ok(Output::table(&columns, rows.collect(), if_empty))
}
