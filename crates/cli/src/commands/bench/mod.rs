//! `bench`: load on a deployment, and what its users would see of it.

mod answer;
mod load;
mod prompt;
mod report;

use std::{process::ExitCode, sync::Arc, time::Duration};

use crate::{
    args::{Global, bench::BenchArgs},
    client::ApiClient,
    printer::Printer,
    settings::ClientSettings,
};

use load::{Arrivals, Load, Until};
use report::Report;

/// How long requests are sent when nobody says.
const SECONDS: f64 = 10.0;

pub(super) async fn run(global: Global, args: BenchArgs, printer: Printer) -> anyhow::Result<ExitCode> {
    let api_url = args.base_url.as_deref().map(server).or(global.api_url);
    let global = Global { api_url, ..global };
    let client = Arc::new(ApiClient::new(ClientSettings::resolve(&global)?)?);
    let load = load_of(&args);
    printer.words(format_args!(
        "{} at {}{}: {}",
        args.model,
        client.api_url(),
        args.endpoint.path(),
        load.words()
    ));
    let finished = load::run(&client, &Arc::new(args.clone()), load).await;
    if finished.interrupted {
        printer.words("interrupted; this is what was answered until then");
    }
    let report = Report::of(&args.model, load, &finished);
    printer.result(&report, || report.text());
    Ok(if report.answered > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// OpenAI's clients are given addresses that end with `/v1`.
fn server(base_url: &str) -> String {
    let url = base_url.trim_end_matches('/');
    url.strip_suffix("/v1").unwrap_or(url).to_owned()
}

fn load_of(args: &BenchArgs) -> Load {
    let seconds = Duration::from_secs_f64(args.seconds.unwrap_or(SECONDS));
    Load {
        arrivals: args
            .rate
            .map_or(Arrivals::Closed(args.concurrency), Arrivals::Open),
        until: args.requests.map_or(Until::Elapsed(seconds), Until::Sent),
        seed: args.seed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_may_end_with_the_version() {
        for url in ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"] {
            assert_eq!(server(url), "http://h:1");
        }
    }
}
