//! `adapters lineage`.

use tunesmith_types::api::lineage::{Lineage, LineageVersion};

use crate::{
    printer::{Printer, table},
    terminal::text::ago,
};

/// Shows a lineage: the versions with what they were made from, then the revisions that use them.
pub(super) fn show(lineage: &Lineage, printer: Printer) {
    printer.result(lineage, || {
        let versions = lineage
            .versions
            .iter()
            .map(|version| version_row(version, lineage));
        let versions = table(
            &[
                "version", "dataset", "job", "step", "parent", "aliases", "created",
            ],
            versions.collect(),
        );
        if lineage.deployments.is_empty() {
            return versions;
        }
        let revisions = lineage.deployments.iter().map(|revision| {
            let routes = revision
                .routes
                .iter()
                .map(|route| format!("{} {} %", route.reference, route.weight));
            vec![
                revision.deployment.clone(),
                revision.revision.to_string(),
                revision.status.to_string(),
                routes.collect::<Vec<_>>().join(", "),
                ago(revision.created_at),
            ]
        });
        let revisions = table(
            &["deployment", "revision", "state", "routes", "created"],
            revisions.collect(),
        );
        format!("{versions}\n\n{revisions}")
    });
}

fn version_row(version: &LineageVersion, lineage: &Lineage) -> Vec<String> {
    let none = || "-".to_owned();
    let job = lineage.jobs.iter().find(|job| Some(job.id) == version.job_id);
    let dataset = job.and_then(|job| lineage.datasets.iter().find(|set| set.id == job.dataset_id));
    let parent = version.parent.map(|parent| {
        let named = lineage.versions.iter().find(|version| version.id == parent);
        named.map_or_else(|| parent.to_string(), |version| version.reference.clone())
    });
    let reference = match version.deleted_at {
        Some(_) => format!("{} (deleted)", version.reference),
        None => version.reference.clone(),
    };
    vec![
        reference,
        dataset.map_or_else(none, |dataset| dataset.reference.clone()),
        version.job_id.map_or_else(none, |job| job.to_string()),
        version.checkpoint_step.map_or_else(none, |step| step.to_string()),
        parent.unwrap_or_else(none),
        version.aliases.join(", "),
        ago(version.created_at),
    ]
}
