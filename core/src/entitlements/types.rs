//! What is observed about a user's entitlements.

use std::time::Duration;

use uuid::Uuid;

use super::kinds::{Announce, SourceKind};
use super::stamp::Stamp;
use crate::ids::{LicenseId, ProductId, UserId};
use crate::{Caller, events::SourceLabel, workers::Lease};

/// Whether a source was observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The source is there.
    Present,
    /// The source is known to be gone.
    Absent,
    /// The source no longer counts, because an admin removed its mapping. The user may still have the role.
    Withdrawn,
}

/// One observed source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedSource {
    /// The product it entitles to.
    pub product: ProductId,
    /// What it is.
    pub kind: SourceKind,
    /// Identifies it across observations: the mapping, or the product of a grant.
    pub reference: Uuid,
    /// Whether it is there.
    pub level: Level,
    /// Set until the first reconciliation has seen everybody who has it.
    pub initial_announce: Option<Announce>,
    /// How events name it, for sources whose changes are events.
    pub label: Option<SourceLabel>,
}

/// How something was observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Reported about this user: an update, a recheck, an admin's grant.
    Reported,
    /// Found by reconciling everybody; messages that follow are sent this far apart.
    Reconciled {
        /// The time between two messages.
        message_interval: Duration,
    },
}

/// What was observed about one user.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Who reports it, for which tenant.
    pub caller: Caller,
    /// The user.
    pub user: UserId,
    /// How it was observed.
    pub evidence: Evidence,
    /// The position in the order of observations.
    pub stamp: Stamp,
    /// The lease under which it was observed; an observation of a former holder is dropped.
    pub fence: Option<Lease>,
    /// The sources.
    pub sources: Vec<ObservedSource>,
}

/// A license change that followed from an observation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A license was issued.
    Issued(LicenseId),
    /// A license was revoked.
    Revoked(LicenseId),
    /// A license was suspended.
    Suspended(LicenseId),
    /// A license was resumed.
    Resumed(LicenseId),
}
