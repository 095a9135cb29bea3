//! How many imports there may be at a time. Each may fill gigabytes of temporary files, so that they are bounded for the
//! machine's sake, and for each organization, lest one keeps the others out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tunesmith_types::ids::OrganizationId;

use crate::error::ApiError;

const MOST: usize = 8;
const MOST_OF_ONE: usize = 2;
/// Seconds after which it is worth asking again.
const RETRY_AFTER: u64 = 10;

/// Imports under way, by organization.
#[derive(Debug, Default)]
pub struct ImportPlaces {
    taken: Mutex<HashMap<OrganizationId, usize>>,
}

/// One import's place; given back when it is dropped.
#[derive(Debug)]
pub(super) struct ImportPlace {
    places: Arc<ImportPlaces>,
    organization: OrganizationId,
}

impl ImportPlaces {
    /// # Errors
    /// The organization, or all together, have as many imports under way as there may be.
    pub(super) fn take(self: &Arc<Self>, organization: OrganizationId) -> Result<ImportPlace, ApiError> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.get(&organization).copied().unwrap_or(0);
        if own >= MOST_OF_ONE || taken.values().sum::<usize>() >= MOST {
            return Err(ApiError::Busy {
                code: "too_many_imports",
                message: format!(
                    "There are as many imports under way as there may be, {MOST_OF_ONE} of an organization and {MOST} in all. Try again in {RETRY_AFTER} seconds."
                ),
                retry_after: RETRY_AFTER,
            });
        }
        taken.insert(organization, own + 1);
        Ok(ImportPlace {
            places: Arc::clone(self),
            organization,
        })
    }
}

impl Drop for ImportPlace {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = taken.get_mut(&self.organization) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.organization);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn places_are_bounded_and_given_back() {
        let places = Arc::new(ImportPlaces::default());
        let organizations = [(); 5].map(|()| OrganizationId::new());
        let two = [(); 2].map(|()| places.take(organizations[0]).unwrap());
        let refused = places.take(organizations[0]).unwrap_err();
        assert!(refused.to_string().contains("too_many_imports"), "{refused}");
        let others: Vec<_> = organizations[1..4]
            .iter()
            .flat_map(|organization| [(); 2].map(|()| places.take(*organization).unwrap()))
            .collect();
        assert!(places.take(organizations[4]).is_err(), "all places are taken");
        drop(two);
        let _one = places.take(organizations[4]).unwrap();
        drop(others);
        assert_eq!(places.taken.lock().unwrap().len(), 1);
    }
}
