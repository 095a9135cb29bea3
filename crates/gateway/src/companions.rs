//! What runs beside the reconciler: writing what was metered, sending copies to shadows, moving canaries on.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tunesmith_store::Store;

use crate::{fleet::Fleet, metering::Meter, rollout, shadow::MirrorQueue};

/// The companions of one reconciler.
#[derive(Debug)]
pub(crate) struct Companions {
    pub(crate) store: Store,
    pub(crate) meter: Meter,
    pub(crate) mirrors: MirrorQueue,
    pub(crate) fleet: Fleet,
    pub(crate) http: reqwest::Client,
    pub(crate) canary_every: Duration,
}

impl Companions {
    /// Runs until `shutdown`. The meter ends last and writes all that was metered.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let Self {
            store,
            meter,
            mirrors,
            fleet,
            http,
            canary_every,
        } = self;
        let written = CancellationToken::new();
        let writing = meter.clone().write(store.clone(), written.clone());
        let others = async {
            tokio::join!(
                mirrors.send(fleet, http, meter, shutdown.clone()),
                rollout::control(store, canary_every, shutdown.clone()),
            );
            written.cancel();
        };
        tokio::join!(writing, others);
    }
}
