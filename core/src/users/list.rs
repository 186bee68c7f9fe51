//! Lists of users, for administration.

use sea_orm::sea_query::{Expr, ExprTrait, Func, Query, SelectStatement, UnionType};
use sea_orm::{ColumnTrait, Condition, ConnectionTrait, EntityTrait, Order, QueryFilter, QueryOrder, QuerySelect};
use sea_orm::{QueryTrait, Select};
use uuid::Uuid;

use super::{AccountStatus, Role, User};
use crate::entity::{role_mapping, source, user};
use crate::ids::UserId;
use crate::{Core, GuildId, Result, db};

/// A filter for the list of users.
#[derive(Clone, Debug, Default)]
pub struct UserFilter {
    /// Part of the name or email address.
    pub search: Option<String>,
    /// Whether to search in names only.
    pub names_only: bool,
    /// The status of the account.
    pub status: Option<AccountStatus>,
    /// The role.
    pub role: Option<Role>,
    /// Only users with a source from a role of this server.
    pub guild: Option<GuildId>,
}

/// A page of users, newest first.
#[derive(Clone, Debug)]
pub struct UserPage {
    /// The users.
    pub users: Vec<User>,
    /// How many users the whole list has, at most [`UserPage::COUNTED`].
    pub total: u64,
    /// Whether another page follows.
    pub has_next: bool,
}

impl UserPage {
    /// The largest number of users that is counted.
    pub const COUNTED: u64 = 10_000;
}

/// A page of the users with an account, or with a source from a guild, newest first.
pub(crate) async fn list(core: &Core, filter: &UserFilter, page: u64, size: u64) -> Result<UserPage> {
    let offset = (page - 1).saturating_mul(size);
    // One more than the page has shows whether another page follows.
    let mut users = match filter.guild {
        None => {
            let newest = registered(filter).order_by_desc(user::Column::CreatedAt).order_by_desc(user::Column::Id);
            newest.offset(offset).limit(size + 1).all(core.db.read()).await?
        }
        Some(guild) => {
            let last = offset.saturating_add(size + 1);
            let Some(mut ids) = with_source_in(core, guild, filter, last).await? else { return Ok(UserPage::empty()) };
            let ids = core.db.read().query_all(ids.offset(offset).limit(size + 1)).await?;
            let ids = ids.iter().map(|row| row.try_get::<UserId>("", "user_id")).collect::<Result<Vec<_>, _>>()?;
            let found = user::Entity::find().filter(user::Column::Id.is_in(ids));
            found.order_by_desc(user::Column::Id).all(core.db.read()).await?
        }
    };
    let on_page = users.len() as u64;
    let has_next = on_page > size;
    users.truncate(usize::try_from(size).unwrap_or(usize::MAX));
    let is_last_page = !has_next && (on_page > 0 || page == 1);
    let total = if is_last_page { offset + on_page } else { count(core, filter).await? };
    Ok(UserPage { users, total: std::cmp::min(total, UserPage::COUNTED), has_next })
}

impl UserPage {
    const fn empty() -> Self {
        Self { users: Vec::new(), total: 0, has_next: false }
    }
}

/// How many users a list has. Stops counting soon, because a database reads every row that it counts.
async fn count(core: &Core, filter: &UserFilter) -> Result<u64> {
    let limit = UserPage::COUNTED;
    let ids = match filter.guild {
        None => registered(filter).select_only().column(user::Column::Id).limit(limit).into_query(),
        Some(guild) => match with_source_in(core, guild, filter, limit).await? {
            Some(mut ids) => ids.limit(limit).to_owned(),
            None => return Ok(0),
        },
    };
    let count = Query::select().expr_as(Expr::cust("COUNT(*)"), "total").from_subquery(ids, "counted").to_owned();
    let row = core.db.read().query_one(&count).await?;
    Ok(row.map_or(Ok(0), |row| row.try_get::<i64>("", "total"))?.unsigned_abs())
}

/// The users with an account.
fn registered(filter: &UserFilter) -> Select<user::Entity> {
    user::Entity::find().filter(user::Column::RegisteredAt.is_not_null()).filter(matching(filter))
}

/// The ids of users with a source from a role of a guild, newest first: of each of its roles at most `newest`, read in the
/// order of an index. `None` if no role is mapped.
async fn with_source_in(
    core: &Core,
    guild: GuildId,
    filter: &UserFilter,
    newest: u64,
) -> Result<Option<SelectStatement>> {
    let mappings = role_mapping::Entity::find().select_only().column(role_mapping::Column::Id);
    let of_guild = mappings.filter(role_mapping::Column::GuildId.eq(guild)).into_tuple::<Uuid>();
    let of_role = |mapping: Uuid| {
        let user_id = (source::Entity, source::Column::UserId);
        let newest = Query::select()
            .column(user_id)
            .from(source::Entity)
            .inner_join(user::Entity, Expr::col((user::Entity, user::Column::Id)).equals(user_id))
            .and_where(source::Column::Reference.eq(mapping))
            .cond_where(matching(filter))
            .order_by(user_id, Order::Desc)
            .limit(newest)
            .to_owned();
        Query::select().column(source::Column::UserId).from_subquery(newest, "newest").to_owned()
    };
    let roles = of_guild.all(core.db.read()).await?.into_iter().map(of_role);
    let all = roles.reduce(|mut all, role| all.union(UnionType::Distinct, role).to_owned());
    Ok(all.map(|all| {
        let mut ids = Query::select().column(source::Column::UserId).from_subquery(all, "all_roles").to_owned();
        ids.order_by(source::Column::UserId, Order::Desc).to_owned()
    }))
}

fn matching(filter: &UserFilter) -> Condition {
    let status = filter.status.map(|status| user::Column::Status.eq(status));
    let role = filter.role.map(|role| user::Column::Role.eq(role));
    let text = filter.search.as_ref().map(|text| {
        let email = Expr::col((user::Entity, user::Column::FoldedEmail)).like(db::containing(text));
        let name = Expr::expr(Func::lower(Expr::col((user::Entity, user::Column::Name)))).like(db::containing(text));
        Condition::any().add(name).add_option((!filter.names_only).then_some(email))
    });
    Condition::all().add_option(status).add_option(role).add_option(text)
}
