//! Packing the examples of one optimizer step into micro-batches with a token budget.

/// Groups places (indices into `lengths`) so that no group has more than `budget` tokens, except a single example that
/// alone has more. Longest first, so that equal lengths lie together; equal lengths keep their order.
#[must_use]
pub fn pack(lengths: &[usize], budget: usize) -> Vec<Vec<usize>> {
    let mut places: Vec<usize> = (0..lengths.len()).collect();
    places.sort_by_key(|place| std::cmp::Reverse(lengths[*place]));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut tokens = 0;
    for place in places {
        let length = lengths[place];
        match groups.last_mut() {
            Some(group) if tokens + length <= budget => {
                group.push(place);
                tokens += length;
            }
            _ => {
                groups.push(vec![place]);
                tokens = length;
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_keep_the_budget() {
        assert_eq!(pack(&[3, 9, 3, 4, 3], 10), [vec![1], vec![3, 0, 2], vec![4]]);
        assert_eq!(pack(&[50, 1], 10), [vec![0], vec![1]]);
        assert_eq!(pack(&[5, 5, 5, 5], 10), [vec![0, 1], vec![2, 3]]);
        assert!(pack(&[], 10).is_empty());
    }
}
