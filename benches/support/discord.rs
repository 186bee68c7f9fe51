//! A simulated server with a product, and what its members do.

use std::collections::BTreeMap;
use std::time::Duration;

use dca_test_support::{Opt, SimDiscord, SimGuild, SimMember};
use tokio::time::{Instant, sleep};

use super::BenchResult;

/// How long the service may take to send the keys.
const LIMIT: Duration = Duration::from_mins(10);

/// A server whose role Gold entitles to a product.
pub struct Makers {
    pub discord: SimDiscord,
    pub guild: SimGuild,
    pub gold: u64,
}

impl Makers {
    /// Settings for a service that connects to this Discord and sends keys without a limit.
    pub fn configure(discord: &SimDiscord, env: &mut BTreeMap<String, String>) {
        let settings = [
            ("DCA_DISCORD_TOKEN", discord.token()),
            ("DCA_DISCORD_API_URL", discord.base_url()),
            ("DCA_DM_PER_MINUTE", "10000000".to_owned()),
        ];
        env.extend(settings.map(|(name, value)| (name.to_owned(), value)));
    }

    /// Waits until the service is connected, and maps the role with `/setup`.
    pub async fn set_up(discord: SimDiscord) -> Self {
        discord.connected().await;
        let guild = discord.guild("Makers");
        let (gold, owner) = (guild.role("Gold"), guild.owner());
        // Commands of the server are accepted once it is stored.
        sleep(Duration::from_secs(2)).await;
        let options = [("product", Opt::Str("Tools".to_owned())), ("grace_hours", Opt::Int(0))];
        let panel = discord.run(&owner, "/setup", &options).await;
        discord.choose(&owner, &panel, "setup:role", &[gold]).await;
        Self { discord, guild, gold }
    }

    /// New members without a role.
    pub fn members(&self, count: usize) -> Vec<SimMember> {
        self.guild.join_many(count)
    }

    /// Waits until each of them was sent a key.
    pub async fn sent_keys(&self, members: &[SimMember]) -> BenchResult<()> {
        let (start, mut waiting) = (Instant::now(), members.to_vec());
        loop {
            waiting.retain(|member| self.discord.dms(member).is_empty());
            if waiting.is_empty() {
                return Ok(());
            }
            if start.elapsed() > LIMIT {
                return Err(format!("{} keys were not sent in time", waiting.len()).into());
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}
