//! How each adapter stands on each replica: Missing → Staged → Loading → Probing → Ready → Draining, then forgotten.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use uuid::Uuid;

use crate::fleet::ReplicaKey;

/// A pending revision fails after this many tries that each failed for a reason that might pass.
pub(crate) const MOST_ATTEMPTS: u32 = 6;
/// Longest pause between two tries on one replica.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Where an adapter is on its way onto a replica and off it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// To be brought, or thought to be there and to be looked at again.
    Missing,
    /// Its files are on the disk.
    Staged,
    /// The replica reads them.
    Loading,
    /// It is asked what it was asked at the end of its training.
    Probing,
    /// Requests may go to it.
    Ready,
    /// No new requests go to it; those that run are waited for.
    Draining,
}

/// An adapter, by its name inside replicas, on a replica.
pub(crate) type SlotKey = (ReplicaKey, String);

/// How an adapter stands, for those who wait for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    Ready,
    Underway,
    /// Why it will not be ready, in words for its owner.
    Failed(String),
}

#[derive(Debug)]
struct Slot {
    phase: Phase,
    /// A task is at work on it.
    busy: bool,
    attempts: u32,
    next: Instant,
    failure: Option<String>,
    changed: Instant,
    unneeded_since: Option<Instant>,
    /// Looks at the replica since the draining began in which no request used it.
    quiet_looks: u32,
    last_look: Option<Instant>,
    /// When it was unloaded. What the replica listed before is out of date.
    gone: Option<Instant>,
}

impl Slot {
    fn new(now: Instant) -> Self {
        Self {
            phase: Phase::Missing,
            busy: false,
            attempts: 0,
            next: now,
            failure: None,
            changed: now,
            unneeded_since: None,
            quiet_looks: 0,
            last_look: None,
            gone: None,
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.changed = Instant::now();
    }

    /// Wanted again, whatever was decided before.
    fn keep(&mut self) {
        self.unneeded_since = None;
        self.quiet_looks = 0;
        self.gone = None;
        if self.phase == Phase::Draining && !self.busy {
            self.enter(Phase::Missing);
        }
    }
}

/// What a replica was seen to do with an adapter that nobody needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    /// When it was looked at.
    pub(crate) taken: Instant,
    /// Whether a request uses the adapter, ours or another gateway's.
    pub(crate) in_use: bool,
    /// Looks without a request that must follow each other before it is unloaded.
    pub(crate) needed: u32,
}

/// What to do with an adapter that nobody needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drain {
    /// Wait.
    Nothing,
    /// No request may be sent to it any more.
    Close,
    /// Nothing uses it: the replica may forget it.
    Unload,
}

/// All adapters on all replicas of a base model.
#[derive(Debug, Default)]
pub(crate) struct Slots(HashMap<SlotKey, Slot>);

impl Slots {
    /// Takes an adapter to bring it onto a replica. False where that is done, under way, or not yet to be tried again;
    /// one that has failed is tried only where `again`.
    pub(crate) fn begin(&mut self, key: &SlotKey, again: bool) -> bool {
        let now = Instant::now();
        let slot = self.0.entry(key.clone()).or_insert_with(|| Slot::new(now));
        slot.keep();
        let given_up = slot.failure.is_some() && !again;
        if slot.busy || given_up || slot.phase == Phase::Ready || now < slot.next {
            return false;
        }
        slot.busy = true;
        slot.enter(Phase::Missing);
        true
    }

    /// Notes how far it is.
    pub(crate) fn advance(&mut self, key: &SlotKey, phase: Phase) {
        if let Some(slot) = self.0.get_mut(key) {
            slot.enter(phase);
        }
    }

    /// It answers as it should. False where the replica has been forgotten meanwhile.
    pub(crate) fn succeed(&mut self, key: &SlotKey) -> bool {
        let Some(slot) = self.0.get_mut(key) else {
            return false;
        };
        slot.enter(Phase::Ready);
        (slot.busy, slot.attempts, slot.failure) = (false, 0, None);
        true
    }

