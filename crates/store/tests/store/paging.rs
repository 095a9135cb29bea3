//! Pages hold every row once, also while rows are added.

use tunesmith_store::jobs::{self, JobFilter};
use tunesmith_types::{ids::JobId, list::Page, states::JobState};

use crate::fixtures::Bench;

async fn page(bench: &Bench, after: Option<JobId>) -> (Vec<JobId>, bool) {
    let page = Page { after, limit: 3 };
    let rows = jobs::list(bench.store(), bench.organization, &JobFilter::default(), &page)
        .await
        .unwrap();
    (rows.rows.iter().map(|job| job.id).collect(), rows.has_more)
}

#[tokio::test]
async fn pages_are_stable_while_jobs_are_added() {
    let bench = Bench::new().await;
    let mut made = Vec::new();
    for _ in 0..7 {
        made.push(bench.job().await.id);
    }
    made.reverse();
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let (ids, has_more) = page(&bench, after).await;
        bench.job().await;
        after = ids.last().copied();
        seen.extend(ids);
        if !has_more {
            break;
        }
    }
    assert_eq!(seen, made);
}

#[tokio::test]
async fn the_last_full_page_has_no_more() {
    let bench = Bench::new().await;
    for _ in 0..3 {
        bench.job().await;
    }
    let (ids, has_more) = page(&bench, None).await;
    assert_eq!((ids.len(), has_more), (3, false));
    assert_eq!(page(&bench, Some(ids[2])).await, (vec![], false));
    assert_eq!(page(&bench, Some(JobId::new())).await, (vec![], false));
}

#[tokio::test]
async fn a_filter_chooses() {
    let bench = Bench::new().await;
    let other = bench.job_of("other").await;
    let job = bench.job().await;
    jobs::request_cancel(bench.store(), bench.organization, job.id)
        .await
        .unwrap();
    for (filter, expected) in [
        (
            JobFilter {
                state: Some(JobState::Cancelled),
                adapter: None,
            },
            job.id,
        ),
        (
            JobFilter {
                state: None,
                adapter: Some("other"),
            },
            other.id,
        ),
    ] {
        let rows = jobs::list(bench.store(), bench.organization, &filter, &Page::default())
            .await
            .unwrap()
            .rows;
        assert_eq!(rows.iter().map(|job| job.id).collect::<Vec<_>>(), [expected]);
    }
}
