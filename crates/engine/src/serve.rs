//! The life of the server: load, listen, say so, and drain when told to end.

use std::{
    io::Read,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use anyhow::Context;
use axum::serve::ListenerExt;
use nix::{sys::signal::Signal, unistd::Pid};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::{
    engine::{Engine, EngineSettings},
    http,
};

/// How long the process may take to end in good order once its supervisor is gone.
const LAST_PATIENCE: Duration = Duration::from_secs(3);

/// What a server is started with.
#[derive(Debug, Clone)]
pub struct ServeSettings {
    /// The engine's own settings.
    pub engine: EngineSettings,
    /// Where to listen.
    pub listen: SocketAddr,
    /// Adapters to load at the start, by name.
    pub adapters: Vec<(String, PathBuf)>,
    /// How long running requests may go on after a signal to end.
    pub drain: Duration,
    /// Whether the end of standard input ends the process.
    pub supervised: bool,
    /// Where to say that requests are answered.
    pub ready_file: Option<PathBuf>,
}

/// How the server is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// After the running requests.
    Drain,
    /// At once.
    Now,
}

/// Completes when the server is to end.
type Endings = watch::Receiver<Option<Ending>>;

/// Serves until a signal ends it, and then for as long as requests run, within the time to drain.
///
/// # Errors
/// The base model or an adapter cannot be loaded, or the address cannot be used.
pub fn serve(settings: &ServeSettings) -> anyhow::Result<()> {
    let (sender, endings) = watch::channel(None);
    if settings.supervised {
        end_with_standard_input(sender.clone())?;
    }
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let engine_thread = runtime.block_on(run(settings, sender, endings))?;
    // Drops what is left of the requests, so that the engine's thread has nothing more to do. It must be gone before
    // the process ends: LibTorch does not survive being torn down while it computes.
    runtime.shutdown_timeout(Duration::from_secs(1));
    if engine_thread.is_some_and(|thread| thread.join().is_err()) {
        tracing::error!("the engine's thread panicked");
    }
    tracing::info!("stopped");
    Ok(())
}

async fn run(
    settings: &ServeSettings,
    sender: watch::Sender<Option<Ending>>,
    endings: Endings,
) -> anyhow::Result<Option<JoinHandle<()>>> {
    watch_signals(sender)?;
    let listener = TcpListener::bind(settings.listen).await;
    let listener = listener.with_context(|| format!("cannot listen on {}", settings.listen))?;
    let address = listener.local_addr().context("the listener has no address")?;
    let (engine, thread) = tokio::select! {
        started = start(settings) => started?,
        _ = ending(endings.clone()) => return Ok(None),
    };
    announce(address, settings.ready_file.as_deref())?;
    let graceful = endings.clone();
    // Each token is a small packet. Without this it waits for the receiver's leave, which a receiver with nothing to say
    // itself holds back for 40 ms.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "could not set nodelay");
        }
    });
    let server = axum::serve(listener, http::router(engine)).with_graceful_shutdown(async move {
        ending(graceful).await;
    });
    let drain = settings.drain;
    let deadline = async move {
        if ending(endings).await == Ending::Drain {
            tracing::info!(seconds = drain.as_secs(), "draining");
            tokio::time::sleep(drain).await;
            tracing::warn!("ending without the requests that still run");
        }
    };
    tokio::select! {
        outcome = server.into_future() => outcome.context("the server failed")?,
        () = deadline => {}
    }
    Ok(Some(thread))
}

async fn start(settings: &ServeSettings) -> anyhow::Result<(Arc<Engine>, JoinHandle<()>)> {
    let began = std::time::Instant::now();
    let (engine, thread) = Engine::start(settings.engine.clone()).await?;
    tracing::info!(
        model = engine.name(),
        device = ?settings.engine.device,
        kind = ?settings.engine.kind,
        max_context = engine.max_context(),
        seconds = began.elapsed().as_secs_f32(),
        "base model loaded"
    );
    for (name, folder) in &settings.adapters {
        let loaded = engine.load_trusted_adapter(name, folder).await;
        loaded.with_context(|| format!("cannot load the adapter {name}"))?;
    }
    Ok((engine, thread))
}

/// Waits until the server is to end.
async fn ending(mut endings: Endings) -> Ending {
    match endings.wait_for(Option::is_some).await {
        Ok(ending) => ending.unwrap_or(Ending::Now),
        Err(_) => Ending::Now,
    }
}

/// SIGTERM and SIGINT drain; a second one ends at once.
fn watch_signals(endings: watch::Sender<Option<Ending>>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch SIGINT")?;
    tokio::spawn(async move {
        for _ in 0..2 {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            let again = endings.send_replace(Some(Ending::Drain)).is_some();
            if again {
                std::process::exit(1);
            }
        }
    });
    Ok(())
}

/// Writes the ready file in one step, so that who sees it sees all of it.
fn announce(address: SocketAddr, ready_file: Option<&Path>) -> anyhow::Result<()> {
    let url = format!("http://{address}");
    if let Some(path) = ready_file {
        let text = serde_json::json!({"url": url, "pid": std::process::id()}).to_string();
        let partial = path.with_added_extension("partial");
        let written = std::fs::write(&partial, text).and_then(|()| std::fs::rename(&partial, path));
        written.with_context(|| format!("cannot write {}", path.display()))?;
    }
    tracing::info!(%url, "ready");
    Ok(())
}

/// Ends the process when standard input ends: whoever held its other end is gone, and so are all callers.
fn end_with_standard_input(endings: watch::Sender<Option<Ending>>) -> anyhow::Result<()> {
    let watch = move || {
        let mut buffer = [0; 256];
        let mut input = std::io::stdin().lock();
        loop {
            match input.read(&mut buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Ok(1..) => {}
                Ok(0) | Err(_) => break,
            }
        }
        endings.send_replace(Some(Ending::Now));
        std::thread::sleep(LAST_PATIENCE);
        // A long step of the model, or a load that has not ended: nobody waits for it.
        let _ = nix::sys::signal::kill(Pid::this(), Signal::SIGKILL);
    };
    let thread = std::thread::Builder::new().name("supervisor-watch".to_owned());
    thread.spawn(watch).context("cannot watch standard input")?;
    Ok(())
}
