//! The public HTTP API, as every client command uses it.

mod errors;
mod registry;
mod resources;
mod rollouts;
mod sse;

use std::{sync::Mutex, time::Duration};

use anyhow::Context;
use reqwest::{Method, RequestBuilder, Response};
use serde::{Serialize, de::DeserializeOwned};
use tunesmith_types::api::auth;

pub(crate) use errors::ApiFailure;
pub(crate) use sse::events;

use crate::{
    config::{Config, Tokens},
    settings::{ClientSettings, Credentials},
    terminal::text::now,
};

/// An access token is renewed this many seconds before its end.
const RENEW_EARLY: i64 = 30;

/// A client of one server, as one caller.
#[derive(Debug)]
pub(crate) struct ApiClient {
    http: reqwest::Client,
    settings: ClientSettings,
    login: Mutex<Option<Tokens>>,
}

impl ApiClient {
    pub(crate) fn new(settings: ClientSettings) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(Duration::from_secs(300))
            .user_agent(concat!("tunesmith/", env!("CARGO_PKG_VERSION")))
            .build()
            .context("cannot make an HTTP client")?;
        let login = match &settings.credentials {
            Credentials::Login(tokens) => Some(tokens.clone()),
            _ => None,
        };
        Ok(Self {
            http,
            settings,
            login: Mutex::new(login),
        })
    }

    /// Address of the server.
    pub(crate) fn api_url(&self) -> &str {
        &self.settings.api_url
    }

    /// What the client was made from.
    pub(crate) fn settings(&self) -> &ClientSettings {
        &self.settings
    }

    /// `GET path`
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.json(self.request(Method::GET, path).await?).await
    }

    /// `GET path?query`
    pub(crate) async fn get_with<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &impl Serialize,
    ) -> anyhow::Result<T> {
        self.json(self.request(Method::GET, path).await?.query(query))
            .await
    }

    /// `POST path` with a JSON body.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        self.json(self.request(Method::POST, path).await?.json(body))
            .await
    }

    /// A request with credentials.
    pub(crate) async fn request(&self, method: Method, path: &str) -> anyhow::Result<RequestBuilder> {
        let request = self
            .http
            .request(method, format!("{}{path}", self.settings.api_url));
        Ok(match &self.settings.credentials {
            Credentials::None => request,
            Credentials::ApiKey(key) => request.bearer_auth(key),
            Credentials::Login(_) => request.bearer_auth(self.access_token().await?),
        })
    }

    /// A request without credentials, for sign-up and log-in.
    pub(crate) async fn post_anonymous<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        let request = self
            .http
            .post(format!("{}{path}", self.settings.api_url))
            .json(body);
        self.json(request).await
    }

    /// Sends a request and reads the JSON of a successful answer.
    pub(crate) async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> anyhow::Result<T> {
        let response = self.send(request).await?;
        let url = response.url().clone();
        response
            .json()
            .await
            .with_context(|| format!("{url} answered something unexpected"))
    }

    /// Sends a request; an error answer becomes an [`ApiFailure`].
    pub(crate) async fn send(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let response = request.send().await.map_err(|error| {
            let unreachable = error.is_connect();
            let error = anyhow::Error::new(error);
            if unreachable {
                error.context(format!(
                    "cannot reach {}; is the platform up? Start it with `tunesmith up`, or say where it is with --api-url",
                    self.settings.api_url
                ))
            } else {
                error.context(format!("the request to {} broke off", self.settings.api_url))
            }
        })?;
        if response.status().is_success() {
            return Ok(response);
        }
        let anonymous = self.settings.credentials == Credentials::None;
        Err(ApiFailure::read(response, anonymous).await.into())
    }

    async fn access_token(&self) -> anyhow::Result<String> {
        let tokens = self.lock().clone().context("invariant: a login has tokens")?;
        if tokens.expires_at - RENEW_EARLY > now() {
            return Ok(tokens.access_token);
        }
        let body = auth::RefreshRequest {
            refresh_token: tokens.refresh_token,
        };
        let renewed: auth::Tokens = self
            .post_anonymous("/v1/auth/refresh", &body)
            .await
            .context("the login is over; log in again")?;
        let tokens = stored(&renewed);
        self.remember(Some(tokens.clone()))?;
        Ok(tokens.access_token)
    }

    /// Keeps a login, here and in the configuration file.
    pub(crate) fn remember(&self, tokens: Option<Tokens>) -> anyhow::Result<()> {
        self.lock().clone_from(&tokens);
        let config = Config {
            api_url: Some(self.settings.api_url.clone()),
            api_key: None,
            tokens,
        };
        config.write(&self.settings.config_path)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Tokens>> {
        self.login
            .lock()
            .expect("invariant: no holder of the login's lock panics")
    }
}

/// The file's form of an answer.
pub(crate) fn stored(tokens: &auth::Tokens) -> Tokens {
    Tokens {
        access_token: tokens.access_token.clone(),
        refresh_token: tokens.refresh_token.clone(),
        expires_at: now() + i64::try_from(tokens.expires_in).unwrap_or(0),
    }
}
