//! Taking staged adapters off the disk. A replica may read the files of a loaded adapter again at any time, so they
//! stay until every replica has forgotten it, and some time longer.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::fs;

use crate::{
    board::Board,
    catalogue::{self, DesiredBase, engine_name},
    drain::is_our_name,
    settings::GatewaySettings,
    staging,
};

/// Longest pause between two sweeps.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Digits of the digest at the end of an adapter's name inside replicas.
const NAMED_DIGITS: usize = 8;

/// What sweeps remember from each other.
#[derive(Debug, Default)]
pub(crate) struct Sweeper {
    last: Option<Instant>,
    unneeded_since: HashMap<String, Instant>,
}

impl Sweeper {
    /// Removes what neither `desired` nor a replica has needed for the grace. Does nothing while a replica is silent:
    /// nobody knows what it holds.
    pub(crate) async fn sweep<'a>(
        &mut self,
        settings: &GatewaySettings,
        desired: &[DesiredBase],
        boards: impl Iterator<Item = &'a Arc<Board>>,
    ) {
        let pause = LONGEST_PAUSE.min(settings.sweep_grace);
        if self.last.is_some_and(|last| last.elapsed() < pause) {
            return;
        }
        let Some(needed) = needed(desired, boards) else {
            return;
        };
        self.last = Some(Instant::now());
        let folder = settings.cache_dir.join("adapters");
        if let Err(error) = self.remove_unneeded(&folder, &needed, settings.sweep_grace).await {
            tracing::warn!(folder = %folder.display(), %error, "cannot sweep staged adapters");
        }
    }

    async fn remove_unneeded(
        &mut self,
        folder: &Path,
        needed: &HashSet<String>,
        grace: Duration,
    ) -> io::Result<()> {
        let mut entries = match fs::read_dir(folder).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        let mut unneeded = HashMap::new();
        while let Some(entry) = entries.next_entry().await? {
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if needed.contains(name.get(..NAMED_DIGITS).unwrap_or_default()) {
                continue;
            }
            let since = self
                .unneeded_since
                .get(&name)
                .copied()
                .unwrap_or_else(Instant::now);
            if since.elapsed() < grace {
                unneeded.insert(name, since);
                continue;
            }
            staging::remove(&entry.path()).await?;
            tracing::info!(%name, "removed a staged adapter that nothing needs");
        }
        self.unneeded_since = unneeded;
        Ok(())
    }
}

/// Beginnings of the digests that are needed; `None` while it cannot be told.
fn needed<'a>(
    desired: &[DesiredBase],
    boards: impl Iterator<Item = &'a Arc<Board>>,
) -> Option<HashSet<String>> {
    let mut names: HashSet<String> = desired
        .iter()
        .flat_map(|desired| &desired.revisions)
        .flat_map(catalogue::versions)
        .map(engine_name)
        .collect();
    for board in boards {
        if !board.is_complete() {
            return None;
        }
        names.extend(board.slots(|slots| slots.names().map(ToOwned::to_owned).collect::<Vec<_>>()));
        for replica in board.present() {
            names.extend(
                replica
                    .seen
                    .cards
                    .keys()
                    .filter(|name| is_our_name(name))
                    .cloned(),
            );
        }
    }
    let digits = |name: &String| {
        name.get(name.len().checked_sub(NAMED_DIGITS)?..)
            .map(ToOwned::to_owned)
    };
    Some(names.iter().filter_map(digits).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn only_what_is_unneeded_for_the_grace_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |digit: &str| folder.path().join(digit.repeat(64));
        for digit in ["a", "b"] {
            fs::create_dir(path(digit)).await.unwrap();
            fs::write(path(digit).join("file"), "x").await.unwrap();
        }
        let needed = HashSet::from(["a".repeat(8)]);
        let mut sweeper = Sweeper::default();
        let long = Duration::from_secs(60);
        sweeper
            .remove_unneeded(folder.path(), &needed, long)
            .await
            .unwrap();
        assert!(path("a").exists() && path("b").exists());
        sweeper
            .remove_unneeded(folder.path(), &needed, Duration::ZERO)
            .await
            .unwrap();
        assert!(path("a").exists() && !path("b").exists());
    }
}
