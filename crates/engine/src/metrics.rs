//! What is counted, and how Prometheus reads it. Names are vLLM's where vLLM has one, so that its dashboards and the
//! routers that read its gauges work unchanged; ours begin with `tunesmith_engine_`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::{
        Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::registry::Residency;

/// Upper ends of the latency buckets, in seconds.
const BUCKETS: [f64; 12] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// A histogram of durations.
#[derive(Debug, Default)]
struct Durations {
    counts: [AtomicU64; BUCKETS.len()],
    total: AtomicU64,
    microseconds: AtomicU64,
}

impl Durations {
    fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        if let Some(bucket) = BUCKETS.iter().position(|end| seconds <= *end) {
            self.counts[bucket].fetch_add(1, Relaxed);
        }
        self.total.fetch_add(1, Relaxed);
        self.microseconds
            .fetch_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    fn write(&self, out: &mut String, name: &str, help: &str, model: &str) {
        header(out, name, "histogram", help);
        let mut below = 0;
        for (end, count) in BUCKETS.iter().zip(&self.counts) {
            below += count.load(Relaxed);
            line(
                out,
                &format!("{name}_bucket"),
                &[("le", &end.to_string()), ("model_name", model)],
                below,
            );
        }
        let total = self.total.load(Relaxed);
        line(
            out,
            &format!("{name}_bucket"),
            &[("le", "+Inf"), ("model_name", model)],
            total,
        );
        #[expect(
            clippy::cast_precision_loss,
            reason = "microseconds of a century fit float64 exactly"
        )]
        let seconds = self.microseconds.load(Relaxed) as f64 / 1e6;
        line(out, &format!("{name}_sum"), &[("model_name", model)], seconds);
        line(out, &format!("{name}_count"), &[("model_name", model)], total);
    }
}

/// Counts of one model name: the base model or an adapter.
#[derive(Debug, Default)]
struct ModelCounts {
    prompt_tokens: u64,
    generation_tokens: u64,
    ended: BTreeMap<&'static str, u64>,
}

/// Adapters of the sequences that run and wait.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct AdaptersInUse {
    /// Running now.
    pub running: BTreeSet<String>,
    /// Waiting for a place.
    pub waiting: BTreeSet<String>,
}

/// All counters of this process.
#[derive(Debug, Default)]
pub struct Metrics {
    running: AtomicUsize,
    waiting: AtomicUsize,
    kv_budget: AtomicUsize,
    kv_running: AtomicUsize,
    kv_cached: AtomicUsize,
    prompt_queried: AtomicU64,
    prompt_cached: AtomicU64,
    steps: AtomicU64,
    merged_steps: AtomicU64,
    preemptions: AtomicU64,
    first_token: Durations,
    whole: Durations,
    /// By adapter; `None` is the base model.
    models: Mutex<BTreeMap<Option<String>, ModelCounts>>,
    adapters: Mutex<AdaptersInUse>,
}

impl Metrics {
    /// Says how many sequences run and wait, and on which adapters.
    pub fn set_load(&self, running: usize, waiting: usize, adapters: AdaptersInUse) {
        self.running.store(running, Relaxed);
        self.waiting.store(waiting, Relaxed);
        *self
            .adapters
            .lock()
            .expect("invariant: no holder of the lock panics") = adapters;
    }

    /// Says how many bytes of keys and values there may be, are bound by running sequences, and are kept of ended ones.
    pub fn set_memory(&self, budget: usize, running: usize, cached: usize) {
        self.kv_budget.store(budget, Relaxed);
        self.kv_running.store(running, Relaxed);
        self.kv_cached.store(cached, Relaxed);
    }

    /// Counts a forward pass, and whether it ran on merged weights.
    pub fn step(&self, on_merged: bool) {
        self.steps.fetch_add(1, Relaxed);
        self.merged_steps.fetch_add(u64::from(on_merged), Relaxed);
    }

    /// Counts a sequence that gave up its memory for those that came before it.
    pub fn preempted(&self) {
        self.preemptions.fetch_add(1, Relaxed);
    }

    /// Counts a prompt whose first `cached` of `tokens` tokens need not be read.
    pub fn prompt_begun(&self, tokens: usize, cached: usize) {
        self.prompt_queried.fetch_add(tokens as u64, Relaxed);
        self.prompt_cached.fetch_add(cached as u64, Relaxed);
    }

    /// Counts a first token.
    pub fn first_token(&self, after: Duration) {
        self.first_token.observe(after);
    }

