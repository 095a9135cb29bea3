//! Routes with a candidate among them.

use tunesmith_types::ids::AdapterVersionId;

use crate::revisions::Route;

/// The stable routes scaled to what `percent` for the candidate leaves, and the candidate behind them. Where whole
/// percents run out, the smallest shares go first.
#[must_use]
pub fn mixed(stable: &[Route], candidate: AdapterVersionId, percent: u8) -> Vec<Route> {
    let left = u32::from(100 - percent.min(100));
    let mut shares: Vec<(usize, u32, u32)> = stable
        .iter()
        .enumerate()
        .map(|(place, route)| {
            let exact = u32::from(route.weight) * left;
            (place, exact / 100, exact % 100)
        })
        .collect();
    // The largest remainders are rounded up.
    shares.sort_by_key(|(place, _, remainder)| (std::cmp::Reverse(*remainder), *place));
    let missing = left - shares.iter().map(|(_, whole, _)| whole).sum::<u32>();
    for share in shares.iter_mut().take(missing as usize) {
        share.1 += 1;
    }
    shares.sort_by_key(|(place, _, _)| *place);
    let mut routes: Vec<Route> = shares
        .iter()
        .filter(|(_, whole, _)| *whole > 0)
        .map(|(place, whole, _)| Route {
            weight: u8::try_from(*whole).unwrap_or(100),
            ..stable[*place].clone()
        })
        .collect();
    routes.push(Route::pinned(Some(candidate), percent.min(100)));
    routes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(stable: &[u8], percent: u8) -> Vec<u8> {
        let stable: Vec<Route> = stable
            .iter()
            .map(|weight| Route::pinned(Some(AdapterVersionId::new()), *weight))
            .collect();
        let routes = mixed(&stable, AdapterVersionId::new(), percent);
        routes.iter().map(|route| route.weight).collect()
    }

    #[test]
    fn the_candidate_gets_its_share_and_the_rest_keeps_its_proportions() {
        assert_eq!(weights(&[100], 5), [95, 5]);
        assert_eq!(weights(&[60, 40], 5), [57, 38, 5]);
        assert_eq!(weights(&[50, 50], 25), [38, 37, 25]);
        assert_eq!(weights(&[99, 1], 99), [1, 99]);
        assert_eq!(weights(&[34, 33, 33], 100), [100]);
        for percent in 1..=100 {
            let sum: u32 = weights(&[34, 33, 33], percent)
                .iter()
                .map(|weight| u32::from(*weight))
                .sum();
            assert_eq!(sum, 100, "{percent}");
        }
    }
}
