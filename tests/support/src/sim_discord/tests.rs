//! Tests of every route over HTTP and of the gateway over a WebSocket. With `DISCORD_OPENAPI` set, all responses
//! are validated against Discord's OpenAPI document.

use futures::SinkExt;
use serde_json::{Value, json};
use tokio_tungstenite::{connect_async, tungstenite::Message};

use super::test_clients::{Bot, INTENTS, RestClient};
use super::{Fault, FaultKind, Opt, SimDiscord, SimGuild, SimMember};

#[tokio::test]
async fn the_gateway_closes_connections_that_break_the_protocol() {
    let discord = SimDiscord::start().await;
    let identify = |intents: u64| json!({ "op": 2, "d": { "token": discord.token(), "intents": intents } }).to_string();
    for (frame, code) in [
        ("{".to_owned(), 4002),
        ("[]".to_owned(), 4002),
        (json!({ "op": 77, "d": null }).to_string(), 4001),
        (identify(1 << 17), 4013),
    ] {
        let mut bot = Bot::connect(&discord).await;
        bot.0.send(Message::text(frame.clone())).await.expect("sent");
        assert_eq!(bot.close_code().await, code, "{frame}");
    }
    let mut bot = Bot::identify(&discord).await;
    bot.expect("READY").await;
    bot.0.send(Message::text(identify(INTENTS))).await.expect("sent");
    assert_eq!(bot.close_code().await, 4005);
    assert_eq!(discord.violations().len(), 3);
}

fn commands() -> Value {
    json!([{
        "name": "mapping", "description": "Role mappings", "nsfw": false,
        "default_member_permissions": "32", "name_localizations": {},
        "options": [{
            "type": 1, "name": "add", "description": "Adds one", "options": [
                { "type": 8, "name": "role", "description": "The role", "required": true },
                { "type": 3, "name": "product", "description": "The product", "autocomplete": true },
                { "type": 6, "name": "user", "description": "A user" },
                { "type": 7, "name": "channel", "description": "A channel", "channel_types": [0] },
                { "type": 4, "name": "days", "description": "Days", "min_value": 1 },
                { "type": 5, "name": "quiet", "description": "Quiet" },
            ],
        }],
    }])
}

fn buttons() -> Value {
    json!([
        { "type": 1, "components": [
            { "type": 2, "style": 1, "label": "Yes", "custom_id": "yes:1" },
        ]},
        { "type": 1, "components": [{ "type": 6, "custom_id": "role:1" }]},
        { "type": 1, "components": [{ "type": 3, "custom_id": "plan:1", "options": [
            { "label": "Gold", "value": "gold" },
        ]}]},
    ])
}

/// A guild with a role of each kind and one member besides the owner and the bot.
struct Fixture {
    discord: SimDiscord,
    rest: RestClient,
    guild: SimGuild,
    gold: u64,
    above: u64,
    booster: u64,
    ana: SimMember,
    /// The REST path of the member ana.
    member: String,
}

async fn fixture() -> Fixture {
    let discord = SimDiscord::start().await;
    let guild = discord.guild("Makers");
    let (gold, above) = (guild.role("Gold"), guild.role_above_bot("Admin"));
    let (booster, ana) = (guild.managed_role("Booster"), guild.join("ana"));
    ana.grant(booster);
    let member = format!("/guilds/{}/members/{}", guild.id(), ana.user_id());
    let rest = RestClient::of(&discord);
    Fixture { discord, rest, guild, gold, above, booster, ana, member }
}

#[tokio::test]
async fn the_application_is_described_and_registers_commands() {
    let Fixture { discord, rest, guild, .. } = fixture().await;
    let (app, id) = (discord.application_id(), guild.id());
    assert!(rest.get("/gateway").await["url"].as_str().unwrap().ends_with("/gw"));
    assert_eq!(rest.get("/gateway/bot").await["shards"], 1);
    assert_eq!(rest.get("/users/@me").await["id"], discord.bot_id().to_string());
    assert_eq!(rest.get("/oauth2/applications/@me").await, rest.get("/applications/@me").await);

    for scope in [format!("/applications/{app}"), format!("/applications/{app}/guilds/{id}")] {
        let (status, first) = rest.send(&format!("PUT {scope}/commands"), commands()).await;
        assert_eq!((status, first.as_array().unwrap().len()), (200, 1));
        let (_, again) = rest.send(&format!("PUT {scope}/commands"), commands()).await;
        assert_eq!(first[0]["id"], again[0]["id"], "a command of the same name keeps its id");
        assert_eq!(rest.get(&format!("{scope}/commands")).await, again);
        for (name, status, count) in [("second", 201, 2), ("second", 200, 2)] {
            let command = json!({ "name": name, "description": "One more", "type": 1 });
            assert_eq!(rest.send(&format!("POST {scope}/commands"), command).await.0, status);
            assert_eq!(rest.get(&format!("{scope}/commands")).await.as_array().unwrap().len(), count);
        }
    }
    discord.finish();
}

