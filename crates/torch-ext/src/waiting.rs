//! How OpenMP's threads wait for each other between two products.

use std::os::unix::process::CommandExt;

/// OpenMP reads these when its library is loaded, which is before `main`.
const SETTINGS: [&str; 2] = ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"];
/// Rounds that a thread waits actively before it sleeps: about the time between two operations. By default it is a hundred
/// times as many: on cores that are busy with something else that made small models ten and seventy times slower. Asleep
/// at once, a thread is woken for every product: tokens then took a fifth to a third more time, with an adapter two thirds.
const SPIN_COUNT: &str = "2000";

/// Starts this program anew, in the same process, with OpenMP threads that soon sleep when they wait, and with `more` in its
/// environment; unless the environment says how they are to wait. Call it first thing in `main`.
pub fn wait_politely(more: &[(&str, &str)]) {
    if SETTINGS.iter().any(|name| std::env::var_os(name).is_some()) {
        return;
    }
    if let Ok(program) = std::env::current_exe() {
        // Only returns on failure, and then the program goes on as it is.
        let _ = std::process::Command::new(program)
            .args(std::env::args_os().skip(1))
            .env(SETTINGS[1], SPIN_COUNT)
            .envs(more.iter().copied())
            .exec();
    }
}

/// From here on what this thread computes is computed by it alone. Otherwise OpenMP gives it helpers of its own until it
/// ends, and while there are more threads than cores all of them sleep between any two products, those of others as well.
pub fn compute_alone() {
    // LibTorch's first look at the number on a thread would set it anew.
    let _ = tch::get_num_threads();
    #[cfg(not(target_os = "macos"))]
    {
        unsafe extern "C" {
            fn omp_set_num_threads(threads: std::ffi::c_int);
        }
        // SAFETY: OpenMP's own function, which takes any positive number and sets it for this thread only.
        unsafe { omp_set_num_threads(1) };
    }
}

#[cfg(test)]
mod tests {
    use super::compute_alone;

    #[test]
    #[cfg(not(target_os = "macos"))]
    fn only_the_thread_itself_computes_alone() {
        let threads = || tch::get_num_threads();
        let before = threads();
        let alone = std::thread::spawn(move || {
            compute_alone();
            threads()
        });
        assert_eq!(alone.join().ok(), Some(1));
        assert_eq!(threads(), before);
    }
}
