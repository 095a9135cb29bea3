//! safetensors files on a real disk, through real tensors.
#![allow(clippy::unwrap_used)]

use std::fs;

use tch::{Device, Kind, Tensor};
use tunesmith_torch_ext::{MappedFile, TensorFileError, write_tensor_file};

fn sample() -> Vec<(String, Tensor)> {
    let values: Vec<f32> = (0..12).map(|n| n as f32 * 0.25 - 1.0).collect();
    let matrix = Tensor::from_slice(&values).reshape([3, 4]);
    vec![
        ("bf16".into(), matrix.to_kind(Kind::BFloat16)),
        ("f16".into(), matrix.to_kind(Kind::Half)),
        ("f32".into(), matrix.shallow_clone()),
        ("f32.transposed".into(), matrix.tr()),
        ("i64".into(), Tensor::from_slice(&[7i64, -1])),
        ("none".into(), Tensor::zeros([0, 4], (Kind::Float, Device::Cpu))),
        ("scalar".into(), Tensor::from(2.5f32)),
    ]
}

#[test]
fn what_is_written_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    write_tensor_file(&path, &sample()).unwrap();
    let file = MappedFile::open(&path).unwrap();
    assert_eq!(
        file.names(),
        ["bf16", "f16", "f32", "f32.transposed", "i64", "none", "scalar"]
    );
    assert_eq!(file.metadata().unwrap()["format"], "pt");
    for (name, expected) in sample() {
        let read = file.load(&name, Device::Cpu, None).unwrap();
        assert_eq!(read.kind(), expected.kind(), "{name}");
        assert_eq!(read.size(), expected.size(), "{name}");
        assert!(read.equal(&expected), "{name}");
    }
    let converted = file.load("bf16", Device::Cpu, Some(Kind::Float)).unwrap();
    assert_eq!(converted.kind(), Kind::Float);
    assert!(converted.equal(&file.load("f32", Device::Cpu, None).unwrap()));
}

#[test]
fn tensors_outlive_the_map() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    write_tensor_file(&path, &sample()).unwrap();
    let file = MappedFile::open(&path).unwrap();
    let tensor = file.load("f32", Device::Cpu, None).unwrap();
    drop(file);
    fs::remove_file(&path).unwrap();
    assert_eq!(tensor.double_value(&[2, 3]), 1.75);
}

#[test]
fn the_same_tensors_give_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = ["a", "b"].map(|name| {
        let path = folder.path().join(name);
        write_tensor_file(&path, &sample()).unwrap();
        fs::read(path).unwrap()
    });
    assert_eq!(first, second);
}

#[test]
fn unaligned_data_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("odd.safetensors");
    let header = br#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}} "#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header);
    assert_ne!(bytes.len() % 4, 0, "the point of this test");
    bytes.extend([1.5f32, -2.0].iter().flat_map(|value| value.to_le_bytes()));
    fs::write(&path, bytes).unwrap();
    let tensor = MappedFile::open(&path)
        .unwrap()
        .load("x", Device::Cpu, None)
        .unwrap();
    assert!(tensor.equal(&Tensor::from_slice(&[1.5f32, -2.0])));
}

#[test]
fn damage_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    write_tensor_file(&path, &sample()).unwrap();
    let whole = fs::read(&path).unwrap();
    let broken = folder.path().join("broken.safetensors");
    for bytes in [
        &whole[..whole.len() - 1],
        &whole[..20],
        &[][..],
        &b"not safetensors at all"[..],
    ] {
        fs::write(&broken, bytes).unwrap();
        let error = MappedFile::open(&broken).unwrap_err();
        assert!(error.to_string().contains("broken.safetensors"), "{error}");
    }
    let error = MappedFile::open(&folder.path().join("absent")).unwrap_err();
    assert!(matches!(error, TensorFileError::Io { .. }));
    let error = MappedFile::open(&path)
        .unwrap()
        .load("weight", Device::Cpu, None)
        .unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("a.safetensors has no tensor `weight`"),
        "{error}"
    );
}

#[test]
fn unknown_element_types_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fp8.safetensors");
    let header = br#"{"w":{"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header);
    bytes.extend([0u8; 8]);
    fs::write(&path, bytes).unwrap();
    let error = MappedFile::open(&path)
        .unwrap()
        .load("w", Device::Cpu, None)
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("tensor `w` has elements of type F8_E4M3"),
        "{error}"
    );
}
