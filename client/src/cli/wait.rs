//! `skep wait`: until an agent ends; exits with its code.

use skep_client::ClientError;

use super::args::WaitArgs;
use super::failure::Failure;
use super::{Context, Outcome, agent, ending, exit, print, text};

pub(super) async fn wait(context: &Context, args: &WaitArgs) -> Outcome {
    let client = context.client().await?;
    let agent = agent::find(&client, &args.agent.agent).await?;
    let ended = match (client.wait(agent, args.timeout).await, args.timeout) {
        (Err(ClientError::Timeout { .. }), Some(timeout)) => {
            let timeout = text::duration(timeout);
            let message =
                format!("the agent has not ended within {timeout}: wait longer, or stop it");
            return Err(Failure::of_skep(message).with_code("timeout"));
        }
        (ended, _) => ended?,
    };
    let Some(outcome) = &ended.outcome else {
        return Err(Failure::of_skep(
            "the agent has ended without an outcome: report this bug",
        ));
    };
    if context.json {
        print::json(&ended)?;
    } else {
        print::line(&ending::told(outcome))?;
    }
    Ok(exit::of_outcome(outcome))
}
