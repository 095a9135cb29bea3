//! `adapters alias …`

use clap::{Args, Subcommand};

use super::client::ListArgs;

/// `adapters alias …`
#[derive(Debug, Subcommand)]
pub(crate) enum AliasCommand {
    /// List the aliases of an adapter.
    List {
        /// Name of the adapter.
        adapter: String,
    },
    /// Point an alias to a version; a new name makes a new alias.
    Set(SetAliasArgs),
    /// Take an alias away. Its history stays.
    Delete {
        /// `support@champion`.
        alias: String,
        /// Only where it points to the version with this number.
        #[arg(long, value_name = "NUMBER")]
        expected: Option<i32>,
        /// Why, for whoever comes after you.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Show who moved an alias, when, from where, to where and why.
    History {
        /// `support@champion`, or `support` for all its aliases.
        alias: String,
        #[command(flatten)]
        list: ListArgs,
    },
}

/// `adapters alias set`
#[derive(Debug, Args)]
pub(crate) struct SetAliasArgs {
    /// `support@champion`.
    pub(crate) alias: String,
    /// A number, another alias, or `latest`.
    pub(crate) version: String,
    /// Only where it points to the version with this number.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) expected: Option<i32>,
    /// Only where it does not exist yet.
    #[arg(long, conflicts_with = "expected")]
    pub(crate) new: bool,
    /// Why, for whoever comes after you.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// From now on only admins and owners may change it.
    #[arg(long)]
    pub(crate) protect: bool,
    /// From now on every member may change it.
    #[arg(long, conflicts_with = "protect")]
    pub(crate) unprotect: bool,
}
