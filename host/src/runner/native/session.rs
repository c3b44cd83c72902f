//! Whether agents can have sessions of their own for nothing.
//!
//! A kernel with `kernel.sched_autogroup_enabled` shares the processors by session
//! first, and by the nice values of threads only within one (sched(7), "The autogroup
//! feature"), unless cgroups share them. A session of an agent would have as much as the
//! host with all that it runs. Who may say that it has less would have all that is in it
//! end with that little as well, and a kill then takes seconds.

use std::fs;

/// Whether this kernel does. Not one without the setting.
pub(super) fn share_the_processors() -> bool {
    let setting = fs::read("/proc/sys/kernel/sched_autogroup_enabled");
    setting.is_ok_and(|setting| !setting.starts_with(b"0"))
}
