//! What a replica's `/metrics` says about its adapters, in Prometheus' text format.

use std::collections::HashSet;

const LORA_REQUESTS: &str = "vllm:lora_requests_info";
const START_TIME: &str = "process_start_time_seconds";

/// Numbers that the reconciler acts on.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct ReplicaMetrics {
    /// Adapters with requests that run or wait.
    pub(crate) busy: HashSet<String>,
    /// Our engine: most adapters loaded. vLLM: most adapters in one batch.
    pub(crate) max_lora: Option<usize>,
    /// When the process started, in unix seconds.
    pub(crate) started: Option<f64>,
}

impl ReplicaMetrics {
    /// Reads an exposition. Of the series of `vllm:lora_requests_info` only the one with the highest value, which is
    /// the time of its last change, is true; vLLM leaves the others standing.
    pub(crate) fn parse(text: &str) -> Self {
        let mut metrics = Self::default();
        let mut newest = f64::NEG_INFINITY;
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix(START_TIME) {
                metrics.started = rest.trim().parse().ok();
            } else if let Some(series) = line.strip_prefix(LORA_REQUESTS)
                && let Some((labels, value)) = series.rsplit_once('}')
                && let Ok(value) = value.trim().parse::<f64>()
                && value >= newest
            {
                newest = value;
                metrics.busy = ["running_lora_adapters", "waiting_lora_adapters"]
                    .iter()
                    .filter_map(|name| label(labels, name))
                    .flat_map(|names| names.split(','))
                    .map(|name| name.trim().to_owned())
                    .filter(|name| !name.is_empty())
                    .collect();
                metrics.max_lora = label(labels, "max_lora").and_then(|text| text.parse().ok());
            }
        }
        metrics
    }
}

/// Value of a label. Our names need no escapes, and others do not matter.
fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = labels.split_once(&format!("{name}=\""))?;
    Some(rest.split('"').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_series_counts() {
        let text = "# HELP vllm:lora_requests_info Running stats on lora requests.\n\
            vllm:lora_requests_info{max_lora=\"2\",running_lora_adapters=\"a--v1-00000000\",waiting_lora_adapters=\"\"} 1.5e+09\n\
            vllm:lora_requests_info{max_lora=\"2\",running_lora_adapters=\"b,c\",waiting_lora_adapters=\"d\"} 1.6e+09\n\
            process_start_time_seconds 1.789e+09\n";
        let metrics = ReplicaMetrics::parse(text);
        assert_eq!(metrics.busy, ["b", "c", "d"].map(ToOwned::to_owned).into());
        assert_eq!((metrics.max_lora, metrics.started), (Some(2), Some(1.789e9)));
        assert_eq!(ReplicaMetrics::parse("<html>"), ReplicaMetrics::default());
    }
}
