//! Splits, canaries, shadows, rollbacks, figures, usage and feedback.

use reqwest::Method;
use tunesmith_types::api::{
    Deleted,
    deployments::Deployment,
    feedback::{Feedback, FeedbackRequest},
    rollouts::{
        Canary, CanaryRequest, DeploymentStats, RollbackRequest, Shadow, ShadowRequest, SplitRequest,
        StatsQuery,
    },
    usage::{UsageQuery, UsageReport},
};

use super::{ApiClient, resources::segment};

fn path(deployment: &str, operation: &str) -> anyhow::Result<String> {
    Ok(format!("/v1/deployments/{}/{operation}", segment(deployment)?))
}

impl ApiClient {
    pub(crate) async fn split(&self, deployment: &str, request: &SplitRequest) -> anyhow::Result<Deployment> {
        self.post(&path(deployment, "split")?, request).await
    }

    pub(crate) async fn roll_back(
        &self,
        deployment: &str,
        request: &RollbackRequest,
    ) -> anyhow::Result<Deployment> {
        self.post(&path(deployment, "rollback")?, request).await
    }

    pub(crate) async fn start_canary(
        &self,
        deployment: &str,
        request: &CanaryRequest,
    ) -> anyhow::Result<Canary> {
        self.post(&path(deployment, "canary")?, request).await
    }

    pub(crate) async fn canary(&self, deployment: &str) -> anyhow::Result<Canary> {
        self.get(&path(deployment, "canary")?).await
    }

    pub(crate) async fn abort_canary(&self, deployment: &str) -> anyhow::Result<Canary> {
        let request = self.request(Method::DELETE, &path(deployment, "canary")?).await?;
        self.json(request).await
    }

    pub(crate) async fn set_shadow(
        &self,
        deployment: &str,
        request: &ShadowRequest,
    ) -> anyhow::Result<Shadow> {
        self.post(&path(deployment, "shadow")?, request).await
    }

    pub(crate) async fn shadow(&self, deployment: &str) -> anyhow::Result<Shadow> {
        self.get(&path(deployment, "shadow")?).await
    }

    pub(crate) async fn end_shadow(&self, deployment: &str) -> anyhow::Result<Deleted> {
        let request = self.request(Method::DELETE, &path(deployment, "shadow")?).await?;
        self.json(request).await
    }

    pub(crate) async fn stats(
        &self,
        deployment: &str,
        query: &StatsQuery,
    ) -> anyhow::Result<DeploymentStats> {
        self.get_with(&path(deployment, "stats")?, query).await
    }

    pub(crate) async fn usage(&self, query: &UsageQuery) -> anyhow::Result<UsageReport> {
        self.get_with("/v1/usage", query).await
    }

    pub(crate) async fn score(&self, request: &FeedbackRequest) -> anyhow::Result<Feedback> {
        self.post("/v1/feedback", request).await
    }
}
