//! Freed memory is kept: alone in its process, since page faults are counted for all threads.
#![allow(clippy::unwrap_used)]

use tch::{Device, Kind, Tensor};
use tunesmith_torch_ext::keep_freed_memory;

/// Pages of this process that were given memory so far: field 10 of `/proc/self/stat`.
fn page_faults() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after_name = stat.rsplit(')').next().unwrap();
    after_name.split_whitespace().nth(7).unwrap().parse().unwrap()
}

fn large_tensors_take_the_memory_of_those_before() {
    let fill = || drop(Tensor::ones([25 << 20], (Kind::Float, Device::Cpu)));
    let start = page_faults();
    fill();
    assert!(page_faults() - start > 32, "100 MiB are new pages at first");
    // glibc's caches of small pieces fill up first: seven pieces that its aligned allocations cut off.
    (0..12).for_each(|_| fill());
    let settled = page_faults();
    (0..8).for_each(|_| fill());
    let later = page_faults() - settled;
    assert!(later < 32, "{later}");
}

fn main() {
    keep_freed_memory();
    // In a thread, where glibc would map and unmap each.
    std::thread::spawn(large_tensors_take_the_memory_of_those_before)
        .join()
        .unwrap();
}
