//! Numbers of a job, one row a step. They are written by [`queue::record_metrics`](crate::queue::record_metrics).

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};
use tunesmith_types::{
    ids::{JobId, OrganizationId},
    trainer::TrainerStep,
};

use crate::{Store, StoreError};

/// Numbers of one optimizer step, as stored. A step with an evaluation only has no training numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricRow {
    /// Optimizer steps done.
    pub step: i64,
    /// Passes over the data, with a fraction.
    pub data_epoch: Option<f64>,
    /// Mean over the supervised tokens.
    pub loss: Option<f64>,
    /// Learning rate.
    pub learning_rate: Option<f64>,
    /// Norm of the gradient before clipping.
    pub grad_norm: Option<f64>,
    /// Tokens that went through the model.
    pub tokens: Option<i64>,
    /// Tokens that counted in the loss.
    pub supervised_tokens: Option<i64>,
    /// Wall time of the step.
    pub seconds: Option<f64>,
    /// Loss on the evaluation split.
    pub eval_loss: Option<f64>,
    /// Share of supervised tokens of the evaluation split that the model would have chosen.
    pub eval_token_accuracy: Option<f64>,
    /// When it was written.
    pub recorded_at: DateTime<Utc>,
}

/// Numbers of one step to be written; what is absent leaves what is stored.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NewMetric {
    /// Optimizer steps done.
    pub step: i64,
    /// Passes over the data, with a fraction.
    pub data_epoch: Option<f64>,
    /// Mean over the supervised tokens.
    pub loss: Option<f64>,
    /// Learning rate.
    pub learning_rate: Option<f64>,
    /// Norm of the gradient before clipping.
    pub grad_norm: Option<f64>,
    /// Tokens that went through the model.
    pub tokens: Option<i64>,
    /// Tokens that counted in the loss.
    pub supervised_tokens: Option<i64>,
    /// Wall time of the step.
    pub seconds: Option<f64>,
    /// Loss on the evaluation split.
    pub eval_loss: Option<f64>,
    /// Share of supervised tokens of the evaluation split that the model would have chosen.
    pub eval_token_accuracy: Option<f64>,
}

impl From<&TrainerStep> for NewMetric {
    fn from(step: &TrainerStep) -> Self {
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        Self {
            step: signed(step.step),
            data_epoch: Some(step.epoch),
            loss: Some(step.loss),
            learning_rate: Some(step.lr),
            grad_norm: Some(step.grad_norm),
            tokens: Some(signed(step.tokens)),
            supervised_tokens: Some(signed(step.supervised_tokens)),
            seconds: Some(step.seconds),
            eval_loss: None,
            eval_token_accuracy: None,
        }
    }
}

impl NewMetric {
    /// An evaluation after `step` optimizer steps.
    #[must_use]
    pub fn evaluation(step: u64, loss: f64, token_accuracy: f64) -> Self {
        Self {
            step: i64::try_from(step).unwrap_or(i64::MAX),
            eval_loss: Some(loss),
            eval_token_accuracy: Some(token_accuracy),
            ..Self::default()
        }
    }

    /// Takes from `later` what it has.
    pub(crate) fn merge(&mut self, later: &Self) {
        self.data_epoch = later.data_epoch.or(self.data_epoch);
        self.loss = later.loss.or(self.loss);
        self.learning_rate = later.learning_rate.or(self.learning_rate);
        self.grad_norm = later.grad_norm.or(self.grad_norm);
        self.tokens = later.tokens.or(self.tokens);
        self.supervised_tokens = later.supervised_tokens.or(self.supervised_tokens);
        self.seconds = later.seconds.or(self.seconds);
        self.eval_loss = later.eval_loss.or(self.eval_loss);
        self.eval_token_accuracy = later.eval_token_accuracy.or(self.eval_token_accuracy);
    }
}

/// The rows of a job after step `after` (none: from the beginning), in the order of their steps; none where the job
/// is another organization's.
///
/// # Errors
/// Database errors only.
pub async fn list(
    store: &Store,
    organization: OrganizationId,
    job: JobId,
    after: Option<i64>,
    limit: u32,
) -> Result<Vec<MetricRow>, StoreError> {
    let rows = sqlx::query_as!(
        MetricRow,
        "select step, data_epoch, loss, learning_rate, grad_norm, tokens, supervised_tokens, seconds, eval_loss,
                eval_token_accuracy, recorded_at
         from job_metrics
         where organization_id = $1 and job_id = $2 and ($3::bigint is null or step > $3)
         order by step limit $4",
        organization.uuid(),
        job.uuid(),
        after,
        i64::from(limit),
    )
    .fetch_all(store.pool())
    .await?;
    Ok(rows)
}

/// What the numbers of a job come to, as its version says.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    steps: i64,
    tokens: i64,
    supervised_tokens: i64,
    seconds: f64,
    last: Map<String, Value>,
}

impl Summary {
    /// Takes in the next step.
    pub fn add(&mut self, row: &MetricRow) {
        self.steps = row.step;
        self.tokens += row.tokens.unwrap_or(0);
        self.supervised_tokens += row.supervised_tokens.unwrap_or(0);
        self.seconds += row.seconds.unwrap_or(0.0);
        let numbers = [
            ("train_loss", row.loss),
            ("eval_loss", row.eval_loss),
            ("eval_token_accuracy", row.eval_token_accuracy),
        ];
        for (name, number) in numbers {
            if let Some(number) = number {
                self.last.insert(name.to_owned(), json!(number));
            }
        }
    }

    /// Sums, and the last of each kind of loss.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut fields = self.last.clone();
        fields.insert("steps".to_owned(), json!(self.steps));
        fields.insert("tokens".to_owned(), json!(self.tokens));
        fields.insert("supervised_tokens".to_owned(), json!(self.supervised_tokens));
        fields.insert("training_seconds".to_owned(), json!(self.seconds));
        Value::Object(fields)
    }
}
