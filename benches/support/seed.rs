//! Licenses to validate.

use std::collections::BTreeMap;

use dca_auth::{App, Config, app::Inputs, telemetry};
use dca_core::api_keys::{self, NewApiKey};
use dca_core::crypto::api_key::ApiKeyKind;
use dca_core::fingerprint::Fingerprint;
use dca_core::ids::LicenseId;
use dca_core::licenses::{self, LicenseBatch, MAX_BULK, NewDevice, Requested, Run};
use dca_core::policy::PolicyPatch;
use dca_core::{Caller, Core, products, tenants};
use sea_orm_migration::sea_orm::ConnectionTrait;

use super::BenchResult;

/// Licenses in use, each of another user, and all activated on the same device.
pub struct Seeded {
    pub keys: Vec<String>,
    /// The ID of each.
    pub ids: Vec<LicenseId>,
    pub api_key: String,
    pub fingerprint: String,
}

/// Gives each license an owner.
const ASSIGN: [&str; 2] = [
    "INSERT INTO users (id, created_at) SELECT id, created_at FROM licenses",
    "UPDATE licenses SET user_id = id, assigned_at = created_at, activated_at = created_at, first_valid_at = created_at, \
     last_seen_at = created_at",
];

/// Gives each license the device of the one that was activated.
const ACTIVATE: &str = "INSERT INTO devices (id, license_id, fingerprint, components, activated_at, last_seen_at) \
     SELECT licenses.id, licenses.id, fingerprint, components, licenses.created_at, licenses.created_at \
     FROM licenses JOIN devices ON devices.license_id <> licenses.id";

/// Settings for load tests: defaults, but limits that are not reached.
pub fn settings(data_dir: &std::path::Path) -> BTreeMap<String, String> {
    let settings = [
        ("DCA_DATA_DIR", data_dir.to_str().unwrap_or_default()),
        ("DCA_LOG_FORMAT", "json"),
        ("DCA_VALIDATE_PER_MINUTE", "100000000"),
        ("DCA_MANAGE_PER_MINUTE", "100000000"),
        ("DCA_MAX_CONNECTIONS", "20000"),
        ("DCA_MAX_CONNECTIONS_PER_CLIENT", "20000"),
    ];
    settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

/// Opens the core of an installation, and creates what does not exist yet.
pub async fn open(env: &BTreeMap<String, String>) -> BenchResult<Core> {
    let inputs = Inputs::system(telemetry::recorder()?.handle());
    Ok(App::build(Config::load(env.clone())?, &[], inputs).await?.core.clone())
}

/// Creates licenses in a new installation.
pub async fn licenses(env: &BTreeMap<String, String>, count: usize) -> BenchResult<Seeded> {
    let core = open(env).await?;
    let caller = Caller::operator(tenants::create(&core, "Bench").await?);
    let terms = PolicyPatch::default();
    let product = products::create_or_update(&core, &caller, "Bench", Some("BENCH"), &terms).await?.product;
    let (_, api_key) =
        api_keys::create(&core, &caller, NewApiKey::new(ApiKeyKind::Secret, "bench", &[product.id])).await?;
    let (mut keys, mut ids) = (Vec::with_capacity(count), Vec::with_capacity(count));
    while keys.len() < count {
        let wanted = LicenseBatch { count: MAX_BULK.min(count - keys.len()), ..LicenseBatch::one_of(product.id) };
        for facts in licenses::generate_all(&core, &caller, wanted, Run::Real).await? {
            ids.push(facts.license.id);
            keys.push(licenses::reveal_key(&core, &facts.license)?);
        }
    }
    let db = core.db.pool();
    for statement in ASSIGN {
        db.execute_unprepared(&unlimited(&core, statement)).await?;
    }
    let fingerprint = "9f2c61d0a3b84e57b1c7d2f09e4a6c35".to_owned();
    let device = NewDevice::new(Fingerprint::parse(&fingerprint, BTreeMap::new())?, None, None, None)?;
    let license = Requested::Id(*ids.first().ok_or("no licenses")?);
    let activation = licenses::activate(&core, &caller, &license, &device).await?;
    if !activation.verdict.is_valid() {
        return Err(format!("the license is not valid: {:?}", activation.verdict.code).into());
    }
    db.execute_unprepared(&unlimited(&core, ACTIVATE)).await?;
    if core.db.is_shared() {
        db.execute_unprepared(&unlimited(&core, "ANALYZE")).await?;
    }
    core.db.close().await?;
    Ok(Seeded { keys, ids, api_key: api_key.expose().to_owned(), fingerprint })
}

/// The statement without the limits of ordinary sessions, which a million rows exceed.
fn unlimited(core: &Core, statement: &str) -> String {
    let limit = if core.db.is_shared() { "SET statement_timeout = 0; " } else { "" };
    format!("{limit}{statement}")
}
