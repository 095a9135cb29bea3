//! `adapters alias list|set|delete|history`.

use anyhow::{Context, bail};
use tunesmith_types::{
    api::aliases::{Alias, AliasMove, DeleteAliasQuery, MoveAliasRequest},
    version_reference::AliasName,
};

use super::{page, say_more};
use crate::{
    args::aliases::{AliasCommand, SetAliasArgs},
    client::ApiClient,
    printer::{Printer, table},
    terminal::text::ago,
};

pub(super) async fn run(client: &ApiClient, command: AliasCommand, printer: Printer) -> anyhow::Result<()> {
    match command {
        AliasCommand::List { adapter } => {
            let aliases = client.aliases(&adapter).await?;
            printer.result(&aliases, || alias_table(&aliases.data));
        }
        AliasCommand::Set(args) => set(client, args, printer).await?,
        AliasCommand::Delete {
            alias,
            expected,
            reason,
        } => {
            let (adapter, name) = parse(&alias)?;
            let query = DeleteAliasQuery {
                expected_version: expected,
                reason,
            };
            let deleted = client.delete_alias(adapter, &name, &query).await?;
            printer.result(&deleted, || format!("{alias} is deleted"));
        }
        AliasCommand::History { alias, list } => {
            let (adapter, name) = if alias.contains('@') {
                let (adapter, name) = parse(&alias)?;
                (adapter, Some(name))
            } else {
                (alias.as_str(), None)
            };
            let moves = client.alias_moves(adapter, name.as_ref(), &page(&list)).await?;
            printer.result(&moves, || move_table(&moves.data));
            say_more(printer, moves.has_more, moves.last_id.as_deref());
        }
    }
    Ok(())
}

async fn set(client: &ApiClient, args: SetAliasArgs, printer: Printer) -> anyhow::Result<()> {
    let (adapter, name) = parse(&args.alias)?;
    let version = args
        .version
        .parse()
        .with_context(|| format!("`{}` is no version", args.version))?;
    let request = MoveAliasRequest {
        version,
        expected_version: match (args.new, args.expected) {
            (true, _) => Some(None),
            (false, Some(number)) => Some(Some(number)),
            (false, None) => None,
        },
        reason: args.reason,
        protected: match (args.protect, args.unprotect) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        },
    };
    let alias = client.move_alias(adapter, &name, &request).await?;
    printer.result(&alias, || format!("{} is {}", args.alias, alias.reference));
    Ok(())
}

/// `support@champion`
fn parse(text: &str) -> anyhow::Result<(&str, AliasName)> {
    let Some((adapter, alias)) = text.split_once('@') else {
        bail!("`{text}` is no alias; write it as `support@champion`");
    };
    let alias = alias
        .parse()
        .with_context(|| format!("`{text}` is no alias; write it as `support@champion`"))?;
    Ok((adapter, alias))
}

fn alias_table(aliases: &[Alias]) -> String {
    let rows = aliases.iter().map(|alias| {
        vec![
            alias.name.to_string(),
            alias.reference.clone(),
            if alias.protected { "yes" } else { "no" }.to_owned(),
            alias
                .moved_by
                .map_or_else(|| "-".to_owned(), |user| user.to_string()),
            ago(alias.moved_at),
        ]
    });
    table(
        &["alias", "version", "protected", "moved by", "moved"],
        rows.collect(),
    )
}

fn move_table(moves: &[AliasMove]) -> String {
    let number = |number: Option<i32>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let rows = moves.iter().map(|row| {
        vec![
            ago(row.moved_at),
            row.alias.to_string(),
            number(row.from_version),
            number(row.to_version),
            row.moved_by
                .map_or_else(|| "-".to_owned(), |user| user.to_string()),
            row.reason.clone().unwrap_or_default(),
        ]
    });
    table(
        &["when", "alias", "from", "to", "moved by", "reason"],
        rows.collect(),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_alias_is_named_with_its_adapter() {
        let (adapter, alias) = parse("support@champion").unwrap();
        assert_eq!((adapter, alias.as_str()), ("support", "champion"));
        for wrong in ["support", "support@", "support@7", "support@latest"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
