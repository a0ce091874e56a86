//! What `halo` says when something is wrong: one clear error, the right exit code, nothing half-written.
//!
//! Each test runs the program with an empty home and compares what it prints with a snapshot. `INSTA_UPDATE=always` writes
//! the snapshots anew; read them before you commit them.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// The default model.
const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tiny");

/// The Hugging Face folder that it was made from.
const TINY_HF: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../models/tests/data/tiny-hf"
);

/// No command takes so long. One that does hangs.
const HANGS: Duration = Duration::from_secs(120);

/// An empty home, and the program in it.
struct Home {
    folder: TempDir,
}

impl Home {
    fn new() -> Self {
        Self {
            folder: TempDir::new().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file in it and gives its path.
    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Copies a folder into it and gives the copy's path.
    fn copy(&self, from: &str, name: &str) -> String {
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let file = format!("{name}/{}", entry.file_name().to_str().unwrap());
            self.file(&file, fs::read(entry.path()).unwrap());
        }
        self.path(name).to_str().unwrap().to_owned()
    }

    /// The program without ONNX Runtime.
    fn bare(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_halo"));
        command
            .args(arguments)
            .env_clear()
            .env("HOME", self.folder.path())
            .env("RUST_BACKTRACE", "1")
            .current_dir(self.folder.path())
            .kill_on_drop(true)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// The program with the ONNX Runtime of this machine.
    fn halo(&self, arguments: &[&str]) -> Command {
        let library = halo_engine::library::find(None).expect("`cargo xtask setup` brings one");
        let mut command = self.bare(arguments);
        command.env(halo_engine::library::VARIABLE, library);
        command
    }

    /// Starts a worker and waits until it is ready.
    async fn worker(&self, arguments: &[&str], address: &str) -> Child {
        let options = ["--json", "--no-scouting", "--threads", "1", "--listen"];
        let mut worker = self
            .halo(&[&["node"], arguments, &options, &[address]].concat())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(worker.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(HANGS, lines.next_line()).await;
        let line = line.expect("the worker hangs").unwrap();
        assert!(line.unwrap().contains(r#""event":"ready""#));
        worker
    }

    /// All files in it, by their paths, but for what may be made again at any time.
    fn files(&self) -> Vec<String> {
        let (mut files, mut folders) = (Vec::new(), vec![self.folder.path().to_owned()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.ends_with("halo/cache") {
                    continue;
                }
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let inside = path.strip_prefix(self.folder.path()).unwrap();
                    files.push(inside.display().to_string());
                }
            }
        }
        files.sort();
        files
    }
}

/// Runs a command and gives what it printed, and its exit code. It may leave no file behind that was not there.
async fn run(home: &Home, mut command: Command) -> String {
    let before = home.files();
    let output = tokio::time::timeout(HANGS, command.output()).await;
    let output = output.expect("the command hangs").unwrap();
    assert_eq!(home.files(), before);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    for sign in ["panicked", "stack backtrace", "RUST_BACKTRACE"] {
        assert!(!stderr.contains(sign), "{stderr}");
    }
    let words: Vec<_> = command.as_std().get_args().collect();
    let words: Vec<_> = words.iter().map(|w| w.to_string_lossy()).collect();
    format!(
        "$ halo {}\n{}\n--- standard output ---\n{stdout}--- standard error ---\n{stderr}",
        shlex::try_join(words.iter().map(AsRef::as_ref)).unwrap(),
        output.status
    )
}

/// Compares with the snapshot, with what differs from machine to machine replaced.
macro_rules! assert_message {
    ($home:expr, $command:expr) => {{
        let said = run(&$home, $command).await;
        let home = regex_of($home.folder.path());
        let tiny = regex_of(&Path::new(TINY).canonicalize().unwrap());
        let program = regex_of(Path::new(env!("CARGO_BIN_EXE_halo")).parent().unwrap());
        let (tiny_hf, model) = (regex_of(Path::new(TINY_HF)), regex_of(Path::new(TINY)));
        insta::with_settings!({ filters => vec![
            (home.as_str(), "[HOME]"),
            (tiny.as_str(), "models/tiny"),
            (model.as_str(), "models/tiny"),
            (tiny_hf.as_str(), "tiny-hf"),
            (program.as_str(), "[PROGRAM]"),
            (r"127\.0\.0\.1:\d{4,5}\b", "127.0.0.1:[PORT]"),
            (r"[0-9a-f]{64}", "[SHA-256]"),
            (r"there are \d+ cores", "there are [N] cores"),
        ] }, {
            insta::assert_snapshot!(said);
        });
    }};
}

fn regex_of(path: &Path) -> String {
    let escaped = path.to_str().unwrap().chars().flat_map(|c| {
        let special = !c.is_ascii_alphanumeric() && !"/-_".contains(c);
        special.then_some('\\').into_iter().chain([c])
    });
    escaped.collect()
}

/// A port of the loopback interface that is free for TCP and UDP, held on both until the sockets are dropped.
fn held_port() -> (u16, TcpListener, UdpSocket) {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        if let Ok(udp) = UdpSocket::bind(("127.0.0.1", port)) {
            return (port, tcp, udp);
        }
    }
}

/// An address nobody listens on.
fn free_address() -> String {
    format!("127.0.0.1:{}", held_port().0)
}

// ONNX Runtime

#[tokio::test]
async fn onnxruntime_nowhere() {
    let home = Home::new();
    assert_message!(home, home.bare(&["run", "--model", TINY, "Once"]));
}

#[tokio::test]
async fn onnxruntime_variable_points_nowhere() {
    let home = Home::new();
    let mut command = home.bare(&["run", "--model", TINY, "Once"]);
    command.env("ORT_DYLIB_PATH", "/nowhere/libonnxruntime.so");
    assert_message!(home, command);
}

#[tokio::test]
async fn onnxruntime_is_no_library() {
    let home = Home::new();
    let file = home.file("libonnxruntime.so", "This is text.");
    let mut command = home.bare(&["run", "--model", TINY, "Once"]);
    command.env("ORT_DYLIB_PATH", file);
    assert_message!(home, command);
}

#[tokio::test]
async fn onnxruntime_is_another_library() {
    let home = Home::new();
    // A library of the C compiler that is on every machine that can build this.
    let config = home.file("halo.toml", "onnxruntime = \"libc.so\"\n");
    let libc = ["/lib", "/lib64", "/usr/lib"].map(Path::new);
    let libc = libc.iter().flat_map(|f| {
        let arch = format!("{}-linux-gnu/libc.so.6", std::env::consts::ARCH);
        [f.join(arch), f.join("libc.so.6")]
    });
    let libc = libc.into_iter().find(|p| p.is_file()).unwrap();
    fs::copy(libc, home.path("libc.so")).unwrap();
    assert_message!(
        home,
        home.bare(&["run", "--config", &config, "--model", TINY, "Once"])
    );
}

// Models

#[tokio::test]
async fn bench_compares_with_something_else() {
    let home = Home::new();
    let file = home.file("before.json", r#"{"runs":[]}"#);
    assert_message!(home, home.halo(&["bench", TINY, "--compare", &file]));
    assert_message!(
        home,
        home.halo(&["bench", TINY, "--compare", "missing.json"])
    );
}

#[tokio::test]
async fn bench_with_more_threads_than_cores() {
    let home = Home::new();
    assert_message!(home, home.halo(&["bench", TINY, "--threads", "1,5000"]));
}

#[tokio::test]
async fn bench_of_a_cluster_without_workers() {
    let home = Home::new();
    let cluster = ["--no-scouting", "--cluster", "no-workers"];
    let arguments = [&["bench", TINY, "--patience", "1"], &cluster[..]].concat();
    assert_message!(home, home.halo(&arguments));
}

#[tokio::test]
async fn bench_of_a_cluster_with_options_of_another_measurement() {
    let home = Home::new();
    let cluster = ["bench", TINY, "--cluster", "home"];
    let with = |more: &[&'static str]| [&cluster[..], more].concat();
    assert_message!(home, home.halo(&with(&["--context", "7"])));
    assert_message!(home, home.halo(&with(&["--threads", "1,1"])));
    assert_message!(
        home,
        home.halo(&["bench", TINY, "--scheduler", "scheduler-even"])
    );
}

#[tokio::test]
async fn bench_says_once_what_its_measuring_process_says() {
    let home = Home::new();
    assert_message!(home, home.bare(&["bench", TINY, "--threads", "1"]));
    assert_message!(
        home,
        home.bare(&["bench", TINY, "--threads", "1", "--json"])
    );
}

#[tokio::test]
async fn model_not_found() {
    let home = Home::new();
    assert_message!(home, home.halo(&["run", "--model", "tinyllama", "Once"]));
}

#[tokio::test]
async fn model_is_no_package() {
    let home = Home::new();
    assert_message!(home, home.halo(&["run", "--model", TINY_HF, "Once"]));
}

#[tokio::test]
async fn model_truncated() {
    let home = Home::new();
    let model = home.copy(TINY, "model");
    let layer = fs::File::options()
        .write(true)
        .open(home.path("model/layer-003.safetensors"))
        .unwrap();
    layer.set_len(100_000).unwrap();
    assert_message!(home, home.halo(&["run", "--model", &model, "Once"]));
}

#[tokio::test]
async fn model_file_missing() {
    let home = Home::new();
    let model = home.copy(TINY, "model");
    fs::remove_file(home.path("model/layer-003.safetensors")).unwrap();
    assert_message!(home, home.halo(&["run", "--model", &model, "Once"]));
}

#[tokio::test]
async fn model_hash() {
    let home = Home::new();
    let model = home.copy(TINY, "model");
    let layer = home.path("model/layer-003.safetensors");
    let mut bytes = fs::read(&layer).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(layer, bytes).unwrap();
    assert_message!(home, home.halo(&["model", "inspect", "--verify", &model]));
}

// Importing

#[tokio::test]
async fn import_unknown_architecture() {
    let home = Home::new();
    home.file(
        "gpt2/config.json",
        r#"{"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}"#,
    );
    assert_message!(home, home.halo(&["model", "import", "gpt2", "package"]));
}

#[tokio::test]
async fn import_without_config() {
    let home = Home::new();
    home.copy(TINY_HF, "hf");
    fs::remove_file(home.path("hf/config.json")).unwrap();
    assert_message!(home, home.halo(&["model", "import", "hf", "package"]));
}

#[tokio::test]
async fn import_truncated_weights() {
    let home = Home::new();
    home.copy(TINY_HF, "hf");
    let weights = fs::File::options()
        .write(true)
        .open(home.path("hf/model.safetensors"))
        .unwrap();
    weights.set_len(1_000_000).unwrap();
    assert_message!(home, home.halo(&["model", "import", "hf", "package"]));
}

#[tokio::test]
async fn import_over_something() {
    let home = Home::new();
    home.file("package/letter.txt", "Dear Ada");
    let import = ["model", "import", "--overwrite", TINY_HF, "package"];
    assert_message!(home, home.halo(&import));
}

#[tokio::test]
async fn import_over_a_package() {
    let home = Home::new();
    home.copy(TINY, "package");
    assert_message!(home, home.halo(&["model", "import", TINY_HF, "package"]));
}

#[tokio::test]
async fn import_weight_format() {
    let home = Home::new();
    assert_message!(
        home,
        home.halo(&["model", "import", "--weights", "q5", TINY_HF, "package"])
    );
}

// Prompts

#[tokio::test]
async fn prompt_empty() {
    let home = Home::new();
    assert_message!(home, home.halo(&["run", "--model", TINY, ""]));
}

#[tokio::test]
async fn prompt_empty_as_json() {
    let home = Home::new();
    assert_message!(home, home.halo(&["run", "--json", "--model", TINY]));
}

#[tokio::test]
async fn prompt_longer_than_the_context() {
    let home = Home::new();
    let story = home.file("story.txt", "Once upon a time. ".repeat(200));
    let mut command = home.halo(&["run", "--model", TINY]);
    command.stdin(fs::File::open(story).unwrap());
    assert_message!(home, command);
}

// Conversations

#[tokio::test]
async fn chat_without_a_template() {
    let home = Home::new();
    assert_message!(home, home.halo(&["chat", "--model", TINY]));
    assert_message!(
        home,
        home.halo(&["run", "--chat", "--model", TINY, "Hello"])
    );
}

#[tokio::test]
async fn chat_template_that_fails() {
    let home = Home::new();
    let source = home.copy(TINY_HF, "source");
    let template = "{% for message in messages %}\n{{ message.content | shout }}\n{% endfor %}";
    home.file("source/chat_template.jinja", template);
    let mut import = home.halo(&["model", "import", &source, "chatty"]);
    assert!(import.output().await.unwrap().status.success());
    assert_message!(
        home,
        home.halo(&["run", "--chat", "--model", "./chatty", "Hello"])
    );
}

// The network

#[tokio::test]
async fn port_in_use_tcp() {
    let home = Home::new();
    let (port, _tcp, udp) = held_port();
    drop(udp);
    let address = format!("127.0.0.1:{port}");
    assert_message!(
        home,
        home.halo(&["node", "--model", TINY, "--listen", &address])
    );
}

#[tokio::test]
async fn port_in_use_udp() {
    let home = Home::new();
    let (port, tcp, _udp) = held_port();
    drop(tcp);
    let address = format!("127.0.0.1:{port}");
    assert_message!(
        home,
        home.halo(&["node", "--model", TINY, "--listen", &address])
    );
}

#[tokio::test]
async fn address_of_another_machine() {
    let home = Home::new();
    assert_message!(
        home,
        home.halo(&["node", "--model", TINY, "--listen", "192.0.2.1:7447"])
    );
}

#[tokio::test]
async fn bad_endpoint() {
    let home = Home::new();
    assert_message!(
        home,
        home.halo(&["node", "--model", TINY, "--listen", "192.168.1.20"])
    );
    assert_message!(
        home,
        home.halo(&["node", "--model", TINY, "--connect", "tls/pi:7447"])
    );
}

#[tokio::test]
async fn bad_name() {
    let home = Home::new();
    assert_message!(
        home,
        home.halo(&["node", "--model", TINY, "--name", "Kitchen Pi"])
    );
}

#[tokio::test]
async fn name_taken() {
    let home = Home::new();
    let address = free_address();
    let node = ["node", "--model", TINY, "--cluster", "name-taken", "--name"];
    let _first = home.worker(&[&node[1..], &["pi"]].concat(), &address).await;
    let second = ["pi", "--no-scouting", "--connect", &address];
    assert_message!(home, home.halo(&[&node[..], &second].concat()));
}

/// Options of a leader that meets nobody by chance.
fn lead<'a>(cluster: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let options = [
        "run",
        "--model",
        TINY,
        "--name",
        "leader",
        "--no-scouting",
        "--cluster",
        cluster,
    ];
    [&options, more].concat()
}

#[tokio::test]
async fn no_workers() {
    let home = Home::new();
    let arguments = lead("no-workers", &["--patience", "1", "Once"]);
    assert_message!(home, home.halo(&arguments));
}

#[tokio::test]
async fn no_workers_at_the_address() {
    let home = Home::new();
    let address = free_address();
    let arguments = lead("unreachable", &["--patience", "1", "--connect", &address]);
    assert_message!(home, home.halo(&[&arguments[..], &["Once"]].concat()));
}

#[tokio::test]
async fn worker_with_another_model() {
    let home = Home::new();
    let import = ["model", "import", "--weights", "q8", TINY_HF, "other"];
    assert!(home.halo(&import).status().await.unwrap().success());
    let address = free_address();
    let worker = [
        "--model",
        "other",
        "--cluster",
        "other-model",
        "--name",
        "pi",
    ];
    let _worker = home.worker(&worker, &address).await;
    let arguments = lead("other-model", &["--patience", "5", "--connect", &address]);
    assert_message!(home, home.halo(&[&arguments[..], &["Once"]].concat()));
}

#[tokio::test]
async fn cluster_too_small() {
    let home = Home::new();
    let address = free_address();
    let worker = [
        "--model",
        TINY,
        "--memory",
        "300KB",
        "--cluster",
        "small",
        "--name",
        "pi",
    ];
    let _worker = home.worker(&worker, &address).await;
    let options = ["--patience", "5", "--memory", "1MB", "--connect", &address];
    let arguments = lead("small", &options);
    assert_message!(home, home.halo(&[&arguments[..], &["Once"]].concat()));
}

#[tokio::test]
async fn nobody_in_the_cluster() {
    let home = Home::new();
    let address = free_address();
    let arguments = ["--no-scouting", "--cluster", "nobody", "--connect"];
    let status = [&["status"], &arguments[..], &[&address]].concat();
    assert_message!(home, home.halo(&status));
}

#[tokio::test]
async fn no_router() {
    let home = Home::new();
    let address = free_address();
    let arguments = ["node", "--model", TINY, "--client", "--connect", &address];
    assert_message!(home, home.halo(&arguments));
}

#[tokio::test]
async fn client_without_a_router() {
    let home = Home::new();
    let arguments = ["node", "--model", TINY, "--client", "--no-scouting"];
    assert_message!(home, home.halo(&arguments));
}

// Configuration

#[tokio::test]
async fn config_unknown_key() {
    let home = Home::new();
    let config = home.file("halo.toml", "[network]\ncluster = \"home\"\nlissten = []\n");
    assert_message!(home, home.halo(&["status", "--config", &config]));
}

#[tokio::test]
async fn config_wrong_type() {
    let home = Home::new();
    let config = home.file("halo.toml", "threads = \"four\"\n");
    assert_message!(home, home.halo(&["status", "--config", &config]));
}

#[tokio::test]
async fn config_unknown_choice() {
    let home = Home::new();
    // Found without being named.
    home.file(".config/halo/halo.toml", "[sync]\nmode = \"loose\"\n");
    assert_message!(home, home.halo(&["status"]));
}

#[tokio::test]
async fn config_impossible_loss() {
    let home = Home::new();
    let config = "[testing]\nloss = { model = \"random\", rate = 2.0 }\n";
    let config = home.file("halo.toml", config);
    assert_message!(
        home,
        home.halo(&["node", "--model", TINY, "--config", &config])
    );
}

#[tokio::test]
async fn config_missing() {
    let home = Home::new();
    assert_message!(home, home.halo(&["status", "--config", "halo.toml"]));
}

// The command line

#[tokio::test]
async fn loss_is_no_share() {
    let home = Home::new();
    assert_message!(home, home.halo(&["node", "--loss", "2"]));
    assert_message!(home, home.halo(&["demo", "--loss", "2"]));
}

#[tokio::test]
async fn memory_is_no_size() {
    let home = Home::new();
    assert_message!(home, home.halo(&["node", "--memory", "lots"]));
}

#[tokio::test]
async fn memory_too_small() {
    let home = Home::new();
    assert_message!(
        home,
        home.halo(&["run", "--model", TINY, "--memory", "100kB", "Once"])
    );
}

#[tokio::test]
async fn network_options_without_a_cluster() {
    let home = Home::new();
    let arguments = ["run", "--model", TINY, "--connect", "pi:7447", "Once"];
    assert_message!(home, home.halo(&arguments));
}

#[tokio::test]
async fn sampling_options_out_of_range() {
    let home = Home::new();
    assert_message!(home, home.halo(&["run", "--temperature", "-1", "Once"]));
    assert_message!(home, home.halo(&["run", "--top-p", "0", "Once"]));
    let penalty = ["run", "--repetition-penalty", "NaN", "Once"];
    assert_message!(home, home.halo(&penalty));
    assert_message!(home, home.halo(&["run", "--stop", "", "Once"]));
    assert_message!(home, home.halo(&["run", "--logprobs", "2", "Once"]));
}

#[tokio::test]
async fn more_context_than_there_is() {
    let home = Home::new();
    let run = |arguments: &[&str]| home.halo(&[&["run", "--model", TINY][..], arguments].concat());
    assert_message!(home, run(&["--context", "513", "Once upon a time"]));
    assert_message!(home, run(&["--context", "4", "Once upon a time"]));
}

// Calibrating and evaluating

#[tokio::test]
async fn text_missing() {
    let home = Home::new();
    let arguments = ["eval", "perplexity", "--model", TINY, "--text", "book.txt"];
    assert_message!(home, home.halo(&arguments));
}

#[tokio::test]
async fn text_empty() {
    let home = Home::new();
    home.file("book.txt", "\n\n");
    let arguments = ["eval", "perplexity", "--model", TINY, "--text", "book.txt"];
    assert_message!(home, home.halo(&arguments));
    let model = home.copy(TINY, "model");
    let arguments = ["model", "calibrate", &model, "--text", "book.txt"];
    assert_message!(home, home.halo(&arguments));
}

#[tokio::test]
async fn predictor_without_calibration() {
    let home = Home::new();
    let mut import = home.halo(&["model", "import", TINY_HF, "package"]);
    assert!(import.status().await.unwrap().success());
    home.file("book.txt", "Once upon a time");
    let arguments = ["eval", "predictor", "package", "--text", "book.txt"];
    assert_message!(home, home.halo(&arguments));
}

// Policies

#[tokio::test]
async fn policy_unknown() {
    let home = Home::new();
    let arguments = ["policy", "activate", "--cluster", "home", "scheduler-best"];
    assert_message!(home, home.halo(&arguments));
    let arguments = lead("home", &["--scheduler", "scheduler-best", "Once"]);
    assert_message!(home, home.halo(&arguments));
}

#[tokio::test]
async fn policy_of_the_other_kind() {
    let home = Home::new();
    let arguments = lead("home", &["--scheduler", "predictor-probe", "Once"]);
    assert_message!(home, home.halo(&arguments));
}

#[tokio::test]
async fn policy_file_missing() {
    let home = Home::new();
    let arguments = ["policy", "activate", "--cluster", "home", "mine.wasm"];
    assert_message!(home, home.halo(&arguments));
}

#[tokio::test]
async fn policy_file_is_garbage() {
    let home = Home::new();
    home.file("mine.wasm", "This is text.");
    let arguments = ["policy", "activate", "--cluster", "home", "mine.wasm"];
    assert_message!(home, home.halo(&arguments));
    // A component's beginning, and then nonsense.
    home.file("mine.wasm", b"\0asm\x0d\0\x01\0nonsense");
    assert_message!(home, home.halo(&arguments));
}

#[tokio::test]
async fn policy_refused_by_a_node() {
    let home = Home::new();
    let address = free_address();
    let worker = ["--model", TINY, "--cluster", "refused", "--name", "pi"];
    let _worker = home.worker(&worker, &address).await;
    let activate = ["policy", "activate", "--cluster", "refused"];
    let setting = ["--set", "budgets=0.1", "scheduler-halo"];
    let network = ["--no-scouting", "--connect", &address];
    assert_message!(
        home,
        home.halo(&[&activate[..], &setting, &network].concat())
    );
}

#[tokio::test]
async fn policy_without_cluster() {
    let home = Home::new();
    assert_message!(home, home.halo(&["policy", "activate", "scheduler-even"]));
}