#[tokio::test]
async fn a_guild_lists_its_roles_channels_and_members() {
    let Fixture { discord, rest, guild, booster, member, .. } = fixture().await;
    let id = guild.id();
    let counted = rest.get(&format!("/guilds/{id}?with_counts=true")).await;
    assert_eq!(counted["approximate_member_count"], 3);
    assert_eq!(rest.get(&format!("/guilds/{id}/roles")).await.as_array().unwrap().len(), 5);
    assert_eq!(rest.get(&format!("/guilds/{id}/roles/member-counts")).await[booster.to_string()], 1);
    assert_eq!(rest.get(&format!("/guilds/{id}/channels")).await.as_array().unwrap().len(), 1);
    let page = rest.get(&format!("/guilds/{id}/members")).await;
    assert_eq!(page.as_array().unwrap().len(), 1, "the default page is one member");
    let after = page[0]["user"]["id"].as_str().unwrap();
    let page = rest.get(&format!("/guilds/{id}/members?limit=1000&after={after}")).await;
    assert_eq!(page.as_array().unwrap().len(), 2);
    assert_eq!(rest.code(&format!("GET /guilds/{id}/members?limit=1001"), Value::Null).await, (400, 50035));
    assert_eq!(rest.get(&member).await["roles"], json!([booster.to_string()]));
    guild.outage();
    assert_eq!(rest.code(&format!("GET /guilds/{id}"), Value::Null).await.0, 503);
    guild.recover();
    guild.kick_bot();
    assert_eq!(rest.code(&format!("GET /guilds/{id}"), Value::Null).await, (403, 50001));
    discord.reject_token(true);
    assert_eq!(rest.code("GET /users/@me", Value::Null).await.0, 401);
    discord.finish();
}

#[tokio::test]
async fn the_bot_assigns_only_roles_below_its_own() {
    let Fixture { discord, rest, guild, gold, above, booster, member, .. } = fixture().await;
    let (app, id, silver) = (discord.application_id(), guild.id(), guild.role("Silver"));
    for (call, expected) in [
        (format!("PUT {member}/roles/{gold}"), (204, 0)),
        (format!("PUT {member}/roles/{gold}"), (204, 0)),
        (format!("DELETE {member}/roles/{gold}"), (204, 0)),
        (format!("PUT {member}/roles/{above}"), (403, 50013)),
        (format!("PUT {member}/roles/{booster}"), (400, 50028)),
        (format!("PUT {member}/roles/{id}"), (400, 50028)),
        (format!("PUT {member}/roles/1"), (404, 10011)),
        (format!("PUT /guilds/{id}/members/{app}1/roles/{gold}"), (404, 10013)),
        ("GET /guilds/1".to_owned(), (404, 10004)),
        ("GET /channels/1".to_owned(), (404, 10003)),
        ("GET /channels/x".to_owned(), (400, 50035)),
    ] {
        assert_eq!(rest.code(&call, Value::Null).await, expected, "{call}");
    }
    let roles = json!({ "roles": [booster.to_string(), silver.to_string()] });
    assert_eq!(rest.send(&format!("PATCH {member}"), roles.clone()).await.1["roles"], roles["roles"]);
    assert_eq!(discord.requests().last().unwrap().reason.as_deref(), Some("rôle"));
    discord.finish();
}

