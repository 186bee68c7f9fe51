//! `dca-auth product`.

use anyhow::{Context, Result};
use clap::Subcommand;
use dca_core::policy::PolicyPatch;
use dca_core::products::{self, Policy, Product as Row};
use dca_core::{Caller, Scope, licenses};
use serde_json::{Value, json};

use super::output::Output;
use super::tenant::{TenantArg, operator, operator_of};
use crate::app::App;

pub(super) const EXAMPLES: &str = "\
Examples:
  dca-auth product set Studio --type SUBSCRIPTION              Create it, or change it to a preset
  dca-auth product set Studio --policy {\"maxDevices\":3}        Change some terms; quote the JSON in your shell
  dca-auth product show Studio --json                          The terms of new licenses";

#[derive(Debug, Subcommand)]
pub(super) enum Product {
    /// List the products of a tenant
    List,
    /// List the test keys of a product: for each verdict, a license key that always gives it
    TestKeys {
        /// The name or ID of the product
        product: String,
    },
    /// Show a product and the terms of its new licenses
    Show {
        /// The product's name or ID
        product: String,
    },
    /// Create a product, or change the terms of its new licenses
    Set {
        /// The product's name
        name: String,
        /// What its license keys begin with; cannot be changed later
        #[arg(long)]
        prefix: Option<String>,
        /// The preset to begin with: PERPETUAL, SUBSCRIPTION, TRIAL, VOLUME or FLOATING
        #[arg(long = "type")]
        license_type: Option<String>,
        /// The terms that differ, as a JSON object; `null` restores the default of a term
        #[arg(long, value_name = "JSON")]
        policy: Option<String>,
    },
}

pub(super) async fn run(app: &App, command: Product, tenant_arg: &TenantArg) -> Result<Output> {
    match command {
        Product::List => list(app, &operator(app, tenant_arg).await?).await,
        Product::TestKeys { product } => {
            let has = async |scope: &Scope| products::get(&app.core, scope, &product).await.is_ok();
            test_keys(app, &operator_of(app, tenant_arg, has).await?, &product).await
        }
        Product::Show { product } => {
            let has = async |scope: &Scope| products::get(&app.core, scope, &product).await.is_ok();
            let caller = operator_of(app, tenant_arg, has).await?;
            let found = products::get(&app.core, &caller.scope(), &product).await?;
            let (product, policy) = products::read(&app.core, &caller, found.id).await?;
            Ok(details(&product, &policy))
        }
        Product::Set { name, prefix, license_type, policy } => {
            let example = "--policy must be a JSON object, for example '{\"maxDevices\":3}'";
            let patch = policy.as_deref().map(serde_json::from_str::<PolicyPatch>).transpose().context(example)?;
            let patch = patch.unwrap_or_default().of_type(license_type)?;
            let caller = operator(app, tenant_arg).await?;
            let changed = products::create_or_update(&app.core, &caller, &name, prefix.as_deref(), &patch).await?;
            let note = if changed.is_new { "saved; for new licenses" } else { "unchanged" };
            Ok(details(&changed.product, &changed.policy).with_note(note))
        }
    }
}

async fn list(app: &App, caller: &Caller) -> Result<Output> {
    let rows = products::list_all(&app.core, &caller.scope()).await?.into_iter().map(|product| {
        json!({ "id": product.id, "name": product.name, "prefix": product.prefix, "createdAt": product.created_at })
    });
    let columns = [("id", "ID"), ("name", "NAME"), ("prefix", "PREFIX"), ("createdAt", "CREATED")];
    let if_empty = "No products yet. Create one with `/setup product:NAME` in your Discord server, or with \
                    `dca-auth product set NAME`.";
    Ok(Output::table(&columns, rows.collect(), if_empty))
}

async fn test_keys(app: &App, caller: &Caller, product: &str) -> Result<Output> {
    let product = products::get(&app.core, &caller.scope(), product).await?;
    let keys = licenses::test_keys(&app.core, caller, product.id).await?;
    let rows = keys.into_iter().map(|(code, key)| json!({ "code": code, "licenseKey": key })).collect();
    Ok(Output::table(&[("code", "VERDICT"), ("licenseKey", "LICENSE KEY")], rows, ""))
}

fn details(product: &Row, policy: &Policy) -> Output {
    let Row { id, name, prefix, .. } = product;
    let (version, terms) = (policy.version, json!(policy.terms));
    let members = terms.as_object().into_iter().flatten().map(|(member, value)| match value {
        Value::String(text) => format!("{member:<24} {text}"),
        value => format!("{member:<24} {value}"),
    });
    let head = format!("{:<24} {name}\n{:<24} {prefix}\n{:<24} {id}", "product", "prefix", "id");
    let text = std::iter::once(head).chain(members).collect::<Vec<_>>().join("\n");
    let policy = json!({ "id": policy.id, "version": version, "terms": terms });
    Output::new(json!({ "id": id, "name": name, "prefix": prefix, "policy": policy }), text)
}
