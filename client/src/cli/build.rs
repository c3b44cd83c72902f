//! `skep build`.

use std::path::Path;

use serde_json::json;

use super::args::BuildArgs;
use super::failure::Failure;
use super::{Context, Outcome, exit, print, text};
use crate::build;

pub(super) fn build(context: &Context, args: &BuildArgs) -> Outcome {
    // Else it would be the tools that are said to be missing.
    if !args.dir.is_dir() {
        return Err(Failure::of_dir(&args.dir));
    }
    match (&args.out, args.check) {
        (Some(out), true) => check(context, &args.dir, out),
        (out, _) => {
            let built = build::build(&args.dir, out.as_deref()).map_err(failed)?;
            if context.json {
                let built = built.iter().map(
                    |built| json!({ "name": built.name, "path": built.path, "size": built.size }),
                );
                return print::json(&built.collect::<Vec<_>>());
            }
            let lines = built
                .iter()
                .map(|built| format!("{} ({})", built.path.display(), text::size(built.size)));
            print::line(&lines.collect::<Vec<_>>().join("\n"))
        }
    }
}

fn check(context: &Context, dir: &Path, out: &Path) -> Outcome {
    let stale = build::check(dir, out).map_err(failed)?;
    if context.json {
        let stale = stale
            .iter()
            .map(|stale| json!({ "name": stale.name, "problem": stale.to_string() }));
        print::json(&stale.collect::<Vec<_>>())?;
    }
    if stale.is_empty() {
        return Ok(0);
    }
    for stale in &stale {
        print::tell(&stale.to_string());
    }
    print::tell(&format!(
        "components in {} are stale: run {}",
        out.display(),
        build::command(dir, out)
    ));
    Ok(exit::NO)
}

fn failed(error: anyhow::Error) -> Failure {
    Failure::of_skep(format!("{error:#}"))
}
