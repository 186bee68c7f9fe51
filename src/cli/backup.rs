//! `dca-auth backup` and `dca-auth restore`: the `SQLite` file and the master key, together in one folder.

use std::path::{Path, PathBuf};
use std::{fs, io};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::json;

use super::output::Output;
use crate::app::{self, Inputs};
use crate::{config::Config, instance::Instance, master_key, telemetry};

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  dca-auth backup /var/backups/dca-auth-$(date +%F)
  dca-auth --data-dir /var/lib/dca-auth backup /mnt/usb/dca-auth")]
pub(super) struct Backup {
    /// The folder to create; it must not exist
    dir: PathBuf,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Example, on a new machine:
  dca-auth --data-dir /var/lib/dca-auth restore /mnt/usb/dca-auth")]
pub(super) struct Restore {
    /// The folder that `dca-auth backup` created
    dir: PathBuf,
    /// Replace the database and the master key that are there; what was stored since the backup is lost
    #[arg(long)]
    overwrite: bool,
}

const DATABASE: &str = "dca.db";

pub(super) async fn backup(config: &Config, args: &Backup) -> Result<Output> {
    let source = sqlite_file(config)?;
    app::require_database(config)?;
    ensure!(!args.dir.exists(), "{} exists already. Use a new folder for each backup.", args.dir.display());
    // Renamed when it is complete, so that an interrupted backup is not mistaken for one.
    let partial = args.dir.with_added_extension("partial");
    _ = fs::remove_dir_all(&partial);
    let written = write_copy(config, &source, &partial).await;
    if written.is_err() {
        _ = fs::remove_dir_all(&partial);
    }
    let has_key = written?;
    fs::rename(&partial, &args.dir).with_context(|| format!("cannot create {}", args.dir.display()))?;
    let text = format!("Wrote {}. It contains secrets; keep it private.", args.dir.display());
    let output = Output::new(json!({ "dir": args.dir, "hasMasterKey": has_key }), text);
    let note = "The master key is not in it, because it comes from DCA_MASTER_KEY: keep that too.";
    Ok(if has_key { output } else { output.with_note(note) })
}

/// Writes the database to a new folder, and the master key if it is a file. Returns whether it is.
async fn write_copy(config: &Config, source: &Path, partial: &Path) -> Result<bool> {
    app::create_private_dir(partial)?;
    let db = app::open_database(config).await?;
    let copy = partial.join(DATABASE);
    app::create_private_file(&copy)?;
    db.copy_to(&copy).await.with_context(|| format!("cannot copy {} to {}", source.display(), copy.display()))?;
    db.close().await?;
    let has_key = config.storage.master_key.is_none();
    if has_key {
        copy_private(&master_key::path(&config.storage.data_dir), &master_key::path(partial))?;
    }
    Ok(has_key)
}

pub(super) async fn restore(config: &Config, args: &Restore) -> Result<Output> {
    let (target, dir) = (sqlite_file(config)?, &config.storage.data_dir);
    ensure!(args.dir.join(DATABASE).is_file(), "{} is not a backup: it has no {DATABASE}.", args.dir.display());
    let (key, backup_key) = (master_key::path(dir), master_key::path(&args.dir));
    let existing = [&target, &key].into_iter().find(|path| path.exists());
    if let (Some(path), false) = (existing, args.overwrite) {
        bail!("{} exists already. Use another folder with --data-dir, or replace it with --overwrite.", path.display());
    }
    app::create_private_dir(dir)?;
    let Some(_lock) = Instance::claim(dir).with_context(|| format!("cannot lock {}", dir.display()))? else {
        bail!("dca-auth serve is running in the data directory {}. Stop it first.", dir.display());
    };
    // Checked in a folder of its own, so that a backup that cannot be used changes nothing.
    let staging = dir.join("restoring");
    _ = fs::remove_dir_all(&staging);
    app::create_private_dir(&staging)?;
    copy_private(&args.dir.join(DATABASE), &staging.join(DATABASE))?;
    if backup_key.is_file() {
        copy_private(&backup_key, &master_key::path(&staging))?;
    }
    if let Err(error) = check(config, &staging).await {
        _ = fs::remove_dir_all(&staging);
        return Err(error.context(format!("{} cannot be used; nothing was changed", args.dir.display())));
    }
    for log in ["-wal", "-shm"] {
        _ = fs::remove_file(format!("{}{log}", target.display()));
    }
    if backup_key.is_file() {
        replace(&master_key::path(&staging), &key)?;
    }
    replace(&staging.join(DATABASE), &target)?;
    _ = fs::remove_dir_all(&staging);
    let text = format!("Restored {}. Start the service: dca-auth serve", target.display());
    Ok(Output::new(json!({ "database": target }), text))
}

/// Checks that the database in this folder can be opened with its master key.
async fn check(config: &Config, dir: &Path) -> Result<()> {
    let config = Config { storage: config.storage.in_folder(dir), ..config.clone() };
    app::require_data(&config).await?;
    let inputs = Inputs::system(telemetry::recorder()?.handle());
    let core = app::open_core(&config, &inputs, app::open_database(&config).await?).await?;
    Ok(core.db.close().await?)
}

fn sqlite_file(config: &Config) -> Result<PathBuf> {
    config.storage.sqlite_file().context(
        "This works with SQLite only. For PostgreSQL, use pg_dump and pg_restore, and keep DCA_MASTER_KEY with the dump.",
    )
}

/// Copies a file so that only its owner can read it.
fn copy_private(from: &Path, to: &Path) -> Result<()> {
    let mut copy = app::create_private_file(to)?;
    let copied = fs::File::open(from).and_then(|mut from| io::copy(&mut from, &mut copy)).and_then(|_| copy.sync_all());
    copied.with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

fn replace(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).with_context(|| format!("cannot write {}", to.display()))
}
