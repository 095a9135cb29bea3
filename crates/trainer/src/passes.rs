//! The passes of one cycle of a gang: the documents of each job's next optimizer step, packed together.
//!
//! Each job's documents are first packed into groups, which no neighbour has a say in; then the groups of all jobs are
//! packed into passes of at most the budget. A group is one segment, and the key of its dropout masks is (seed, step,
//! number of the group). So a job has the same groups and masks alone and in a gang, and only the order of summation
//! differs.
//!
//! Groups are as large as the budget where there is no dropout. With dropout they have at most
//! [`DROPOUT_GROUP_TOKENS`], so that the masks depend neither on the device nor on its memory, unless the budget is even
//! smaller.

use tch::Tensor;
use tunesmith_dataset::pack::pack;
use tunesmith_model::{Adapter, DropoutKey, Keep, ModelError, Scores, Segment};
use tunesmith_torch_ext::empty_cuda_cache;

use crate::documents::Documents;

/// Most tokens that share a dropout key (a longer document has its own).
pub const DROPOUT_GROUP_TOKENS: usize = 4096;

/// [`tunesmith_model::CausalLm::train_pass_keeping`], or what stands for it where all weights are trained.
pub type Pass<'a> = dyn FnMut(&[Segment<'_>], Keep) -> Result<Vec<Scores>, ModelError> + 'a;

/// How large passes may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most tokens of a pass; a longer document is a pass of its own.
    pub budget: usize,
    /// Most tokens of a pass that keeps everything until its backward pass; a larger one recomputes.
    pub whole: usize,
}

impl Limits {
    /// What a pass of `tokens` tokens keeps.
    #[must_use]
    pub fn keep(self, tokens: usize) -> Keep {
        if tokens > self.whole {
            Keep::Inputs
        } else {
            Keep::All
        }
    }

    /// After a pass that found too little memory: smaller passes, or recomputation where smaller is not possible.
    fn tighten(&mut self, failed: PassSize) {
        if failed.documents > 1 || self.keep(failed.tokens) == Keep::Inputs {
            self.budget = (self.budget / 2).max(1);
            self.whole = self.whole.min(self.budget);
        } else {
            self.whole = failed.tokens / 2;
        }
    }
}

/// What a pass holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PassSize {
    documents: usize,
    tokens: usize,
}

/// What one job brings to a cycle.
#[derive(Debug)]
pub struct Contribution<'a> {
    /// Its adapter; none where all weights are trained.
    pub adapter: Option<&'a Adapter>,
    /// Where its gradient is summed; zeroed at the start of each attempt.
    pub gradient: &'a Tensor,
    /// Dropout probability.
    pub dropout: f64,
    /// Seed of its dropout.
    pub seed: u64,
    /// Index of its optimizer step.
    pub step: u64,
    /// The documents of that step.
    pub documents: &'a Documents,
}

/// Why a cycle failed.
#[derive(Debug)]
pub struct PassFailure {
    /// The contributions in the pass that failed.
    pub members: Vec<usize>,
    /// What LibTorch or the model said.
    pub error: Box<ModelError>,
    /// Of the pass; none where it failed outside of one.
    size: Option<PassSize>,
}

impl PassFailure {
    /// Whether a smaller pass, or one that keeps less, could do.
    #[must_use]
    pub fn is_out_of_memory(&self) -> bool {
        is_out_of_memory(&self.error)
    }
}

/// Groups of one contribution, by index.
struct Group {
    member: usize,
    number: usize,
    documents: Vec<usize>,
    tokens: usize,
}

impl PassSize {
    fn of(groups: &[Group], places: &[usize]) -> Self {
        let groups = || places.iter().map(|place| &groups[*place]);
        Self {
            documents: groups().map(|group| group.documents.len()).sum(),
            tokens: groups().map(|group| group.tokens).sum(),
        }
    }
}

