//! Packing: documents of any length into groups with a token budget.

use std::cmp::Reverse;
use std::collections::BTreeSet;

/// Groups places (indices into `lengths`) so that no group has more than `budget` tokens, except a single document that
/// alone has more.
///
/// Best-fit decreasing: the longest document first, each into the group that it fills most, or into a new one where it
/// fits nowhere; ties go to the document, and to the group, that came first. So the result is a pure function of the
/// arguments, in `n log n` steps, and needs at most about 11/9 of the groups that the best packing would.
#[must_use]
pub fn pack(lengths: &[usize], budget: usize) -> Vec<Vec<usize>> {
    let mut places: Vec<usize> = (0..lengths.len()).collect();
    places.sort_by_key(|place| Reverse(lengths[*place]));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    // (tokens that still fit, group)
    let mut room: BTreeSet<(usize, usize)> = BTreeSet::new();
    for place in places {
        let length = lengths[place];
        let fullest = room.range((length, 0)..).next().copied();
        if let Some((free, group)) = fullest {
            room.remove(&(free, group));
            room.insert((free - length, group));
            groups[group].push(place);
        } else {
            room.insert((budget.saturating_sub(length), groups.len()));
            groups.push(vec![place]);
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::permutation;

    #[test]
    fn groups_keep_the_budget() {
        assert_eq!(pack(&[3, 9, 3, 4, 3], 10), [vec![1], vec![3, 0, 2], vec![4]]);
        assert_eq!(pack(&[50, 1], 10), [vec![0], vec![1]]);
        assert_eq!(pack(&[5, 5, 5, 5], 10), [vec![0, 1], vec![2, 3]]);
        assert!(pack(&[], 10).is_empty());
    }

    #[test]
    fn the_fullest_group_with_room_is_filled_first() {
        // 4 would fit beside 5, and beside 6, which it fills.
        assert_eq!(pack(&[6, 5, 4], 10), [vec![0, 2], vec![1]]);
        assert_eq!(
            pack(&[7, 6, 3, 2, 1, 1], 10),
            [vec![0, 2], vec![1, 3, 4, 5]],
            "no token of the budget is wasted"
        );
    }

    #[test]
    fn every_document_is_in_one_group_and_groups_are_few() {
        let lengths: Vec<usize> = permutation(3, 0, 5000)
            .into_iter()
            .map(|draw| 1 + draw % 700)
            .collect();
        let groups = pack(&lengths, 1024);
        let mut seen: Vec<usize> = groups.iter().flatten().copied().collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..5000).collect::<Vec<_>>());
        let tokens = |group: &Vec<usize>| group.iter().map(|place| lengths[*place]).sum::<usize>();
        assert!(groups.iter().all(|group| tokens(group) <= 1024));
        let least = lengths.iter().sum::<usize>().div_ceil(1024);
        assert!(groups.len() <= least * 11 / 9 + 1, "{} {least}", groups.len());
        assert_eq!(groups, pack(&lengths, 1024));
    }
}
