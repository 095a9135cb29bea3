//! A LoRA adapter: for each adapted module a pair of narrow matrices, `y = W x + s · B (A x)`.

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor, no_grad_guard};
use tunesmith_types::hyperparameters::TargetModules;

use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::modules::Site;
use crate::random::{normal, uniform};
use crate::targets::Target;

/// What decides an adapter's shape and effect besides its tensors, in PEFT's words.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraSettings {
    /// Width of the narrow matrices, where `rank_pattern` does not say it.
    pub rank: i64,
    /// Numerator of the scale, where `alpha_pattern` does not say it.
    pub alpha: f64,
    /// Whether the scale is `alpha / sqrt(rank)` instead of `alpha / rank`.
    pub use_rslora: bool,
    /// Probability with which an input of `A` is zeroed in training.
    pub dropout: f64,
    /// The adapted modules.
    pub target_modules: TargetModules,
    /// Ranks of single modules, by a regular expression on the end of their names.
    pub rank_pattern: BTreeMap<String, i64>,
    /// Alphas of single modules, likewise.
    pub alpha_pattern: BTreeMap<String, f64>,
    /// The blocks that are adapted, ascending; `None` is all.
    pub layers_to_transform: Option<Vec<u32>>,
}

impl LoraSettings {
    /// The scale of a module with this rank and alpha.
    #[must_use]
    pub(crate) fn scale(&self, rank: i64, alpha: f64) -> f64 {
        let rank = rank as f64;
        if self.use_rslora {
            alpha / rank.sqrt()
        } else {
            alpha / rank
        }
    }
}

/// One module's part of an adapter.
#[derive(Debug)]
pub struct LoraPair {
    /// The module.
    pub site: Site,
    /// Width of the narrow matrices.
    pub rank: i64,
    /// `s`.
    pub scale: f64,
    /// `[rank, in]`.
    pub a: Tensor,
    /// `[out, rank]`.
    pub b: Tensor,
}

/// A LoRA adapter. Trainable tensors are float32; [`Self::frozen`] makes the copy that serves.
#[derive(Debug)]
pub struct Adapter {
    settings: LoraSettings,
    /// In the order of [`Site::all`].
    pairs: Vec<LoraPair>,
    /// PEFT's names of `A` and `B` on disk, one entry per pair.
    names: Vec<[String; 2]>,
    places: Places,
    /// `[size]`: every `A`, then every `B`; the pairs are views of it.
    flat: Tensor,
    /// Values of all `A`.
    size_of_a: i64,
    /// Whether it is the form that serves: every `B` is a view of a packed `[rank, out]`.
    is_frozen: bool,
}

/// Indices into the pairs.
#[derive(Debug, Clone, Default)]
struct Places {
    embedding: Option<usize>,
    head: Option<usize>,
    /// By block and module.
    modules: Vec<Vec<Option<usize>>>,
}

impl Places {
    fn of(pairs: &[LoraPair]) -> Self {
        let mut places = Self::default();
        for (index, pair) in pairs.iter().enumerate() {
            match pair.site {
                Site::Embedding => places.embedding = Some(index),
                Site::Head => places.head = Some(index),
                Site::Block { layer, module } => {
                    let layers = &mut places.modules;
                    layers.resize_with(layers.len().max(layer + 1), Vec::new);
                    let modules = &mut layers[layer];
                    modules.resize(modules.len().max(module + 1), None);
                    modules[module] = Some(index);
                }
            }
        }
        places
    }
}

impl Adapter {
    /// A fresh adapter that changes nothing yet: `A` Kaiming-uniform with `a = sqrt(5)`, that is uniform within
    /// `1 / sqrt(in)`, and `B` zero; for the embedding `A` zero and `B` normal, as PEFT has it. The values depend on
    /// the seed and each tensor's name alone.
    ///
    /// # Errors
    /// The settings do not fit the model: nothing is targeted, a rank is above a module's smaller dimension, or a
    /// block is not there. Or there is no memory.
    pub fn fresh(
        config: &ModelConfig,
        settings: LoraSettings,
        seed: u64,
        device: Device,
    ) -> Result<Self, ModelError> {
        let targets = Target::resolve(config, &settings)?;
        Target::check_ranks(&targets, config)?;
        Self::from_targets(config, settings, &targets, |target, side, shape| {
            let name = tensor_name(&target.site.name(config), target.site, side);
            let zeros = || Ok(Tensor::f_zeros(shape, (Kind::Float, device))?);
            match (target.site, side) {
                (Site::Embedding, Side::A) | (Site::Block { .. } | Site::Head, Side::B) => zeros(),
                (Site::Embedding, Side::B) => Ok(normal(seed, &name, shape, 1.0)?.f_to_device(device)?),
                (Site::Block { .. } | Site::Head, Side::A) => {
                    uniform(seed, &name, shape, 1.0 / (shape[1] as f32).sqrt(), device)
                }
            }
        })
    }

