"""A bot on discord.py logs in to SimDiscord, changes a member's role twice, and receives both changes as events.

Usage: python discordpy.py URL TOKEN
"""

import asyncio
import json
import sys
import urllib.request

import discord
import yarl

URL, TOKEN = sys.argv[1:]
discord.http.Route.BASE = f"{URL}/api/v10"
with urllib.request.urlopen(f"{discord.http.Route.BASE}/gateway") as response:
    discord.gateway.DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(json.load(response)["url"])


async def change_roles(client: discord.Client) -> str:
    await client.login(TOKEN)
    connection = asyncio.create_task(client.connect())
    await client.wait_until_ready()
    guild = discord.utils.get(client.guilds, name="Makers")
    ana = discord.utils.get(guild.members, name="ana")
    gold = discord.utils.get(guild.roles, name="Gold")
    had = gold in ana.roles
    for give in (not had, had):
        updated = asyncio.create_task(client.wait_for("member_update", check=lambda _, after: after.id == ana.id))
        await asyncio.sleep(0)  # Starts waiting before the change.
        await (ana.add_roles(gold) if give else ana.remove_roles(gold))
        _, after = await updated
        assert (gold in after.roles) == give, "unexpected update"
    await client.close()
    await connection
    return f"discord.py: {len(guild.members)} members, two role changes received"


intents = discord.Intents(guilds=True, members=True)
print(asyncio.run(asyncio.wait_for(change_roles(discord.Client(intents=intents)), 30)))
