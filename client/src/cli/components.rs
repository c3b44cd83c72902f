//! `skep push`, `skep components` and `skep rm`.

use skep_client::protocol::{Digest, ErrorCode};
use skep_client::{Client, ClientError};

use super::args::{PushArgs, RmArgs};
use super::failure::{Failed, Failure};
use super::{Context, Outcome, agent, print, text};

/// `skep push FILE`
pub(super) async fn push(context: &Context, args: &PushArgs) -> Outcome {
    let bytes =
        std::fs::read(&args.file).map_err(|error| Failure::of_program(&args.file, &error))?;
    let client = context.client().await?;
    let digest = client.upload(&bytes).await?;
    if context.json {
        let info = client.stat_component(digest).await?;
        return print::json(&info);
    }
    if client.stat_component(digest).await?.kind == "blob" {
        print::tell(
            "it is no component that runs here, and can be an input alone: `skep check` says why",
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
    let mut failed = Failed::default();
    for what in &args.what {
        let done = async {
            let removed = remove_one(&client, what).await?;
            match context.json {
                true => print::json_line(&serde_json::json!({ "removed": removed })),
                false => print::line(&removed),
            }
        };
        failed.note(done.await)?;
    }
    Ok(failed.code())
}

/// Why a component could not be used that was named by its digest. The host speaks
/// of requests, of which a person knows nothing.
pub(super) fn of_digest(digest: Digest, error: ClientError) -> Failure {
    match &error {
        ClientError::Refused(refusal)
            if refusal.code == ErrorCode::NotFound && refusal.details.field.is_none() =>
        {
            let message = format!(
                "there is no component {digest} here: name its file, or with --host a host that \
                 has it"
            );
            Failure::of_skep(message).with_code(ErrorCode::NotFound.as_str())
        }
        _ => error.into(),
    }
}

/// Removes an agent or a component, and gives its id or digest.
async fn remove_one(client: &Client, what: &str) -> Result<String, Failure> {
    if !what.starts_with("sha256:") {
        let agent = agent::find(client, what).await?;
        client.forget(agent).await?;
        return Ok(agent.to_string());
    }
    let digest: Digest = what
        .parse()
        .map_err(|error| Failure::of_skep(format!("`{}` is {error}", text::clean(what))))?;
    match client.remove_component(digest).await {
        Err(error) if error.code() == Some(ErrorCode::NotFound) => {
            let message = format!("there is no component {digest}: `skep components` lists them");
            Err(Failure::of_skep(message).with_code(ErrorCode::NotFound.as_str()))
        }
        removed => Ok(removed.map(|()| digest.to_string())?),
    }
}
