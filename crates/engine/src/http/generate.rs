//! What both generating endpoints do once the prompt is known: find the model, check lengths, submit, deliver.

use std::sync::Arc;

use axum::response::Response;

use super::{
    answer::{AnswerWriter, Shape, Usage},
    calls::CallDeltas,
    delivery::{self, Generating},
    error::ApiError,
    grammar,
    request::{Delivery, Request},
};
use crate::{
    adapter::{AdapterError, AdapterLease},
    engine::Engine,
    generation::Generation,
};

/// The prompts of a request in tokens.
#[derive(Debug)]
pub(super) struct Prompts {
    /// The field that they came from.
    pub(super) field: &'static str,
    /// Each of at least one token.
    pub(super) tokens: Vec<Vec<u32>>,
    /// Most tokens to generate where the request does not say; `None` is as many as fit.
    pub(super) default_max_tokens: Option<usize>,
    /// Texts that come before the generated ones, one for each prompt; empty where none do.
    pub(super) echo: Vec<String>,
    /// Whether their tokens are reported like generated ones.
    pub(super) reports: bool,
}

/// The adapter of that name, read back if it was evicted, or `None` for the base model.
///
/// # Errors
/// There is neither, or the adapter cannot be read back.
pub(super) async fn find_model(engine: &Engine, name: &str) -> Result<Option<Arc<AdapterLease>>, ApiError> {
    if name == engine.name() {
        return Ok(None);
    }
    match engine.lease(name).await {
        Ok(lease) => Ok(Some(lease)),
        Err(AdapterError::NotLoaded(name)) => Err(ApiError::no_model(&name)),
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "adapter not usable");
            Err(error.into())
        }
    }
}

/// A text in tokens that the model knows.
///
/// # Errors
/// The tokenizer fails, or gives no token, or one that the model has no row for.
pub(super) fn encode(
    engine: &Engine,
    text: &str,
    add_special: bool,
    field: &str,
) -> Result<Vec<u32>, ApiError> {
    let encoded = engine.tokenizer().encode(text, add_special).map_err(|error| {
        tracing::warn!(error = &error as &dyn std::error::Error, "tokenizer failed");
        ApiError::invalid(field, format!("The tokenizer fails on `{field}`."))
    })?;
    if encoded.ids.is_empty() {
        return Err(ApiError::invalid(
            field,
            format!("`{field}` is empty: it has no tokens to go on from."),
        ));
    }
    if encoded.ids.iter().any(|id| *id >= engine.vocabulary()) {
        let message = format!("`{field}` has a token that the model does not know.");
        return Err(ApiError::invalid(field, message));
    }
    Ok(encoded.ids)
}

/// Generates and answers, whole or as a stream.
///
/// # Errors
/// A prompt does not fit, the queue is full, or the engine fails.
pub(super) async fn answer(
    engine: &Arc<Engine>,
    request: &Request,
    adapter: Option<Arc<AdapterLease>>,
    mut prompts: Prompts,
    shape: Shape,
) -> Result<Response, ApiError> {
    if request.max_tokens == Some(0) && prompts.echo.is_empty() {
        let message = "`max_tokens` must be at least 1; only a completion with `echo` may ask for 0.";
        return Err(ApiError::invalid("max_tokens", message));
    }
    let texts = std::mem::take(&mut prompts.echo);
    let echo = texts
        .into_iter()
        .flat_map(|text| std::iter::repeat_n(text, request.choices))
        .collect();
    let prompt_tokens = prompts.tokens.iter().map(Vec::len).sum();
    let mut generations = generations(engine, request, adapter, prompts)?;
    constrain(engine, request, &mut generations).await?;
    // If one is refused, dropping the receivers of those before it cancels them.
    let receivers = generations
        .into_iter()
        .map(|generation| engine.submit(generation));
    let receivers: Vec<_> = receivers.collect::<Result<_, _>>()?;
    let writer = AnswerWriter::new(shape, &request.model, receivers.len(), request.logprobs.is_some());
    let calls = request.calls.iter();
    let calls = calls.flat_map(|reading| receivers.iter().map(|_| CallDeltas::new(reading)));
    let generating = Generating {
        calls: calls.collect(),
        receivers,
        writer,
        echo,
        usage: Usage {
            prompt_tokens,
            ..Usage::default()
        },
    };
    match request.delivery {
        Delivery::Whole => delivery::whole(generating).await,
        Delivery::Stream { include_usage } => Ok(delivery::stream(generating, include_usage)),
    }
}

/// Gives each generation the request's grammar, compiled once and beside the engine's thread.
async fn constrain(
    engine: &Arc<Engine>,
    request: &Request,
    generations: &mut [Generation],
) -> Result<(), ApiError> {
    let Some(requested) = request.grammar.clone() else {
        return Ok(());
    };
    let compiling = {
        let engine = Arc::clone(engine);
        tokio::task::spawn_blocking(move || grammar::compile(&engine, requested))
    };
    let constraint = compiling.await.map_err(|_| ApiError::internal())??;
    for generation in generations {
        generation.constraint = Some(constraint.fork());
    }
    Ok(())
}

fn generations(
    engine: &Engine,
    request: &Request,
    adapter: Option<Arc<AdapterLease>>,
    prompts: Prompts,
) -> Result<Vec<Generation>, ApiError> {
    let Prompts {
        field,
        tokens,
        default_max_tokens,
        echo: _,
        reports,
    } = prompts;
    let limit = engine.max_context();
    let memory = engine.kv_budget().tokens();
    let generation = |prompt: Vec<u32>, choice: usize| {
        // What is not asked for is cut to the room that there is; what is asked for must fit.
        let room = limit.min(memory).saturating_sub(prompt.len()).max(1);
        let max_tokens = request
            .max_tokens
            .unwrap_or_else(|| default_max_tokens.unwrap_or(room).min(room));
        if prompt.len().saturating_add(max_tokens) > limit {
            return Err(ApiError::context_length(field, limit, prompt.len(), max_tokens));
        }
        if prompt.len() + max_tokens > memory {
            return Err(ApiError::memory(field, memory, prompt.len() + max_tokens));
        }
        let mut sampling = request.sampling.clone();
        // Choices of one seed would all be the same.
        sampling.seed = sampling.seed.map(|seed| seed.wrapping_add(choice as u64));
        Ok(Generation {
            prompt,
            reports_prompt: reports,
            adapter: adapter.clone(),
            max_tokens,
            sampling,
            stopping: request.stopping.clone(),
            constraint: None,
            skip_special_tokens: request.skip_special_tokens,
            logprobs: request.logprobs,
        })
    };
    let choices = tokens
        .into_iter()
        .flat_map(|prompt| (0..request.choices).map(move |choice| (prompt.clone(), choice)));
    choices
        .map(|(prompt, choice)| generation(prompt, choice))
        .collect()
}