#[tokio::test]
async fn messages_are_delivered_or_refused() {
    let Fixture { discord, rest, guild, ana, member, .. } = fixture().await;
    let (user, logs) = (ana.user_id(), guild.channel("logs"));
    let open = json!({ "recipient_id": user.to_string() });
    let (_, dm) = rest.send("POST /users/@me/channels", open.clone()).await;
    assert_eq!(rest.send("POST /users/@me/channels", open).await.1["id"], dm["id"]);
    let dm = dm["id"].as_str().unwrap();
    rest.get(&format!("/channels/{dm}")).await;
    rest.get(&format!("/channels/{logs}")).await;
    let embed = json!({ "content": "hi", "embeds": [{ "title": "t", "fields": [] }], "components": buttons() });
    assert_eq!(rest.code(&format!("POST /channels/{logs}/messages"), embed).await.0, 200);
    assert_eq!(discord.next_message(logs).await.content, "hi");
    let hello = json!({ "content": "hello", "nonce": "n1", "enforce_nonce": true });
    let send = format!("POST /channels/{dm}/messages");
    let (_, first) = rest.send(&send, hello.clone()).await;
    assert_eq!(rest.send(&send, hello.clone()).await.1["id"], first["id"], "the nonce was repeated");
    assert_eq!(discord.next_dm(&ana).await.nonce.as_deref(), Some("n1"));
    discord.no_dm(&ana);
    ana.close_dms();
    assert_eq!(rest.code(&send, json!({ "content": "x" })).await, (403, 50007));
    ana.leave();
    assert_eq!(rest.code(&send, json!({ "content": "x" })).await, (403, 50278));
    assert_eq!(rest.code(&format!("GET {member}"), Value::Null).await, (404, 10007));
    discord.finish();
}

#[tokio::test]
async fn unknown_routes_and_unread_messages_fail_the_test() {
    let discord = SimDiscord::start().await;
    let rest = RestClient::of(&discord);
    assert_eq!(rest.code("GET /voice/regions", Value::Null).await.0, 404);
    assert_eq!(discord.violations().len(), 1);
    if std::env::var_os("DISCORD_OPENAPI").is_some() {
        rest.send("POST /users/@me/channels", json!({ "recipient_id": 7, "recipent": "7" })).await;
        assert!(discord.violations().iter().any(|line| line.contains("recipent is not a documented key")));
        assert!(discord.violations().iter().any(|line| line.contains("recipient_id: ")));
        assert!(discord.answers_checked() > 0);
    }

    let discord = SimDiscord::start().await;
    let general = discord.guild("Makers").general();
    let rest = RestClient::of(&discord);
    rest.send(&format!("POST /channels/{general}/messages"), json!({ "content": "unread" })).await;
    let finished = std::panic::catch_unwind(|| discord.finish());
    assert!(finished.is_err());
}

#[tokio::test]
async fn faults_apply_once() {
    let discord = SimDiscord::start().await;
    let guild = discord.guild("Makers");
    let (gold, ana) = (guild.role("Gold"), guild.join("ana"));
    let rest = RestClient::of(&discord);
    let grant = format!("PUT /guilds/{}/members/{}/roles/{gold}", guild.id(), ana.user_id());

    discord.fail_next("PUT", "/roles/", 500);
    assert_eq!(rest.code(&grant, Value::Null).await.0, 500);
    let limited = FaultKind::RateLimited { retry_after: 0.5, global: true, scope: "global" };
    discord.fault(Fault::on("PUT", "/roles/", limited));
    assert_eq!(rest.send(&grant, Value::Null).await.1["retry_after"], 0.5);
    discord.fault(Fault::on("PUT", "/roles/", FaultKind::CloudflareHtml));
    assert_eq!(rest.send(&grant, Value::Null).await, (429, Value::Null));
    assert!(ana.roles().is_empty(), "the requests were not performed");

    discord.fault(Fault::on("PUT", "/roles/", FaultKind::Drop));
    assert!(rest.try_call(&grant, Value::Null).await.is_err());
    assert_eq!(ana.roles(), [gold], "performed before the connection was cut");
    ana.take(gold);

    discord.fault(Fault::on("PUT", "/roles/", FaultKind::Hold));
    let held = tokio::spawn(async move { rest.code(&grant, Value::Null).await });
    discord.held().await;
    assert_eq!(ana.roles(), [gold]);
    assert!(!held.is_finished());
    discord.release();
    assert_eq!(held.await.unwrap(), (204, 0));
    discord.finish();
}

