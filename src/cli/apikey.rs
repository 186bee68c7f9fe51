//! `dca-auth apikey`.

use std::time::Duration;

use anyhow::Result;
use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand, ValueEnum};
use dca_core::api_key_scopes::ApiKeyScope;
use dca_core::api_keys::{self, ApiKeyDetails, NewApiKey};
use dca_core::crypto::api_key::{ApiKeyKind, ApiKeyMode, ApiKeyText};
use dca_core::{Caller, Scope, products};
use serde_json::{Value, json};

use super::output::Output;
use super::tenant::{TenantArg, operator, operator_of};
use crate::app::App;

pub(super) const EXAMPLES: &str = "\
Examples:
  dca-auth apikey create --product Studio                       For a server of yours
  dca-auth apikey create --product Studio --kind publishable    To ship inside an app
  dca-auth apikey create --product Studio --test                To test an app with the keys of `product test-keys`
  dca-auth apikey create --product Studio --scope licenses:validate --expires 2030-01-01
  dca-auth apikey rotate dca_pk_…K7QZ --overlap-hours 48        The key or ID as in `apikey list`
  dca-auth apikey revoke dca_pk_…K7QZ";

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum KeyKind {
    /// For servers; must be kept secret
    Secret,
    /// May be shipped inside apps
    Publishable,
}

impl From<KeyKind> for ApiKeyKind {
    fn from(kind: KeyKind) -> Self {
        match kind {
            KeyKind::Secret => Self::Secret,
            KeyKind::Publishable => Self::Publishable,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Apikey {
    /// Create an API key and print it; it is not shown again
    Create(Create),
    /// Create a key with the settings of another one, which keeps working for a while
    Rotate {
        /// The API key's ID, or its shortened form as in `apikey list`
        key: String,
        /// How long the former key keeps working; 0 ends it at once
        #[arg(long, default_value_t = 24, value_name = "HOURS")]
        overlap_hours: u32,
    },
    /// List API keys; the keys themselves are not stored
    List,
    /// Revoke an API key immediately
    Revoke {
        /// The API key's ID, or its shortened form as in `apikey list`
        key: String,
    },
}

#[derive(Args, Debug)]
pub(super) struct Create {
    /// The name or ID of a product whose licenses it can be used for; may be repeated
    #[arg(long, required = true)]
    product: Vec<String>,
    /// A label for the key
    #[arg(long, default_value = "command line")]
    name: String,
    /// Where the key is used
    #[arg(long, value_enum, default_value = "secret")]
    kind: KeyKind,
    /// What the key may be used for; may be repeated. By default, all that its kind may have
    #[arg(long, value_parser = scopes())]
    scope: Vec<ApiKeyScope>,
    /// When the key expires: a date or an RFC 3339 time, for example 2030-01-01. By default, it does not
    #[arg(long, value_name = "DATE", value_parser = date)]
    expires: Option<DateTime<Utc>>,
    /// Make the key work with the test keys of its products instead of real licenses
    #[arg(long)]
    test: bool,
}

fn scopes() -> impl TypedValueParser<Value = ApiKeyScope> {
    PossibleValuesParser::new(ApiKeyScope::ALL.iter().map(|scope| scope.as_str()))
        .try_map(|scope| scope.parse::<ApiKeyScope>())
}

fn date(text: &str) -> Result<DateTime<Utc>, chrono::ParseError> {
    let midnight = |date: NaiveDate| date.and_time(NaiveTime::MIN).and_utc();
    text.parse().map(midnight).or_else(|_| text.parse())
}

pub(super) async fn run(app: &App, command: Apikey, tenant_arg: &TenantArg) -> Result<Output> {
    match command {
        Apikey::Create(new) => {
            let has = async |scope: &Scope| products::get(&app.core, scope, &new.product[0]).await.is_ok();
            create(app, &operator_of(app, tenant_arg, has).await?, new).await
        }
        Apikey::Rotate { key, overlap_hours } => {
            let caller = operator(app, tenant_arg).await?;
            let overlap = Duration::from_hours(overlap_hours.into());
            let (details, text) = api_keys::rotate(&app.core, &caller, &key, overlap).await?;
            Ok(created(details, &text))
        }
        Apikey::List => list(app, &operator(app, tenant_arg).await?).await,
        Apikey::Revoke { key } => {
            let caller = operator(app, tenant_arg).await?;
            let key = api_keys::revoke(&app.core, &caller, &key).await?;
            Ok(Output::new(json!({ "id": key.id, "key": key.hint }), format!("revoked {}", key.hint)))
        }
    }
}

async fn create(app: &App, caller: &Caller, args: Create) -> Result<Output> {
    let mut products = Vec::new();
    for name in &args.product {
        products.push(products::get(&app.core, &caller.scope(), name).await?.id);
    }
    let new = NewApiKey {
        mode: if args.test { ApiKeyMode::Test } else { ApiKeyMode::Live },
        scopes: Some(args.scope).filter(|scopes| !scopes.is_empty()),
        expires_at: args.expires,
        ..NewApiKey::new(args.kind.into(), &args.name, &products)
    };
    let (details, text) = api_keys::create(&app.core, caller, new).await?;
    Ok(created(details, &text))
}

fn created(details: ApiKeyDetails, text: &ApiKeyText) -> Output {
    let note = format!("id {}; save the key now, it is not shown again:", details.key.id);
    let mut json = row(details);
    json["key"] = text.expose().into();
    Output::new(json, text.expose()).with_note(note)
}

fn row(ApiKeyDetails { key, products }: ApiKeyDetails) -> Value {
    json!({
        "id": key.id, "key": key.hint, "name": key.name, "kind": key.kind, "mode": key.mode, "scopes": key.scopes.0,
        "productIds": products.iter().map(|product| product.id).collect::<Vec<_>>(),
        "products": products.iter().map(|product| &product.name).collect::<Vec<_>>(),
        "createdAt": key.created_at, "lastUsedAt": key.last_used_at, "expiresAt": key.expires_at,
        "replacedBy": key.replaced_by, "revokedAt": key.revoked_at,
    })
}

async fn list(app: &App, caller: &Caller) -> Result<Output> {
    let rows = api_keys::list_all(&app.core, caller).await?.into_iter().map(row).collect();
    let columns = [
        ("id", "ID"),
        ("key", "KEY"),
        ("name", "NAME"),
        ("mode", "MODE"),
        ("products", "PRODUCTS"),
        ("scopes", "SCOPES"),
        ("createdAt", "CREATED"),
        ("lastUsedAt", "LAST USED"),
        ("expiresAt", "EXPIRES"),
        ("revokedAt", "REVOKED"),
    ];
    let if_empty = "No API keys yet. Create one with `dca-auth apikey create --product NAME`.";
    Ok(Output::table(&columns, rows, if_empty))
}
