//! `skep attach`: an agent's output, and its stdin, until it ends or is left.

use std::io::{self, IsTerminal};
use std::time::Duration;

use skep_client::protocol::{AgentId, AgentInfo, AgentState, ErrorCode};
use skep_client::{Client, Follow, FollowOptions};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinError;

use super::args::AttachArgs;
use super::conclusion::conclude;
use super::failure::Failure;
use super::keys::Detector;
use super::previews::Previews;
use super::show::{Beside, STOPPING, View};
use super::signals::Signals;
use super::sink::{Form, Sink};
use super::terminal::Attached;
use super::{Context, Outcome, agent, exit, print, restarts, stdin, typed};

/// Ctrl-C.
const INTERRUPT: i32 = 2;

/// How long one who leaves waits for what is written last. Where nobody reads it,
/// that takes for ever.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Why this command ends before the agent does.
enum Left {
    /// The detach keys, and whether all that was typed before them was taken.
    Detached {
        all_taken: bool,
    },
    Signal(i32),
}

impl Left {
    fn code(&self) -> u8 {
        match self {
            Self::Detached { .. } => 0,
            Self::Signal(signal) => exit::of_signal(*signal),
        }
    }
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
    let beside = beside(&client, args, &info, form, answered).await?;
    let options = FollowOptions {
        from_seq,
        ..FollowOptions::default()
    };
    let log = client.follow(agent, options);
    let keyboard = Keyboard::open(args)?;
    // Restored when it is dropped, on each way out of here.
    let attached = keyboard.attached;
    let mut sink = Sink::in_place_of_the_agent(form);
    if attached.is_some() {
        let (name, keys) = (&info.name, &args.detach_keys);
        sink.note(&format!("attached to {name}; {keys} leaves it running"))?;
    }
    let (leaving, leave) = oneshot::channel();
    let on_keyboard = attached.is_some();
    let shown = show(client.clone(), info, beside, log, sink, on_keyboard, leave);
    // On a thread of its own: one that does not read holds up whoever writes to
    // it, and the keys and signals must be heard all the same.
    let mut showing = tokio::spawn(shown);
    let left = tokio::select! {
        shown = &mut showing => return shown.unwrap_or_else(gone_wrong),
        all_taken = typed::send(&client, agent, keyboard.typed, keyboard.detector) => {
            Left::Detached { all_taken }
        }
        signal = obey(&client, agent, &mut signals, &answers, args.no_stop) => {
            Left::Signal(signal)
        }
    };
    let code = left.code();
    // It ends meanwhile where nobody takes this.
    let _ = leaving.send(left);
    match tokio::time::timeout(LAST_WORDS, showing).await {
        Ok(shown) => shown.unwrap_or_else(gone_wrong),
        Err(_) => Err(Failure::quiet(code)),
    }
}

/// Shows the agent until it ends or is left.
async fn show(
    client: Client,
    info: AgentInfo,
    mut beside: Beside,
    mut log: Follow,
    mut sink: Sink,
    on_keyboard: bool,
    leave: oneshot::Receiver<Left>,
) -> Outcome {
    let left = tokio::select! {
        shown = beside.show(&client, &mut log, &mut sink) => {
            shown?;
            None
        }
        Ok(left) = leave => Some(left),
    };
    beside.hide();
    if left.is_some() && on_keyboard {
        // Behind the echo of what was typed.
        print::end_line();
    }
    match left {
        None => Ok(conclude(&client, &info, &mut log, &mut sink).await?.1),
        Some(Left::Detached { all_taken }) => {
            if !all_taken {
                sink.note("the agent has not taken all that was typed")?;
            }
            sink.note(&format!(
                "left running: `skep attach {}` comes back",
                info.id
            ))?;
            Ok(0)
        }
        Some(Left::Signal(signal)) => Err(Failure::quiet(exit::of_signal(signal))),
    }
}

fn gone_wrong(error: JoinError) -> Outcome {
    Err(Failure::of_skep(format!(
        "showing the agent's output failed: {error}: report this bug"
    )))
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
