//! Switches for unsafe behavior that clients of earlier systems may depend on.

use dca_core::crypto::api_key::{ApiKeyKind, ApiKeyText};

use super::parse::Secret;
use super::reader::settings;

settings! {
    /// Unsafe behavior of the earlier DCA-Auth.
    CompatConfig {
        /// Publishable API key that counts for clients that send none to /api/licenses/validate and /api/licenses/verify, as those of the earlier DCA-Auth do. If unset, they are refused.
        validation_api_key: Option<Secret> = "DCA_ALLOW_VALIDATION_WITHOUT_API_KEY", optional(publishable_key), secret(),
            expects("a publishable API key from `dca-auth apikey create`, for example dca_pk_…K7QZ");
        /// Whether GET /api/licenses/key/{key} works. URLs with license keys end up in the logs of proxies and browsers.
        keys_in_urls: bool = "DCA_ALLOW_KEYS_IN_URLS", or("false", |value| value.to_lowercase().parse().ok()),
            expects("true or false");
    }
}

fn publishable_key(value: &str) -> Option<Secret> {
    let key = ApiKeyText::parse(value).filter(|key| key.kind == ApiKeyKind::Publishable)?;
    Some(Secret(key.expose().to_owned()))
}
