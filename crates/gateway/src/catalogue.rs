//! What the gateway asks the store.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::{Notify, watch};
use tunesmith_store::{
    Store, StoreError,
    adapters::AdapterVersion,
    base_models::{self, BaseModelDetails},
    deployments,
    files::StoredFile,
    notifications::{Notification, Notifications},
    revisions,
    routing::{self, RoutedRevision},
};
use tunesmith_types::{
    ids::{BaseModelId, OrganizationId},
    list::{MAX_LIMIT, Page},
    names::{ResourceName, Sha256Digest, engine_adapter_name},
    states::RevisionState,
};

use crate::{
    models::Model,
    snapshot::{Destination, Snapshot, Snapshots},
};

/// A base model that is ready.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BaseModel {
    pub(crate) id: BaseModelId,
    pub(crate) name: ResourceName,
    pub(crate) digest: Sha256Digest,
    pub(crate) files: Vec<StoredFile>,
    /// Whether it is everybody's.
    pub(crate) shared: bool,
}

impl BaseModel {
    fn ready(model: base_models::BaseModel) -> Option<Self> {
        let shared = model.organization_id.is_none();
        let base_models::BaseModel {
            id, name, details, ..
        } = model;
        let BaseModelDetails { digest, files, .. } = details?;
        Some(Self {
            id,
            name,
            digest,
            files,
            shared,
        })
    }
}

/// A base model with the revisions on it, pending and active.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DesiredBase {
    pub(crate) base: BaseModel,
    pub(crate) revisions: Vec<RoutedRevision>,
}

/// What the store says of a name.
#[derive(Debug)]
pub(crate) enum Lookup {
    Found(Destination),
    /// A deployment whose first revision is being made ready.
    Pending,
    /// A deployment of which no revision was ever ready.
    Inactive,
    Nothing,
}

/// The versions that a revision routes to.
pub(crate) fn versions(revision: &RoutedRevision) -> impl Iterator<Item = &AdapterVersion> {
    revision.routes.iter().filter_map(|route| route.version.as_ref())
}

/// A replica's name for a version.
pub(crate) fn engine_name(version: &AdapterVersion) -> String {
    engine_adapter_name(&version.adapter, version.number, &version.digest)
}

/// The store, as far as the gateway needs it.
#[derive(Debug, Clone)]
pub(crate) struct Catalogue {
    store: Store,
    snapshots: Arc<Snapshots>,
}

impl Catalogue {
    pub(crate) fn new(store: Store) -> Self {
        let snapshots = Arc::new(Snapshots::new(store.deployment_changes()));
        Self { store, snapshots }
    }

