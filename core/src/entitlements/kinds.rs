//! The kinds of sources, and how a new one is announced.

use crate::string_enum::string_enum;

string_enum! {
    /// What entitles a user to a product.
    SourceKind {
        /// A mapped Discord role.
        DiscordRole => "discord_role",
        /// A grant by an admin, one per product.
        Manual => "manual",
        /// A license that was assigned or transferred to the user, or that they redeemed.
        Assignment => "assignment",
    }
}

string_enum! {
    /// How users who have a source already are told of their license when the source is added.
    Announce {
        /// Not at all; `/key` shows it.
        Silently => "silently",
        /// By staggered direct messages.
        ByDm => "by_dm",
    }
}
