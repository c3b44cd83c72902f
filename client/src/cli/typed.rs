//! What is typed for an attached agent, until the detach keys are.

use std::io;
use std::time::Duration;

use skep_client::protocol::AgentId;
use skep_client::{Client, ClientError};
use tokio::sync::mpsc;

use super::failure::Failure;
use super::keys::Detector;
use super::stdin;

/// How many lines wait while the agent takes none: 4 KiB each at most, as a
/// terminal gives them. At the bound nothing more is read of what is typed, the
/// detach keys neither: then Ctrl-C leaves the agent, or a closed terminal.
const WAITING_LINES: usize = 1024;
/// Without detach keys, what is not taken waits where it comes from.
const WAITING_PIECES: usize = 1;
/// How long one who leaves waits until the agent has taken what was typed. One
/// that is queued takes nothing before its turn.
const LAST_LINES: Duration = Duration::from_secs(1);

/// One step of what is typed.
enum Piece {
    Bytes(Vec<u8>),
    /// The end of it, as of Ctrl-D.
    End,
}

/// Sends what is typed. Returns when the detach keys are, and says whether the
/// agent took all of what came before them.
pub(super) async fn send(
    client: &Client,
    agent: AgentId,
    typed: Option<mpsc::Receiver<io::Result<Vec<u8>>>>,
    detector: Option<Detector>,
) -> bool {
    let Some(typed) = typed else {
        return std::future::pending().await;
    };
    let room = match detector {
        Some(_) => WAITING_LINES,
        None => WAITING_PIECES,
    };
    let (pieces, waiting) = mpsc::channel(room);
    let writing = write(client, agent, waiting);
    tokio::pin!(writing);
    let had_room = tokio::select! {
        had_room = look(typed, detector, pieces) => had_room,
        () = &mut writing => return true,
    };
    let written = tokio::time::timeout(LAST_LINES, writing).await;
    had_room && written.is_ok()
}

/// Passes pieces on until the detach keys come; whether there was room for what
/// came with them.
async fn look(
    mut typed: mpsc::Receiver<io::Result<Vec<u8>>>,
    mut detector: Option<Detector>,
    pieces: mpsc::Sender<Piece>,
) -> bool {
    loop {
        let piece = typed.recv().await;
        let more = piece.is_some();
        let piece = piece.and_then(Result::ok).unwrap_or_default();
        let ends = piece.is_empty();
        let (mut bytes, detached) = match &mut detector {
            Some(detector) => detector.pass(&piece),
            None => (piece, false),
        };
        if detached {
            return pieces.try_send(Piece::Bytes(bytes)).is_ok();
        }
        if let Some(detector) = detector.as_mut().filter(|_| ends) {
            bytes.extend(detector.rest());
        }
        let _ = pieces.send(Piece::Bytes(bytes)).await;
        if ends {
            let _ = pieces.send(Piece::End).await;
        }
        if !more {
            std::future::pending::<()>().await;
        }
    }
}

/// Writes pieces until no more can come. Those behind a failure, which is told,
/// or behind the end go nowhere.
async fn write(client: &Client, agent: AgentId, mut pieces: mpsc::Receiver<Piece>) {
    let mut open = true;
    while let Some(piece) = pieces.recv().await {
        if !open {
            continue;
        }
        let written = match piece {
            Piece::Bytes(bytes) => client.write_all_stdin(agent, &bytes, None).await,
            Piece::End => {
                open = false;
                client.close_stdin(agent).await
            }
        };
        match written {
            Ok(()) => {}
            // Its stdin has ended already.
            Err(error) if !open && stdin::had_enough(&error) => {}
            Err(error) => {
                open = false;
                failed(error).tell();
            }
        }
    }
}

fn failed(error: ClientError) -> Failure {
    if stdin::had_enough(&error) {
        return Failure::of_skep(
            "the agent does not take what is typed: its stdin is closed, or was never open: spawn \
             with `--stdin open`",
        );
    }
    error.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_typed_waits_up_to_a_bound() {
        let (person, typed) = mpsc::channel(16);
        for line in [&b"a\n"[..], b"b\n", b"c\n", b"d\x10\x11"] {
            person.send(Ok(line.to_vec())).await.unwrap();
        }
        let detector = Detector::new("ctrl-p,ctrl-q".parse().unwrap());
        let (pieces, mut waiting) = mpsc::channel(2);
        let looking = look(typed, Some(detector), pieces);
        tokio::pin!(looking);
        let blocked = tokio::time::timeout(Duration::ZERO, &mut looking).await;
        assert!(blocked.is_err());
        assert_eq!(person.capacity(), 15, "the last is not read yet");
        // Room for the third, and none for what stands before the keys.
        assert!(matches!(waiting.try_recv(), Ok(Piece::Bytes(a)) if a == b"a\n"));
        assert!(!looking.await);
        assert_eq!(waiting.len(), 2);
    }
}
