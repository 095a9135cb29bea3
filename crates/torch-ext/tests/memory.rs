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

/// One training step's tensors in MiB: some live through it, some go early.
fn step() {
    let mut held = std::collections::VecDeque::new();
    for (number, mebibytes) in [8, 24, 100, 24, 8, 64, 12, 100, 16, 48].into_iter().enumerate() {
        held.push_back(Tensor::ones([mebibytes << 18], (Kind::Float, Device::Cpu)));
        if number % 3 == 2 {
            held.pop_front();
        }
    }
}

fn a_step_takes_the_memory_of_the_one_before() {
    (0..6).for_each(|_| step());
    let settled = page_faults();
    (0..4).for_each(|_| step());
    let later = page_faults() - settled;
    // Four steps touch 413,696 pages of 4 KiB.
    assert!(later < 40_000, "{later}");
}

fn main() {
    keep_freed_memory();
    // In a thread, where glibc would map and unmap each.
    std::thread::spawn(a_step_takes_the_memory_of_the_one_before)
        .join()
        .unwrap();
}
