// A bot on discord.js logs in to SimDiscord, changes a member's role twice, and receives both changes as events.
// Usage: node discordjs.cjs URL TOKEN
const { Client, Events, GatewayIntentBits } = require("discord.js");
const { once } = require("node:events");

const [url, token] = process.argv.slice(2);
const intents = [GatewayIntentBits.Guilds, GatewayIntentBits.GuildMembers];
const client = new Client({ intents, rest: { api: `${url}/api` } });

async function main() {
  const signal = AbortSignal.timeout(30_000);
  const ready = once(client, Events.ClientReady, { signal });
  await client.login(token);
  await ready;
  const guild = client.guilds.cache.find((guild) => guild.name === "Makers");
  const members = await guild.members.fetch();
  const ana = members.find((member) => member.user.username === "ana");
  const gold = guild.roles.cache.find((role) => role.name === "Gold");
  for (const give of [!ana.roles.cache.has(gold.id), ana.roles.cache.has(gold.id)]) {
    const updated = once(client, Events.GuildMemberUpdate, { signal });
    await (give ? ana.roles.add(gold) : ana.roles.remove(gold));
    const [, member] = await updated;
    if (member.id !== ana.id || member.roles.cache.has(gold.id) !== give) throw new Error("unexpected update");
  }
  await client.destroy();
  console.log(`discord.js: ${members.size} members, two role changes received`);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
