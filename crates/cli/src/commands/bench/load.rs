//! Sends requests in a closed or an open loop, and keeps what became of each.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::StreamExt;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{
    sync::mpsc::{UnboundedSender, unbounded_channel},
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use super::{
    answer::{Answer, Next, Reading, whole},
    prompt::body,
};
use crate::{
    args::bench::BenchArgs,
    client::{ApiClient, ApiFailure, events},
};

/// Names the version that answered.
const VERSION_HEADER: &str = "x-tunesmith-version";

/// A server that refuses at once is not asked again at once.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

/// When requests are sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Arrivals {
    /// So many at once; an answer lets the next go.
    Closed(u16),
    /// So many a second at random moments, as from many callers who know nothing of each other.
    Open(f64),
}

/// When no more are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    Sent(u64),
    Elapsed(Duration),
}

/// The load of one run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Load {
    pub(super) arrivals: Arrivals,
    pub(super) until: Until,
    pub(super) seed: u64,
}

impl Load {
    /// As people say it.
    pub(super) fn words(self) -> String {
        let arrivals = match self.arrivals {
            Arrivals::Closed(count) => format!("{count} requests at once"),
            Arrivals::Open(rate) => format!("{rate} requests/s at random moments"),
        };
        match self.until {
            Until::Sent(count) => format!("{arrivals}, {count} in all"),
            Until::Elapsed(time) => format!("{arrivals}, for {} s", time.as_secs_f64()),
        }
    }
}

/// A request that came to an end.
#[derive(Debug)]
pub(super) struct Sample {
    /// From the request to the end of its answer.
    pub(super) latency: Duration,
    /// The answer, or the code of the error.
    pub(super) outcome: Result<Answer, String>,
}

/// A run that is over.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) samples: Vec<Sample>,
    /// From the first request to the end of the last answer.
    pub(super) elapsed: Duration,
    pub(super) interrupted: bool,
}

/// Puts `load` on the server. Ctrl-C ends it early.
pub(super) async fn run(client: &Arc<ApiClient>, args: &Arc<BenchArgs>, load: Load) -> Finished {
    let (sender, mut results) = unbounded_channel();
    let began = Instant::now();
    let asking = Asking {
        client: Arc::clone(client),
        args: Arc::clone(args),
        results: sender,
        began,
        until: load.until,
        sent: Arc::new(AtomicU64::new(0)),
    };
    let mut tasks = JoinSet::new();
    match load.arrivals {
        Arrivals::Closed(count) => {
            for _ in 0..count {
                tasks.spawn(asking.clone().one_after_another());
            }
        }
        Arrivals::Open(rate) => drop(tasks.spawn(asking.clone().at_random_moments(rate, load.seed))),
    }
    drop(asking);
    let mut samples = Vec::new();
    let interrupt = tokio::signal::ctrl_c();
    tokio::pin!(interrupt);
    let interrupted = loop {
        tokio::select! {
            sample = results.recv() => match sample {
                Some(sample) => samples.push(sample),
                None => break false,
            },
            _ = &mut interrupt => break true,
        }
    };
    Finished {
        samples,
        elapsed: began.elapsed(),
        interrupted,
    }
}

/// A request was not answered; what became of it was told already.
#[derive(Debug)]
struct Refused;

/// What a sender of requests holds. The results end when the last of them is dropped.
#[derive(Debug, Clone)]
struct Asking {
    client: Arc<ApiClient>,
    args: Arc<BenchArgs>,
    results: UnboundedSender<Sample>,
    began: Instant,
    until: Until,
    sent: Arc<AtomicU64>,
}

impl Asking {
    async fn one_after_another(self) {
        while let Some(number) = self.next(Instant::now()) {
            if self.ask(number, Instant::now()).await.is_err() {
                sleep(PAUSE_AFTER_ERROR).await;
            }
        }
    }

    async fn at_random_moments(self, rate: f64, seed: u64) {
        let mut random = StdRng::seed_from_u64(seed);
        let mut requests = JoinSet::new();
        let mut at = self.began;
        // Each moment follows from the one before it and not from the clock, so a late request makes no other late.
        while let Some(number) = self.next(at) {
            sleep_until(at).await;
            let asking = self.clone();
            requests.spawn(async move { asking.ask(number, at).await.ok() });
            while requests.try_join_next().is_some() {}
            at += pause(&mut random, rate);
        }
        requests.join_all().await;
    }

    /// The number of the request to send at the moment `at`, if one is to be sent.
    fn next(&self, at: Instant) -> Option<u64> {
        let number = self.sent.fetch_add(1, Ordering::Relaxed);
        let goes = match self.until {
            Until::Sent(count) => number < count,
            Until::Elapsed(time) => at.duration_since(self.began) < time,
        };
        goes.then_some(number)
    }

    /// Sends one request. Its times count from `began`, when it was due.
    async fn ask(&self, number: u64, began: Instant) -> Result<(), Refused> {
        let outcome = answer(&self.client, &self.args, number, began).await;
        let answered = outcome.as_ref().map(drop).map_err(|_| Refused);
        let latency = began.elapsed();
        // Nobody listens any more after Ctrl-C.
        let _ = self.results.send(Sample { latency, outcome });
        answered
    }
}

/// A pause of a Poisson process: exponentially distributed, `1 / rate` seconds in the mean.
fn pause(random: &mut StdRng, rate: f64) -> Duration {
    let uniform: f64 = random.random();
    Duration::from_secs_f64(-(1.0 - uniform).ln() / rate)
}

async fn answer(client: &ApiClient, args: &BenchArgs, number: u64, began: Instant) -> Result<Answer, String> {
    let request = client.request(reqwest::Method::POST, args.endpoint.path()).await;
    let request = request
        .map_err(|error| failure(&error))?
        .json(&body(args, number));
    let response = client.send(request).await.map_err(|error| failure(&error))?;
    let version = response.headers().get(VERSION_HEADER);
    let version = version
        .and_then(|version| version.to_str().ok())
        .map(ToOwned::to_owned);
    if !args.stream {
        let body = response.json().await.map_err(|error| failure(&error.into()))?;
        return whole(began.elapsed(), &body, version);
    }
    let mut reading = Reading::default();
    let mut stream = std::pin::pin!(events(response));
    while let Some(event) = stream.next().await {
        let event = event.map_err(|_| "stream_broke_off".to_owned())?;
        if reading.event(began.elapsed(), &event.data)? == Next::Done {
            return Ok(reading.finish(version));
        }
    }
    Err("stream_without_end".to_owned())
}

/// The code under which an error is counted.
fn failure(error: &anyhow::Error) -> String {
    if let Some(answered) = error.downcast_ref::<ApiFailure>() {
        let code = answered.detail.as_ref().and_then(|detail| detail.code.clone());
        return code.unwrap_or_else(|| format!("status_{}", answered.status));
    }
    let code = match error.downcast_ref::<reqwest::Error>() {
        Some(error) if error.is_connect() => "cannot_connect",
        Some(error) if error.is_timeout() => "timeout",
        Some(error) if error.is_decode() => "unreadable_answer",
        _ => "broke_off",
    };
    code.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_moments_keep_their_rate() {
        let mut random = StdRng::seed_from_u64(7);
        let total: Duration = (0..20_000).map(|_| pause(&mut random, 50.0)).sum();
        let rate = 20_000.0 / total.as_secs_f64();
        assert!((48.0..52.0).contains(&rate), "{rate}");
    }
}
