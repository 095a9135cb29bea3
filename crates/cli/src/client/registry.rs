//! Operations on aliases, deleted versions, lineages and checkpoints.

use reqwest::Method;
use tunesmith_types::{
    api::{
        Deleted,
        adapters::{
            AdapterVersion, DeleteVersionQuery, ImportAdapterQuery, ImportedAdapterVersion,
            ListVersionsQuery, PublishCheckpointRequest,
        },
        aliases::{Alias, AliasMove, Aliases, DeleteAliasQuery, MoveAliasRequest},
        jobs::Checkpoint,
        lineage::Lineage,
    },
    list::{List, PageQuery},
    version_reference::{AliasName, VersionReference},
};

use super::{ApiClient, resources::segment};

impl ApiClient {
    /// The versions of an adapter, deleted ones too where they are asked for.
    pub(crate) async fn list_versions(
        &self,
        adapter: &str,
        query: &ListVersionsQuery,
    ) -> anyhow::Result<List<AdapterVersion>> {
        self.get_with(&format!("/v1/adapters/{}/versions", segment(adapter)?), query)
            .await
    }

    pub(crate) async fn delete_version(
        &self,
        adapter: &str,
        number: i32,
        query: &DeleteVersionQuery,
    ) -> anyhow::Result<AdapterVersion> {
        let path = format!("/v1/adapters/{}/versions/{number}", segment(adapter)?);
        let request = self.request(Method::DELETE, &path).await?;
        self.json(request.query(query)).await
    }

    /// `body` is a tar archive of a PEFT folder.
    pub(crate) async fn import_adapter(
        &self,
        adapter: &str,
        query: &ImportAdapterQuery,
        body: reqwest::Body,
    ) -> anyhow::Result<ImportedAdapterVersion> {
        let path = format!("/v1/adapters/{}/import", segment(adapter)?);
        let request = self.request(Method::POST, &path).await?;
        let request = request.query(query).header("content-type", "application/x-tar");
        self.json(request.body(body)).await
    }

    pub(crate) async fn lineage(&self, adapter: &str, version: &VersionReference) -> anyhow::Result<Lineage> {
        self.get(&format!(
            "/v1/adapters/{}/versions/{version}/lineage",
            segment(adapter)?
        ))
        .await
    }

    pub(crate) async fn aliases(&self, adapter: &str) -> anyhow::Result<Aliases> {
        self.get(&format!("/v1/adapters/{}/aliases", segment(adapter)?))
            .await
    }

    pub(crate) async fn move_alias(
        &self,
        adapter: &str,
        alias: &AliasName,
        request: &MoveAliasRequest,
    ) -> anyhow::Result<Alias> {
        let path = format!("/v1/adapters/{}/aliases/{alias}", segment(adapter)?);
        let moving = self.request(Method::PUT, &path).await?;
        self.json(moving.json(request)).await
    }

    pub(crate) async fn delete_alias(
        &self,
        adapter: &str,
        alias: &AliasName,
        query: &DeleteAliasQuery,
    ) -> anyhow::Result<Deleted> {
        let path = format!("/v1/adapters/{}/aliases/{alias}", segment(adapter)?);
        let request = self.request(Method::DELETE, &path).await?;
        self.json(request.query(query)).await
    }

    /// The moves of one alias, or of all aliases of the adapter.
    pub(crate) async fn alias_moves(
        &self,
        adapter: &str,
        alias: Option<&AliasName>,
        page: &PageQuery,
    ) -> anyhow::Result<List<AliasMove>> {
        let adapter = segment(adapter)?;
        let path = alias.map_or_else(
            || format!("/v1/adapters/{adapter}/history"),
            |alias| format!("/v1/adapters/{adapter}/aliases/{alias}/history"),
        );
        self.list(&path, page).await
    }

    pub(crate) async fn checkpoints(&self, job: &str) -> anyhow::Result<List<Checkpoint>> {
        self.get(&format!("/v1/jobs/{}/checkpoints", segment(job)?)).await
    }

    pub(crate) async fn publish_checkpoint(
        &self,
        job: &str,
        step: u64,
        adapter: Option<String>,
    ) -> anyhow::Result<AdapterVersion> {
        let path = format!("/v1/jobs/{}/checkpoints/{step}/publish", segment(job)?);
        self.post(&path, &PublishCheckpointRequest { adapter }).await
    }
}
