//! API and gateway on one listener, with the reconciler beside them.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tunesmith_api::{ApiSettings, ApiState, bootstrap};
use tunesmith_blobs::Blobs;
use tunesmith_gateway::{Gateway, GatewaySettings, ReplicaSource};
use tunesmith_store::{Store, notifications::Notifications};

use super::bundled::BundledModel;

/// The running parts.
#[derive(Debug)]
pub(crate) struct ControlPlane {
    address: SocketAddr,
    server: JoinHandle<()>,
    reconciler: JoinHandle<()>,
    stop_server: CancellationToken,
    stop_reconciler: CancellationToken,
}

/// What the control plane is made of.
pub(crate) struct ControlPlaneParts {
    pub(crate) store: Store,
    pub(crate) blobs: Blobs,
    pub(crate) api: ApiSettings,
    pub(crate) gateway: GatewaySettings,
    pub(crate) replicas: ReplicaSource,
    pub(crate) listen: SocketAddr,
    /// Base models to register for everybody, where they are not.
    pub(crate) shared_models: &'static [BundledModel],
}

impl ControlPlane {
    /// Binds the address and serves.
    pub(crate) async fn start(parts: ControlPlaneParts) -> anyhow::Result<Self> {
        let ControlPlaneParts {
            store,
            blobs,
            api,
            gateway,
            replicas,
            listen,
            shared_models,
        } = parts;
        let listener = TcpListener::bind(listen).await.with_context(|| {
            format!(
                "cannot listen on {listen}; choose another address with --listen (port 0 takes a free one)"
            )
        })?;
        let address = listener
            .local_addr()
            .context("cannot tell the address of the API")?;
        let (gateway, reconciler) = Gateway::new(store.clone(), blobs.clone(), replicas, gateway)
            .context("cannot make the gateway")?;
        let notifications = Notifications::listen(&store)
            .await
            .context("cannot listen to the database")?;
        let state = ApiState::new(store, blobs, Arc::new(notifications), api);
        for model in shared_models {
            let registered = bootstrap::register_shared_model(&state, model.name, model.files).await;
            registered.with_context(|| format!("cannot register the bundled base model `{}`", model.name))?;
        }
        tunesmith_api::take_up_validations(&state)
            .await
            .context("cannot take up unfinished validations")?;
        let router = tunesmith_api::application(&state, tunesmith_gateway::router(gateway));
        let (stop_server, stop_reconciler) = (CancellationToken::new(), CancellationToken::new());
        let server = tokio::spawn(tunesmith_api::serve(
            listener,
            router,
            stop_server.clone().cancelled_owned(),
        ));
        let reconciler = tokio::spawn(reconciler.run(stop_reconciler.clone()));
        Ok(Self {
            address,
            server,
            reconciler,
            stop_server,
            stop_reconciler,
        })
    }

    /// Where the API answers, as a client on this machine reaches it.
    pub(crate) fn url(&self) -> String {
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(if address.is_ipv4() {
                [127, 0, 0, 1].into()
            } else {
                std::net::Ipv6Addr::LOCALHOST.into()
            });
        }
        format!("http://{address}")
    }

    /// Waits until a part ends, which without [`Self::stop`] none should.
    pub(crate) async fn ended(&mut self) -> &'static str {
        tokio::select! {
            _ = &mut self.server => "the API",
            _ = &mut self.reconciler => "the reconciler",
        }
    }

    /// Lets requests finish, then stops the engines.
    pub(crate) async fn stop(self) {
        self.stop_server.cancel();
        let _ = self.server.await;
        self.stop_reconciler.cancel();
        let _ = self.reconciler.await;
    }
}