#[tokio::test]
async fn a_session_starts_disconnects_resumes_and_expires() {
    let discord = SimDiscord::start().await;
    let guild = discord.guild("Makers");
    let (gold, ana) = (guild.role("Gold"), guild.join("ana"));
    let mut bot = Bot::identify(&discord).await;
    let ready = bot.expect("READY").await;
    let session = ready["d"]["session_id"].as_str().unwrap();
    let created = bot.expect("GUILD_CREATE").await;
    assert_eq!(created["d"]["members"].as_array().unwrap().len(), 1);
    discord.connected().await;

    bot.send(1, json!(2)).await;
    assert_eq!(bot.receive().await["op"], 11);
    ana.grant(gold);
    let update = bot.expect("GUILD_MEMBER_UPDATE").await;
    assert_eq!((&update["s"], &update["d"]["roles"]), (&json!(3), &json!([gold.to_string()])));
    ana.grant(gold);

    discord.cut();
    assert!(!discord.is_connected());
    ana.take(gold);
    ana.leave();
    let mut bot = Bot::resume(&discord, session, 3).await;
    assert_eq!(bot.expect("GUILD_MEMBER_UPDATE").await["s"], 4);
    bot.expect("GUILD_MEMBER_REMOVE").await;
    bot.expect("RESUMED").await;
    assert_eq!((discord.sessions(), discord.resumes()), (1, 1));

    discord.reconnect_op7();
    assert_eq!(bot.receive().await["op"], 7);
    discord.forget_sessions();
    let mut bot = Bot::resume(&discord, session, 6).await;
    assert_eq!(bot.receive().await, json!({ "op": 9, "d": false }));
    bot.send(2, json!({ "token": discord.token(), "intents": 1 })).await;
    bot.expect("READY").await;
    bot.expect("GUILD_CREATE").await;
    discord.guild("Second");
    guild.join("bea");
    assert_eq!(bot.expect("GUILD_CREATE").await["d"]["name"], "Second");
    guild.delete_role(gold);
    bot.expect("GUILD_ROLE_DELETE").await;
    discord.disconnect(Some(4009));
    assert_eq!(bot.close_code().await, 4009);

    discord.disallow_intents(true);
    assert_eq!(Bot::identify(&discord).await.close_code().await, 4014);
    discord.reject_token(true);
    assert_eq!(Bot::identify(&discord).await.close_code().await, 4004);
    discord.refuse_gateway(true);
    let url = format!("{}/gw", discord.base_url().replace("http", "ws"));
    assert!(connect_async(url).await.is_err());
    assert_eq!((discord.sessions(), discord.identifies()), (2, 4));
    discord.finish();
}

#[tokio::test]
async fn a_bot_requests_members_by_id_by_name_or_all() {
    let Fixture { discord, guild, ana, .. } = fixture().await;
    let mut bot = Bot::identify(&discord).await;
    bot.expect("READY").await;
    bot.expect("GUILD_CREATE").await;
    let id = guild.id().to_string();
    guild.seed(1_000, &[]);
    for (request, sizes, unknown) in [
        (json!({ "guild_id": id, "query": "", "limit": 0, "nonce": "n" }), vec![1_000, 3], vec![]),
        (json!({ "guild_id": guild.id(), "query": "an", "limit": 5 }), vec![1], vec![]),
        (json!({ "guild_id": id, "user_ids": [ana.user_id().to_string(), "1"], "limit": 0 }), vec![1], vec!["1"]),
        (json!({ "guild_id": id, "query": "nobody", "limit": 0 }), vec![0], vec![]),
    ] {
        bot.send(8, request.clone()).await;
        for size in sizes {
            let chunk = bot.expect("GUILD_MEMBERS_CHUNK").await["d"].clone();
            assert_eq!(chunk["members"].as_array().unwrap().len(), size, "{request}");
            assert_eq!((&chunk["nonce"], &chunk["not_found"]), (&request["nonce"], &json!(unknown)));
        }
    }
    discord.finish();
}

/// A fixture with a connected bot that has registered its commands.
async fn connected_fixture() -> (Fixture, Bot) {
    let fixture = fixture().await;
    let path = format!("PUT /applications/{}/commands", fixture.discord.application_id());
    fixture.rest.send(&path, commands()).await;
    let mut bot = Bot::identify(&fixture.discord).await;
    bot.expect("READY").await;
    bot.expect("GUILD_CREATE").await;
    (fixture, bot)
}

/// Receives an interaction; returns it with its callback call and webhook path.
async fn receive_interaction(discord: &SimDiscord, bot: &mut Bot) -> (Value, String, String) {
    let interaction = bot.expect("INTERACTION_CREATE").await["d"].take();
    let text = |key: &str| interaction[key].as_str().unwrap().to_owned();
    let callback = format!("POST /interactions/{}/{}/callback", text("id"), text("token"));
    let hook = format!("/webhooks/{}/{}", discord.application_id(), text("token"));
    (interaction, callback, hook)
}