    /// Counts a sequence that ended. `adapter`: `None` is the base model; `reason`: stop, length, abort or error.
    pub fn ended(
        &self,
        adapter: Option<&str>,
        reason: &'static str,
        prompt: usize,
        generated: usize,
        after: Duration,
    ) {
        self.whole.observe(after);
        let mut models = self
            .models
            .lock()
            .expect("invariant: no holder of the lock panics");
        let counts = models.entry(adapter.map(ToOwned::to_owned)).or_default();
        counts.prompt_tokens += prompt as u64;
        counts.generation_tokens += generated as u64;
        *counts.ended.entry(reason).or_default() += 1;
    }

    /// The exposition text. `base`: the base model's name; `limit`: most adapters; `residency`: which are in
    /// memory.
    #[must_use]
    pub fn render(&self, base: &str, limit: usize, residency: &Residency) -> String {
        let mut out = String::new();
        let model = [("model_name", base)];
        for (name, help, value) in [
            (
                "vllm:num_requests_running",
                "Sequences that are being generated.",
                self.running.load(Relaxed),
            ),
            (
                "vllm:num_requests_waiting",
                "Sequences that wait for a place.",
                self.waiting.load(Relaxed),
            ),
        ] {
            header(&mut out, name, "gauge", help);
            line(&mut out, name, &model, value);
        }
        self.write_memory(&mut out, &model);
        self.write_adapters(&mut out, limit);
        write_residency(&mut out, residency);
        self.write_models(&mut out, base);
        let help = "Seconds from the request to its first token.";
        self.first_token
            .write(&mut out, "vllm:time_to_first_token_seconds", help, base);
        let help = "Seconds from the request to its end.";
        self.whole
            .write(&mut out, "vllm:e2e_request_latency_seconds", help, base);
        out
    }

    fn write_memory(&self, out: &mut String, model: &[(&str, &str)]) {
        let name = "tunesmith_engine_kv_cache_bytes";
        header(out, name, "gauge", "Bytes of keys and values.");
        for (state, bytes) in [
            ("budget", &self.kv_budget),
            ("running", &self.kv_running),
            ("cached", &self.kv_cached),
        ] {
            line(out, name, &[model[0], ("state", state)], bytes.load(Relaxed));
        }
        for (name, help, count) in [
            (
                "vllm:prefix_cache_queries_total",
                "Tokens of prompts that were looked up.",
                &self.prompt_queried,
            ),
            (
                "vllm:prefix_cache_hits_total",
                "Tokens of prompts that were not read anew.",
                &self.prompt_cached,
            ),
            (
                "vllm:num_preemptions_total",
                "Times that a sequence gave up its memory for those that came before it.",
                &self.preemptions,
            ),
            ("tunesmith_engine_steps_total", "Forward passes.", &self.steps),
            (
                "tunesmith_engine_merged_steps_total",
                "Forward passes on merged weights.",
                &self.merged_steps,
            ),
        ] {
            header(out, name, "counter", help);
            line(out, name, model, count.load(Relaxed));
        }
    }

    /// vLLM's gauge for routers: the labels carry the lists, the value is the time.
    fn write_adapters(&self, out: &mut String, limit: usize) {
        let adapters = self
            .adapters
            .lock()
            .expect("invariant: no holder of the lock panics")
            .clone();
        let join = |names: BTreeSet<String>| names.into_iter().collect::<Vec<_>>().join(",");
        let labels = [
            ("max_lora", limit.to_string()),
            ("running_lora_adapters", join(adapters.running)),
            ("waiting_lora_adapters", join(adapters.waiting)),
        ];
        let labels = labels.each_ref().map(|(name, value)| (*name, value.as_str()));
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs_f64();
        header(
            out,
            "vllm:lora_requests_info",
            "gauge",
            "Adapters of running and waiting sequences.",
        );
        line(out, "vllm:lora_requests_info", &labels, now);
    }

