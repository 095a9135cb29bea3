//! The life of the server: load, listen, say so, and drain when told to end.

use std::{
    io::Read,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::{
    engine::{Engine, EngineSettings},
    http,
};

/// How long running requests may go on after a signal to end.
const DRAIN: Duration = Duration::from_secs(5);

/// What a server is started with.
#[derive(Debug, Clone)]
pub struct ServeSettings {
    /// The engine's own settings.
    pub engine: EngineSettings,
    /// Where to listen.
    pub listen: SocketAddr,
    /// Adapters to load at the start, by name.
    pub adapters: Vec<(String, PathBuf)>,
    /// Whether the end of standard input ends the process.
    pub supervised: bool,
    /// Where to say that requests are answered.
    pub ready_file: Option<PathBuf>,
}

/// Serves until a signal ends it, and then for as long as requests run, but at most five seconds.
///
/// # Errors
/// The base model or an adapter cannot be loaded, or the address cannot be used.
pub async fn serve(settings: ServeSettings) -> anyhow::Result<()> {
    if settings.supervised {
        end_with_standard_input()?;
    }
    let listener = TcpListener::bind(settings.listen)
        .await
        .with_context(|| format!("cannot listen on {}", settings.listen))?;
    let address = listener.local_addr().context("the listener has no address")?;
    let mut ending = watch_signals()?;
    let starting = start(&settings);
    let engine = tokio::select! {
        engine = starting => engine?,
        _ = ending.wait_for(|ending| *ending) => return Ok(()),
    };
    announce(address, settings.ready_file.as_deref())?;
    let mut graceful = ending.clone();
    let server = axum::serve(listener, http::router(engine)).with_graceful_shutdown(async move {
        let _ = graceful.wait_for(|ending| *ending).await;
    });
    let deadline = async move {
        let _ = ending.wait_for(|ending| *ending).await;
        tracing::info!("draining");
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        outcome = server.into_future() => outcome.context("the server failed")?,
        () = deadline => tracing::warn!("requests are still running after {} seconds; ending without them", DRAIN.as_secs()),
    }
    tracing::info!("stopped");
    Ok(())
}

async fn start(settings: &ServeSettings) -> anyhow::Result<Arc<Engine>> {
    let began = std::time::Instant::now();
    let (engine, _thread) = Engine::start(settings.engine.clone()).await?;
    tracing::info!(
        model = engine.name(), device = ?settings.engine.device, kind = ?settings.engine.kind,
        max_context = engine.max_context(), seconds = began.elapsed().as_secs_f32(), "base model loaded"
    );
    for (name, folder) in &settings.adapters {
        engine
            .load_adapter(name, folder)
            .await
            .with_context(|| format!("cannot load the adapter {name}"))?;
    }
    Ok(engine)
}

/// Turns true on SIGTERM or SIGINT.
fn watch_signals() -> anyhow::Result<watch::Receiver<bool>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch SIGINT")?;
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        let _ = sender.send(true);
        // Kept open: a closed channel would look like a signal that never comes.
        sender.closed().await;
    });
    Ok(receiver)
}

/// Writes the ready file in one step, so that who sees it sees all of it.
fn announce(address: SocketAddr, ready_file: Option<&Path>) -> anyhow::Result<()> {
    let url = format!("http://{address}");
    tracing::info!(%url, "ready");
    if let Some(path) = ready_file {
        let text = serde_json::json!({"url": url, "pid": std::process::id()}).to_string();
        let partial = path.with_added_extension("partial");
        let written = std::fs::write(&partial, text).and_then(|()| std::fs::rename(&partial, path));
        written.with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Ends the process at once when standard input ends: whoever held its other end is gone, and so are all callers.
fn end_with_standard_input() -> anyhow::Result<()> {
    let watch = || {
        let mut buffer = [0; 256];
        let mut input = std::io::stdin().lock();
        loop {
            match input.read(&mut buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Ok(1..) => {}
                Ok(0) | Err(_) => std::process::exit(0),
            }
        }
    };
    std::thread::Builder::new()
        .name("supervisor-watch".to_owned())
        .spawn(watch)
        .context("cannot watch standard input")?;
    Ok(())
}
