//! `dca-auth admin`.

use anyhow::Result;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64_URL};
use clap::Subcommand;
use dca_core::accounts::admin;

use crate::app::App;

#[derive(Debug, Subcommand)]
pub(super) enum Admin {
    /// Create a SUPER_ADMIN account, or promote the account with this email, and set a new password
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
    },
}

pub(super) async fn run(app: &App, command: Admin) -> Result<()> {
    let Admin::Create { email, name, password_stdin } = command;
    let generated = BASE64_URL.encode(app.core.ids.bytes::<18>());
    let input = password_stdin.then(|| std::io::read_to_string(std::io::stdin())).transpose()?;
    let password = input.as_deref().map_or(generated.as_str(), |text| text.trim_end_matches(['\n', '\r']));
    let (id, is_new) = admin::create_admin(&app.core, &email, name.as_deref(), password).await?;
    let action = if is_new { "created" } else { "already existed; its password was changed" };
    println!("{id}  {email}  SUPER_ADMIN, {action}");
    if input.is_none() {
        println!("password, not shown again: {generated}");
    }
    Ok(())
}
