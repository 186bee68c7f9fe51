//! `dca-auth apikey`.

use anyhow::Result;
use clap::{Subcommand, ValueEnum};
use dca_core::{Caller, Scope, api_keys, crypto::api_key::ApiKeyKind, products};
use serde_json::json;

use super::output::Output;
use super::tenant::{TenantArg, operator, operator_of};
use crate::app::App;

pub(super) const EXAMPLES: &str = "\
Examples:
  dca-auth apikey create --product Studio                       For a server of yours
  dca-auth apikey create --product Studio --kind publishable    To ship inside an app
  dca-auth apikey revoke dca_pk_…K7QZ                           The key or ID as in `apikey list`";

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum KeyKind {
    /// For servers; must be kept secret
    Secret,
    /// May be shipped inside apps
    Publishable,
}

#[derive(Debug, Subcommand)]
pub(super) enum Apikey {
    /// Create an API key and print it; it is not shown again
    Create {
        /// The name or ID of a product whose licenses it can validate; may be repeated
        #[arg(long, required = true)]
        product: Vec<String>,
        /// A label for the key
        #[arg(long, default_value = "command line")]
        name: String,
        /// Where the key is used
        #[arg(long, value_enum, default_value = "secret")]
        kind: KeyKind,
    },
    /// List API keys; the keys themselves are not stored
    List,
    /// Revoke an API key immediately
    Revoke {
        /// The API key's ID, or its shortened form as in `apikey list`
        key: String,
    },
}

pub(super) async fn run(app: &App, command: Apikey, tenant_arg: &TenantArg) -> Result<Output> {
    match command {
        Apikey::Create { product, name, kind } => {
            let has = async |scope: &Scope| products::get(&app.core, scope, &product[0]).await.is_ok();
            create(app, &operator_of(app, tenant_arg, has).await?, &product, &name, kind).await
        }
        Apikey::List => list(app, &operator(app, tenant_arg).await?).await,
        Apikey::Revoke { key } => {
            let caller = operator(app, tenant_arg).await?;
            let key = api_keys::revoke(&app.core, &caller.scope(), &key).await?;
            Ok(Output::new(json!({ "id": key.id, "key": key.hint }), format!("revoked {}", key.hint)))
        }
    }
}

async fn create(app: &App, caller: &Caller, products: &[String], name: &str, kind: KeyKind) -> Result<Output> {
    let mut ids = Vec::new();
    for name in products {
        ids.push(products::get(&app.core, &caller.scope(), name).await?.id);
    }
    let kind = match kind {
        KeyKind::Secret => ApiKeyKind::Secret,
        KeyKind::Publishable => ApiKeyKind::Publishable,
    };
    let (row, text) = api_keys::create(&app.core, caller, name, kind, &ids).await?;
    let json = json!({ "id": row.id, "key": text.expose(), "name": name, "kind": kind.as_str(), "productIds": ids });
    Ok(Output::new(json, text.expose()).with_note(format!("id {}; save the key now, it is not shown again:", row.id)))
}

async fn list(app: &App, caller: &Caller) -> Result<Output> {
    let keys = api_keys::list(&app.core, &caller.scope()).await?;
    let rows = keys.into_iter().map(|(key, products)| {
        json!({
            "id": key.id, "key": key.hint, "name": key.name, "kind": key.kind.as_str(), "products": products,
            "createdAt": key.created_at, "revokedAt": key.revoked_at,
        })
    });
    let columns = [
        ("id", "ID"),
        ("key", "KEY"),
        ("name", "NAME"),
        ("products", "PRODUCTS"),
        ("createdAt", "CREATED"),
        ("revokedAt", "REVOKED"),
    ];
    let if_empty = "No API keys yet. Create one with `dca-auth apikey create --product NAME`.";
    Ok(Output::table(&columns, rows.collect(), if_empty))
}
