//! `base-models list|show|register|pull`.

mod pull;
pub(super) mod register;

use std::process::ExitCode;

use tunesmith_types::{api::base_models::BaseModel, list::List};

use super::{page, say_more};
use crate::{
    args::client::BaseModelsCommand,
    client::ApiClient,
    printer::{Printer, details, table},
    terminal::text::{ago, bytes, count},
};

pub(super) async fn run(
    client: &ApiClient,
    command: BaseModelsCommand,
    printer: Printer,
) -> anyhow::Result<ExitCode> {
    match command {
        BaseModelsCommand::List(list) => {
            let models: List<BaseModel> = client.list("/v1/base-models", &page(&list)).await?;
            printer.result(&models, || {
                let rows = models.data.iter().map(|model| {
                    let parameters = model
                        .architecture
                        .as_ref()
                        .map_or_else(|| "-".to_owned(), |it| count(it.parameters));
                    let owner = if model.shared { "shared" } else { "yours" }.to_owned();
                    let size = bytes(model.bytes.unsigned_abs());
                    vec![
                        model.name.clone(),
                        model.status.to_string(),
                        parameters,
                        size,
                        owner,
                        ago(model.created_at),
                    ]
                });
                table(
                    &["name", "state", "parameters", "size", "owner", "created"],
                    rows.collect(),
                )
            });
            say_more(printer, models.has_more, models.last_id.as_deref());
        }
        BaseModelsCommand::Show { base_model } => show(&client.base_model(&base_model).await?, printer),
        BaseModelsCommand::Register { folder, name } => {
            show(
                &register::register(client, &folder, name, printer).await?,
                printer,
            );
        }
        BaseModelsCommand::Pull {
            repository,
            revision,
            name,
        } => {
            show(
                &pull::pull(client, &repository, &revision, name, printer).await?,
                printer,
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show(model: &BaseModel, printer: Printer) {
    printer.result(model, || {
        let mut pairs = vec![
            ("name", model.name.clone()),
            ("id", model.id.to_string()),
            ("state", model.status.to_string()),
            ("size", bytes(model.bytes.unsigned_abs())),
            ("digest", model.digest.clone().unwrap_or_else(|| "-".to_owned())),
            ("created", ago(model.created_at)),
        ];
        if let Some(error) = &model.error {
            pairs.push(("error", error.clone()));
        }
        if let Some(it) = &model.architecture {
            pairs.push(("family", it.model_type.clone()));
            pairs.push(("parameters", count(it.parameters)));
            pairs.push(("layers", it.num_hidden_layers.to_string()));
            pairs.push(("width", it.hidden_size.to_string()));
            pairs.push(("longest sequence", it.max_position_embeddings.to_string()));
        }
        let rows = model
            .files
            .iter()
            .map(|file| vec![file.name.clone(), bytes(file.bytes.unsigned_abs())]);
        format!(
            "{}\n\n{}",
            details(&pairs),
            table(&["file", "size"], rows.collect())
        )
    });
}
