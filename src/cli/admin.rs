//! `dca-auth admin`.

use anyhow::Result;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64_URL};
use clap::Subcommand;
use dca_core::accounts::admin;
use serde_json::json;

use super::output::Output;
use crate::app::App;

pub(super) const EXAMPLES: &str = "\
Examples:
  dca-auth admin create --email you@example.com
  dca-auth admin create --email you@example.com --reset-password --password-stdin < password.txt";

#[derive(Debug, Subcommand)]
pub(super) enum Admin {
    /// Create a `SUPER_ADMIN` account, or promote and activate the account that has verified this email
    Create {
        /// The email address
        #[arg(long)]
        email: String,
        /// The display name
        #[arg(long)]
        name: Option<String>,
        /// Read the password from standard input instead of generating one
        #[arg(long)]
        password_stdin: bool,
        /// If the account exists, set a new password too, which signs it out everywhere
        #[arg(long)]
        reset_password: bool,
    },
}

pub(super) async fn run(app: &App, command: Admin) -> Result<Output> {
    let Admin::Create { email, name, password_stdin, reset_password } = command;
    if !reset_password && let Some(id) = admin::promote(&app.core, &email, name.as_deref()).await? {
        let json = json!({ "id": id, "email": email, "role": "SUPER_ADMIN", "isNew": false });
        let text = format!("{id}  {email}  SUPER_ADMIN, already existed");
        return Ok(Output::new(json, text).with_note("Its password is unchanged; --reset-password sets a new one."));
    }
    let generated = BASE64_URL.encode(app.core.ids.bytes::<18>());
    let input = password_stdin.then(|| std::io::read_to_string(std::io::stdin())).transpose()?;
    let password = input.as_deref().map_or(generated.as_str(), |text| text.trim_end_matches(['\n', '\r']));
    let (id, is_new) = admin::create_admin(&app.core, &email, name.as_deref(), password).await?;
    let mut json = json!({ "id": id, "email": email, "role": "SUPER_ADMIN", "isNew": is_new });
    let action = if is_new { "created" } else { "already existed; its password was changed" };
    let text = format!("{id}  {email}  SUPER_ADMIN, {action}");
    if input.is_some() {
        return Ok(Output::new(json, text));
    }
    json["password"] = generated.as_str().into();
    Ok(Output::new(json, format!("{text}\npassword, not shown again: {generated}")))
}
