//! `skep attach`: an agent's output, and its stdin, until it ends or is left.

use std::io::{self, IsTerminal};

use skep_client::protocol::{AgentId, AgentState, ErrorCode};
use skep_client::{Client, FollowOptions};
use tokio::sync::mpsc;

use super::args::AttachArgs;
use super::failure::Failure;
use super::keys::Detector;
use super::previews::Previews;
use super::show::{Beside, STOPPING, View, conclude};
use super::signals::Signals;
use super::sink::{Form, Sink};
use super::terminal::Attached;
use super::{Context, Outcome, agent, exit, restarts, stdin, typed};

/// Ctrl-C.
const INTERRUPT: i32 = 2;

/// Why this command ends before the agent does.
enum Left {
    /// The detach keys, and whether all that was typed before them was taken.
    Detached {
        all_taken: bool,
    },
    Signal(i32),
}

pub(super) async fn attach(context: &Context, args: &AttachArgs) -> Outcome {
    let client = context.client().await?;
    let agent = agent::find(&client, &args.agent.agent).await?;
    let info = client.get(agent).await?;
    if info.state == AgentState::Exited {
        let message = format!(
            "{} has ended: `skep logs {agent}` prints its output",
            info.name
        );
        return Err(Failure::of_skep(message).with_code(ErrorCode::WrongState.as_str()));
    }
    let mut signals = Signals::of_terminal()?;
    let from_seq = match args.since {
        Some(since) => since.seq(&client, agent).await?,
        None => info.next_seq,
    };
    let form = if context.json { Form::Json } else { Form::Raw };
    let view = View::of(form, false);
    let previews = Previews::new(&args.previews)?;
    let watch = match Beside::wants_events(&view, previews.as_ref(), true) {
        true => Some(client.watch(agent).await?),
        false => None,
    };
    let (answers, answered) = mpsc::channel(1);
    let mut beside = Beside {
        agent,
        name: info.name.clone(),
        view,
        previews,
        watch,
        hints: true,
        notes: (form == Form::Raw).then(|| restarts::Notes::from(&info)),
        answers: answered,
    };
    let options = FollowOptions {
        from_seq,
        ..FollowOptions::default()
    };
    let log = client.follow(agent, options);
    let typed = match (args.no_stdin, io::stdin().is_terminal()) {
        (true, _) => None,
        (false, true) => stdin::terminal_if_readable()?,
        (false, false) => stdin::own_if_readable()?,
    };
    // Restored when it is dropped, on each way out of here.
    let attached = typed
        .as_ref()
        .and_then(|_| Attached::set(&args.detach_keys));
    let detector = attached
        .is_some()
        .then(|| Detector::new(args.detach_keys.clone()));

    let mut sink = Sink::new(form);
    if attached.is_some() {
        let keys = &args.detach_keys;
        sink.note(&format!(
            "attached to {}; {keys} leaves it running",
            info.name
        ))?;
    }
    let left = tokio::select! {
        shown = beside.show(&client, log, &mut sink) => {
            shown?;
            None
        }
        all_taken = typed::send(&client, agent, typed, detector) => {
            Some(Left::Detached { all_taken })
        }
        signal = obey(&client, agent, &mut signals, &answers, args.no_stop) => Some(Left::Signal(signal)),
    };
    beside.hide();
    if left.is_some() && attached.is_some() {
        // Behind the echo of what was typed.
        eprintln!();
    }
    drop(attached);
    match left {
        None => Ok(conclude(&client, agent, &mut sink).await?.1),
        Some(Left::Detached { all_taken }) => {
            if !all_taken {
                sink.note("the agent has not taken all that was typed")?;
            }
            sink.note(&format!("left running: `skep attach {agent}` comes back"))?;
            Ok(0)
        }
        Some(Left::Signal(signal)) => Err(Failure::quiet(exit::of_signal(signal))),
    }
}

/// Stops the agent at the first Ctrl-C, kills it at the second. Returns the
/// signal with which this command leaves it: the third, or any other.
async fn obey(
    client: &Client,
    agent: AgentId,
    signals: &mut Signals,
    answers: &mpsc::Sender<&'static str>,
    no_stop: bool,
) -> i32 {
    for kill in [false, true] {
        let signal = signals.next().await;
        if signal != INTERRUPT || no_stop {
            return signal;
        }
        let client = client.clone();
        // Not waited for here: the end of the output tells it.
        if kill {
            tokio::spawn(async move { client.kill(agent).await });
        } else {
            if io::stderr().is_terminal() {
                let _ = answers.try_send(STOPPING);
            }
            tokio::spawn(async move { client.stop(agent, None).await });
        }
    }
    signals.next().await
}