    /// An adapter whose tensors come from `tensor`, one call per target and side with the shape.
    pub(crate) fn from_targets(
        config: &ModelConfig,
        settings: LoraSettings,
        targets: &[Target],
        mut tensor: impl FnMut(&Target, Side, &[i64]) -> Result<Tensor, ModelError>,
    ) -> Result<Self, ModelError> {
        let mut pairs = Vec::with_capacity(targets.len());
        let mut names = Vec::with_capacity(targets.len());
        for target in targets {
            let [a, b] = [Side::A, Side::B].map(|side| tensor(target, side, &target.shape(config, side)));
            pairs.push(LoraPair {
                site: target.site,
                rank: target.rank,
                scale: target.scale,
                a: a?,
                b: b?,
            });
            let module = target.site.name(config);
            names.push([Side::A, Side::B].map(|side| tensor_name(&module, target.site, side)));
        }
        Self::assemble(settings, pairs, names)
    }

    /// Whether this is the copy that [`Self::frozen`] makes.
    pub(crate) fn is_frozen(&self) -> bool {
        self.is_frozen
    }

    /// Moves all tensors into one buffer.
    fn assemble(
        settings: LoraSettings,
        mut pairs: Vec<LoraPair>,
        names: Vec<[String; 2]>,
    ) -> Result<Self, ModelError> {
        let _guard = no_grad_guard();
        let (all_a, all_b) = (pairs.iter().map(|pair| &pair.a), pairs.iter().map(|pair| &pair.b));
        let pieces = all_a
            .clone()
            .chain(all_b)
            .map(|tensor| tensor.f_reshape([-1]))
            .collect::<Result<Vec<_>, _>>()?;
        let size_of_a = all_a.map(|tensor| tensor.numel() as i64).sum();
        let flat = Tensor::f_cat(&pieces, 0)?;
        let (mut next_a, mut next_b) = (0, size_of_a);
        for pair in &mut pairs {
            pair.a = view_of(&flat, &mut next_a, &pair.a.size())?;
            pair.b = view_of(&flat, &mut next_b, &pair.b.size())?;
        }
        Ok(Self {
            settings,
            places: Places::of(&pairs),
            pairs,
            names,
            flat,
            size_of_a,
            is_frozen: false,
        })
    }

    /// All values in one buffer, `[size]`: every `A`, then every `B` (transposed in a frozen copy). Writing to it changes
    /// the adapter.
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

    /// The pairs, in the order of [`Site::all`].
    #[must_use]
    pub fn pairs(&self) -> &[LoraPair] {
        &self.pairs
    }

    /// The pair of a module, by block and index into [`ModelConfig::modules`].
    #[must_use]
    pub fn module(&self, layer: usize, module: usize) -> Option<&LoraPair> {
        let index = *self.places.modules.get(layer)?.get(module)?;
        index.map(|index| &self.pairs[index])
    }

    /// The pair of the output head.
    #[must_use]
    pub fn head(&self) -> Option<&LoraPair> {
        self.places.head.map(|index| &self.pairs[index])
    }

    /// The pair of the embedding; its `A` has a column per token.
    #[must_use]
    pub fn embedding(&self) -> Option<&LoraPair> {
        self.places.embedding.map(|index| &self.pairs[index])
    }

    /// Every tensor by its name in a PEFT folder: in the order of [`Self::pairs`], `A` before `B`.
    #[must_use]
    pub fn parameters(&self) -> Vec<(String, &Tensor)> {
        let named = self.names.iter().zip(&self.pairs);
        named
            .flat_map(|([a, b], pair)| [(a.clone(), &pair.a), (b.clone(), &pair.b)])
            .collect()
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
        for pair in &self.pairs {
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

    /// A copy without gradients on `device` as `kind`, for serving: the model's compute format. Every `B` is stored
    /// transposed there, so that what it adds is made many columns at a time.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn frozen(&self, device: Device, kind: Kind) -> Result<Self, ModelError> {
        let copy = |tensor: &Tensor| -> Result<Tensor, ModelError> {
            let mut copied = Tensor::f_empty(tensor.size(), (kind, device))?;
            copied.f_copy_(&tensor.f_detach()?)?;
            Ok(copied)
        };
        let pairs = self.pairs.iter().map(|pair| {
            Ok(LoraPair {
                site: pair.site,
                rank: pair.rank,
                scale: pair.scale,
                a: copy(&pair.a)?,
                b: copy(&pair.b.f_transpose(0, 1)?)?,
            })
        });
        let pairs = pairs.collect::<Result<Vec<_>, ModelError>>()?;
        let mut frozen = Self::assemble(self.settings.clone(), pairs, self.names.clone())?;
        for pair in &mut frozen.pairs {
            pair.b = pair.b.f_transpose(0, 1)?;
        }
        frozen.is_frozen = true;
        Ok(frozen)
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

/// PEFT's name of a tensor on disk, for the module of that name.
pub(crate) fn tensor_name(module: &str, site: Site, side: Side) -> String {
    let side = match side {
        Side::A => 'A',
        Side::B => 'B',
    };
    match site {
        Site::Embedding => format!("base_model.model.{module}.lora_embedding_{side}"),
        Site::Block { .. } | Site::Head => format!("base_model.model.{module}.lora_{side}.weight"),
    }
}