    fn write_models(&self, out: &mut String, base: &str) {
        let models = self
            .models
            .lock()
            .expect("invariant: no holder of the lock panics");
        let base_label = ("model_name", base);
        let sum = |of: fn(&ModelCounts) -> u64| models.values().map(of).sum::<u64>();
        let name = "vllm:prompt_tokens_total";
        header(out, name, "counter", "Tokens of prompts.");
        line(out, name, &[base_label], sum(|counts| counts.prompt_tokens));
        let name = "vllm:generation_tokens_total";
        header(out, name, "counter", "Generated tokens.");
        line(out, name, &[base_label], sum(|counts| counts.generation_tokens));
        let name = "vllm:request_success_total";
        header(out, name, "counter", "Ended sequences, by reason.");
        for reason in ["stop", "length", "abort", "error"] {
            let ended = models.values().filter_map(|counts| counts.ended.get(reason));
            line(
                out,
                name,
                &[("finished_reason", reason), base_label],
                ended.sum::<u64>(),
            );
        }
        let name = "tunesmith_engine_tokens_total";
        header(
            out,
            name,
            "counter",
            "Tokens by model, the base model or an adapter.",
        );
        for (adapter, counts) in models.iter() {
            let model = ("model", adapter.as_deref().unwrap_or(base));
            line(out, name, &[model, ("kind", "prompt")], counts.prompt_tokens);
            line(
                out,
                name,
                &[model, ("kind", "generation")],
                counts.generation_tokens,
            );
        }
    }
}

fn write_residency(out: &mut String, residency: &Residency) {
    let name = "tunesmith_engine_adapters";
    header(
        out,
        name,
        "gauge",
        "Loaded adapters, by whether their tensors are in memory.",
    );
    line(out, name, &[("state", "resident")], residency.resident);
    line(out, name, &[("state", "evicted")], residency.evicted);
    let name = "tunesmith_engine_adapter_bytes";
    header(out, name, "gauge", "Bytes of adapters' tensors.");
    line(out, name, &[("state", "budget")], residency.budget);
    line(out, name, &[("state", "resident")], residency.bytes);
    for (name, help, count) in [
        (
            "tunesmith_engine_adapter_loads_total",
            "Times that an adapter's tensors were read.",
            residency.loads,
        ),
        (
            "tunesmith_engine_adapter_evictions_total",
            "Times that an adapter's tensors were evicted.",
            residency.evictions,
        ),
    ] {
        header(out, name, "counter", help);
        line(out, name, &[], count);
    }
}

fn header(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(out: &mut String, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
    let escape = |text: &str| {
        text.replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n")
    };
    let labels: Vec<String> = labels
        .iter()
        .map(|(name, value)| format!("{name}=\"{}\"", escape(value)))
        .collect();
    let _ = if labels.is_empty() {
        writeln!(out, "{name} {value}")
    } else {
        writeln!(out, "{name}{{{}}} {value}", labels.join(","))
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_summed_and_kept_by_model() {
        let metrics = Metrics::default();
        metrics.ended(None, "stop", 10, 3, Duration::from_millis(20));
        metrics.ended(Some("support"), "length", 5, 4, Duration::from_secs(100));
        let adapters = AdaptersInUse {
            running: ["a".into(), "b".into()].into(),
            waiting: BTreeSet::default(),
        };
        metrics.set_load(2, 1, adapters);
        let residency = Residency {
            resident: 2,
            evicted: 1,
            evictions: 7,
            ..Residency::default()
        };
        let text = metrics.render("base", 8, &residency);
        for expected in [
            "vllm:num_requests_running{model_name=\"base\"} 2\n",
            "vllm:num_requests_waiting{model_name=\"base\"} 1\n",
            "vllm:prompt_tokens_total{model_name=\"base\"} 15\n",
            "vllm:generation_tokens_total{model_name=\"base\"} 7\n",
            "vllm:request_success_total{finished_reason=\"length\",model_name=\"base\"} 1\n",
            "tunesmith_engine_tokens_total{model=\"support\",kind=\"generation\"} 4\n",
            "{max_lora=\"8\",running_lora_adapters=\"a,b\",waiting_lora_adapters=\"\"} ",
            "tunesmith_engine_adapters{state=\"evicted\"} 1\n",
            "tunesmith_engine_adapter_evictions_total 7\n",
            "vllm:e2e_request_latency_seconds_bucket{le=\"0.025\",model_name=\"base\"} 1\n",
            "vllm:e2e_request_latency_seconds_bucket{le=\"60\",model_name=\"base\"} 1\n",
            "vllm:e2e_request_latency_seconds_bucket{le=\"+Inf\",model_name=\"base\"} 2\n",
        ] {
            assert!(text.contains(expected), "{expected} is not in\n{text}");
        }
    }

    #[test]
    fn labels_are_escaped() {
        let mut out = String::new();
        line(&mut out, "m", &[("model", "a\"b\\\n")], 1);
        assert_eq!(out, "m{model=\"a\\\"b\\\\\\n\"} 1\n");
    }
}
