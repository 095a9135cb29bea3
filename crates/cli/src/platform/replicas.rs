//! Inference servers that somebody else runs, as the command line names them.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use tunesmith_gateway::{ReplicaKind, ReplicaSecret, StaticReplica};

use crate::{args::platform::ReplicaArgs, environment};

const FORM: &str = "BASE=URL[,kind=vllm|engine][,max_rank=N][,max_adapters=N][,api_key_env=NAME], such as `primer=http://10.0.0.7:8000,max_rank=64`";

/// The servers of `--replica`.
pub(super) fn parse(args: &ReplicaArgs) -> anyhow::Result<Vec<StaticReplica>> {
    args.replicas
        .iter()
        .map(|text| {
            parse_one(text, &environment::read)
                .with_context(|| format!("`{text}` is no replica; write it as {FORM}"))
        })
        .collect()
}

/// Where adapters are staged: `--replica-cache-dir`, else `usual`. Replicas open this path, so it must be absolute.
pub(super) fn cache_dir(args: &ReplicaArgs, usual: &Path) -> anyhow::Result<PathBuf> {
    let folder = args.replica_cache_dir.as_deref().unwrap_or(usual);
    std::path::absolute(folder).with_context(|| format!("cannot resolve {}", folder.display()))
}

fn parse_one(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<StaticReplica> {
    let (base, rest) = text.split_once('=').context("it has no `=`")?;
    let mut parts = rest.split(',');
    let url = parts.next().unwrap_or_default();
    ensure!(!base.is_empty(), "it names no base model");
    ensure!(
        url.starts_with("http://") || url.starts_with("https://"),
        "`{url}` is no http or https address"
    );
    let mut replica = StaticReplica::new(base, url, ReplicaKind::Vllm);
    for part in parts {
        let (key, value) = part
            .split_once('=')
            .with_context(|| format!("`{part}` has no `=`"))?;
        match key {
            "kind" => replica.kind = value.parse()?,
            "max_rank" => replica.max_rank = Some(count(key, value)?),
            "max_adapters" => replica.max_adapters = Some(count(key, value)?),
            "api_key_env" => {
                let secret = variable(value)
                    .with_context(|| format!("the environment variable {value} is not set"))?;
                replica.api_key = Some(ReplicaSecret::new(secret));
            }
            _ => bail!("`{key}` is unknown"),
        }
    }
    Ok(replica)
}

fn count(key: &str, value: &str) -> anyhow::Result<u32> {
    match value.parse() {
        Ok(count) if count > 0 => Ok(count),
        _ => bail!("`{key}` must be a whole number of at least 1, not `{value}`"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parsed(text: &str) -> anyhow::Result<StaticReplica> {
        parse_one(text, &|name| (name == "VLLM_KEY").then(|| "sesame".to_owned()))
    }

    #[test]
    fn all_parts_of_a_replica_are_read() {
        let plain = parsed("primer=http://10.0.0.7:8000/").unwrap();
        assert_eq!(
            plain,
            StaticReplica::new("primer", "http://10.0.0.7:8000", ReplicaKind::Vllm)
        );
        let full =
            parsed("primer=https://x:1,kind=engine,max_rank=64,max_adapters=8,api_key_env=VLLM_KEY").unwrap();
        let expected = StaticReplica {
            max_rank: Some(64),
            max_adapters: Some(8),
            api_key: Some(ReplicaSecret::new("sesame".to_owned())),
            ..StaticReplica::new("primer", "https://x:1", ReplicaKind::Engine)
        };
        assert_eq!(full, expected);
        assert!(!format!("{full:?}").contains("sesame"));
    }

    #[test]
    fn each_fault_is_named() {
        for (text, words) in [
            ("http://x", "no `=`"),
            ("=http://x", "no base model"),
            ("primer=10.0.0.7:8000", "no http"),
            ("primer=http://x,kind=sglang", "sglang"),
            ("primer=http://x,max_rank=0", "max_rank"),
            ("primer=http://x,max_rank", "no `=`"),
            ("primer=http://x,color=red", "color"),
            ("primer=http://x,api_key_env=NOTHING", "NOTHING"),
        ] {
            let error = format!("{:#}", parsed(text).unwrap_err());
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
