//! `tunesmith up`: everything on one machine.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, bail};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tunesmith_api::{ApiSettings, bootstrap};
use tunesmith_blobs::{Blobs, embedded::EmbeddedS3};
use tunesmith_gateway::GatewaySettings;
use tunesmith_store::{
    Store,
    embedded::{EmbeddedPostgres, EmbeddedSettings},
};
use tunesmith_worker::{Worker, WorkerError};

use super::{
    api, bundled, connections,
    control::{ControlPlane, ControlPlaneParts},
    data_dir::{self, DataDir},
    executables,
    ready::ReadyFile,
    replicas,
    secrets::Secrets,
    signals, worker,
};
use crate::{
    args::platform::{DatabaseArgs, ObjectStoreArgs, UpArgs},
    printer::Printer,
};

/// Database and object store, with the embedded servers where they are ours.
struct Stores {
    store: Store,
    blobs: Blobs,
    postgres: Option<EmbeddedPostgres>,
    s3: Option<EmbeddedS3>,
}

pub(crate) async fn run(args: UpArgs, printer: Printer) -> anyhow::Result<ExitCode> {
    let stop = signals::shutdown(args.supervised)?;
    let path = match &args.data_dir {
        Some(path) => path.clone(),
        None => data_dir::default_path()?,
    };
    let data = DataDir::open(&path)?;
    if let Some(ready_file) = &args.ready_file {
        let _ = std::fs::remove_file(ready_file);
    }
    executables::trainer()?;
    executables::engine()?;
    let secrets = Secrets::open(data.path())?;
    printer.words(format_args!("starting in {}", data.path().display()));
    let stores = Stores::start(&data, &secrets, &args.database, &args.objects).await?;
    let result = serve(&args, &data, secrets, &stores, &stop, printer).await;
    stores.stop().await;
    if result.is_ok() {
        printer.words("stopped");
    }
    result.map(|()| ExitCode::SUCCESS)
}

impl Stores {
    async fn start(
        data: &DataDir,
        secrets: &Secrets,
        database: &DatabaseArgs,
        objects: &ObjectStoreArgs,
    ) -> anyhow::Result<Self> {
        let external = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        let (postgres, store) = if external(&database.database_url) {
            (None, connections::database(database).await?)
        } else {
            let settings = EmbeddedSettings::new(data.path().join("postgres"));
            let postgres = EmbeddedPostgres::start(&settings)
                .await
                .context("cannot start the embedded PostgreSQL")?;
            let store = connections::connect(&postgres.url()).await?;
            (Some(postgres), store)
        };
        store.migrate().await.context("cannot migrate the database")?;
        let (s3, blobs) = if external(&objects.s3_endpoint) || external(&objects.s3_bucket) {
            (None, connections::object_store(objects).await?)
        } else {
            let folder = data.folder("objects")?;
            let s3 = EmbeddedS3::start(&folder, secrets.s3(), 0)
                .await
                .context("cannot start the embedded object store")?;
            let blobs = connections::open_bucket(&s3.settings()).await?;
            (Some(s3), blobs)
        };
        Ok(Self {
            store,
            blobs,
            postgres,
            s3,
        })
    }

    /// The database goes last, because everything else writes to it.
    async fn stop(self) {
        if let Some(s3) = self.s3 {
            s3.stop().await;
        }
        self.store.close().await;
        if let Some(postgres) = self.postgres
            && let Err(error) = postgres.stop().await
        {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the embedded postgres did not stop in order"
            );
        }
    }

    /// Waits until an embedded server ends by itself.
    async fn failed(&self) -> String {
        match &self.postgres {
            Some(postgres) => format!("the embedded PostgreSQL ({})", postgres.ended().await),
            None => std::future::pending().await,
        }
    }
}

/// Runs the processes of the platform between the start and the stop of its stores.
async fn serve(
    args: &UpArgs,
    data: &DataDir,
    mut secrets: Secrets,
    stores: &Stores,
    stop: &CancellationToken,
    printer: Printer,
) -> anyhow::Result<()> {
    let api = ApiSettings::new(secrets.signing_key()?);
    let owner_key = owner_key(&stores.store, &mut secrets).await?;
    let inference = data.folder("inference")?;
    let parts = ControlPlaneParts {
        store: stores.store.clone(),
        blobs: stores.blobs.clone(),
        api,
        gateway: GatewaySettings::new(replicas::cache_dir(&args.replicas, &inference)?),
        replicas: api::local_engines(&inference, &stores.blobs, &args.engines)?
            .with_external(replicas::parse(&args.replicas)?),
        listen: args.listen,
        shared_models: bundled::MODELS,
    };
    let mut control = ControlPlane::start(parts).await?;
    let settings = worker::settings(&data.folder("training")?, &args.training)?;
    let stop_worker = CancellationToken::new();
    let running = Worker::run(
        settings,
        stores.store.clone(),
        stores.blobs.clone(),
        stop_worker.clone(),
    );
    let mut worker: JoinHandle<Result<(), WorkerError>> = tokio::spawn(running);
    let ready = ReadyFile {
        api_url: control.url(),
        api_key: Some(owner_key),
        pid: std::process::id(),
    };
    if let Some(path) = &args.ready_file {
        ready.write(path)?;
    }
    greet(&ready, data, printer);
    let failed = tokio::select! {
        () = stop.cancelled() => None,
        part = control.ended() => Some(part.to_owned()),
        ended = &mut worker => Some(format!("the worker ({ended:?})")),
        part = stores.failed() => Some(part),
    };
    if let Some(path) = &args.ready_file {
        let _ = std::fs::remove_file(path);
    }
    if let Some(part) = &failed {
        printer.words(format_args!("{part} ended unexpectedly; stopping"));
    } else {
        printer.words(
            "stopping; running jobs are saved and go on at the next start (Ctrl-C again ends at once)",
        );
    }
    stop_worker.cancel();
    tokio::join!(control.stop(), async {
        if !worker.is_finished() {
            let _ = worker.await;
        }
    });
    match failed {
        Some(part) => bail!("{part} ended unexpectedly; the log says why"),
        None => Ok(()),
    }
}

/// The owner's key of the default organization, which the first start makes.
async fn owner_key(store: &Store, secrets: &mut Secrets) -> anyhow::Result<String> {
    let known = match &secrets.owner_api_key {
        Some(key) if bootstrap::is_owner_key(store, key).await? => Some(key.clone()),
        _ => None,
    };
    if let Some(key) = known {
        return Ok(key);
    }
    let key = bootstrap::owner_key(store, "tunesmith up")
        .await
        .context("cannot make the owner's key")?
        .secret;
    secrets.owner_api_key = Some(key.clone());
    secrets.save()?;
    Ok(key)
}

fn greet(ready: &ReadyFile, data: &DataDir, printer: Printer) {
    let ReadyFile { api_url, api_key, .. } = ready;
    let key = api_key.as_deref().unwrap_or_default();
    let config: PathBuf = data.path().to_owned();
    printer.words(format_args!(
        "\nTunesmith is up: {api_url}   (API reference: {api_url}/docs, data: {})\n\n\
         In another terminal:\n\
         \x20 export TUNESMITH_API_URL={api_url} TUNESMITH_API_KEY={key}\n\
         \x20 tunesmith base-models list\n\
         \x20 tunesmith datasets upload examples/customer-support/train.jsonl --name support\n\
         \x20 tunesmith jobs create --base primer --dataset support --adapter support --watch\n\n\
         Ctrl-C stops everything.",
        config.display()
    ));
}
