//! An agent whose files a person asks for.

use skep_client::protocol::{AgentId, ErrorCode};
use skep_client::{Client, ClientError};

use super::failure::Failure;
use super::{agent, text};

#[derive(Debug, Clone, Copy)]
pub(super) struct Owner<'a> {
    pub(super) agent: AgentId,
    /// How the person calls it, to ask what else it has.
    called: Option<&'a str>,
}

impl<'a> Owner<'a> {
    pub(super) async fn find(client: &Client, called: &'a str) -> Result<Self, Failure> {
        Ok(Self {
            agent: agent::find(client, called).await?,
            called: Some(called),
        })
    }

    /// One of which nobody may be able to ask any more once this command has ended.
    pub(super) fn passing(agent: AgentId) -> Self {
        Self {
            agent,
            called: None,
        }
    }

    /// Why there is nothing to be had under a path; the host tells it of a field.
    pub(super) fn has_not(&self, path: Option<&str>, error: ClientError) -> Failure {
        let (refusal, path) = match (error, path) {
            (ClientError::Refused(refusal), Some(path))
                if refusal.details.field.as_deref() == Some("path") =>
            {
                (refusal, path)
            }
            (ClientError::Refused(refusal), _) if refusal.code == ErrorCode::NotFound => {
                let message = text::clean(&refusal.message);
                return Failure::of_skep(message).with_code(refusal.code.as_str());
            }
            (error, _) => return error.into(),
        };
        let why = refusal.message.trim_start_matches("`path`: ");
        let mut message = format!("`{}`: {}", text::clean(path), text::clean(why));
        if let Some(called) = self.called {
            message += &format!(": `skep files {}` lists what there is", text::clean(called));
        }
        Failure::of_skep(message).with_code(refusal.code.as_str())
    }
}
