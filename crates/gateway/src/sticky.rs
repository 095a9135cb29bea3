//! Which arm answers whom. The same key of the same deployment finds the same arm as long as the shares stay, and a
//! share that grows only draws keys to itself.
//!
//! Each arm draws a number from the key and its own version, exponentially distributed with its weight as the rate;
//! the smallest wins. So an arm wins as often as its weight says, and one that gains weight can only win more.

use sha2::{Digest, Sha256};
use tunesmith_types::ids::{AdapterVersionId, DeploymentId};

/// What ties requests together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Affinity(Vec<u8>);

impl Affinity {
    /// By the session that the caller names, else by the user, else by nothing.
    pub(crate) fn new(session: Option<&[u8]>, user: Option<&str>) -> Self {
        let tagged = |tag: u8, key: &[u8]| [&[tag], key].concat();
        let key = match (session, user) {
            (Some(session), _) if !session.is_empty() => tagged(b's', session),
            (_, Some(user)) if !user.is_empty() => tagged(b'u', user.as_bytes()),
            _ => tagged(b'r', uuid::Uuid::new_v4().as_bytes()),
        };
        Self(key)
    }
}

/// Place of the arm, among `(version, weight)`, that answers; none where there is no arm.
pub(crate) fn choose(
    deployment: DeploymentId,
    affinity: &Affinity,
    arms: impl ExactSizeIterator<Item = (Option<AdapterVersionId>, u8)>,
) -> Option<usize> {
    if arms.len() == 1 {
        return Some(0);
    }
    arms.enumerate()
        .filter(|(_, (_, weight))| *weight > 0)
        .map(|(place, (version, weight))| (place, draw(deployment, affinity, version) / f64::from(weight)))
        .min_by(|(_, a), (_, b)| a.total_cmp(b))
        .map(|(place, _)| place)
}

/// An exponentially distributed number with rate 1, always the same for the same arguments.
fn draw(deployment: DeploymentId, affinity: &Affinity, version: Option<AdapterVersionId>) -> f64 {
    let digest = Sha256::new()
        .chain_update(deployment.uuid().as_bytes())
        .chain_update(
            version
                .map_or(uuid::Uuid::nil(), AdapterVersionId::uuid)
                .as_bytes(),
        )
        .chain_update(&affinity.0)
        .finalize();
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest[..8]);
    // 53 bits, from just above 0 to 1.
    #[allow(clippy::cast_precision_loss, reason = "53 bits are exact")]
    let uniform = ((u64::from_le_bytes(bytes) >> 11) + 1) as f64 / (1_u64 << 53) as f64;
    -uniform.ln()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const KEYS: usize = 20_000;

    fn key(number: usize) -> Affinity {
        Affinity::new(Some(format!("conversation {number}").as_bytes()), None)
    }

    fn chosen(deployment: DeploymentId, arms: &[(Option<AdapterVersionId>, u8)]) -> Vec<usize> {
        (0..KEYS)
            .map(|number| choose(deployment, &key(number), arms.iter().copied()).unwrap())
            .collect()
    }

    #[test]
    fn each_arm_has_its_share_within_what_chance_allows() {
        let (a, b) = (Some(AdapterVersionId::new()), Some(AdapterVersionId::new()));
        for weights in [[50, 45, 5], [90, 9, 1], [34, 33, 33]] {
            let arms = [(None, weights[0]), (a, weights[1]), (b, weights[2])];
            let chosen = chosen(DeploymentId::new(), &arms);
            for (place, (_, weight)) in arms.iter().enumerate() {
                let found = chosen.iter().filter(|chosen| **chosen == place).count();
                let (found, p) = (found as f64, f64::from(*weight) / 100.0);
                let expected = KEYS as f64 * p;
                // Five standard deviations of the binomial distribution.
                let bound = 5.0 * (expected * (1.0 - p)).sqrt();
                assert!(
                    (found - expected).abs() < bound,
                    "{weights:?}: {found} of {expected}"
                );
            }
        }
    }

    #[test]
    fn a_growing_canary_only_draws_keys_to_itself() {
        let deployment = DeploymentId::new();
        let (stable, other) = (Some(AdapterVersionId::new()), None);
        let canary = Some(AdapterVersionId::new());
        let mut before = chosen(deployment, &[(stable, 60), (other, 40)]);
        for (a, b, share) in [(57, 38, 5), (45, 30, 25), (30, 20, 50)] {
            let after = chosen(deployment, &[(stable, a), (other, b), (canary, share)]);
            let mut moved = 0;
            for (before, after) in before.iter().zip(&after) {
                assert!(
                    before == after || *after == 2,
                    "a key moved from {before} to {after}"
                );
                moved += usize::from(before != after);
            }
            assert!(moved > 0);
            before = after;
        }
        // And back: whoever was not drawn to the canary sees no change at all.
        let back = chosen(deployment, &[(stable, 60), (other, 40)]);
        assert!(
            before
                .iter()
                .zip(&back)
                .all(|(before, back)| *before == 2 || before == back)
        );
    }

    #[test]
    fn the_order_of_the_arms_does_not_matter_and_deployments_differ() {
        let (a, b) = (Some(AdapterVersionId::new()), None);
        let (first, second) = (DeploymentId::new(), DeploymentId::new());
        let one = chosen(first, &[(a, 30), (b, 70)]);
        let other = chosen(first, &[(b, 70), (a, 30)]);
        assert!(one.iter().zip(&other).all(|(one, other)| one + other == 1));
        assert_ne!(one, chosen(second, &[(a, 30), (b, 70)]));
    }

    #[test]
    fn a_session_counts_before_a_user_and_nothing_is_random() {
        assert_eq!(
            Affinity::new(Some(b"s"), Some("u")),
            Affinity::new(Some(b"s"), None)
        );
        assert_ne!(Affinity::new(Some(b"x"), None), Affinity::new(None, Some("x")));
        assert_ne!(Affinity::new(None, None), Affinity::new(None, None));
        assert_eq!(
            Affinity::new(Some(b""), Some("u")),
            Affinity::new(None, Some("u"))
        );
    }
}
