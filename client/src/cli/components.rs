//! `skep push`, `skep components` and `skep rm`.

use skep_client::protocol::Digest;

use super::args::{PushArgs, RmArgs};
use super::failure::Failure;
use super::{Context, Outcome, agent, print, text};

/// `skep push FILE`
pub(super) async fn push(context: &Context, args: &PushArgs) -> Outcome {
    let bytes = std::fs::read(&args.file).map_err(|error| Failure::of_file(&args.file, &error))?;
    let client = context.client().await?;
    let digest = client.upload(&bytes).await?;
    if context.json {
        let info = client.stat_component(digest).await?;
        return print::json(&info);
    }
    if client.stat_component(digest).await?.kind == "blob" {
        eprintln!(
            "skep: it is no component that runs here, and can be an input alone: `skep check` says why"
        );
    }
    print::line(&digest.to_string())
}

/// `skep components`
pub(super) async fn list(context: &Context) -> Outcome {
    let client = context.client().await?;
    let components = client.all_components().await?;
    if context.json {
        return print::json(&components);
    }
    let mut table = print::table(["DIGEST", "SIZE", "COMPILED"]);
    for component in &components {
        let compiled = if component.compiled { "yes" } else { "no" };
        table.add_row([
            component.digest.to_string(),
            text::size(component.size),
            compiled.to_owned(),
        ]);
    }
    print::print_table(table)
}

/// `skep rm AGENT|DIGEST…`
pub(super) async fn remove(context: &Context, args: &RmArgs) -> Outcome {
    let client = context.client().await?;
    let mut removed = Vec::new();
    for what in &args.what {
        if what.starts_with("sha256:") {
            let digest: Digest = what
                .parse()
                .map_err(|error| Failure::of_skep(format!("`{what}` is {error}")))?;
            client.remove_component(digest).await?;
            removed.push(digest.to_string());
        } else {
            let agent = agent::find(&client, what).await?;
            client.forget(agent).await?;
            removed.push(agent.to_string());
        }
        if !context.json {
            print::line(removed.last().map_or("", String::as_str))?;
        }
    }
    if context.json {
        print::json(&serde_json::json!({ "removed": removed }))?;
    }
    Ok(0)
}
