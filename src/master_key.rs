//! The file `master.key` in the data directory: 32 bytes of base64, generated on first start.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::{fs, os::unix::fs::OpenOptionsExt};

use anyhow::{Context, Result, anyhow, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use dca_core::{Ids, crypto::seal::MasterKey};
use tracing::info;

/// Reads the key. A missing file is not generated here: a new key could not decrypt a database that was used before.
pub(crate) fn read(data_dir: &Path) -> Result<MasterKey> {
    let path = path(data_dir);
    match read_file(&path)? {
        Some(key) => Ok(key),
        None => bail!(
            "{} is missing, but this database needs its master key: restore it from your backup, or set DCA_MASTER_KEY. \
             If the service uses another data folder, pass it with --data-dir",
            path.display()
        ),
    }
}

/// Generates the key of a new database.
pub(crate) fn generate_if_missing(data_dir: &Path, ids: &Ids) -> Result<()> {
    let path = path(data_dir);
    if read_file(&path)?.is_none() {
        write_secret(&path, &STANDARD.encode(ids.bytes::<32>()))?;
        info!(path = %path.display(), "generated a master key; back it up with the database, which needs it");
    }
    Ok(())
}

pub(crate) fn decode(text: &str) -> Result<MasterKey> {
    let bytes = STANDARD.decode(text)?;
    Ok(MasterKey::new(bytes.try_into().map_err(|_| anyhow!("wrong length"))?))
}

pub(crate) fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("master.key")
}

fn new_path(data_dir: &Path) -> PathBuf {
    data_dir.join("master.key.new")
}

/// Writes a new master key beside the current one, so that neither is lost if replacing it is interrupted.
pub(crate) fn prepare(data_dir: &Path, text: &str) -> Result<()> {
    let new = new_path(data_dir);
    write_secret(&new, text).with_context(|| {
        format!(
            "An earlier replacement may have been interrupted. If the service starts, delete {0}; otherwise rename \
             it to master.key",
            new.display()
        )
    })
}

/// Replaces the current master key by the prepared one. Returns its path.
pub(crate) fn replace(data_dir: &Path) -> Result<PathBuf> {
    let (new, current) = (new_path(data_dir), path(data_dir));
    fs::rename(&new, &current).with_context(|| format!("rename {} to {}", new.display(), current.display()))?;
    Ok(current)
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
pub(crate) fn write_secret(path: &Path, text: &str) -> Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    let written = writeln!(file, "{}", text.trim_end()).and_then(|()| file.sync_all());
    written.with_context(|| {
        // The next start would use an incomplete secret.
        _ = fs::remove_file(path);
        format!("cannot write {}", path.display())
    })
}
