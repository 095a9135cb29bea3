//! A LoRA adapter: for each adapted module a pair of narrow matrices, `y = W x + s · B (A x)`.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor, no_grad_guard};
use tunesmith_torch_ext::kernels::AdapterTable;
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
    /// As kernels find it that read a step's table; made at its first step on such a device.
    pub(crate) table: OnceCell<AdapterTable>,
}

/// How tensors are kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Storage {
    kind: Kind,
    device: Device,
    /// Whether every `B` is stored transposed.
    is_frozen: bool,
}

impl Storage {
    /// As training has them: float32.
    pub(crate) fn training(device: Device) -> Self {
        Self {
            kind: Kind::Float,
            device,
            is_frozen: false,
        }
    }

    /// As serving has them, in the model's compute format.
    pub(crate) fn serving(device: Device, kind: Kind) -> Self {
        Self {
            kind,
            device,
            is_frozen: true,
        }
    }
}

/// A pair before it has tensors.
struct Outline {
    site: Site,
    rank: i64,
    scale: f64,
    a: Vec<i64>,
    b: Vec<i64>,
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
        Self::from_targets(
            config,
            settings,
            &targets,
            Storage::training(device),
            |target, side, place| {
                let name = tensor_name(&target.site.name(config), target.site, side);
                let (mut place, shape) = (place.shallow_clone(), place.size());
                match (target.site, side) {
                    (Site::Embedding, Side::A) | (Site::Block { .. } | Site::Head, Side::B) => {
                        let _ = place.f_zero_()?;
                    }
                    (Site::Embedding, Side::B) => place.f_copy_(&normal(seed, &name, &shape, 1.0)?)?,
                    (Site::Block { .. } | Site::Head, Side::A) => {
                        let bound = 1.0 / (shape[1] as f32).sqrt();
                        place.f_copy_(&uniform(seed, &name, &shape, bound, device)?)?;
                    }
                }
                Ok(())
            },
        )
    }

    /// An adapter whose tensors `fill` writes, one call per target and side with the place for it, in its shape.
    pub(crate) fn from_targets(
        config: &ModelConfig,
        settings: LoraSettings,
        targets: &[Target],
        storage: Storage,
        mut fill: impl FnMut(&Target, Side, &Tensor) -> Result<(), ModelError>,
    ) -> Result<Self, ModelError> {
        let _guard = no_grad_guard();
        let outlines = targets.iter().map(|target| Outline {
            site: target.site,
            rank: target.rank,
            scale: target.scale,
            a: target.shape(config, Side::A).to_vec(),
            b: target.shape(config, Side::B).to_vec(),
        });
        let name = |target: &Target| {
            let module = target.site.name(config);
            [Side::A, Side::B].map(|side| tensor_name(&module, target.site, side))
        };
        let names = targets.iter().map(name).collect();
        let adapter = Self::lay_out(settings, &outlines.collect::<Vec<_>>(), names, storage)?;
        for (target, pair) in targets.iter().zip(&adapter.pairs) {
            fill(target, Side::A, &pair.a)?;
            fill(target, Side::B, &pair.b)?;
        }
        Ok(adapter)
    }

    /// Whether this is the copy that [`Self::frozen`] makes.
    pub(crate) fn is_frozen(&self) -> bool {
        self.is_frozen
    }

    /// Tensors without values yet, in one buffer.
    fn lay_out(
        settings: LoraSettings,
        outlines: &[Outline],
        names: Vec<[String; 2]>,
        storage: Storage,
    ) -> Result<Self, ModelError> {
        let size = |shape: &[i64]| shape.iter().product::<i64>();
        let size_of_a = outlines.iter().map(|outline| size(&outline.a)).sum();
        let size_of_b: i64 = outlines.iter().map(|outline| size(&outline.b)).sum();
        let flat = Tensor::f_empty([size_of_a + size_of_b], (storage.kind, storage.device))?;
        let (mut next_a, mut next_b) = (0, size_of_a);
        let pairs = outlines.iter().map(|outline| {
            let b = if storage.is_frozen {
                view_of(&flat, &mut next_b, &[outline.b[1], outline.b[0]])?.f_transpose(0, 1)?
            } else {
                view_of(&flat, &mut next_b, &outline.b)?
            };
            Ok(LoraPair {
                site: outline.site,
                rank: outline.rank,
                scale: outline.scale,
                a: view_of(&flat, &mut next_a, &outline.a)?,
                b,
            })
        });
        let pairs = pairs.collect::<Result<Vec<_>, ModelError>>()?;
        Ok(Self {
            settings,
            places: Places::of(&pairs),
            pairs,
            names,
            flat,
            size_of_a,
            is_frozen: storage.is_frozen,
            table: OnceCell::new(),
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
        let _guard = no_grad_guard();
        let outlines = self.pairs.iter().map(|pair| Outline {
            site: pair.site,
            rank: pair.rank,
            scale: pair.scale,
            a: pair.a.size(),
            b: pair.b.size(),
        });
        let outlines: Vec<_> = outlines.collect();
        let storage = Storage::serving(device, kind);
        let mut frozen = Self::lay_out(self.settings.clone(), &outlines, self.names.clone(), storage)?;
        for (copy, pair) in frozen.pairs.iter_mut().zip(&self.pairs) {
            copy.a.f_copy_(&pair.a)?;
            copy.b.f_copy_(&pair.b)?;
        }
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
