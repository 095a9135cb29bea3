//! Starting the executable and reading what it says.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Output, Stdio};

use serde_json::Value;
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;
use tunesmith_torch_ext::MappedFile;
use tunesmith_types::hyperparameters::HyperparametersRequest;
use tunesmith_types::trainer::{GangSpec, JobSpec, TrainerCommand, TrainerEvent, TrainerLine};

/// A folder of the golden files that transformers and PEFT made.
pub(crate) fn golden(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../model/tests/golden")
        .join(family)
}

/// A scratch folder with arguments for a short training on the tiny Llama.
pub(crate) struct Job {
    pub(crate) folder: TempDir,
    arguments: BTreeMap<String, Option<String>>,
}

impl Job {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut job = Self {
            folder,
            arguments: BTreeMap::new(),
        };
        let golden = golden("llama");
        job.set("base", golden.join("base").to_str().unwrap());
        job.set("data", golden.join("training/train.jsonl").to_str().unwrap());
        job.set("device", "cpu")
            .set("threads", "2")
            .set("max-seq-len", "256");
        job.set("base-name", "tiny").set("lr", "0.01");
        let (out, log) = (job.path("out"), job.path("steps.jsonl"));
        job.set("out", out.to_str().unwrap());
        job.set("steps-log", log.to_str().unwrap());
        job
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file into the scratch folder and names it as `argument`.
    pub(crate) fn set_file(&mut self, argument: &str, content: &str) -> &mut Self {
        let path = self.path(&format!("{argument}.jsonl"));
        fs::write(&path, content).unwrap();
        self.set(argument, path.to_str().unwrap())
    }

    pub(crate) fn set(&mut self, argument: &str, value: &str) -> &mut Self {
        self.arguments.insert(argument.to_owned(), Some(value.to_owned()));
        self
    }

    pub(crate) fn flag(&mut self, argument: &str) -> &mut Self {
        self.arguments.insert(argument.to_owned(), None);
        self
    }

    pub(crate) fn remove(&mut self, argument: &str) -> &mut Self {
        self.arguments.remove(argument);
        self
    }

    fn command(&self) -> Command {
        let mut command = executable();
        command.arg("train");
        for (argument, value) in &self.arguments {
            command.arg(format!("--{argument}"));
            command.args(value);
        }
        command
    }

    /// Runs it to its end, by hand.
    pub(crate) fn run(&self) -> Output {
        self.command().stdin(Stdio::null()).output().unwrap()
    }

    /// Runs it to its end; it must succeed.
    pub(crate) fn finish(&self) {
        let output = self.run();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Starts it under supervision.
    pub(crate) fn supervise(&mut self) -> Supervised {
        self.flag("supervised");
        Supervised::start(&mut self.command())
    }

    /// The lines of the steps log.
    pub(crate) fn steps(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.path("steps.jsonl")).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The bytes of the finished adapter's tensors and configuration.
    pub(crate) fn adapter_bytes(&self) -> (Vec<u8>, Vec<u8>) {
        let read = |name: &str| fs::read(self.path("out").join(name)).unwrap();
        (read("adapter_model.safetensors"), read("adapter_config.json"))
    }
}

pub(crate) fn executable() -> Command {
    Command::new(env!("CARGO_BIN_EXE_tunesmith-trainer"))
}

/// A running child; killed when dropped.
pub(crate) struct Supervised {
    child: Child,
    commands: Option<ChildStdin>,
    events: BufReader<ChildStdout>,
}

impl Supervised {
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let events = BufReader::new(child.stdout.take().unwrap());
        let commands = child.stdin.take();
        Self {
            child,
            commands,
            events,
        }
    }

    /// The next line; none at the end of its stdout.
    pub(crate) fn line(&mut self) -> Option<TrainerLine> {
        let mut line = String::new();
        let count = self.events.read_line(&mut line).unwrap();
        (count > 0).then(|| serde_json::from_str(&line).unwrap())
    }

    /// The next event of whatever job; none at the end of its stdout.
    pub(crate) fn event(&mut self) -> Option<TrainerEvent> {
        self.line().map(|line| line.event)
    }

    /// Reads lines up to the first event of `job` that `is_wanted`, and returns it.
    pub(crate) fn until_of(&mut self, job: &str, is_wanted: impl Fn(&TrainerEvent) -> bool) -> TrainerEvent {
        loop {
            let line = self.line().expect("the wanted event");
            if line.job.as_deref() == Some(job) && is_wanted(&line.event) {
                return line.event;
            }
        }
    }

