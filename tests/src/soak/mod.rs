//! The soak: hostile agents at random and many at once, beside honest ones,
//! and what the host and the honest ones noticed of it.

mod fairness;
mod payloads;
mod report;
mod runs;
mod spawns;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

pub use self::payloads::{Bombarded, bombard, payloads};
pub use self::report::{Check, Report, Verdict};
pub use self::spawns::spawns;

use self::fairness::{Busy, Fairness};
use self::runs::{Ledger, Promised, Watch};
use crate::guests::spec;
use crate::hostile::{Case, Yard, cases};
use crate::neighbours::Neighbours;
use crate::output::run;
use crate::process::HostProcess;
use crate::resources::Resources;

const MIB: u64 = 1024 * 1024;

/// The pause between two lines of an honest agent.
const LINE_EVERY: Duration = Duration::from_millis(10);
/// By how much a line may be late, and an end may miss its limit.
const PATIENCE: Duration = Duration::from_millis(250);
/// How long a kill may take.
const KILL: Duration = Duration::from_millis(100);
/// Agents that ended may leave this behind, for a while.
const BEYOND_LIMITS: u64 = 64 * MIB;
const LEFT_BEHIND: u64 = 16 * MIB;
/// Descriptors that a host opens when it first needs them, and keeps.
const SET_UP_ONCE: usize = 4;
/// How long a host has to give everything back: its pools end idle threads
/// after ten seconds.
const SETTLING: Duration = Duration::from_secs(30);

/// What a soak does.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Hostile runs, beyond one of each case at the beginning.
    pub runs: usize,
    /// How many of them at once.
    pub at_once: usize,
    /// Agents that only print.
    pub honest: usize,
    /// Agents that spin while fairness is measured.
    pub spinners: usize,
    /// Agents that print empty lines while it is measured again.
    pub floods: usize,
    /// Only cases of these rows, or of all if it is empty.
    pub rows: Vec<String>,
    /// Which cases are drawn.
    pub seed: u64,
    /// The binary of the host.
    pub host: PathBuf,
}

/// Runs it.
///
/// # Panics
/// If the host does not start, or has gone.
pub async fn soak(plan: &Plan) -> Report {
    let yard = Yard::new();
    let allowed = yard.host_args();
    let mut args: Vec<&str> = allowed.iter().map(String::as_str).collect();
    args.extend(["--max-agents", "300"]);
    let mut host = HostProcess::start_from(plan.host.clone(), &args).await;
    let pid = host.pid();
    let client = host.client();
    run(&client, spec("hello", &[])).await;
    let at_start = Resources::of(pid);
    let all: Vec<Arc<Case>> = cases(&yard)
        .into_iter()
        .filter(|case| plan.rows.is_empty() || plan.rows.iter().any(|row| row == case.row))
        .map(Arc::new)
        .collect();
    let mut ledger = Ledger::default();
    let promised: Promised = Arc::new(AtomicU64::new(0));

    // Each case once, and as many honest agents as there will be, so that what
    // is compiled, cached and pooled is there.
    let honest = Neighbours::start_every(&client, plan.honest, LINE_EVERY).await;
    runs::try_all(&client, all.clone(), plan.at_once, &promised, &mut ledger).await;
    let first = honest.heard().await;
    // Memory is not expected back: this is what is kept.
    let base = settled(
        pid,
        &Resources {
            resident: u64::MAX,
            ..at_start
        },
    )
    .await;

    let honest = Neighbours::start_every(&client, plan.honest, LINE_EVERY).await;
    let watch = Watch::start(pid, base.resident, Arc::clone(&promised));
    let drawn = runs::draw(&all, plan.runs, plan.seed);
    runs::try_all(&client, drawn, plan.at_once, &promised, &mut ledger).await;
    let seen = watch.end().await;
    let second = honest.heard().await;

    let spinning = Fairness::measure(&host, plan.honest, Busy::spinning(plan.spinners)).await;
    let printing = Fairness::measure(&host, plan.honest, Busy::printing(plan.floods)).await;
    let after = settled(pid, &base).await;

    let mut report = Report::new("soak", plan.seed);
    report.tries = ledger.tries.clone();
    report.complaints = [ledger.wrong.clone(), ledger.escapes.clone(), host.panics()].concat();
    let harm = yard.harm();
    report.complaints.extend(harm.clone());
    let runs: u64 = ledger.tries.values().sum();
    report.fact("hostile runs", format!("{runs}, {} at once", plan.at_once));
    report.none(
        "escapes",
        ledger.escapes.len() + usize::from(harm.is_some()),
    );
    report.none("outcomes other than expected", ledger.wrong.len());
    report.none("panics in the host's log", host.panics().len());
    report.none("scratch directories left", host.scratch().len());
    report.same("the same process", host.lives());
    let heard = [first, second, spinning.honest, printing.honest];
    let records: u64 = heard.iter().map(|heard| heard.records).sum();
    report.fact("records of honest agents", records.to_string());
    let lost: u64 = heard.iter().map(|heard| heard.lost).sum();
    report.none("of them lost", usize::try_from(lost).unwrap_or(usize::MAX));
    report.within(
        "end after its wall clock, at most",
        ledger.overdue.took,
        PATIENCE,
    );
    report.fact("of the case", ledger.overdue.case);
    report.within("kill, at most", ledger.kill.took, KILL);
    report.fact("of the case", ledger.kill.case);
    report.within(
        "kill of a native tree, at most",
        ledger.native_kill.took,
        PATIENCE,
    );
    report.fact("of the case", ledger.native_kill.case);
    let longest = first.longest_pause.max(second.longest_pause);
    report.within(
        "line of an honest agent late, at most",
        longest.saturating_sub(LINE_EVERY),
        PATIENCE,
    );
    spinning.tell(&mut report);
    printing.tell(&mut report);
    report.fact("resident at the start", mib(at_start.resident));
    report.fact("resident before (base)", mib(base.resident));
    report.fact("resident at the peak", mib(seen.peak));
    report.at_most(
        "resident over base and the limits of the living",
        seen.over,
        BEYOND_LIMITS,
    );
    let left = after.resident.saturating_sub(base.resident);
    report.at_most("resident afterwards over base", left, LEFT_BEHIND);
    for (what, after, base) in [
        (
            "descriptors afterwards",
            after.descriptors,
            base.descriptors + SET_UP_ONCE,
        ),
        ("threads afterwards", after.threads, base.threads),
        ("children afterwards", after.children, base.children),
    ] {
        report.no_more(what, after, base);
    }
    report
}

/// What a host holds once it holds no more than that, or after it has had the
/// time to.
async fn settled(pid: u32, base: &Resources) -> Resources {
    let base = Resources {
        descriptors: base.descriptors + SET_UP_ONCE,
        ..*base
    };
    let end = tokio::time::Instant::now() + SETTLING;
    loop {
        let now = Resources::of(pid);
        let small = now.resident <= base.resident.saturating_add(LEFT_BEHIND / 2);
        if (now.within(&base) && small) || tokio::time::Instant::now() >= end {
            return now;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes / MIB)
}
