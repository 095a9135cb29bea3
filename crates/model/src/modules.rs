//! The linear layers of a block.

use tunesmith_types::hyperparameters::{TargetForm, TargetModules};

/// One of the seven linear layers of a Llama block, in the order of their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LinearLayer {
    /// `mlp.down_proj`
    DownProj,
    /// `mlp.gate_proj`
    GateProj,
    /// `self_attn.k_proj`
    KProj,
    /// `self_attn.o_proj`
    OProj,
    /// `self_attn.q_proj`
    QProj,
    /// `mlp.up_proj`
    UpProj,
    /// `self_attn.v_proj`
    VProj,
}

impl LinearLayer {
    /// All seven.
    pub const ALL: [Self; 7] = [
        Self::DownProj,
        Self::GateProj,
        Self::KProj,
        Self::OProj,
        Self::QProj,
        Self::UpProj,
        Self::VProj,
    ];

    /// PEFT's name of the module.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DownProj => "down_proj",
            Self::GateProj => "gate_proj",
            Self::KProj => "k_proj",
            Self::OProj => "o_proj",
            Self::QProj => "q_proj",
            Self::UpProj => "up_proj",
            Self::VProj => "v_proj",
        }
    }
}

/// The linear layers that `targets` names.
#[must_use]
pub fn targeted(targets: &TargetModules) -> Vec<LinearLayer> {
    let is_named = |layer: &LinearLayer| match targets.form() {
        TargetForm::AllLinear => true,
        TargetForm::Names(names) => names.iter().any(|name| name == layer.as_str()),
        TargetForm::Pattern(_) => false,
    };
    LinearLayer::ALL.into_iter().filter(is_named).collect()
}
