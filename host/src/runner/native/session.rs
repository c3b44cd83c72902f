//! Whether agents can have sessions of their own for nothing.
//!
//! A kernel with `kernel.sched_autogroup_enabled` shares the processors by session
//! first, and by the nice values of threads only within one (sched(7), "The autogroup
//! feature"), among all that is in no cgroup with `cpu`. A session of an agent would have
//! as much as the host with all that it runs. It could be given less, by
//! `/proc/PID/autogroup`; but all that is in it also has to end with that little, and with
//! a tenth, kills of trees took 4 s instead of 0.2 s.

use std::fs;

use super::cgroup;

/// Whether sessions share the processors where this process is.
pub(super) fn share_the_processors() -> bool {
    // Not every kernel has the setting.
    let setting = fs::read("/proc/sys/kernel/sched_autogroup_enabled").unwrap_or_default();
    is_on(&setting) && !cgroup::shares_the_processors()
}

fn is_on(setting: &[u8]) -> bool {
    !setting.is_empty() && !setting.starts_with(b"0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_on_or_not() {
        assert_eq!([&b"1\n"[..], b"0\n", b""].map(is_on), [true, false, false]);
    }
}
