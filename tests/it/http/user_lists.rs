//! The pages of the list of users.

use dca_core::users::Role;
use serde_json::{Value, json};

use crate::support::{accounts::signed_in_as, harness::it_unstarted};

fn discord_ids(page: &Value) -> Vec<u64> {
    let users = page["users"].as_array().unwrap();
    users.iter().map(|user| user["discordId"].as_str().unwrap().parse().unwrap()).collect()
}

#[test]
fn holders_of_several_roles_of_a_server_are_listed_once_newest_first() {
    it_unstarted(|mut t| async {
        t.start().await;
        let guild = t.discord.guild("Makers");
        let roles = ["Gold", "Silver"].map(|name| guild.role(name));
        t.wait_for_events(&guild).await;
        for (role, product) in roles.into_iter().zip(["Tools", "Bricks"]) {
            t.map_role(&guild, product, role, 24).await;
        }
        let (mut members, both) = (Vec::new(), roles.as_slice());
        for (name, gained) in [("ana", both), ("bea", &roles[1..]), ("cid", &roles[..1]), ("dan", both), ("eve", both)]
        {
            let member = guild.join(name);
            for role in gained {
                member.grant(*role);
                t.discord.next_dm(&member).await;
            }
            members.insert(0, member.user_id());
            t.advance(chrono::Duration::seconds(1));
        }
        let (root, _) = signed_in_as(&t, "root@x.example", Role::SuperAdmin).await;
        let list = async |query: &str| {
            let response = root.get(&format!("/admin/users?guildId={}&{query}", guild.id())).await;
            assert_eq!(response.status, 200, "{query}: {response:?}");
            response.body
        };
        for (page, has_next) in [(1, true), (2, true), (3, false)] {
            let listed = list(&format!("limit=2&page={page}")).await;
            let expected = members.chunks(2).nth(page - 1).unwrap();
            assert_eq!(discord_ids(&listed), expected);
            let pagination = json!({
                "total": 5, "page": page, "pages": 3, "limit": 2, "hasNext": has_next, "hasPrev": page > 1,
            });
            assert_eq!(listed["pagination"], pagination);
        }
        let beyond = list("limit=2&page=4").await;
        assert_eq!((discord_ids(&beyond).len(), &beyond["pagination"]["total"]), (0, &json!(5)));
        assert_eq!(list("limit=2&status=BANNED").await["pagination"]["total"], 0);
        t
    });
}
