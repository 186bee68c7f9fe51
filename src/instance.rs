//! Which instance of the service a process is. The identity is kept in the data directory, so that a process that
//! starts again takes its own leases back at once. Only one process at a time has it: a file lock, which ends with the
//! process, tells two of them apart.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::{os::unix::fs::OpenOptionsExt, path::Path};

use dca_core::{Ids, ids::InstanceId};
use uuid::Uuid;

/// The identity of a process, until it is dropped.
#[derive(Debug)]
pub(crate) struct Instance {
    pub id: InstanceId,
    _locked: File,
}

impl Instance {
    /// Claims the identity in a data directory; `None` if another process has it.
    pub fn claim(data_dir: &Path) -> io::Result<Option<Self>> {
        let mut options = OpenOptions::new();
        let mut file =
            options.read(true).write(true).create(true).truncate(false).mode(0o600).open(data_dir.join("instance"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let mut known = String::new();
        file.read_to_string(&mut known)?;
        let id = if let Ok(id) = known.trim().parse::<Uuid>() {
            id
        } else {
            let id = Ids::system().v4();
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{id}")?;
            id
        };
        Ok(Some(Self { id: InstanceId(id), _locked: file }))
    }
}
