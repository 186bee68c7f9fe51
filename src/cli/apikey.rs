//! `dca-auth apikey`.

use anyhow::Result;
use clap::{Subcommand, ValueEnum};
use dca_core::{api_keys, crypto::api_key::ApiKeyKind, products};
use uuid::Uuid;

use super::tenant::{TenantArg, operator};
use crate::app::App;

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
    /// Revoke an API key immediately
    Revoke {
        /// The API key's ID
        id: Uuid,
    },
}

pub(super) async fn run(app: &App, command: Apikey, tenant_arg: &TenantArg) -> Result<()> {
    let (core, caller) = (&app.core, operator(app, tenant_arg).await?);
    match command {
        Apikey::Create { product, name, kind } => {
            let mut product_ids = Vec::new();
            for name in product {
                product_ids.push(products::get(core, &caller.scope(), &name).await?.id);
            }
            let kind = match kind {
                KeyKind::Secret => ApiKeyKind::Secret,
                KeyKind::Publishable => ApiKeyKind::Publishable,
            };
            let (row, text) = api_keys::create(core, &caller, &name, kind, &product_ids).await?;
            eprintln!("id {}; save the key now, it is not shown again:", row.id);
            println!("{}", text.expose());
        }
        Apikey::Revoke { id } => println!("revoked {}", api_keys::revoke(core, &caller.scope(), id).await?),
    }
    Ok(())
}
