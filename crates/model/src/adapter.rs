//! A LoRA adapter: for each adapted linear layer a pair of narrow matrices, `y = W x + s · B (A x)`.

use crate::modules::{LinearLayer, targeted};
use tch::{Device, Kind, Tensor, no_grad_guard};
use tunesmith_types::hyperparameters::TargetModules;

use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::random::uniform;
use crate::weights::{linear_path, linear_shape};

/// What decides an adapter's shape and effect besides its tensors.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraSettings {
    /// Width of the narrow matrices.
    pub rank: i64,
    /// Numerator of the scale.
    pub alpha: f64,
    /// Whether the scale is `alpha / sqrt(rank)` instead of `alpha / rank`.
    pub use_rslora: bool,
    /// Probability with which an input of `A` is zeroed in training.
    pub dropout: f64,
    /// The adapted layers, in every block.
    pub target_modules: TargetModules,
}

impl LoraSettings {
    /// `s`.
    #[must_use]
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        if self.use_rslora {
            self.alpha / rank.sqrt()
        } else {
            self.alpha / rank
        }
    }
}

/// One linear layer's part of an adapter.
#[derive(Debug)]
pub(crate) struct LoraPair {
    /// `[rank, in]`.
    pub(crate) a: Tensor,
    /// `[out, rank]`.
    pub(crate) b: Tensor,
}

/// A LoRA adapter. Trainable tensors are float32; [`Self::frozen`] makes the copy that serves.
#[derive(Debug)]
pub struct Adapter {
    settings: LoraSettings,
    /// One per block, each in the order of [`LinearLayer::ALL`].
    layers: Vec<[Option<LoraPair>; 7]>,
    /// `[size]`: every `A`, then every `B`; the pairs are views of it.
    flat: Tensor,
    /// Values of all `A`.
    size_of_a: i64,
}

