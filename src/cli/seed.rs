//! `dca-auth seed`.

use anyhow::{Result, bail};
use clap::Subcommand;
use dca_core::users::{self, Provider};
use dca_core::{
    Caller,
    api_keys::{self, NewApiKey},
    crypto::api_key::ApiKeyKind,
    licenses,
    policy::PolicyPatch,
    products, tenants,
};
use serde_json::json;

use super::{key::grant, output::Output};
use crate::app::App;

#[derive(Debug, Subcommand)]
pub(super) enum Seed {
    /// Create a product, a license, and an API key to validate it with
    Demo,
}

/// The demo member. Has no Discord account, so that nothing is sent to Discord.
const DEMO_MEMBER: (Provider, &str) = (Provider::Google, "demo");

const TENANT: &str = "Demo";

pub(super) async fn run(app: &App, command: &Seed) -> Result<Output> {
    let Seed::Demo = command;
    let core = &app.core;
    let tenant = match tenants::list(core).await?.as_slice() {
        [] => tenants::create(core, TENANT).await?,
        [(id, name)] if name == TENANT => *id,
        _ => bail!(
            "This installation is in use, so no example data was added. Use another folder, for example: \
             dca-auth --data-dir demo seed demo"
        ),
    };
    let caller = Caller::operator(tenant);
    let terms = PolicyPatch::default();
    let product = products::create_or_update(core, &caller, "Demo Tools", Some("DEMO"), &terms).await?.product;
    let user = users::ensure(core, DEMO_MEMBER.0, DEMO_MEMBER.1).await?;
    let licenses = licenses::list_usable(core, &caller.scope(), user).await?;
    let license = match licenses.into_iter().next() {
        Some(license) => license.key,
        None => grant(app, &caller, &product, user).await?,
    };
    let (_, api_key) =
        api_keys::create(core, &caller, NewApiKey::new(ApiKeyKind::Secret, "demo", &[product.id])).await?;
    let (url, api_key) = (&app.config.http.public_url, api_key.expose());
    let text = format!(
        "license key: {license}\nAPI key:     {api_key}\n\n\
         While `dca-auth serve` is running, validate the license:\n\n\
         curl {url}/licenses/validate -H 'X-API-Key: {api_key}' -H 'Content-Type: application/json' \
         -d '{{\"licenseKey\":\"{license}\"}}'"
    );
    Ok(Output::new(json!({ "licenseKey": license, "apiKey": api_key, "url": url }), text))
}
