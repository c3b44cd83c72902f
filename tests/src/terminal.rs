//! A terminal of 24 lines and 80 columns, with a command on it.

use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};

use pty_process::{Command, OwnedWritePty, Size, open};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Child;
use tokio::task::JoinHandle;
use vt100::Parser;

use crate::wait::{eventually, soon};

const LINES: u16 = 24;
const COLUMNS: u16 = 80;
/// Lines that have scrolled away and are still to be seen.
const SCROLLED: usize = 1000;

/// What a person sees and types.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    keyboard: OwnedWritePty,
    screen: Arc<Mutex<Screen>>,
    shows: JoinHandle<()>,
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.parser.screen().contents())
    }
}

struct Screen {
    parser: Parser,
    written: Vec<u8>,
}

impl Terminal {
    /// Starts a program on a terminal of its own.
    ///
    /// # Panics
    /// If the system has no terminal, or the program does not start.
    #[must_use]
    pub fn start(program: &str, args: &[&str], environment: &[(&str, &str)]) -> Self {
        let (pty, line) = open().expect("a terminal");
        pty.resize(Size::new(LINES, COLUMNS)).expect("its size");
        let child = Command::new(program)
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("TERM", "xterm-256color")
            .env("SKEP_CACHE_DIR", "none")
            .envs(environment.iter().copied())
            .kill_on_drop(true)
            .spawn(line)
            .expect("a program");
        let (mut output, keyboard) = pty.into_split();
        let screen = Arc::new(Mutex::new(Screen {
            parser: Parser::new(LINES, COLUMNS, SCROLLED),
            written: Vec::new(),
        }));
        let shown = Arc::clone(&screen);
        let shows = tokio::spawn(async move {
            let mut bytes = vec![0; 4096];
            // A terminal whose program has ended is an error.
            while let Ok(size @ 1..) = output.read(&mut bytes).await {
                let bytes = bytes.get(..size).unwrap_or_default();
                let mut screen = shown.lock().unwrap_or_else(PoisonError::into_inner);
                screen.parser.process(bytes);
                screen.written.extend_from_slice(bytes);
            }
        });
        Self {
            child,
            keyboard,
            screen,
            shows,
        }
    }

    /// What stands on the screen.
    #[must_use]
    pub fn text(&self) -> String {
        let screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        screen.parser.screen().contents()
    }

    /// All bytes that were written to it.
    #[must_use]
    pub fn written(&self) -> String {
        let screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&screen.written).into_owned()
    }

    /// Waits until a text stands on the screen.
    ///
    /// # Panics
    /// If it does not come, with what does.
    pub async fn shows(&self, text: &str) {
        let seen = eventually(text, || async { self.text().contains(text).then_some(()) });
        tokio::select! {
            () = seen => {}
            () = tokio::time::sleep(crate::DEADLINE / 2) => {
                panic!("`{text}` is not shown:\n{}", self.text());
            }
        }
    }

    /// Types.
    ///
    /// # Panics
    /// If the terminal is gone.
    pub async fn types(&mut self, keys: &str) {
        let typing = self.keyboard.write_all(keys.as_bytes());
        soon("typing", typing).await.expect("a terminal");
    }

    /// Closes it, as who closes its window does, and waits for the end of the program.
    ///
    /// # Panics
    /// If that does not come.
    pub async fn close(self) -> ExitStatus {
        let Self {
            mut child,
            keyboard,
            shows,
            ..
        } = self;
        shows.abort();
        // Only when it is over, its half of the terminal is gone.
        let _aborted = shows.await;
        drop(keyboard);
        soon("the end of a program without a terminal", child.wait())
            .await
            .expect("a child")
    }

    /// Waits for the end of the program.
    ///
    /// # Panics
    /// If it does not come.
    pub async fn ended(&mut self) -> ExitStatus {
        soon("the end of a program on a terminal", self.child.wait())
            .await
            .expect("a child")
    }
}
