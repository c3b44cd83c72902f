//! `skep gc`.

use std::time::Duration;

use serde_json::json;
use skep_client::protocol::op::{GcReply, HostGc, Kept};

use super::args::GcArgs;
use super::failure::Failure;
use super::{Context, Outcome, print, text};

/// `skep gc`
pub(super) async fn gc(context: &Context, args: &GcArgs) -> Outcome {
    let older_than_ms =
        (args.older_than).map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    let client = context.client().await?;
    let removed = client
        .gc(&HostGc {
            older_than_ms,
            components: args.components,
            dry_run: args.dry_run,
        })
        .await?;
    let kept = client
        .stats()
        .await?
        .kept
        .ok_or_else(|| Failure::of_skep("the host does not tell what it keeps".to_owned()))?;
    if context.json {
        let dry_run = args.dry_run;
        return print::json(&json!({ "dry_run": dry_run, "removed": removed, "kept": kept }));
    }
    print::line(&told(&removed, args.dry_run))?;
    let mut table = print::table(["KEPT", "NOW", "BOUND"]);
    for row in rows(&kept, text::now_ms()) {
        table.add_row(row);
    }
    print::print_table(table)
}

fn told(removed: &GcReply, dry_run: bool) -> String {
    let verb = if dry_run { "would remove" } else { "removed" };
    let number = |count: u64, what: &str| {
        let many = if count == 1 { "" } else { "s" };
        format!("{} {what}{many}", text::count(count))
    };
    format!(
        "{verb} {} with {}, {} with {}",
        number(removed.agents, "ended agent"),
        text::size(removed.bytes),
        number(removed.components, "component"),
        text::size(removed.component_bytes),
    )
}

fn rows(kept: &Kept, now_ms: u64) -> [[String; 3]; 9] {
    let none = || "-".to_owned();
    let age = Duration::from_millis(kept.max_ended_age_ms);
    let unused = kept.components.saturating_sub(kept.components_used);
    let bytes_unused = kept
        .component_bytes
        .saturating_sub(kept.component_bytes_used);
    let row = |name: &str, now: String, bound: String| [name.to_owned(), now, bound];
    [
        row(
            "ended agents",
            text::count(kept.ended_agents),
            text::count(kept.max_ended_agents),
        ),
        row(
            "age of the oldest",
            kept.oldest_ended_ms
                .map_or_else(none, |ended_ms| text::age(ended_ms, now_ms)),
            text::duration(age),
        ),
        row(
            "records and logs of agents",
            text::size(kept.history_bytes),
            text::size(kept.max_history_bytes),
        ),
        row(
            "files that agents left",
            text::size(kept.files_bytes),
            text::size(kept.max_files_bytes),
        ),
        row(
            "components in use",
            text::count(kept.components_used),
            none(),
        ),
        row("components not in use", text::count(unused), none()),
        row(
            "bytes of components",
            text::size(kept.component_bytes),
            text::size(kept.max_component_bytes),
        ),
        row("of these, not in use", text::size(bytes_unused), none()),
        row("store", text::size(kept.store_bytes), none()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_stands_beside_its_bound() {
        let kept = Kept {
            ended_agents: 1200,
            max_ended_agents: 10_000,
            oldest_ended_ms: Some(1_000),
            max_ended_age_ms: 604_800_000,
            history_bytes: 1536,
            max_history_bytes: 1 << 30,
            files_bytes: 2048,
            max_files_bytes: 1 << 30,
            components: 3,
            components_used: 1,
            component_bytes: 4096,
            component_bytes_used: 1024,
            max_component_bytes: 1 << 30,
            store_bytes: 0,
        };
        let [
            agents,
            oldest,
            history,
            files,
            used,
            unused,
            bytes,
            bytes_unused,
            _,
        ] = rows(&kept, 7_201_000);
        assert_eq!(agents, ["ended agents", "1,200", "10,000"]);
        assert_eq!(oldest, ["age of the oldest", "2 h", "7 d 0 h"]);
        assert_eq!(history[1..], ["1.50 KiB", "1.00 GiB"]);
        assert_eq!(files[1..], ["2.00 KiB", "1.00 GiB"]);
        assert_eq!((&*used[1], &*unused[1]), ("1", "2"));
        assert_eq!((&*bytes[1], &*bytes_unused[1]), ("4.00 KiB", "3.00 KiB"));
        let removed = GcReply {
            agents: 1,
            bytes: 10,
            components: 2000,
            component_bytes: 0,
        };
        assert_eq!(
            told(&removed, true),
            "would remove 1 ended agent with 10 B, 2,000 components with 0 B"
        );
    }
}
