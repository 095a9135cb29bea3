//! Base models that this executable carries.

/// Files of one base model, in Hugging Face layout.
#[derive(Debug)]
pub(crate) struct BundledModel {
    pub(crate) name: &'static str,
    pub(crate) files: &'static [(&'static str, &'static [u8])],
}

include!(concat!(env!("OUT_DIR"), "/bundled_models.rs"));
