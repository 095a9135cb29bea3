//! `jobs checkpoints|publish`.

use crate::{
    client::ApiClient,
    printer::{Printer, table},
    terminal::text::{ago, bytes},
};

pub(super) async fn list(client: &ApiClient, job: &str, printer: Printer) -> anyhow::Result<()> {
    let checkpoints = client.checkpoints(job).await?;
    printer.result(&checkpoints, || {
        let rows = checkpoints.data.iter().map(|checkpoint| {
            vec![
                checkpoint.step.to_string(),
                bytes(checkpoint.bytes.unsigned_abs()),
                checkpoint.id.to_string(),
                ago(checkpoint.created_at),
            ]
        });
        table(&["step", "size", "id", "created"], rows.collect())
    });
    Ok(())
}

pub(super) async fn publish(
    client: &ApiClient,
    job: &str,
    step: u64,
    adapter: Option<String>,
    printer: Printer,
) -> anyhow::Result<()> {
    let version = client.publish_checkpoint(job, step, adapter).await?;
    printer.result(&version, || {
        format!("the checkpoint at step {step} is {}", version.reference)
    });
    Ok(())
}