    /// Tells of changes of deployments.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.snapshots.subscribe()
    }

    /// The store itself.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Everything that replicas ought to serve, for all organizations.
    pub(crate) async fn desired(&self) -> Result<Vec<DesiredBase>, StoreError> {
        let mut by_base: BTreeMap<BaseModelId, Vec<RoutedRevision>> = BTreeMap::new();
        for revision in routing::wanted(&self.store).await? {
            by_base.entry(revision.base_model_id).or_default().push(revision);
        }
        let mut desired = Vec::with_capacity(by_base.len());
        for (base, revisions) in by_base {
            if let Some(base) = self.base_model(base).await? {
                desired.push(DesiredBase { base, revisions });
            }
        }
        Ok(desired)
    }

    /// A base model, whoever owns it; none where it is not ready or gone.
    pub(crate) async fn base_model(&self, base: BaseModelId) -> Result<Option<BaseModel>, StoreError> {
        match base_models::get_any(&self.store, base).await {
            Ok(model) => Ok(BaseModel::ready(model)),
            Err(StoreError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A ready base model that the organization may see.
    async fn base_model_by_name(
        &self,
        organization: OrganizationId,
        name: &str,
    ) -> Result<Option<BaseModelId>, StoreError> {
        match base_models::find(&self.store, organization, name).await {
            Ok(model) => Ok(BaseModel::ready(model).map(|base| base.id)),
            Err(StoreError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Where requests of the organization for `name` go: what was read before, for as long as nothing has changed.
    pub(crate) async fn lookup(
        &self,
        organization: OrganizationId,
        name: &str,
    ) -> Result<Lookup, StoreError> {
        if let Some(known) = self.snapshots.find(organization, name) {
            return Ok(Lookup::Found(known));
        }
        let _turn = self.snapshots.turn(organization, name).await;
        if let Some(known) = self.snapshots.find(organization, name) {
            return Ok(Lookup::Found(known));
        }
        let changes = self.snapshots.changes();
        let found = self.look_up(organization, name).await?;
        if let Lookup::Found(destination) = &found {
            self.snapshots
                .keep(organization, name, destination.clone(), changes);
        }
        Ok(found)
    }

    async fn look_up(&self, organization: OrganizationId, name: &str) -> Result<Lookup, StoreError> {
        if let Some(active) = routing::resolve(&self.store, organization, name).await? {
            let snapshot = Arc::new(Snapshot::from(&active));
            return Ok(Lookup::Found(Destination::Deployment(snapshot)));
        }
        match deployments::find(&self.store, organization, name).await {
            Ok(deployment) => {
                let pending = deployment
                    .latest
                    .is_some_and(|latest| latest.state == RevisionState::Pending);
                return Ok(if pending {
                    Lookup::Pending
                } else {
                    Lookup::Inactive
                });
            }
            Err(StoreError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        let base = self.base_model_by_name(organization, name).await?;
        Ok(base.map_or(Lookup::Nothing, |base| Lookup::Found(Destination::Base(base))))
    }

    /// Everything that the organization can call.
    pub(crate) async fn models(&self, organization: OrganizationId) -> Result<Vec<Model>, StoreError> {
        let mut models = Vec::new();
        let mut page = Page {
            after: None,
            limit: MAX_LIMIT,
        };
        loop {
            let rows = deployments::list(&self.store, organization, &page).await?;
            page.after = rows.rows.last().map(|deployment| deployment.id);
            for deployment in rows
                .rows
                .into_iter()
                .filter(|deployment| deployment.active.is_some())
            {
                models.push(Model {
                    id: deployment.name.to_string(),
                    object: "model".to_owned(),
                    created: deployment.created_at.timestamp(),
                    owned_by: "organization".to_owned(),
                    parent: Some(deployment.base_model),
                });
            }
            if !rows.has_more {
                break;
            }
        }
        self.add_base_models(organization, &mut models).await?;
        Ok(models)
    }

    async fn add_base_models(
        &self,
        organization: OrganizationId,
        models: &mut Vec<Model>,
    ) -> Result<(), StoreError> {
        let mut page = Page {
            after: None,
            limit: MAX_LIMIT,
        };
        loop {
            let rows = base_models::list(&self.store, organization, &page).await?;
            page.after = rows.rows.last().map(|model| model.id);
            for model in rows.rows.into_iter().filter(|model| model.details.is_some()) {
                // A deployment, or a model of the organization, hides a shared one of the same name, as in a request.
                if models.iter().any(|known| known.id == model.name.as_str()) {
                    continue;
                }
                models.push(Model {
                    id: model.name.to_string(),
                    object: "model".to_owned(),
                    created: model.created_at.timestamp(),
                    owned_by: if model.organization_id.is_some() {
                        "organization"
                    } else {
                        "tunesmith"
                    }
                    .to_owned(),
                    parent: None,
                });
            }
            if !rows.has_more {
                return Ok(());
            }
        }
    }

    /// The revision answers from now on. One that was overtaken meanwhile is left alone.
    pub(crate) async fn mark_active(&self, revision: &RoutedRevision) {
        let result = revisions::activate(&self.store, revision.organization_id, revision.revision_id).await;
        log_transition(revision, "active", result);
    }

    /// The revision cannot be made ready.
    pub(crate) async fn mark_failed(&self, revision: &RoutedRevision, reason: &str) {
        let result = revisions::fail(
            &self.store,
            revision.organization_id,
            revision.revision_id,
            reason,
        )
        .await;
        log_transition(revision, "failed", result);
    }

    /// Notes whether all replicas hold what a revision that answers, or did so before, routes to.
    pub(crate) async fn mark_loaded(&self, revision: &RoutedRevision, loaded: bool) {
        if revision.loaded == loaded || revision.is_mirror() {
            return;
        }
        let result = revisions::set_loaded(
            &self.store,
            revision.organization_id,
            revision.revision_id,
            loaded,
        )
        .await;
        if let Err(error) = result {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "cannot note that a revision is loaded"
            );
        }
    }

    /// Wakes `wake` at each change of a deployment, for as long as the database connection lasts.
    pub(crate) async fn follow(&self, wake: &Notify) -> Result<(), StoreError> {
        let notifications = Notifications::listen(&self.store).await?;
        let mut subscription = notifications.subscribe();
        loop {
            if let Notification::DeploymentUpdated(_) | Notification::Missed = subscription.next().await {
                self.store.deployments_changed();
                wake.notify_one();
            }
        }
    }
}

fn log_transition(revision: &RoutedRevision, state: &str, result: Result<(), StoreError>) {
    let (deployment, number) = (&revision.deployment, revision.number);
    match result {
        Ok(()) => tracing::info!(%deployment, number, state, "revision moved on"),
        Err(StoreError::Conflict(_) | StoreError::NotFound(_)) => {
            tracing::info!(%deployment, number, "a newer revision has overtaken this one");
        }
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::error!(%deployment, number, state, error, "cannot move a revision on; the next round will");
        }
    }
}
