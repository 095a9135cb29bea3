//! One of the four matrix products of a block.

use tch::Tensor;

use crate::error::ModelError;
use crate::modules::Projection;
use crate::weights::Loader;

/// `y = x Wᵀ + bias`.
#[derive(Debug)]
pub(crate) struct Linear {
    /// `[out, in]`: the rows of its modules one after the other.
    pub(crate) weight: Tensor,
    /// `[out]`.
    pub(crate) bias: Option<Tensor>,
}

impl Linear {
    /// Each module's weight goes from the file to its rows.
    pub(crate) fn load(
        loader: &Loader<'_>,
        layer: usize,
        projection: Projection,
    ) -> Result<Self, ModelError> {
        let config = loader.config;
        let (outputs, inputs) = projection.shape(config);
        let weight = loader.empty(&[outputs, inputs])?;
        let bias = projection
            .has_bias(config)
            .then(|| loader.empty(&[outputs]))
            .transpose()?;
        for module in config
            .modules
            .iter()
            .filter(|module| module.projection == projection)
        {
            let name = format!("model.layers.{layer}.{}", module.path);
            let rows = |merged: &Tensor| merged.f_narrow(0, module.rows.start, module.outputs());
            loader.source.fill(&format!("{name}.weight"), &rows(&weight)?)?;
            if let Some(bias) = &bias {
                loader.source.fill(&format!("{name}.bias"), &rows(bias)?)?;
            }
        }
        Ok(Self { weight, bias })
    }

    /// `x: [tokens, in]` to `[tokens, out]`, in the kind of `x` whatever the weight is kept in.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        let kind = x.f_kind()?;
        let bias = self.bias.as_ref().map(|bias| bias.f_to_kind(kind)).transpose()?;
        Ok(x.f_linear(&self.weight.f_to_kind(kind)?, bias.as_ref())?)
    }
}