#[tokio::test]
async fn the_first_follow_up_completes_a_deferred_response() {
    let (Fixture { discord, rest, guild, gold, ana, .. }, mut bot) = connected_fixture().await;
    let options =
        [("role", Opt::Role(gold)), ("user", Opt::User(ana.user_id())), ("channel", Opt::Channel(guild.general()))];
    let handle = discord.run_unanswered(&ana, "/mapping add", &options);
    let (interaction, call, hook) = receive_interaction(&discord, &mut bot).await;
    assert_eq!(interaction["data"]["resolved"]["roles"][gold.to_string()]["name"], "Gold");
    assert_eq!(rest.code(&format!("POST {hook}"), json!({ "content": "early" })).await, (404, 10015));
    assert_eq!(rest.code(&call, json!({ "type": 7, "data": {} })).await, (400, 50035));
    assert_eq!(rest.code(&call, json!({ "type": 5, "data": { "flags": 64 } })).await.0, 204);
    assert_eq!(rest.code(&call, json!({ "type": 5 })).await, (400, 40060));
    assert_eq!(rest.get(&format!("{hook}/messages/@original")).await["flags"], 64 + 128);
    rest.send(&format!("POST {hook}"), json!({ "content": "done", "components": buttons() })).await;
    let reply = handle.reply().await;
    assert_eq!((reply.content.as_str(), reply.ephemeral, reply.deferred), ("done", true, true));

    // A second follow-up is a new message that can be edited and deleted.
    let (_, more) = rest.send(&format!("POST {hook}"), json!({ "content": "more" })).await;
    let more = format!("{hook}/messages/{}", more["id"].as_str().unwrap());
    assert_eq!(rest.send(&format!("PATCH {more}"), json!({ "content": "less" })).await.1["content"], "less");
    assert_eq!(rest.code(&format!("DELETE {more}"), Value::Null).await.0, 204);

    // An expired token is refused before and after the first response.
    discord.run_unanswered(&ana, "/mapping add", &options);
    let (_, call, _) = receive_interaction(&discord, &mut bot).await;
    discord.expire_interactions();
    assert_eq!(rest.code(&call, json!({ "type": 5 })).await, (404, 10062));
    assert_eq!(rest.code(&format!("POST {hook}"), json!({ "content": "x" })).await, (401, 50027));
    discord.finish();
}

#[tokio::test]
async fn components_and_autocomplete_reach_the_bot() {
    let (Fixture { discord, rest, gold, ana, .. }, mut bot) = connected_fixture().await;
    let options = [("role", Opt::Role(gold))];
    let (reply, ()) = tokio::join!(discord.run(&ana, "/mapping add", &options), async {
        let (_, call, _) = receive_interaction(&discord, &mut bot).await;
        let data = json!({ "content": "ask", "components": buttons() });
        rest.send(&call, json!({ "type": 4, "data": data })).await;
    });
    let (pressed, ()) = tokio::join!(discord.press(&ana, &reply, "yes:"), async {
        let (_, call, _) = receive_interaction(&discord, &mut bot).await;
        let update = json!({ "type": 7, "data": { "content": "pressed" } });
        assert_eq!(rest.code(&call, update).await.0, 204);
    });
    assert_eq!(pressed.content, "pressed");
    let picked = [gold];
    let (chosen, ()) = tokio::join!(discord.choose(&ana, &pressed, "role:", &picked), async {
        let (interaction, call, hook) = receive_interaction(&discord, &mut bot).await;
        assert_eq!(interaction["data"]["component_type"], 6);
        rest.send(&call, json!({ "type": 6 })).await;
        let edit = format!("PATCH {hook}/messages/@original");
        rest.send(&edit, json!({ "content": "chosen", "components": [] })).await;
    });
    assert_eq!((chosen.content.as_str(), chosen.components.len()), ("chosen", 0));
    assert_eq!(discord.current(&reply).content, "chosen");
    let (forged, ()) = tokio::join!(discord.forge_component(&ana, "plan:2", &["gold"]), async {
        let (_, call, _) = receive_interaction(&discord, &mut bot).await;
        rest.send(&call, json!({ "type": 4, "data": { "content": "no" } })).await;
    });
    assert_eq!(forged.content, "no");

    let (choices, ()) = tokio::join!(discord.autocomplete(&ana, "/mapping add", "product", "ca"), async {
        let (_, call, _) = receive_interaction(&discord, &mut bot).await;
        let choices = json!([{ "name": "Cam", "value": "cam" }]);
        rest.send(&call, json!({ "type": 8, "data": { "choices": choices } })).await;
    });
    assert_eq!(choices[0].value, "cam");
    discord.finish();
}
