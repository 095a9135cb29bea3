//! `api-keys create|list|revoke`.

use std::process::ExitCode;

use tunesmith_types::api::api_keys::CreateApiKeyRequest;

use super::{page, say_more};
use crate::{
    args::client::ApiKeysCommand,
    client::ApiClient,
    printer::{Printer, table},
    terminal::text::ago,
};

pub(super) async fn run(
    client: &ApiClient,
    command: ApiKeysCommand,
    printer: Printer,
) -> anyhow::Result<ExitCode> {
    match command {
        ApiKeysCommand::Create { name } => {
            let request = CreateApiKeyRequest {
                name,
                role: None,
                expires_in: None,
            };
            let created = client.create_api_key(&request).await?;
            printer.result(&created, || created.secret.clone());
            printer.words("keep it: it is not shown again");
        }
        ApiKeysCommand::List(list) => {
            let keys = client.api_keys(&page(&list)).await?;
            printer.result(&keys, || {
                let rows = keys.data.iter().map(|key| {
                    let state = if key.revoked_at.is_some() {
                        "revoked"
                    } else {
                        "works"
                    };
                    let used = key.last_used_at.map_or_else(|| "never".to_owned(), ago);
                    vec![
                        key.id.to_string(),
                        key.name.clone(),
                        key.hint.clone(),
                        key.role.as_str().to_owned(),
                        state.to_owned(),
                        ago(key.created_at),
                        used,
                    ]
                });
                table(
                    &["id", "name", "key", "role", "state", "created", "last used"],
                    rows.collect(),
                )
            });
            say_more(printer, keys.has_more, keys.last_id.as_deref());
        }
        ApiKeysCommand::Revoke { id } => {
            let revoked = client.revoke_api_key(&id).await?;
            printer.result(&revoked, || format!("revoked {}", revoked.id));
        }
    }
    Ok(ExitCode::SUCCESS)
}
