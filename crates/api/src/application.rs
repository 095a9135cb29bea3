//! The whole service: all operations behind their layers, the document, and the pages.

use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::get;
use axum::{Extension, Router};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder};
use utoipa_axum::router::OpenApiRouter;
use utoipa_swagger_ui::SwaggerUi;

use crate::error::ApiError;
use crate::middleware::authenticate::authenticate;
use crate::middleware::request_id::{answer_panic, name_request};
use crate::state::ApiState;
use crate::{pages, routes};

const DESCRIPTION: &str = "Fine-tune language models with LoRA, keep every version, serve the one you choose. \
    Every answer carries `x-request-id`. Errors are OpenAI's object. Lists are newest first and page by `after`.";

/// The service with everything on it. `inference` is what the gateway contributes; it stands behind the same
/// authentication.
pub fn application(state: &ApiState, inference: OpenApiRouter) -> Router {
    let (public, mut document) = public_operations().split_for_parts();
    let (private, private_document) = private_operations().split_for_parts();
    let (inference, inference_document) = inference.split_for_parts();
    document.merge(private_document);
    document.merge(inference_document);
    let private = private
        .with_state(state.clone())
        .merge(inference)
        .layer(Extension(state.clone()))
        .route_layer(from_fn_with_state(state.clone(), authenticate));
    Router::new()
        .merge(public.with_state(state.clone()))
        .merge(private)
        .merge(SwaggerUi::new("/docs").url("/openapi.json", finished(document)))
        .route("/", get(pages::home))
        .fallback(|| async { ApiError::RouteNotFound })
        .method_not_allowed_fallback(|| async { ApiError::MethodNotAllowed })
        .layer(CatchPanicLayer::custom(answer_panic))
        .layer(from_fn(name_request))
}

/// The API's document. `inference` is what the gateway contributes.
#[must_use]
pub fn openapi(inference: OpenApi) -> OpenApi {
    let mut document = public_operations().into_openapi();
    document.merge(private_operations().into_openapi());
    document.merge(inference);
    finished(document)
}

fn public_operations() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .merge(routes::probes::router())
        .merge(routes::accounts::public())
}

fn private_operations() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .merge(routes::accounts::private())
        .merge(routes::api_keys::router())
        .merge(routes::base_models::router())
        .merge(routes::datasets::router())
        .merge(routes::jobs::router())
        .merge(routes::checkpoints::router())
        .merge(routes::adapters::router())
        .merge(routes::aliases::router())
        .merge(routes::lineage::router())
        .merge(routes::exports::router())
        .merge(routes::deployments::router())
        .merge(routes::rollouts::router())
        .merge(routes::usage::router())
        .merge(routes::feedback::router())
}

fn finished(document: OpenApi) -> OpenApi {
    let info = InfoBuilder::new()
        .title("Tunesmith")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(DESCRIPTION))
        .license(Some(
            LicenseBuilder::new()
                .name("Apache-2.0")
                .identifier(Some("Apache-2.0"))
                .build(),
        ))
        .build();
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("An API key (`tsk_…`) or an access token."))
        .build();
    let mut components = document.components.unwrap_or_default();
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    OpenApiBuilder::new()
        .info(info)
        .paths(document.paths)
        .components(Some(components))
        .security(Some([SecurityRequirement::new("bearer", Vec::<String>::new())]))
        .build()
}
