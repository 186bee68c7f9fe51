//! The file `master.key` in the data directory: 32 bytes of base64, generated on first start.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::{fs, os::unix::fs::OpenOptionsExt};

use anyhow::{Context, Result, anyhow, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use dca_core::{Ids, crypto::seal::MasterKey};
use tracing::info;

/// Reads the key of a database that was used before. A missing file is not generated again: a new key could not
/// decrypt that database.
pub(crate) fn read(data_dir: &Path) -> Result<MasterKey> {
    let path = path(data_dir);
    match read_file(&path)? {
        Some(key) => Ok(key),
        None => bail!(
            "{} is missing, but this database needs its master key: restore it from your backup, or set DCA_MASTER_KEY",
            path.display()
        ),
    }
}

pub(crate) fn read_or_generate(data_dir: &Path, ids: &Ids) -> Result<MasterKey> {
    let path = path(data_dir);
    if let Some(key) = read_file(&path)? {
        return Ok(key);
    }
    let key = ids.bytes::<32>();
    write_secret(&path, &STANDARD.encode(key))?;
    info!(path = %path.display(), "generated a master key; back it up with the database, which needs it");
    Ok(MasterKey::new(key))
}

pub(crate) fn decode(text: &str) -> Result<MasterKey> {
    let bytes = STANDARD.decode(text)?;
    Ok(MasterKey::new(bytes.try_into().map_err(|_| anyhow!("wrong length"))?))
}

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("master.key")
}

fn read_file(path: &Path) -> Result<Option<MasterKey>> {
    match fs::read_to_string(path) {
        Ok(text) => {
            let key = decode(text.trim());
            key.map(Some).with_context(|| format!("{} is not 32 bytes of base64", path.display()))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => bail!("cannot read {}: {error}", path.display()),
    }
}

/// Writes a new file that only its owner can read. Never overwrites a file.
fn write_secret(path: &Path, text: &str) -> Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    let written = writeln!(file, "{text}").and_then(|()| file.sync_all());
    written.with_context(|| {
        // The next start would use an incomplete secret.
        _ = fs::remove_file(path);
        format!("cannot write {}", path.display())
    })
}