    /// It could not be brought; gives the number of tries. `reason` is for its owner, and counts at once where trying
    /// again is pointless.
    pub(crate) fn fail(&mut self, key: &SlotKey, reason: String, permanent: bool, pause: Duration) -> u32 {
        let Some(slot) = self.0.get_mut(key) else {
            return 0;
        };
        slot.enter(Phase::Missing);
        slot.busy = false;
        slot.attempts += 1;
        slot.next = Instant::now() + backoff(slot.attempts, pause);
        if permanent || slot.attempts >= MOST_ATTEMPTS {
            slot.failure = Some(reason);
        }
        slot.attempts
    }

    /// The failure was reported: whoever asks for the adapter anew gets a try of his own.
    pub(crate) fn pardon(&mut self, key: &SlotKey) {
        if let Some(slot) = self.0.get_mut(key) {
            (slot.failure, slot.attempts, slot.next) = (None, 0, Instant::now());
        }
    }

    /// How an adapter stands.
    pub(crate) fn standing(&self, key: &SlotKey) -> Standing {
        match self.0.get(key) {
            Some(slot) if slot.phase == Phase::Ready => Standing::Ready,
            Some(Slot {
                failure: Some(reason),
                ..
            }) => Standing::Failed(reason.clone()),
            _ => Standing::Underway,
        }
    }

    /// Adapters that were ready on `replica`, but are not in what it listed at `taken`, or not among those that
    /// requests are sent to: they are brought again.
    pub(crate) fn recheck(
        &mut self,
        replica: &ReplicaKey,
        taken: Instant,
        good: impl Fn(&str) -> (bool, bool),
    ) {
        for ((_, name), slot) in self.0.iter_mut().filter(|((key, _), _)| key == replica) {
            if slot.phase != Phase::Ready {
                continue;
            }
            let (listed, routed) = good(name);
            if !routed || (!listed && slot.changed < taken) {
                slot.enter(Phase::Missing);
            }
        }
    }

    /// The next step with an adapter that nobody needs.
    pub(crate) fn drain(&mut self, key: &SlotKey, grace: Duration, look: Look) -> Drain {
        let now = Instant::now();
        let slot = self.0.entry(key.clone()).or_insert_with(|| Slot::new(now));
        if slot.gone >= Some(look.taken) {
            return Drain::Nothing;
        }
        let since = *slot.unneeded_since.get_or_insert(now);
        if slot.busy || since.elapsed() < grace {
            return Drain::Nothing;
        }
        if slot.phase != Phase::Draining {
            slot.enter(Phase::Draining);
            slot.quiet_looks = 0;
            slot.last_look = Some(look.taken);
            if look.needed > 0 {
                return Drain::Close;
            }
        }
        if slot.last_look < Some(look.taken) {
            slot.last_look = Some(look.taken);
            slot.quiet_looks = if look.in_use { 0 } else { slot.quiet_looks + 1 };
        }
        if look.in_use || slot.quiet_looks < look.needed {
            return Drain::Close;
        }
        slot.busy = true;
        Drain::Unload
    }

    /// An unload has ended.
    pub(crate) fn unloaded(&mut self, key: &SlotKey, gone: bool) {
        if let Some(slot) = self.0.get_mut(key) {
            slot.busy = false;
            if gone {
                slot.enter(Phase::Missing);
                slot.gone = Some(slot.changed);
            }
        }
    }

    /// Forgets what `keep` does not name, unless a task is at work on it.
    pub(crate) fn retain(&mut self, keep: impl Fn(&SlotKey) -> bool) {
        self.0.retain(|key, slot| slot.busy || keep(key));
    }

    /// Forgets all of replicas that `keep` does not name.
    pub(crate) fn retain_replicas(&mut self, keep: impl Fn(&ReplicaKey) -> bool) {
        self.0.retain(|(replica, _), _| keep(replica));
    }

    /// Names of all adapters that are known.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(|(_, name)| name.as_str())
    }
}

