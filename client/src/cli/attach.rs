//! `skep attach`: an agent's output, and its stdin, until it ends or is left.

use std::io::{self, IsTerminal};

use skep_client::protocol::{AgentId, AgentInfo, AgentState, ErrorCode};
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
    let (answers, answered) = mpsc::channel(1);
    let mut beside = beside(&client, args, &info, form, answered).await?;
    let options = FollowOptions {
        from_seq,
        ..FollowOptions::default()
    };
    let log = client.follow(agent, options);
    let keyboard = Keyboard::open(args)?;
    // Restored when it is dropped, on each way out of here.
    let attached = keyboard.attached;
    let mut sink = Sink::new(form);
    if attached.is_some() {
        let (name, keys) = (&info.name, &args.detach_keys);
        sink.note(&format!("attached to {name}; {keys} leaves it running"))?;
    }
    let left = tokio::select! {
        shown = beside.show(&client, log, &mut sink) => {
            shown?;
            None
        }
        all_taken = typed::send(&client, agent, keyboard.typed, keyboard.detector) => {
            Some(Left::Detached { all_taken })
        }
        signal = obey(&client, agent, &mut signals, &answers, args.no_stop) => {
            Some(Left::Signal(signal))
        }
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

/// What is shown beside the output.
async fn beside(
    client: &Client,
    args: &AttachArgs,
    info: &AgentInfo,
    form: Form,
    answers: mpsc::Receiver<&'static str>,
) -> Result<Beside, Failure> {
    let view = View::of(form, false);
    let previews = Previews::new(&args.previews)?;
    let watch = match Beside::wants_events(&view, previews.as_ref(), true) {
        true => Some(client.watch(info.id).await?),
        false => None,
    };
    Ok(Beside {
        agent: info.id,
        name: info.name.clone(),
        view,
        previews,
        watch,
        hints: true,
        notes: (form == Form::Raw).then(|| restarts::Notes::from(info)),
        answers,
    })
}

/// Where what is typed comes from, if anything may be.
struct Keyboard {
    typed: Option<mpsc::Receiver<io::Result<Vec<u8>>>>,
    /// Absent where it is no terminal.
    attached: Option<Attached>,
    detector: Option<Detector>,
}

impl Keyboard {
    fn open(args: &AttachArgs) -> Result<Self, Failure> {
        let keys = &args.detach_keys;
        let typed = match (args.no_stdin, io::stdin().is_terminal()) {
            (true, _) => None,
            (false, true) => stdin::terminal_if_readable()?,
            (false, false) => stdin::own_if_readable()?,
        };
        let attached = typed.as_ref().and_then(|_| Attached::set(keys));
        let detector = attached.as_ref().map(|_| Detector::new(keys.clone()));
        Ok(Self {
            typed,
            attached,
            detector,
        })
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