impl Adapter {
    /// A fresh adapter that changes nothing yet: `A` Kaiming-uniform with `a = sqrt(5)`, that is uniform within
    /// `1 / sqrt(in)`, and `B` zero. The values depend on the seed and each tensor's name alone.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn fresh(
        config: &ModelConfig,
        settings: LoraSettings,
        seed: u64,
        device: Device,
    ) -> Result<Self, ModelError> {
        let rank = settings.rank;
        Self::from_pairs(config, settings, |layer, linear| {
            let (rows, columns) = linear_shape(config, linear);
            let bound = 1.0 / (columns as f32).sqrt();
            let a = uniform(
                seed,
                &tensor_name(layer, linear, Side::A),
                &[rank, columns],
                bound,
                device,
            )?;
            let b = Tensor::f_zeros([rows, rank], (Kind::Float, device))?;
            Ok(LoraPair { a, b })
        })
    }

    /// An adapter whose pairs come from `pair`, one call per block and target.
    pub(crate) fn from_pairs(
        config: &ModelConfig,
        settings: LoraSettings,
        mut pair: impl FnMut(usize, LinearLayer) -> Result<LoraPair, ModelError>,
    ) -> Result<Self, ModelError> {
        let mut layers = Vec::with_capacity(config.layers);
        for layer in 0..config.layers {
            let mut pairs = [const { None }; 7];
            for linear in targeted(&settings.target_modules) {
                pairs[linear as usize] = Some(pair(layer, linear)?);
            }
            layers.push(pairs);
        }
        Self::assemble(settings, layers)
    }

    /// Moves all tensors into one buffer.
    fn assemble(settings: LoraSettings, mut layers: Vec<[Option<LoraPair>; 7]>) -> Result<Self, ModelError> {
        let _guard = no_grad_guard();
        let pairs = |layers: &[[Option<LoraPair>; 7]]| -> Vec<[Tensor; 2]> {
            let all = layers.iter().flatten().flatten();
            all.map(|pair| [pair.a.shallow_clone(), pair.b.shallow_clone()])
                .collect()
        };
        let old = pairs(&layers);
        let sides = |side: usize| old.iter().map(move |pair| &pair[side]);
        let pieces = sides(0)
            .chain(sides(1))
            .map(|tensor| tensor.f_reshape([-1]))
            .collect::<Result<Vec<_>, _>>()?;
        let flat = Tensor::f_cat(&pieces, 0)?;
        let size_of_a = sides(0).map(|tensor| tensor.numel() as i64).sum();
        let (mut next_a, mut next_b) = (0, size_of_a);
        for pair in layers.iter_mut().flatten().flatten() {
            pair.a = view_of(&flat, &mut next_a, &pair.a.size())?;
            pair.b = view_of(&flat, &mut next_b, &pair.b.size())?;
        }
        Ok(Self {
            settings,
            layers,
            flat,
            size_of_a,
        })
    }

    /// All values in one buffer, `[size]`: every `A`, then every `B`. Writing to it changes the adapter.
    #[must_use]
    pub fn flat(&self) -> &Tensor {
        &self.flat
    }

    /// How many values of [`Self::flat`] belong to `A` matrices; the others belong to `B`.
    #[must_use]
    pub fn size_of_a(&self) -> i64 {
        self.size_of_a
    }

    /// Rank, alpha and so on.
    #[must_use]
    pub fn settings(&self) -> &LoraSettings {
        &self.settings
    }

    /// Changes the dropout probability, for instance of an adapter that is trained further.
    pub fn set_dropout(&mut self, probability: f64) {
        self.settings.dropout = probability;
    }

    /// Every tensor by its name in a PEFT folder. The order is fixed: by block, within it by layer name, `A` before `B`.
    #[must_use]
    pub fn parameters(&self) -> Vec<(String, &Tensor)> {
        let mut parameters = Vec::new();
        for (layer, pairs) in self.layers.iter().enumerate() {
            for linear in LinearLayer::ALL {
                if let Some(pair) = &pairs[linear as usize] {
                    parameters.push((tensor_name(layer, linear, Side::A), &pair.a));
                    parameters.push((tensor_name(layer, linear, Side::B), &pair.b));
                }
            }
        }
        parameters
    }

    /// Number of trainable values.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.flat.numel() as u64
    }

    /// Makes every tensor a leaf that collects gradients, or freezes all.
    ///
    /// # Errors
    /// LibTorch refused.
    pub fn set_trainable(&self, trainable: bool) -> Result<(), ModelError> {
        for (_, parameter) in self.parameters() {
            let _ = parameter.f_set_requires_grad(trainable)?;
        }
        Ok(())
    }

    /// Adds what autograd has collected in the tensors to `gradient`, a buffer like [`Self::flat`], and forgets it.
    pub(crate) fn take_gradients(&self, gradient: &Tensor) -> Result<(), ModelError> {
        let _guard = no_grad_guard();
        let (mut next_a, mut next_b) = (0, self.size_of_a);
        for pair in self.layers.iter().flatten().flatten() {
            for (tensor, next) in [(&pair.a, &mut next_a), (&pair.b, &mut next_b)] {
                let mut place = view_of(gradient, next, &tensor.size())?;
                let collected = tensor.f_grad()?;
                if collected.defined() {
                    let _ = place.f_add_(&collected)?;
                    tensor.shallow_clone().zero_grad();
                }
            }
        }
        Ok(())
    }

    /// A copy without gradients on `device` as `kind`, for serving: the model's compute format.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn frozen(&self, device: Device, kind: Kind) -> Result<Self, ModelError> {
        let copy = |tensor: &Tensor| -> Result<Tensor, ModelError> {
            let mut copied = Tensor::f_empty(tensor.size(), (kind, device))?;
            copied.f_copy_(&tensor.f_detach()?)?;
            Ok(copied)
        };
        let mut layers = Vec::with_capacity(self.layers.len());
        for pairs in &self.layers {
            let mut copies = [const { None }; 7];
            for (copied, pair) in copies.iter_mut().zip(pairs) {
                if let Some(pair) = pair {
                    *copied = Some(LoraPair {
                        a: copy(&pair.a)?,
                        b: copy(&pair.b)?,
                    });
                }
            }
            layers.push(copies);
        }
        Self::assemble(self.settings.clone(), layers)
    }

    pub(crate) fn pair(&self, layer: usize, linear: LinearLayer) -> Option<&LoraPair> {
        self.layers.get(layer)?[linear as usize].as_ref()
    }
}

fn view_of(flat: &Tensor, next: &mut i64, size: &[i64]) -> Result<Tensor, ModelError> {
    let length = size.iter().product::<i64>();
    let view = flat.f_narrow(0, *next, length)?.f_view(size)?;
    *next += length;
    Ok(view)
}

/// Which of the two matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    A,
    B,
}

/// PEFT's name of a tensor on disk.
pub(crate) fn tensor_name(layer: usize, linear: LinearLayer, side: Side) -> String {
    let side = match side {
        Side::A => 'A',
        Side::B => 'B',
    };
    format!(
        "base_model.model.model.layers.{layer}.{}.lora_{side}.weight",
        linear_path(linear)
    )
}

/// Shape of a tensor.
pub(crate) fn tensor_shape(config: &ModelConfig, linear: LinearLayer, rank: i64, side: Side) -> Vec<i64> {
    let (rows, columns) = linear_shape(config, linear);
    match side {
        Side::A => vec![rank, columns],
        Side::B => vec![rows, rank],
    }
}
