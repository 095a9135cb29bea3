//! `datasets upload|list|show`.

pub(super) mod upload;

use std::process::ExitCode;

use tunesmith_types::{api::datasets::Dataset, dataset::ValidationReport, list::List, states::DatasetState};

use super::{page, say_more};
use crate::{
    args::client::DatasetsCommand,
    client::ApiClient,
    printer::{Printer, details, table},
    terminal::text::{ago, bytes},
};

/// Errors that are shown; the JSON has them all.
const ERRORS_SHOWN: usize = 50;

pub(super) async fn run(
    client: &ApiClient,
    command: DatasetsCommand,
    printer: Printer,
) -> anyhow::Result<ExitCode> {
    match command {
        DatasetsCommand::Upload { file, name } => {
            let dataset = upload::upload(client, &file, name, printer).await?;
            show(&dataset, printer);
            if dataset.status != DatasetState::Valid {
                return Ok(ExitCode::FAILURE);
            }
        }
        DatasetsCommand::List(list) => {
            let datasets: List<Dataset> = client.list("/v1/datasets", &page(&list)).await?;
            printer.result(&datasets, || {
                let rows = datasets.data.iter().map(|dataset| {
                    vec![
                        dataset.reference.clone(),
                        dataset.id.to_string(),
                        dataset.status.to_string(),
                        dataset
                            .examples
                            .map_or_else(|| "-".to_owned(), |count| count.to_string()),
                        bytes(dataset.bytes.unsigned_abs()),
                        ago(dataset.created_at),
                    ]
                });
                table(
                    &["dataset", "id", "state", "examples", "size", "created"],
                    rows.collect(),
                )
            });
            say_more(printer, datasets.has_more, datasets.last_id.as_deref());
        }
        DatasetsCommand::Show { dataset } => show(&client.find_dataset(&dataset).await?, printer),
    }
    Ok(ExitCode::SUCCESS)
}

fn show(dataset: &Dataset, printer: Printer) {
    printer.result(dataset, || {
        let head = details(&[
            ("dataset", dataset.reference.clone()),
            ("id", dataset.id.to_string()),
            ("state", dataset.status.to_string()),
            ("size", bytes(dataset.bytes.unsigned_abs())),
            ("sha256", dataset.sha256.clone()),
            ("created", ago(dataset.created_at)),
        ]);
        match &dataset.report {
            Some(report) => format!("{head}\n\n{}", describe(report)),
            None => head,
        }
    });
}

/// The validation report in words.
fn describe(report: &ValidationReport) -> String {
    let mut text = format!(
        "{} lines: {} good, {} with errors, {} blank, {} repeated",
        report.lines,
        report.examples,
        report.lines.saturating_sub(report.examples + report.blank_lines),
        report.blank_lines,
        report.duplicates
    );
    for error in report.errors.iter().take(ERRORS_SHOWN) {
        let place = match (&error.field, error.line) {
            (Some(field), line) => format!("line {line}, {field}"),
            (None, 0) => "file".to_owned(),
            (None, line) => format!("line {line}"),
        };
        text.push_str(&format!("\n  {place}: {} ({})", error.message, error.code));
    }
    let listed = report.errors.len().min(ERRORS_SHOWN) as u64;
    if report.error_count > listed {
        text.push_str(&format!("\n  and {} more", report.error_count - listed));
    }
    text
}