    /// All lines that are left.
    pub(crate) fn rest(&mut self) -> Vec<TrainerLine> {
        std::iter::from_fn(|| self.line()).collect()
    }

    /// Reads events up to the first that `is_wanted`, and returns it.
    pub(crate) fn until(&mut self, mut is_wanted: impl FnMut(&TrainerEvent) -> bool) -> TrainerEvent {
        loop {
            let event = self.event().expect("the wanted event");
            if is_wanted(&event) {
                return event;
            }
        }
    }

    pub(crate) fn send(&mut self, command: TrainerCommand) {
        self.send_line(&serde_json::to_string(&command).unwrap());
    }

    pub(crate) fn send_line(&mut self, line: &str) {
        writeln!(self.commands.as_mut().unwrap(), "{line}").unwrap();
    }

    pub(crate) fn close_stdin(&mut self) {
        self.commands = None;
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A gang on the tiny Llama, in a scratch folder.
pub(crate) struct GangRun {
    pub(crate) folder: TempDir,
    pub(crate) spec: GangSpec,
    /// Variables of the child, beside those of the test.
    pub(crate) environment: Vec<(&'static str, &'static str)>,
}

impl GangRun {
    pub(crate) fn new() -> Self {
        let spec = GangSpec {
            base: golden("llama").join("base"),
            base_name: Some("tiny".to_owned()),
            device: "cpu".to_owned(),
            dtype: Default::default(),
            threads: Some(2),
            micro_batch_tokens: Some(400),
            activation_bytes: None,
            jobs: Vec::new(),
        };
        Self {
            folder: tempfile::tempdir().unwrap(),
            spec,
            environment: Vec::new(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A job of this gang on the golden data; its files are named after it.
    pub(crate) fn job(&self, id: &str, hyperparameters: HyperparametersRequest) -> JobSpec {
        JobSpec {
            id: id.to_owned(),
            data: golden("llama").join("training/train.jsonl"),
            eval: None,
            out: self.path(id),
            init_adapter: None,
            resume: None,
            checkpoint_dir: None,
            keep_checkpoints: 3,
            steps_log: Some(self.path(&format!("{id}.jsonl"))),
            hyperparameters,
        }
    }

    fn command(&self) -> Command {
        let file = self.path("spec.json");
        fs::write(&file, serde_json::to_string(&self.spec).unwrap()).unwrap();
        let mut command = executable();
        command.arg("gang").arg(file).envs(self.environment.clone());
        command
    }

    /// Runs it to its end, by hand.
    pub(crate) fn run(&self) -> Output {
        self.command().stdin(Stdio::null()).output().unwrap()
    }

    pub(crate) fn supervise(&self) -> Supervised {
        Supervised::start(self.command().arg("--supervised"))
    }

    /// Numbers of the steps of a job, by its log.
    pub(crate) fn losses(&self, id: &str) -> Vec<f64> {
        let text = fs::read_to_string(self.path(&format!("{id}.jsonl"))).unwrap();
        text.lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64())
            .collect()
    }
}

/// Largest ‖found − wanted‖ / ‖wanted‖ over the tensors of two adapter folders, which must have the same tensors.
pub(crate) fn adapter_difference(found: &Path, wanted: &Path) -> f64 {
    let open = |folder: &Path| MappedFile::open(&folder.join("adapter_model.safetensors")).unwrap();
    let (found, wanted) = (open(found), open(wanted));
    assert_eq!(found.names(), wanted.names());
    let load = |file: &MappedFile, name: &str| file.load(name, Device::Cpu, Some(Kind::Double)).unwrap();
    let difference = |name: &String| {
        let (found, wanted) = (load(&found, name), load(&wanted, name));
        relative_difference(&found, &wanted)
    };
    wanted.names().iter().map(difference).fold(0.0, f64::max)
}

/// ‖found − wanted‖ / ‖wanted‖.
pub(crate) fn relative_difference(found: &Tensor, wanted: &Tensor) -> f64 {
    let (found, wanted) = (found.to_kind(Kind::Double), wanted.to_kind(Kind::Double));
    let norm = |tensor: &Tensor| tensor.norm().double_value(&[]);
    norm(&(found - &wanted)) / norm(&wanted).max(1e-12)
}
