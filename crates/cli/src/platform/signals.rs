//! From Ctrl-C to an ordered stop.

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Cancelled by the first SIGINT or SIGTERM (or the end of stdin, where `supervised`). The second signal ends the
/// process at once.
pub(crate) fn shutdown(supervised: bool) -> anyhow::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let stop = CancellationToken::new();
    if supervised {
        watch_stdin(stop.clone());
    }
    let token = stop.clone();
    tokio::spawn(async move {
        let mut first = true;
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if !first {
                tracing::warn!("second signal: ending at once");
                std::process::exit(130);
            }
            first = false;
            token.cancel();
        }
    });
    Ok(stop)
}

/// A thread of its own, because a blocked read of stdin would hold up the end of the runtime.
fn watch_stdin(stop: CancellationToken) {
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        stop.cancel();
    });
}
