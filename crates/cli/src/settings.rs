//! Client settings, resolved from options, environment and configuration file, in that order.

use std::path::PathBuf;

use crate::{
    args::Global,
    config::{self, Config, Tokens},
    environment,
};

/// Where the API is when nobody says.
const DEFAULT_API_URL: &str = "http://127.0.0.1:8080";

/// As whom the API is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    /// Nobody yet.
    None,
    /// A key, from the environment or from `login --api-key`.
    ApiKey(String),
    /// A person's login; renewed tokens go back to the file.
    Login(Tokens),
}

/// What every client command needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClientSettings {
    pub(crate) api_url: String,
    pub(crate) credentials: Credentials,
    /// Where logins are kept.
    pub(crate) config_path: PathBuf,
}

impl ClientSettings {
    /// Options and environment win over the file. A login counts only for the server it was made with.
    pub(crate) fn resolve(global: &Global) -> anyhow::Result<Self> {
        let config_path = config::default_path()?;
        let config = Config::read(&config_path)?;
        Ok(Self::merge(
            global.api_url.clone(),
            environment::read(environment::API_KEY),
            config,
            config_path,
        ))
    }

    fn merge(api_url: Option<String>, api_key: Option<String>, config: Config, config_path: PathBuf) -> Self {
        let Config {
            api_url: configured,
            api_key: stored_key,
            tokens,
        } = config;
        let trimmed = |url: String| url.trim_end_matches('/').to_owned();
        let configured = configured.map(trimmed);
        let api_url = api_url
            .map(trimmed)
            .or_else(|| configured.clone())
            .unwrap_or_else(|| DEFAULT_API_URL.to_owned());
        let same_server = configured.as_ref() == Some(&api_url);
        let credentials = match (api_key, stored_key, tokens) {
            (Some(key), _, _) => Credentials::ApiKey(key),
            (None, Some(key), _) if same_server => Credentials::ApiKey(key),
            (None, _, Some(tokens)) if same_server => Credentials::Login(tokens),
            _ => Credentials::None,
        };
        Self {
            api_url,
            credentials,
            config_path,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_secret_is_sent_to_its_own_server_only() {
        let config = Config {
            api_url: Some("http://home/".to_owned()),
            api_key: Some("tsk_stored".to_owned()),
            tokens: None,
        };
        let merge = |url: Option<&str>, key: Option<&str>| {
            let given = (url.map(ToOwned::to_owned), key.map(ToOwned::to_owned));
            ClientSettings::merge(given.0, given.1, config.clone(), PathBuf::new())
        };
        let usual = merge(None, None);
        assert_eq!(
            (usual.api_url.as_str(), &usual.credentials),
            ("http://home", &Credentials::ApiKey("tsk_stored".to_owned()))
        );
        assert_eq!(
            merge(Some("http://elsewhere"), None).credentials,
            Credentials::None
        );
        assert_eq!(
            merge(Some("http://home"), Some("tsk_x")).credentials,
            Credentials::ApiKey("tsk_x".to_owned())
        );
        let empty = ClientSettings::merge(None, None, Config::default(), PathBuf::new());
        assert_eq!(
            (empty.api_url.as_str(), empty.credentials),
            (DEFAULT_API_URL, Credentials::None)
        );
    }
}
