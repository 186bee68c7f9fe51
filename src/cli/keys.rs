//! `dca-auth keys`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::Subcommand;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use dca_core::crypto::seal::Purpose;
use dca_core::key_rotation::{self, Generation, Rotation};
use serde_json::{Value, json};

use super::output::Output;
use crate::{app::App, master_key};

pub(super) const EXAMPLES: &str = "\
Examples:
  dca-auth keys rotate                  Rotate all keys
  dca-auth keys rotate access-token     Rotate only the key that signs access tokens
  dca-auth keys rewrap                  Replace the file master.key
  dca-auth keys root                    Print the root key that your apps contain
  dca-auth keys export-root root.pem    Move the private root key to a file, to keep it off this server
  dca-auth keys publish --root root.pem
  openssl rand -base64 32 | tee new.key | dca-auth keys rewrap --stdin";

#[derive(Debug, Subcommand)]
pub(super) enum Keys {
    /// List the generations of all keys; the keys themselves are never shown
    List,
    /// Add new keys, which take effect after five minutes; data and tokens of older keys stay valid
    Rotate {
        /// What the key is for, as in `keys list`; without it, all keys but the root key, which your apps contain
        #[arg(value_parser = purpose())]
        purpose: Option<Purpose>,
    },
    /// Encrypt all keys under a new master key; needed at the next start, so that a stolen copy of the old one is useless
    Rewrap {
        /// Read the new master key (32 bytes in base64) from standard input instead of generating it
        #[arg(long)]
        stdin: bool,
    },
    /// Print the public root key; an app that contains it recognizes the verdicts of this service
    Root,
    /// Move the private root key to a new file; from then on, only `keys publish` can name new signing keys
    ExportRoot {
        /// The file to write
        file: PathBuf,
    },
    /// Sign the list of signing keys with an exported root key, and rotate the signing key if it is 60 days old
    Publish {
        /// The file that `keys export-root` wrote
        #[arg(long, value_name = "FILE")]
        root: PathBuf,
        /// Rotate the signing key in any case
        #[arg(long)]
        rotate: bool,
    },
}

fn purpose() -> impl TypedValueParser<Value = Purpose> {
    PossibleValuesParser::new(Purpose::ALL.iter().map(|purpose| purpose.as_str())).try_map(|text| text.parse())
}

pub(super) async fn run(app: &App, command: &Keys) -> Result<Output> {
    match command {
        Keys::List => Ok(table(key_rotation::list(&app.core).await?)),
        Keys::Rotate { purpose } => {
            let added = key_rotation::rotate(&app.core, *purpose).await?;
            let mut note = "Added. Running instances use the new keys as soon as they take effect.".to_owned();
            if app.config.storage.master_key.is_some() {
                // They know only the value of DCA_MASTER_KEY that they were started with.
                note += " If DCA_MASTER_KEY was replaced since they started, restart them before that.";
            }
            if *purpose == Some(Purpose::RootSigning) {
                note += " Apps that contain the previous root key reject verdicts from now on: release them with the \
                         key that `dca-auth keys root` prints.";
            }
            Ok(table(added).with_note(note))
        }
        Keys::Rewrap { stdin } => rewrap(app, *stdin).await,
        Keys::Root => {
            let root = key_rotation::status(&app.core).await?.root;
            let text = format!("public key: {}\nJWK: {}", root.x, serde_json::to_string(&root)?);
            Ok(Output::new(serde_json::to_value(root)?, text))
        }
        Keys::ExportRoot { file } => export_root(app, file).await,
        Keys::Publish { root, rotate } => {
            let pem = std::fs::read_to_string(root).with_context(|| format!("cannot read {}", root.display()))?;
            let rotation = if *rotate { Rotation::Now } else { Rotation::WhenDue };
            let status = key_rotation::publish(&app.core, &pem, rotation).await?;
            let json = json!({ "expiresAt": status.list_expires_at, "nextRotation": status.next_rotation });
            let (rotation, end) = (status.next_rotation.date_naive(), status.list_expires_at.date_naive());
            Ok(Output::new(json, format!("Signed; valid until {end}. Run this command again before {rotation}.")))
        }
    }
}

async fn export_root(app: &App, file: &Path) -> Result<Output> {
    // The file first, so that the key is never lost.
    master_key::write_secret(file, &key_rotation::export_root(&app.core)?)?;
    key_rotation::remove_root(&app.core).await?;
    let note = format!(
        "Moved the root key to {}. Keep it in a safe place, with a copy: without it you cannot name new signing keys to \
         your apps. Backups still contain it; it is unreadable in them once you run `dca-auth keys rewrap` and delete the \
         previous master key.",
        file.display()
    );
    Ok(Output::new(json!({ "path": file }), note))
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
