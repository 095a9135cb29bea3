//! `jobs create`

use std::{path::Path, process::ExitCode};

use anyhow::bail;
use tunesmith_types::{api::jobs::CreateJobRequest, states::DatasetState};

use super::{super::datasets::upload::upload, finish, show, watch};
use crate::{args::jobs::CreateArgs, client::ApiClient, printer::Printer};

pub(super) async fn run(client: &ApiClient, args: CreateArgs, printer: Printer) -> anyhow::Result<ExitCode> {
    let CreateArgs {
        base,
        dataset,
        adapter,
        parent_version,
        watch: watched,
        hyperparameters,
    } = args;
    let hyperparameters = hyperparameters.into_request()?;
    let dataset = match Path::new(&dataset) {
        file if file.is_file() => {
            let uploaded = upload(client, file, None, printer).await?;
            if uploaded.status != DatasetState::Valid {
                bail!(
                    "the dataset has errors; `tunesmith datasets show {}` lists them",
                    uploaded.reference
                );
            }
            uploaded.reference
        }
        _ => dataset,
    };
    let job = client
        .create_job(&CreateJobRequest {
            base_model: base,
            dataset,
            adapter,
            parent_version,
            hyperparameters,
        })
        .await?;
    if !watched {
        show(&job, printer);
        return Ok(ExitCode::SUCCESS);
    }
    printer.words(format_args!(
        "{} is queued; Ctrl-C stops the watching, not the job",
        job.id
    ));
    finish(&watch::follow(client, job, printer).await?, printer)
}
