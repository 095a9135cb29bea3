//! The trainer as a child process: commands in, events out, words for people into a tail.

use std::{
    ffi::OsString,
    path::Path,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::mpsc,
    task::JoinHandle,
};
use tunesmith_types::trainer::{TrainerCommand, TrainerLine};

use crate::lines::{BoundedLines, Line, Tail};

/// Longest event; a step's is some 300 bytes.
const MOST_EVENT_BYTES: usize = 64 * 1024;
/// Longest line of the child's log that is kept.
const MOST_LOG_BYTES: usize = 4 * 1024;
/// Lines that are no events (a library's chatter, say) before the child counts as broken.
const MOST_STRANGE_LINES: u32 = 1000;

/// What the child inherits: nothing that could hold a secret.
const ENVIRONMENT: [&str; 13] = [
    "PATH",
    "HOME",
    "LANG",
    "TMPDIR",
    "TZ",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "XDG_CACHE_HOME",
    "TUNESMITH_LOG",
    "TUNESMITH_ACTIVATION_BYTES",
    "RUST_BACKTRACE",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
];
const ENVIRONMENT_PREFIXES: [&str; 4] = ["CUDA_", "NVIDIA_", "PYTORCH_", "TORCH_"];

/// What came out of the child.
#[derive(Debug)]
pub(crate) enum Output {
    Line(TrainerLine),
    /// It prints what it must not; the reason.
    Violation(&'static str),
    /// It has closed its output.
    End,
}

/// A running trainer; killed when dropped. Its stdin stays open until then: its end would stop the child at once.
#[derive(Debug)]
pub(crate) struct TrainerChild {
    child: Child,
    id: u32,
    commands: mpsc::UnboundedSender<TrainerCommand>,
    events: EventLines,
    log: LogTail,
}

impl TrainerChild {
    /// Starts the child in `directory`, in a process group of its own so that a Ctrl-C at the worker's terminal
    /// reaches the worker alone.
    pub(crate) fn spawn(program: &Path, arguments: Vec<OsString>, directory: &Path) -> std::io::Result<Self> {
        let mut child = Command::new(program)
            .args(arguments)
            .current_dir(directory)
            .env_clear()
            .envs(inherited_environment())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().expect("invariant: stdout is piped");
        let stderr = child.stderr.take().expect("invariant: stderr is piped");
        let stdin = child.stdin.take().expect("invariant: stdin is piped");
        let (commands, received) = mpsc::unbounded_channel();
        tokio::spawn(write_commands(stdin, received));
        Ok(Self {
            id: child.id().unwrap_or_default(),
            commands,
            events: EventLines::new(stdout),
            log: LogTail::read(stderr),
            child,
        })
    }

    /// The process id, for the log.
    pub(crate) const fn id(&self) -> u32 {
        self.id
    }

    /// The next line. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Output {
        self.events.next().await
    }

    /// Sends a command, after those before it. A child that is gone needs none; its end shows in its output.
    pub(crate) fn command(&self, command: TrainerCommand) {
        if self.commands.send(command).is_err() {
            tracing::debug!(pid = self.id, "the trainer takes no commands any more");
        }
    }

    /// Sends SIGKILL; the child is gone when [`Self::wait`] returns.
    pub(crate) fn kill(&mut self) {
        if let Err(error) = self.child.start_kill() {
            tracing::debug!(%error, "the trainer could not be killed; it has ended already");
        }
    }

    /// Waits for the child's end; after `grace` it is killed.
    pub(crate) async fn wait(&mut self, grace: Duration) -> std::io::Result<ExitStatus> {
        match tokio::time::timeout(grace, self.child.wait()).await {
            Ok(status) => status,
            Err(_) => {
                tracing::warn!("the trainer does not exit; killing it");
                self.kill();
                self.child.wait().await
            }
        }
    }

    /// The end of what it wrote for people. Waits a little for the rest where the child has ended.
    pub(crate) async fn log_tail(&mut self) -> String {
        self.log.text().await
    }

    /// The same while it runs.
    pub(crate) fn log_so_far(&self) -> String {
        self.log.so_far()
    }

    /// Begins the log anew: the next lines are another job's.
    pub(crate) fn forget_log(&self) {
        *self.log.tail.lock().unwrap_or_else(PoisonError::into_inner) = Tail::default();
    }
}

/// Writes in a task of its own, so that a child that does not read holds up nobody. Ends, and with it the child's
/// stdin, when the child's handle is dropped.
async fn write_commands(mut stdin: ChildStdin, mut commands: mpsc::UnboundedReceiver<TrainerCommand>) {
    while let Some(command) = commands.recv().await {
        let mut line = serde_json::to_vec(&command).expect("invariant: a command serialises");
        line.push(b'\n');
        if let Err(error) = stdin.write_all(&line).await {
            tracing::debug!(%error, ?command, "the trainer took no command");
            return;
        }
    }
}

pub(crate) fn inherited_environment() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| {
        name.to_str().is_some_and(|name| {
            ENVIRONMENT.contains(&name) || ENVIRONMENT_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        })
    })
}

#[derive(Debug)]
struct EventLines {
    lines: BoundedLines<BufReader<ChildStdout>>,
    strange: u32,
}

impl EventLines {
    fn new(stdout: ChildStdout) -> Self {
        Self {
            lines: BoundedLines::new(BufReader::new(stdout), MOST_EVENT_BYTES),
            strange: 0,
        }
    }

    async fn next(&mut self) -> Output {
        loop {
            let line = match self.lines.next().await {
                Ok(Some(Line::Whole(line))) => line,
                Ok(Some(Line::Cut(_))) => return Output::Violation("an event is longer than 64 KiB"),
                Ok(None) => return Output::End,
                Err(error) => {
                    tracing::warn!(%error, "the trainer's output cannot be read");
                    return Output::End;
                }
            };
            match serde_json::from_slice(&line) {
                Ok(line) => return Output::Line(line),
                Err(error) => tracing::warn!(%error, line = %String::from_utf8_lossy(&line), "not an event"),
            }
            self.strange += 1;
            if self.strange > MOST_STRANGE_LINES {
                return Output::Violation("it prints lines that are no events");
            }
        }
    }
}

#[derive(Debug)]
struct LogTail {
    tail: Arc<Mutex<Tail>>,
    reader: JoinHandle<()>,
}

impl LogTail {
    fn read(stderr: tokio::process::ChildStderr) -> Self {
        let tail = Arc::new(Mutex::new(Tail::default()));
        let shared = Arc::clone(&tail);
        let reader = tokio::spawn(async move {
            let mut lines = BoundedLines::new(BufReader::new(stderr), MOST_LOG_BYTES);
            while let Ok(Some(line)) = lines.next().await {
                let (Line::Whole(line) | Line::Cut(line)) = line;
                tracing::debug!(target: "tunesmith_trainer", "{}", String::from_utf8_lossy(&line));
                shared.lock().unwrap_or_else(PoisonError::into_inner).push(&line);
            }
        });
        Self { tail, reader }
    }

    async fn text(&mut self) -> String {
        // A grandchild may hold the pipe open for ever.
        let _ = tokio::time::timeout(Duration::from_millis(500), &mut self.reader).await;
        self.so_far()
    }

    fn so_far(&self) -> String {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner).text()
    }
}

impl Drop for LogTail {
    fn drop(&mut self) {
        self.reader.abort();
    }
}
