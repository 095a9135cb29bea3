//! Merged model folders against the merge in memory.
#![allow(clippy::unwrap_used)]

mod support;

use support::{FAMILIES, golden};
use tch::{Device, Kind};
use tunesmith_model::{Adapter, CausalLm, Precision, merge_folder};

#[test]
fn a_merged_folder_is_the_rounded_merge_bit_for_bit() {
    for family in FAMILIES {
        let from = golden(family).join("base");
        let mut merged = CausalLm::load(&from, Device::Cpu, Precision::uniform(Kind::Float)).unwrap();
        let adapter = Adapter::load(&golden(family).join("adapter"), merged.config(), Device::Cpu).unwrap();
        merged.merge(&adapter).unwrap();
        for kind in [Kind::Float, Kind::Half, Kind::BFloat16] {
            let folder = tempfile::tempdir().unwrap();
            merge_folder(&from, &adapter, folder.path(), Some(kind), 60_000).unwrap();
            let unequal = merged.find_unequal(folder.path(), kind).unwrap();
            assert_eq!(unequal, None, "{family} {kind:?}");
        }
        // One bit of one weight.
        let folder = tempfile::tempdir().unwrap();
        merge_folder(&from, &adapter, folder.path(), Some(Kind::BFloat16), usize::MAX).unwrap();
        let file = folder.path().join("model.safetensors");
        let mut bytes = std::fs::read(&file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&file, bytes).unwrap();
        let unequal = merged.find_unequal(folder.path(), Kind::BFloat16).unwrap();
        assert!(unequal.is_some(), "{family}");
    }
}