/// Doubles with each try, and differs from adapter to adapter, so that many do not come back at the same moment.
fn backoff(attempts: u32, pause: Duration) -> Duration {
    let doubled = pause
        .saturating_mul(1 << attempts.saturating_sub(1).min(10))
        .min(LONGEST_PAUSE);
    let thousandths = u32::try_from(Uuid::new_v4().as_u128() % 500).unwrap_or_default();
    doubled * (750 + thousandths) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SlotKey {
        let replica = ReplicaKey {
            url: "http://a".to_owned(),
            generation: 0,
        };
        (replica, "x--v1-00000000".to_owned())
    }

    #[test]
    fn tries_are_spaced_and_counted() {
        let (mut slots, key) = (Slots::default(), key());
        assert!(slots.begin(&key, true) && !slots.begin(&key, true));
        for attempt in 1..=MOST_ATTEMPTS {
            assert_eq!(slots.standing(&key), Standing::Underway);
            assert_eq!(
                slots.fail(&key, "busy".to_owned(), false, Duration::ZERO),
                attempt
            );
            assert_eq!(slots.begin(&key, false), attempt < MOST_ATTEMPTS);
        }
        assert!(slots.begin(&key, true));
        assert_eq!(slots.standing(&key), Standing::Failed("busy".to_owned()));
        slots.fail(&key, "busy".to_owned(), false, Duration::from_secs(60));
        assert!(!slots.begin(&key, true), "it must wait");
        slots.pardon(&key);
        assert_eq!(slots.standing(&key), Standing::Underway);
        assert!(slots.begin(&key, true) && slots.succeed(&key));
        assert_eq!(slots.standing(&key), Standing::Ready);
    }

    #[test]
    fn pauses_double_up_to_a_minute_and_jitter() {
        for (attempts, least, most) in [(1, 750, 1250), (3, 3000, 5000), (30, 45_000, 75_000)] {
            let pause = backoff(attempts, Duration::from_secs(1));
            assert!(
                (Duration::from_millis(least)..=Duration::from_millis(most)).contains(&pause),
                "{pause:?}"
            );
        }
    }

    #[test]
    fn an_adapter_is_unloaded_after_two_quiet_looks() {
        let (mut slots, key) = (Slots::default(), key());
        assert!(slots.begin(&key, true) && slots.succeed(&key));
        let start = Instant::now();
        let look = |after: u64, in_use| Look {
            taken: start + Duration::from_millis(after),
            in_use,
            needed: 2,
        };
        let mut step = |after, in_use| slots.drain(&key, Duration::ZERO, look(after, in_use));
        assert_eq!(step(0, false), Drain::Close);
        assert_eq!(step(0, false), Drain::Close, "the same look counts once");
        assert_eq!(step(1, false), Drain::Close);
        assert_eq!(step(2, true), Drain::Close, "a request begins the count anew");
        assert_eq!(step(3, false), Drain::Close);
        assert_eq!(step(4, false), Drain::Unload);
        assert_eq!(step(5, false), Drain::Nothing, "it is being unloaded");
        slots.unloaded(&key, true);
        assert_eq!(
            slots.drain(&key, Duration::ZERO, look(0, false)),
            Drain::Nothing,
            "the list was older"
        );
        slots.retain(|_| false);
        assert_eq!(slots.names().count(), 0);
    }

    #[test]
    fn what_is_wanted_again_while_it_drains_is_brought_again() {
        let (mut slots, key) = (Slots::default(), key());
        let look = Look {
            taken: Instant::now(),
            in_use: true,
            needed: 0,
        };
        assert!(slots.begin(&key, true) && slots.succeed(&key) && !slots.begin(&key, true));
        assert_eq!(slots.drain(&key, Duration::from_secs(60), look), Drain::Nothing);
        assert_eq!(
            slots.standing(&key),
            Standing::Ready,
            "within the grace it goes on answering"
        );
        assert_eq!(slots.drain(&key, Duration::ZERO, look), Drain::Close);
        assert!(slots.begin(&key, true));
    }
}
