//! `tunesmith api`

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, bail};
use tunesmith_api::{ApiSettings, auth::SigningKey};
use tunesmith_blobs::Blobs;
use tunesmith_gateway::{GatewaySettings, LocalEngineSettings, LocalEngines, ReplicaSource};

use super::{
    connections,
    control::{ControlPlane, ControlPlaneParts},
    executables,
    ready::ReadyFile,
    replicas, signals,
};
use crate::{
    args::platform::{ApiArgs, EngineArgs},
    environment,
    printer::Printer,
};

pub(crate) async fn run(args: ApiArgs, printer: Printer) -> anyhow::Result<ExitCode> {
    let ApiArgs {
        listen,
        ready_file,
        cache_dir,
        replicas: replica_args,
        database,
        objects,
        engines,
    } = args;
    let stop = signals::shutdown(false)?;
    let store = connections::database(&database).await?;
    store.check_schema().await.context("the database is not ready")?;
    let blobs = connections::object_store(&objects).await?;
    let cache_dir = cache_dir.unwrap_or_else(|| std::env::temp_dir().join("tunesmith-inference"));
    let external = replicas::parse(&replica_args)?;
    let replicas = if external.is_empty() {
        local_engines(&cache_dir, &blobs, &engines)?
    } else {
        ReplicaSource::external(external)
    };
    let api = ApiSettings::new(signing_key()?);
    let gateway = GatewaySettings::new(replicas::cache_dir(&replica_args, &cache_dir)?);
    let mut control = ControlPlane::start(ControlPlaneParts {
        store,
        blobs,
        api,
        gateway,
        replicas,
        listen,
        shared_models: &[],
    })
    .await?;
    let ready = ReadyFile {
        api_url: control.url(),
        api_key: None,
        pid: std::process::id(),
    };
    if let Some(path) = &ready_file {
        ready.write(path)?;
    }
    printer.words(format_args!("the API answers at {}", ready.api_url));
    let failed = tokio::select! {
        () = stop.cancelled() => None,
        part = control.ended() => Some(part),
    };
    if let Some(part) = failed {
        bail!("{part} ended unexpectedly; the log says why");
    }
    control.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// Engines on this machine, with everything that they need below `folder`.
pub(super) fn local_engines(
    folder: &std::path::Path,
    blobs: &Blobs,
    args: &EngineArgs,
) -> anyhow::Result<ReplicaSource> {
    let folder: PathBuf =
        std::path::absolute(folder).with_context(|| format!("cannot resolve {}", folder.display()))?;
    let settings = LocalEngineSettings {
        max_engines: args.max_engines.max(1),
        ..LocalEngineSettings::new(executables::engine()?, folder.clone(), folder.join("engines"))
    };
    Ok(ReplicaSource::local(LocalEngines::new(settings, blobs.clone())))
}

fn signing_key() -> anyhow::Result<SigningKey> {
    match environment::read(environment::JWT_SIGNING_KEY) {
        Some(pem) => SigningKey::from_pem(&pem)
            .with_context(|| format!("{} is not usable", environment::JWT_SIGNING_KEY)),
        None => {
            tracing::warn!(
                "{} is not set: access tokens of this process end with it, and no other process accepts them",
                environment::JWT_SIGNING_KEY
            );
            SigningKey::generate().context("cannot make a signing key")
        }
    }
}
