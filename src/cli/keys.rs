//! `dca-auth keys`.

use anyhow::{Context, Result, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::Subcommand;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use dca_core::crypto::seal::Purpose;
use dca_core::key_rotation::{self, Generation};
use serde_json::{Value, json};

use super::output::Output;
use crate::{app::App, master_key};

pub(super) const EXAMPLES: &str = "\
Examples:
  dca-auth keys rotate                  Rotate all keys
  dca-auth keys rotate access-token     Rotate only the key that signs access tokens
  dca-auth keys rewrap                  Replace the file master.key
  openssl rand -base64 32 | tee new.key | dca-auth keys rewrap --stdin";

#[derive(Debug, Subcommand)]
pub(super) enum Keys {
    /// List the generations of all keys; the keys themselves are never shown
    List,
    /// Add new keys, which take effect after five minutes; data and tokens of older keys stay valid
    Rotate {
        /// What the key is for, as in `keys list`; without it, all keys are rotated
        #[arg(value_parser = purpose())]
        purpose: Option<Purpose>,
    },
    /// Encrypt all keys under a new master key; needed at the next start, so that a stolen copy of the old one is useless
    Rewrap {
        /// Read the new master key (32 bytes in base64) from standard input instead of generating it
        #[arg(long)]
        stdin: bool,
    },
}

fn purpose() -> impl TypedValueParser<Value = Purpose> {
    PossibleValuesParser::new(Purpose::ALL.iter().map(|purpose| purpose.as_str())).try_map(|text| text.parse())
}

pub(super) async fn run(app: &App, command: &Keys) -> Result<Output> {
    match command {
        Keys::List => Ok(table(key_rotation::list(&app.core).await?)),
        Keys::Rotate { purpose } => {
            let purposes = purpose.as_ref().map_or(Purpose::ALL, std::slice::from_ref);
            let added = key_rotation::rotate(&app.core, purposes).await?;
            let note = match app.config.storage.master_key {
                None => "Added. Running instances use the new keys as soon as they take effect.",
                // They know only the value of DCA_MASTER_KEY that they were started with.
                Some(_) => {
                    "Added. Running instances use the new keys as soon as they take effect. If DCA_MASTER_KEY was \
                     replaced since they started, restart them before that."
                }
            };
            Ok(table(added).with_note(note))
        }
        Keys::Rewrap { stdin } => rewrap(app, *stdin).await,
    }
}

fn table(generations: Vec<Generation>) -> Output {
    let row = |key: Generation| json!({ "purpose": key.purpose.as_str(), "generation": key.number, "notBefore": key.not_before, "notAfter": key.not_after });
    let columns =
        [("purpose", "PURPOSE"), ("generation", "GENERATION"), ("notBefore", "IN EFFECT FROM"), ("notAfter", "ENDS")];
    Output::table(&columns, generations.into_iter().map(row).collect(), "")
}

async fn rewrap(app: &App, stdin: bool) -> Result<Output> {
    let storage = &app.config.storage;
    let text = if stdin {
        std::io::read_to_string(std::io::stdin())?.trim().to_owned()
    } else {
        STANDARD.encode(app.core.ids.bytes::<32>())
    };
    let new = master_key::decode(&text)
        .context("Standard input is not 32 bytes of base64, such as the output of `openssl rand -base64 32`")?;
    if storage.master_key.is_none() {
        // Kept beside the old key until the database uses it, so that neither is lost if this is interrupted.
        master_key::prepare(&storage.data_dir, &text)?;
        key_rotation::rewrap(&app.core, &new).await?;
        let path = master_key::replace(&storage.data_dir)?;
        let note = format!(
            "Replaced {}. Back it up with the database. Running instances with this file need no restart.",
            path.display()
        );
        return Ok(Output::new(json!({ "path": path }), note));
    }
    if !stdin {
        bail!(
            "The master key is in DCA_MASTER_KEY, which this command cannot change. Give it the new one, for example: openssl rand -base64 32 | tee new.key | dca-auth keys rewrap --stdin"
        );
    }
    key_rotation::rewrap(&app.core, &new).await?;
    let next = "Set DCA_MASTER_KEY to the new master key on all instances, and restart them before the next \
                `dca-auth keys rotate`. Until then, they keep working.";
    Ok(Output::new(json!({ "path": Value::Null }), next))
}