/// Runs `pass` over all documents until each contribution has its whole gradient. Returns, for each, Σ weight ·
/// cross-entropy: float64 scalars on the device, not read yet.
///
/// Where memory runs out, everything is done again, once: with half the budget, or with recomputation where the pass was
/// a single document. `limits` then stay there.
///
/// # Errors
/// A pass failed; gradients are then worthless.
pub fn accumulate(
    contributions: &[Contribution<'_>],
    limits: &mut Limits,
    pass: &mut Pass<'_>,
) -> Result<Vec<Tensor>, PassFailure> {
    match attempt(contributions, *limits, pass) {
        Err(PassFailure {
            error,
            size: Some(size),
            ..
        }) if is_out_of_memory(&error) => {
            limits.tighten(size);
            // Without a GPU there is nothing to give back, and its error says no more.
            let _ = empty_cuda_cache();
            attempt(contributions, *limits, pass)
        }
        result => result,
    }
}

fn is_out_of_memory(error: &ModelError) -> bool {
    error.code() == "out_of_memory"
}

fn attempt(
    contributions: &[Contribution<'_>],
    limits: Limits,
    pass: &mut Pass<'_>,
) -> Result<Vec<Tensor>, PassFailure> {
    let everyone = || (0..contributions.len()).collect();
    let torch = |error: tch::TchError| PassFailure {
        members: everyone(),
        error: Box::new(error.into()),
        size: None,
    };
    for contribution in contributions {
        let _ = contribution.gradient.shallow_clone().f_zero_().map_err(torch)?;
    }
    let groups = groups(contributions, limits.budget);
    let lengths: Vec<usize> = groups.iter().map(|group| group.tokens).collect();
    let mut losses: Vec<Vec<(usize, Tensor)>> = contributions.iter().map(|_| Vec::new()).collect();
    for places in pack(&lengths, limits.budget) {
        let size = PassSize::of(&groups, &places);
        let segments: Vec<Segment<'_>> = places
            .iter()
            .map(|place| segment(contributions, &groups[*place]))
            .collect();
        let scores = pass(&segments, limits.keep(size.tokens)).map_err(|error| PassFailure {
            members: members_of(&groups, &places),
            error: Box::new(error),
            size: Some(size),
        })?;
        for (place, scores) in places.iter().zip(scores) {
            let group = &groups[*place];
            losses[group.member].push((group.number, scores.loss_sum));
        }
    }
    losses
        .into_iter()
        .map(total)
        .collect::<Result<_, _>>()
        .map_err(torch)
}

fn groups(contributions: &[Contribution<'_>], budget: usize) -> Vec<Group> {
    let mut groups = Vec::new();
    for (member, contribution) in contributions.iter().enumerate() {
        let most = if contribution.dropout > 0.0 {
            budget.min(DROPOUT_GROUP_TOKENS)
        } else {
            budget
        };
        let lengths = contribution.documents.lengths();
        for (number, documents) in pack(&lengths, most).into_iter().enumerate() {
            groups.push(Group {
                member,
                number,
                tokens: documents.iter().map(|document| lengths[*document]).sum(),
                documents,
            });
        }
    }
    groups
}

fn segment<'a>(contributions: &[Contribution<'a>], group: &Group) -> Segment<'a> {
    let contribution = &contributions[group.member];
    let documents = contribution.documents;
    Segment {
        adapter: contribution.adapter,
        gradient: Some(contribution.gradient),
        scale: 1.0 / documents.weight_sum,
        dropout: Some(DropoutKey {
            seed: contribution.seed,
            step: contribution.step,
            micro_batch: group.number as u64,
        }),
        documents: group
            .documents
            .iter()
            .map(|document| documents.document(*document))
            .collect(),
    }
}

fn members_of(groups: &[Group], places: &[usize]) -> Vec<usize> {
    let mut members: Vec<usize> = places.iter().map(|place| groups[*place].member).collect();
    members.sort_unstable();
    members.dedup();
    members
}

/// In the order of the groups, whatever the order of the passes.
fn total(mut losses: Vec<(usize, Tensor)>) -> Result<Tensor, tch::TchError> {
    losses.sort_by_key(|(number, _)| *number);
    let losses: Vec<Tensor> = losses.into_iter().map(|(_, loss)| loss).collect();
    Tensor::f_stack(&losses, 0)?.f_sum(tch::Kind::Double)
}

#[cfg(test)]
mod tests;
