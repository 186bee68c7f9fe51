//! The certificate authorities that outbound connections trust: the public ones, and those of `DCA_TLS_CA_FILE`.

use std::fs;

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};

use crate::Config;

/// The private authorities, in PEM.
pub fn private(config: &Config) -> Result<Option<Vec<u8>>> {
    let read = |path| fs::read(path).context("cannot read DCA_TLS_CA_FILE");
    config.storage.ca_file.as_ref().map(read).transpose()
}

/// Private and public authorities, in PEM.
pub fn with_public(mut private: Vec<u8>) -> Vec<u8> {
    for certificate in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
        let base64 = STANDARD.encode(certificate);
        private.extend(format!("\n-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n").bytes());
    }
    private
}
