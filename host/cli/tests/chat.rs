//! `halo chat` and `halo run --chat`, with the default model and a chat template.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// The Hugging Face folder of the default model.
const TINY_HF: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../models/tests/data/tiny-hf"
);

const TEMPLATE: &str = "{{ bos_token }}{% for message in messages %}{{ message.role }}: {{ message.content }}\n\
                        {% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";

/// Runs the program in a folder, with lines to read, and gives what it printed.
fn halo(folder: &Path, arguments: &[&str], input: &str) -> String {
    let library = halo_engine::library::find(None).expect("`cargo xtask setup` brings one");
    let mut child = Command::new(env!("CARGO_BIN_EXE_halo"))
        .args(arguments)
        .env_clear()
        .env("HOME", folder)
        .env(halo_engine::library::VARIABLE, library)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// A folder with a package `chatty`, which has a chat template.
fn home() -> TempDir {
    let home = TempDir::new().unwrap();
    let source = home.path().join("source");
    fs::create_dir(&source).unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        fs::copy(Path::new(TINY_HF).join(name), source.join(name)).unwrap();
    }
    fs::write(source.join("chat_template.jinja"), TEMPLATE).unwrap();
    halo(home.path(), &["model", "import", "source", "chatty"], "");
    home
}

/// The lines of JSON that a command prints of one kind.
fn events(home: &Path, arguments: &[&str], input: &str, kind: &str) -> Vec<Value> {
    let options = [
        "--json",
        "--model",
        "./chatty",
        "--threads",
        "1",
        "--max-tokens",
        "8",
    ];
    let printed = halo(home, &[arguments, &options].concat(), input);
    let lines = printed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    lines.filter(|line: &Value| line["event"] == kind).collect()
}

#[test]
fn every_answer_continues_the_whole_conversation() {
    let home = home();
    let home = home.path();
    let lines = ["Once upon a time", "", "  And then?  "];
    let answers = events(
        home,
        &["chat", "--system", "Be kind."],
        &lines.join("\n"),
        "done",
    );
    assert_eq!(answers.len(), 2);
    let mut text = "<s>system: Be kind.\n".to_owned();
    for (line, answer) in ["Once upon a time", "And then?"].iter().zip(&answers) {
        text += &format!("user: {line}\nassistant:");
        let plain = events(home, &["run", &text], "", "done");
        for key in ["prompt_tokens", "tokens", "text", "finish"] {
            assert_eq!(plain[0][key], answer[key], "{key} after {text:?}");
        }
        text += &format!(" {}\n", answer["text"].as_str().unwrap());
    }
}

#[test]
fn one_question_is_a_conversation() {
    let home = home();
    let home = home.path();
    let asked = events(home, &["run", "--chat", "Once upon a time"], "", "done");
    let plain = events(
        home,
        &["run", "<s>user: Once upon a time\nassistant:"],
        "",
        "done",
    );
    assert_eq!(asked[0]["tokens"], plain[0]["tokens"]);
    // The beginning of the text is there once, whether the template writes it or not.
    let without = events(
        home,
        &["run", "user: Once upon a time\nassistant:"],
        "",
        "done",
    );
    assert_eq!(plain[0]["prompt_tokens"], without[0]["prompt_tokens"]);

    let options = [
        "run",
        "--chat",
        "--model",
        "./chatty",
        "--max-tokens",
        "8",
        "Once upon a time",
    ];
    let printed = halo(home, &options, "");
    assert_eq!(printed, format!("{}\n", asked[0]["text"].as_str().unwrap()));
}

#[test]
fn the_oldest_messages_make_room() {
    let home = home();
    let home = home.path();
    // The context is 512 tokens.
    let lines: Vec<String> = (0..6)
        .map(|i| format!("{i} {}", "Ada lived near the market. ".repeat(20)))
        .collect();
    let input = lines.join("\n");
    let chat = ["chat", "--system", "Be kind."];
    let answers = events(home, &chat, &input, "done");
    assert_eq!(answers.len(), 6);
    for answer in &answers {
        assert!(
            answer["prompt_tokens"].as_u64().unwrap() + 8 <= 512,
            "{answer}"
        );
        assert_eq!(answer["finish"], "max-tokens");
    }
    let forgotten = events(home, &chat, &input, "forgotten");
    let counts: Vec<_> = forgotten
        .iter()
        .map(|event| event["messages"].as_u64().unwrap())
        .collect();
    assert!(!counts.is_empty() && counts.is_sorted() && counts.iter().all(|count| count % 2 == 0));
}
