#![allow(clippy::unwrap_used)]
use std::path::Path;

use super::*;

fn registry(limit: usize, budget: usize) -> Arc<AdapterRegistry> {
    Arc::new(AdapterRegistry::new("base", limit, budget))
}

fn named(name: &str) -> Arc<NamedAdapter> {
    let fingerprint = Fingerprint {
        weights_bytes: 0,
        weights_sha256: String::new(),
        config_sha256: String::new(),
    };
    NamedAdapter::new(name, Path::new("/adapters"), None, fingerprint)
}

/// An adapter of ten bytes, with the lease that the engine thread holds.
fn load(registry: &Arc<AdapterRegistry>, name: &str) -> Arc<AdapterLease> {
    let lease = AdapterLease::new(name, 10);
    let reservation = registry.reserve(name).unwrap();
    reservation.publish(named(name), Arc::clone(&lease));
    lease
}

fn is_resident(registry: &AdapterRegistry, name: &str) -> bool {
    let names = registry.lock();
    names.entries[name].as_ref().unwrap().lease.is_some()
}

#[test]
fn a_name_is_taken_from_the_reservation_on() {
    let registry = registry(4, 100);
    let reservation = registry.reserve("a").unwrap();
    assert!(matches!(
        registry.reserve("a"),
        Err(AdapterError::AlreadyLoaded(_))
    ));
    assert!(registry.find("a").is_none());
    assert!(matches!(registry.remove("a"), Err(AdapterError::NotLoaded(_))));
    drop(reservation);
    load(&registry, "a");
    assert!(matches!(registry.find("a"), Some(Found::Resident(lease)) if lease.name == "a"));
    assert!(matches!(
        registry.reserve("base"),
        Err(AdapterError::NameOfBase(_))
    ));
}

#[test]
fn the_limit_counts_reservations() {
    let registry = registry(2, 100);
    let _first = registry.reserve("a").unwrap();
    load(&registry, "b");
    assert!(matches!(registry.reserve("c"), Err(AdapterError::TooMany(2))));
    registry.remove("b").unwrap();
    load(&registry, "c");
    assert_eq!(registry.all().len(), 1);
}

#[test]
fn a_lease_outlives_its_name() {
    let registry = registry(1, 100);
    let lease = load(&registry, "a");
    registry.remove("a").unwrap();
    assert!(registry.find("a").is_none());
    assert_eq!(Arc::strong_count(&lease), 1);
}

#[test]
fn the_least_recently_used_is_evicted_and_stays_listed() {
    let registry = registry(4, 20);
    let _engine = ["a", "b", "c"].map(|name| load(&registry, name));
    registry.find("a").unwrap();
    registry.evict();
    let resident = ["a", "b", "c"].map(|name| is_resident(&registry, name));
    assert_eq!(resident, [true, false, true]);
    assert_eq!(registry.all().len(), 3);
    let expected = Residency {
        resident: 2,
        evicted: 1,
        bytes: 20,
        budget: 20,
        loads: 3,
        evictions: 1,
    };
    assert_eq!(registry.residency(), expected);
}

#[test]
fn a_leased_adapter_is_never_evicted() {
    let registry = registry(4, 0);
    let _engine = ["a", "b"].map(|name| load(&registry, name));
    let request = registry.find("a").unwrap();
    registry.evict();
    assert!(is_resident(&registry, "a") && !is_resident(&registry, "b"));
    drop(request);
    registry.evict();
    assert!(!is_resident(&registry, "a"));
}

#[test]
fn tensors_come_back_only_to_the_adapter_they_are_of() {
    let registry = registry(4, 0);
    let _engine = load(&registry, "a");
    registry.evict();
    let Some(Found::Evicted(old)) = registry.find("a") else {
        panic!("a is resident")
    };
    let lease = AdapterLease::new("a", 10);
    registry.restore(&old, &lease);
    assert!(matches!(registry.find("a"), Some(Found::Resident(found)) if Arc::ptr_eq(&found, &lease)));
    // Another adapter under the name, loaded while the first one was being read back.
    registry.remove("a").unwrap();
    let other = load(&registry, "a");
    registry.restore(&old, &lease);
    assert!(matches!(registry.find("a"), Some(Found::Resident(found)) if Arc::ptr_eq(&found, &other)));
}
