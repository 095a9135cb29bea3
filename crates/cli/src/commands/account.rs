//! `signup`, `login`, `logout`, `whoami`.

use std::process::ExitCode;

use serde_json::json;
use tunesmith_types::api::auth::{LoginRequest, Session, SignupRequest};

use crate::{
    args::client::{LoginArgs, SignupArgs},
    client::{ApiClient, stored},
    config::Config,
    printer::{Printer, details},
    settings::{ClientSettings, Credentials},
    terminal::prompt,
};

pub(super) async fn sign_up(
    client: &ApiClient,
    args: SignupArgs,
    printer: Printer,
) -> anyhow::Result<ExitCode> {
    let SignupArgs { email, organization } = args;
    let email = given_or_asked(email, "Email address")?;
    let organization_name = given_or_asked(organization, "Name of the organization")?;
    let password = prompt::password("Password (10 characters or more)")?;
    let session = client
        .sign_up(&SignupRequest {
            email,
            password,
            organization_name,
        })
        .await?;
    keep(client, &session, printer)
}

pub(super) async fn log_in(
    client: &ApiClient,
    args: LoginArgs,
    printer: Printer,
) -> anyhow::Result<ExitCode> {
    let LoginArgs { email, api_key } = args;
    if let Some(key) = api_key {
        return log_in_with_key(client, key, printer).await;
    }
    let email = given_or_asked(email, "Email address")?;
    let password = prompt::password("Password")?;
    let session = client.log_in(&LoginRequest { email, password }).await?;
    keep(client, &session, printer)
}

/// The key is tried before it is stored.
async fn log_in_with_key(client: &ApiClient, key: String, printer: Printer) -> anyhow::Result<ExitCode> {
    let settings = ClientSettings {
        credentials: Credentials::ApiKey(key.clone()),
        ..client.settings().clone()
    };
    let with_key = ApiClient::new(settings)?;
    let identity = with_key.identity().await?;
    let config = Config {
        api_url: Some(client.api_url().to_owned()),
        api_key: Some(key),
        tokens: None,
    };
    config.write(&client.settings().config_path)?;
    printer.result(&identity, || {
        format!(
            "logged in to {} as a key of {}",
            client.api_url(),
            identity.organization.name
        )
    });
    Ok(ExitCode::SUCCESS)
}

fn given_or_asked(given: Option<String>, question: &str) -> anyhow::Result<String> {
    given.map_or_else(|| prompt::line(question), Ok)
}

fn keep(client: &ApiClient, session: &Session, printer: Printer) -> anyhow::Result<ExitCode> {
    client.remember(Some(stored(&session.tokens)))?;
    let shown = json!({"user": session.user, "organization": session.organization, "role": session.role});
    printer.result(&shown, || {
        format!(
            "logged in to {} as {} ({} of {})",
            client.api_url(),
            session.user.email,
            session.role.as_str(),
            session.organization.name
        )
    });
    Ok(ExitCode::SUCCESS)
}

/// The local login goes in any case; the server is told where it answers.
pub(super) async fn log_out(client: &ApiClient, printer: Printer) -> anyhow::Result<ExitCode> {
    if let Credentials::Login(tokens) = &client.settings().credentials
        && let Err(error) = client.log_out(tokens.refresh_token.clone()).await
    {
        printer.words(format_args!("warning: the server was not told: {error:#}"));
    }
    client.remember(None)?;
    printer.words("logged out");
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn who_am_i(client: &ApiClient, printer: Printer) -> anyhow::Result<ExitCode> {
    let identity = client.identity().await?;
    printer.result(&identity, || {
        let who = match (&identity.user, identity.api_key_id) {
            (_, Some(key)) => format!("API key {key}"),
            (Some(user), None) => user.email.clone(),
            (None, None) => "unknown".to_owned(),
        };
        details(&[
            ("server", client.api_url().to_owned()),
            ("caller", who),
            ("role", identity.role.as_str().to_owned()),
            (
                "organization",
                format!("{} ({})", identity.organization.name, identity.organization.id),
            ),
        ])
    });
    Ok(ExitCode::SUCCESS)
}
