//! Many requests on many adapters that come and go meanwhile: every answer is its own adapter's.

use std::{
    path::Path,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Instant,
};

use futures::{StreamExt, stream};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::sync::{RwLock, watch};

use crate::{
    golden,
    server::{Server, chunks},
    words::{self, WORDS},
};

const COMPLETIONS: &str = "/v1/completions";
/// Requests at once: twice what runs in one step, so that some always wait.
const CONCURRENT: usize = 32;

/// A name that is loaded now, and the word that its adapter answers.
struct Slot {
    name: String,
    word: &'static str,
}

/// The run's state. A slot is read from before a request is sent until its answer begins, when the server holds the
/// adapter for it; it is written while its name is unloaded. So no request asks for a name that is gone, and names go
/// while requests run on them.
struct Soak<'a> {
    server: &'a Server,
    folders: &'a Path,
    prompts: &'a [Vec<u32>],
    /// What the base model answers to each prompt.
    base: Vec<String>,
    slots: Vec<RwLock<Slot>>,
    loads: AtomicUsize,
    base_requests: AtomicUsize,
    streamed: AtomicUsize,
}

fn body(model: &str, prompt: &[u32], stream: bool) -> Value {
    json!({"model": model, "prompt": prompt, "temperature": 0, "max_tokens": 12, "stream": stream})
}

fn text(answer: &Value) -> &str {
    answer["choices"][0]["text"].as_str().unwrap()
}

impl Soak<'_> {
    async fn load(&self, name: &str, word: &str) {
        let response = self.server.load(name, &self.folders.join(word)).await;
        assert_eq!(response.status(), StatusCode::OK, "{name}: {word}");
        self.loads.fetch_add(1, Relaxed);
    }

    async fn unload(&self, name: &str) {
        assert_eq!(self.server.unload(name).await.status(), StatusCode::OK, "{name}");
    }

    /// Every ninth request is the base model's, every other one a stream; the rest goes round slots and prompts.
    async fn ask(&self, number: usize) {
        let place = number * 5 % self.prompts.len() + number / 7;
        let place = place % self.prompts.len();
        let (prompt, streams) = (&self.prompts[place], number.is_multiple_of(2));
        let slot = if number.is_multiple_of(9) {
            self.base_requests.fetch_add(1, Relaxed);
            None
        } else {
            Some(self.slots[number * 7 % 11 % WORDS.len()].read().await)
        };
        let (name, expected) = match &slot {
            None => ("base".to_owned(), self.base[place].clone()),
            Some(slot) => (slot.name.clone(), slot.word.to_owned()),
        };
        let response = self.server.post(COMPLETIONS, &body(&name, prompt, streams)).await;
        let found = if streams {
            self.streamed.fetch_add(1, Relaxed);
            // The answer has begun: from here on the adapter may be unloaded.
            drop(slot);
            let chunks = chunks(response).await;
            let pieces = chunks
                .iter()
                .filter_map(|chunk| chunk["choices"][0]["text"].as_str());
            pieces.collect()
        } else {
            let status = response.status();
            let answer: Value = response.json().await.unwrap();
            assert_eq!(status, StatusCode::OK, "{name}: {answer}");
            text(&answer).to_owned()
        };
        assert_eq!(found, expected, "request {number} on {name}");
    }

    /// Loads the slot's word under a new name beside the old one, or, every other round, another word under the old
    /// name.
    async fn swap(&self, number: usize) {
        let slot = &self.slots[number % WORDS.len()];
        if (number + number / WORDS.len()).is_multiple_of(2) {
            let name = format!("adapter-{}", WORDS.len() + number);
            let word = slot.read().await.word;
            self.load(&name, word).await;
            let mut slot = slot.write().await;
            let old = std::mem::replace(&mut slot.name, name);
            self.unload(&old).await;
        } else {
            let mut slot = slot.write().await;
            let place = WORDS.iter().position(|word| *word == slot.word).unwrap();
            slot.word = WORDS[(place + 3) % WORDS.len()];
            self.unload(&slot.name).await;
            self.load(&slot.name, slot.word).await;
        }
    }
}

/// `requests` answers, with room for the tensors of three adapters beside those in use, during `swaps` loads and unloads, evenly spread.
#[expect(clippy::print_stdout, reason = "what a run showed is for its reader")]
async fn soak(requests: usize, swaps: usize) {
    let began = Instant::now();
    let folders = words::train(&WORDS);
    let (trained, prompts) = (began.elapsed(), words::prompts());
    let weights = folders.path().join(WORDS[0]).join("adapter_model.safetensors");
    let room = (weights.metadata().unwrap().len() * 3).to_string();
    let server = Server::start(
        &golden::folder("llama", "base"),
        &["--adapter-cache-bytes", &room],
    );
    let mut base = Vec::new();
    for prompt in &prompts {
        let answer = server.ask(COMPLETIONS, &body("base", prompt, false)).await;
        base.push(text(&answer).to_owned());
    }
    assert!(base.iter().all(|answer| !WORDS.contains(&answer.as_str())));
    let slots = WORDS.iter().enumerate().map(|(number, word)| {
        RwLock::new(Slot {
            name: format!("adapter-{number}"),
            word,
        })
    });
    let soak = Soak {
        server: &server,
        folders: folders.path(),
        prompts: &prompts,
        base,
        slots: slots.collect(),
        loads: AtomicUsize::new(0),
        base_requests: AtomicUsize::new(0),
        streamed: AtomicUsize::new(0),
    };
    for slot in &soak.slots {
        let slot = slot.read().await;
        soak.load(&slot.name, slot.word).await;
    }
    let (answered, progress) = watch::channel(0);
    let began = Instant::now();
    let asking = stream::iter(0..requests).for_each_concurrent(CONCURRENT, |number| {
        let (soak, answered) = (&soak, &answered);
        async move {
            soak.ask(number).await;
            answered.send_modify(|count| *count += 1);
        }
    });
    let swapping = async {
        let mut progress = progress;
        for number in 0..swaps {
            let due = number * requests / swaps;
            progress.wait_for(|count| *count >= due).await.unwrap();
            soak.swap(number).await;
        }
    };
    tokio::join!(asking, swapping);
    let answered = *answered.borrow();
    assert_eq!(answered, requests);
    assert_eq!(soak.loads.load(Relaxed), WORDS.len() + swaps);
    let metrics = server.get("/metrics").await.text().await.unwrap();
    let evictions = metrics
        .lines()
        .find_map(|line| line.strip_prefix("tunesmith_engine_adapter_evictions_total "));
    let evictions: usize = evictions.unwrap().parse().unwrap();
    assert!(evictions > 0);
    println!(
        "{answered} answers ({} of the base model, {} streamed) during {swaps} loads and {swaps} unloads and \
         {evictions} evictions in {:.1} s, \
         no wrong word, none failed; 8 adapters trained in {:.1} s",
        soak.base_requests.load(Relaxed),
        soak.streamed.load(Relaxed),
        began.elapsed().as_secs_f32(),
        trained.as_secs_f32(),
    );
}

/// `TUNESMITH_SOAK=long` asks 10,000 questions during 200 loads and unloads, which takes minutes.
#[tokio::test]
async fn adapters_keep_to_their_words_while_others_come_and_go() {
    let is_long = std::env::var("TUNESMITH_SOAK").is_ok_and(|length| length == "long");
    let (requests, swaps) = if is_long { (10_000, 200) } else { (400, 32) };
    soak(requests, swaps).await;
}
