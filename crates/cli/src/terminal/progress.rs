//! Progress of transfers. Bars are drawn on stderr, and only where that is a terminal.

use std::path::Path;

use anyhow::Context;
use futures::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use tokio_util::io::ReaderStream;

/// Bytes of one read.
const PIECE: usize = 256 * 1024;

/// A bar over `total` bytes.
pub(crate) fn transfer(total: u64) -> ProgressBar {
    let template = "{bar:32} {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
    let style = ProgressStyle::with_template(template).expect("invariant: the template is right");
    ProgressBar::new(total).with_style(style)
}

/// The bytes of a file as a request's body, counted by `bar`; the file is never in memory as a whole.
pub(crate) async fn file_body(path: &Path, bar: &ProgressBar) -> anyhow::Result<reqwest::Body> {
    let file = tokio::fs::File::open(path)
        .await
        .with_context(|| format!("cannot open {}", path.display()))?;
    let bar = bar.clone();
    let pieces = ReaderStream::with_capacity(file, PIECE).inspect(move |piece| {
        if let Ok(piece) = piece {
            bar.inc(piece.len() as u64);
        }
    });
    Ok(reqwest::Body::wrap_stream(pieces))
}
