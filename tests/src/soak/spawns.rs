//! One small agent after the other: the host must not grow.

use std::path::PathBuf;
use std::time::Instant;

use skep_client::protocol::Outcome;
use skep_client::protocol::spec::ComponentRef;

use super::{LEFT_BEHIND, Report, mib};
use crate::guests::{guest, spec};
use crate::process::HostProcess;
use crate::resources::resident;

/// A host that remembers as many ended agents as it may grows no more.
const UNTIL_FULL: usize = 4;

/// Runs `hello` so often in a row.
///
/// # Panics
/// If one of them is refused, or ends otherwise than it should.
pub async fn spawns(host: PathBuf, count: usize) -> Report {
    let ended = (count / UNTIL_FULL).clamp(1, 10_000);
    let ended = format!("capacity.max_ended={ended}");
    let host = HostProcess::start_from(host, &["--set", &ended]).await;
    let client = host.client();
    let digest = client.upload(&guest("hello")).await.expect("an upload");
    let mut hello = spec("hello", &[]);
    hello.component = Some(ComponentRef::Digest(digest));

    let mut report = Report::new("spawns", 0);
    let (start, mut base, mut most) = (Instant::now(), 0, 0);
    let look_every = (count / 10).max(1);
    for number in 1..=count {
        let agent = client.spawn(hello.clone(), None).await.expect("a spawn").id;
        let ended = client
            .wait(agent, Some(crate::DEADLINE))
            .await
            .expect("an end");
        assert_eq!(ended.outcome, Some(Outcome::Exited { code: 0 }));
        if number % look_every == 0 {
            let now = resident(host.pid());
            report.fact(&format!("resident after {number}"), mib(now));
            // From here on it forgets as many as it remembers.
            if number <= count / 2 {
                base = now;
            }
            most = now.max(most);
        }
    }
    let each = start.elapsed() / u32::try_from(count.max(1)).unwrap_or(u32::MAX);
    report.fact("spawn and end", super::report::ms(each));
    report.at_most(
        "growth in the second half",
        most.saturating_sub(base),
        LEFT_BEHIND,
    );
    report.none("panics in the host's log", host.panics().len());
    report
}
