//! Bytes for an agent's stdin: from this command's own, or from a file, as fast
//! as the agent takes them.

use std::io::{self, IsTerminal, Read};
use std::path::Path;

use skep_client::protocol::{AgentId, ErrorCode};
use skep_client::{Client, ClientError};
use tokio::fs::File;
use tokio::sync::mpsc;

use super::args::StdinArgs;
use super::failure::Failure;
use super::{Context, Outcome, agent};

/// How much is read at a time.
const PIECE: usize = 64 * 1024;
/// How many pieces wait while one is sent. At the bound nothing more is read,
/// so that whoever writes to this command waits for the agent.
const PIECES: usize = 2;

/// `skep stdin AGENT`
pub(super) async fn stdin(context: &Context, args: &StdinArgs) -> Outcome {
    let client = context.client().await?;
    let agent = agent::find(&client, &args.agent.agent).await?;
    match pump(&client, agent, own()?, args.close).await? {
        Pumped::All => Ok(0),
        Pumped::HadEnough => Err(Failure::of_skep(format!(
            "{agent} does not take all of this: it has ended, or its stdin is closed or was never open: \
             see `skep inspect`, and spawn with `--stdin open`"
        ))),
    }
}

/// This command's stdin. `None` where it may not be read: a command in the
/// background that reads its terminal is stopped by the system.
pub(super) fn own_if_readable() -> Result<Option<mpsc::Receiver<io::Result<Vec<u8>>>>, Failure> {
    if io::stdin().is_terminal() && !is_foreground() {
        return Ok(None);
    }
    own().map(Some)
}

fn own() -> Result<mpsc::Receiver<io::Result<Vec<u8>>>, Failure> {
    read(io::stdin(), 1)
}

/// A terminal, which may be read on after Ctrl-D: for that stands an empty
/// piece.
pub(super) fn terminal_if_readable() -> Result<Option<mpsc::Receiver<io::Result<Vec<u8>>>>, Failure>
{
    // One that is gone has no end of ends.
    const MAX_ENDS: u32 = 16;
    if !is_foreground() {
        return Ok(None);
    }
    read(io::stdin(), MAX_ENDS).map(Some)
}

/// A file. That it is there may take a while to find out: a pipe is opened when it has
/// a writer.
pub(super) async fn file(path: &str) -> Result<mpsc::Receiver<io::Result<Vec<u8>>>, Failure> {
    let path = Path::new(path);
    let file = File::open(path)
        .await
        .map_err(|error| Failure::of_file(path, &error))?;
    read(file.into_std().await, 1)
}

/// Reads on a thread of its own: a read of a terminal cannot be broken off, and
/// ends with the process.
fn read(
    mut source: impl Read + Send + 'static,
    max_ends: u32,
) -> Result<mpsc::Receiver<io::Result<Vec<u8>>>, Failure> {
    let (sender, receiver) = mpsc::channel(PIECES);
    let reading = move || {
        let mut buffer = vec![0; PIECE];
        let mut ends = 0;
        loop {
            let piece = match source.read(&mut buffer) {
                Ok(0) => {
                    ends += 1;
                    if ends >= max_ends {
                        return;
                    }
                    Ok(Vec::new())
                }
                Ok(size) => Ok(buffer.get(..size).unwrap_or_default().to_vec()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let ended = piece.is_err();
            if sender.blocking_send(piece).is_err() || ended {
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("skep-stdin".to_owned())
        .spawn(reading)
        .map_err(|error| Failure::of_skep(format!("no thread to read stdin: {error}")))?;
    Ok(receiver)
}

/// How far a pump came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pumped {
    /// To the end.
    All,
    /// As far as the agent took it: it has ended, or its stdin is closed.
    HadEnough,
}

/// Sends everything, then closes the agent's stdin if it should be.
pub(super) async fn pump(
    client: &Client,
    agent: AgentId,
    mut source: mpsc::Receiver<io::Result<Vec<u8>>>,
    close: bool,
) -> Result<Pumped, Failure> {
    while let Some(piece) = source.recv().await {
        let piece = piece.map_err(|error| Failure::of_skep(format!("stdin: {error}")))?;
        match client.write_all_stdin(agent, &piece, None).await {
            Err(error) if had_enough(&error) => return Ok(Pumped::HadEnough),
            written => written?,
        }
    }
    if close {
        match client.close_stdin(agent).await {
            Err(error) if had_enough(&error) => {}
            closed => closed?,
        }
    }
    Ok(Pumped::All)
}

pub(super) fn had_enough(error: &ClientError) -> bool {
    matches!(
        error.code(),
        Some(ErrorCode::WrongState | ErrorCode::NotFound)
    )
}

/// Whether this process may read its terminal without being stopped.
fn is_foreground() -> bool {
    // Where it cannot be known, it is as it was always done.
    std::fs::read_to_string("/proc/self/stat")
        .map_or(true, |stat| in_foreground(&stat) != Some(false))
}

/// From proc_pid_stat(5): after the name in parentheses come state, ppid, pgrp,
/// session, tty_nr and tpgid.
fn in_foreground(stat: &str) -> Option<bool> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let group = fields.nth(2)?;
    let terminals = fields.nth(2)?;
    Some(group == terminals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_foreground_is_told_by_the_group() {
        assert_eq!(
            in_foreground("7 (a) b) S 1 70 60 34816 70 4194304 1"),
            Some(true)
        );
        assert_eq!(
            in_foreground("7 (skep) S 1 70 60 34816 60 4194304 1"),
            Some(false)
        );
        assert_eq!(in_foreground("7 (skep) S 1 70"), None);
        assert_eq!(in_foreground(""), None);
    }

    #[tokio::test]
    async fn a_source_is_read_to_its_end() {
        let bytes: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let mut source = read(io::Cursor::new(bytes.clone()), 1).unwrap();
        let mut all = Vec::new();
        while let Some(piece) = source.recv().await {
            all.extend(piece.unwrap());
        }
        assert_eq!(all, bytes);
        assert!(file("/no/such/file").await.is_err());
    }
}
