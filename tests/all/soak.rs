//! A short soak, and its two other tasks. The command `soak` runs long ones.

use skep_tests::skep_binary;
use skep_tests::soak::{Plan, payloads, soak, spawns};

use skep_tests::fuzz;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_soak_keeps_every_promise() {
    let report = soak(&Plan {
        runs: 60,
        at_once: 16,
        honest: 8,
        spinners: 16,
        floods: 8,
        rows: Vec::new(),
        seed: 1,
        host: skep_binary(),
    })
    .await;
    assert!(report.holds(false), "\n{report}");
    // Of wasm agents amid all kinds, beside spinners and beside floods, and of native trees,
    // whose processes the kernel ends one by one.
    let kills = report.checks.iter().filter(|check| {
        let is_promised = !check.promised.is_empty();
        is_promised && check.what.starts_with("kill")
    });
    let mut promised: Vec<_> = kills.map(|check| check.promised.as_str()).collect();
    promised.sort_unstable();
    assert_eq!(
        promised,
        ["100.0 ms", "100.0 ms", "100.0 ms", "250.0 ms"],
        "\n{report}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_spawns_in_a_row_leave_nothing() {
    let report = spawns(skep_binary(), 1000).await;
    assert!(report.holds(false), "\n{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payloads_that_were_requests_harm_nobody() {
    let report = payloads(skep_binary(), fuzz::cases(50_000), 1).await;
    assert!(report.holds(false), "\n{report}");
}
