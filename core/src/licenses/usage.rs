//! Usage quotas: how often a license was used for something in the current period.

use chrono::{DateTime, Datelike, Days, Months, NaiveDate, Utc};
use sea_orm::sea_query::{Expr, OnConflict};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, ExprTrait, IntoActiveModel, QueryFilter, QueryTrait};

use super::facts::LicenseFacts;
use crate::db::Reader;
use crate::entity::usage::{Column, Entity, Model};
use crate::policy::QuotaPeriod;
use crate::{Core, Result, tx::Tx};

/// How much of a quota is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The name of the quota.
    pub quota: String,
    /// How much was used in this period.
    pub used: i64,
    /// How much may be used in a period. Zero, if the license has no such quota.
    pub limit: i64,
    /// When the next period begins.
    pub resets_at: Option<DateTime<Utc>>,
}

impl Usage {
    /// Whether more than nothing is left.
    fn is_left(&self) -> bool {
        self.used < self.limit
    }
}

/// Adds an amount to the usage of a quota, unless that exceeds its limit. Returns the usage, and whether it was added.
pub(super) async fn add(core: &Core, facts: &LicenseFacts, quota: &str, amount: i64) -> Result<(Usage, bool)> {
    let tx = Tx::begin(core).await?;
    let before = read(&tx, facts, quota, tx.now()).await?;
    let Some((usage, start)) = before else {
        return Ok((Usage { quota: quota.to_owned(), used: 0, limit: 0, resets_at: None }, false));
    };
    let row = Model { license_id: facts.license.id, quota: quota.to_owned(), period_start: start, used: amount };
    let Some(used) = upsert(&tx, row.clone(), usage.limit).await? else {
        // Read again, because others may have used it since.
        let now = read(&tx, facts, quota, tx.now()).await?;
        return Ok((now.map_or(usage, |(usage, _)| usage), false));
    };
    if used == amount {
        delete_before(&tx, &row).await?;
    }
    tx.commit().await?;
    Ok((Usage { used, ..usage }, true))
}

/// Whether nothing is left of one of these quotas. A license that has no such quota has nothing left of it.
pub(super) async fn is_exhausted(
    core: &Core,
    facts: &LicenseFacts,
    quotas: &[String],
    now: DateTime<Utc>,
) -> Result<bool> {
    for quota in quotas {
        if !read(core, facts, quota, now).await?.is_some_and(|(usage, _)| usage.is_left()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The usage of a quota in the current period, and when that began. `None` if the license has no such quota.
async fn read(
    from: &impl Reader,
    facts: &LicenseFacts,
    quota: &str,
    now: DateTime<Utc>,
) -> Result<Option<(Usage, DateTime<Utc>)>> {
    let Some(terms) = facts.terms.quotas.iter().find(|known| known.name == quota) else { return Ok(None) };
    let (start, resets_at) = terms.period.around(now);
    let row = Entity::find_by_id((facts.license.id, quota.to_owned(), start)).one(from.connection()).await?;
    let used = row.map_or(0, |row| row.used);
    Ok(Some((Usage { quota: quota.to_owned(), used, limit: terms.limit, resets_at }, start)))
}

/// Adds `row.used` to the usage of a period, unless that exceeds the limit. Returns the sum.
async fn upsert(tx: &Tx, row: Model, limit: i64) -> Result<Option<i64>> {
    if row.used > limit {
        return Ok(None);
    }
    let sum = Expr::col((Entity, Column::Used)).add(row.used);
    let mut on_conflict = OnConflict::columns([Column::LicenseId, Column::Quota, Column::PeriodStart]);
    on_conflict.value(Column::Used, sum.clone()).action_and_where(sum.lte(limit));
    let mut insert = Entity::insert(row.into_active_model()).on_conflict(on_conflict).into_query();
    let inserted = tx.db().query_one(insert.returning_col(Column::Used)).await?;
    Ok(inserted.map(|row| row.try_get("", "used")).transpose()?)
}

/// Deletes earlier periods, when a new one begins.
async fn delete_before(tx: &Tx, row: &Model) -> Result<()> {
    let of_quota =
        Entity::delete_many().filter(Column::LicenseId.eq(row.license_id)).filter(Column::Quota.eq(&row.quota));
    of_quota.filter(Column::PeriodStart.lt(row.period_start)).exec(tx.db()).await?;
    Ok(())
}

impl QuotaPeriod {
    /// The start of the period that `now` is in, and the start of the next one.
    fn around(self, now: DateTime<Utc>) -> (DateTime<Utc>, Option<DateTime<Utc>>) {
        let today = now.date_naive();
        let month = today.with_day(1).unwrap_or(today);
        let (start, next) = match self {
            Self::Never => return (DateTime::UNIX_EPOCH, None),
            Self::Day => (today, today.checked_add_days(Days::new(1))),
            Self::Week => {
                let monday = today - Days::new(today.weekday().num_days_from_monday().into());
                (monday, monday.checked_add_days(Days::new(7)))
            }
            Self::Month => (month, month.checked_add_months(Months::new(1))),
            Self::Year => {
                let year = month.with_month(1).unwrap_or(month);
                (year, year.checked_add_months(Months::new(12)))
            }
        };
        let midnight = |date: NaiveDate| date.and_time(chrono::NaiveTime::MIN).and_utc();
        (midnight(start), next.map(midnight))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_begin_at_midnight_utc() {
        for (period, now, start, next) in [
            (QuotaPeriod::Day, "2026-03-01T12:00:00Z", "2026-03-01", "2026-03-02"),
            (QuotaPeriod::Day, "2026-02-28T23:59:59.999999Z", "2026-02-28", "2026-03-01"),
            (QuotaPeriod::Week, "2026-03-01T12:00:00Z", "2026-02-23", "2026-03-02"),
            (QuotaPeriod::Week, "2026-03-02T00:00:00Z", "2026-03-02", "2026-03-09"),
            (QuotaPeriod::Month, "2026-12-31T23:59:59Z", "2026-12-01", "2027-01-01"),
            (QuotaPeriod::Month, "2028-02-29T00:00:00Z", "2028-02-01", "2028-03-01"),
            (QuotaPeriod::Year, "2028-02-29T00:00:00Z", "2028-01-01", "2029-01-01"),
            (QuotaPeriod::Never, "2028-02-29T00:00:00Z", "1970-01-01", ""),
        ] {
            let (begins, ends) = period.around(now.parse().unwrap());
            let midnight = |date: &str| format!("{date}T00:00:00Z").parse::<DateTime<Utc>>().ok();
            assert_eq!((Some(begins), ends), (midnight(start), midnight(next)), "{period} at {now}");
        }
    }
}
