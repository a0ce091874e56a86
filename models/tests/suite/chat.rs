//! Chat templates: what published ones write, what hostile ones may not do, and how they come into a package.

use std::fs;
use std::path::Path;

use halo_models::{
    ChatTemplate, ChatTokens, ImportError, ImportOptions, Message, Package, PackageError, Role,
    import,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::model::Model;

/// What Hugging Face's set-up of Jinja makes of a template.
#[derive(Deserialize)]
struct Case {
    template: String,
    case: String,
    messages: Vec<Message>,
    add_generation_prompt: bool,
    text: Option<String>,
    refusal: Option<String>,
}

fn template(source: &str) -> Result<ChatTemplate, PackageError> {
    let tokens = ChatTokens {
        bos: "<s>".into(),
        eos: "</s>".into(),
    };
    ChatTemplate::new(Path::new("chat.jinja"), source.into(), tokens)
}

fn question() -> Vec<Message> {
    vec![Message {
        role: Role::User,
        content: "<Why>?".into(),
    }]
}

/// What a template makes of a question, or what is wrong with it.
fn rendered(source: &str) -> String {
    let text = template(source).and_then(|template| template.render(&question(), true));
    text.unwrap_or_else(|error| error.to_string())
}

#[test]
fn published_templates_write_what_they_write_elsewhere() {
    let folder = crate::model::data().join("chat");
    let cases = fs::read(folder.join("expected.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_slice(&cases).unwrap();
    assert_eq!(cases.len(), 35);
    for case in cases {
        let source = fs::read_to_string(folder.join(&case.template)).unwrap();
        let rendered = template(&source)
            .unwrap()
            .render(&case.messages, case.add_generation_prompt);
        let name = (case.template, case.case);
        match (case.text, case.refusal) {
            (Some(text), None) => assert_eq!(rendered.unwrap(), text, "{name:?}"),
            (None, Some(refusal)) => {
                let error = rendered.unwrap_err().to_string();
                assert!(error.ends_with(&refusal), "{name:?}: {error}");
            }
            _ => panic!("{name:?}"),
        }
    }
}

#[test]
fn functions_that_templates_expect() {
    assert_eq!(
        rendered("{{ messages[0].content | tojson }}"),
        r#""<Why>?""#
    );
    assert_eq!(rendered("{{ strftime_now('%d %b %Y') }}"), "26 Jul 2024");
    assert_eq!(
        rendered("{{ messages[0].content.strip('<?').lower() }}"),
        "why>"
    );
    assert_eq!(
        rendered("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}"),
        "01"
    );
    assert_eq!(
        rendered("{{ tools is none }} {{ documents is none }} {{ x is defined }}"),
        "True True False"
    );
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    for (source, expected) in [
        (
            "\n{% if %}",
            "chat.jinja:2: syntax error: unexpected end of block",
        ),
        (
            "{% if x %}\nx",
            "chat.jinja:2: syntax error: unexpected end of input, expected end of block",
        ),
        (
            "x\n\n{{ messages | nosuch }}",
            "chat.jinja:3: unknown filter: filter nosuch is unknown",
        ),
        (
            "x\n{{ nosuch() }}",
            "chat.jinja:2: unknown function: nosuch is unknown",
        ),
        (
            "{{ raise_exception('No!') }}",
            "chat.jinja:1: the template refuses this conversation: No!",
        ),
        (
            "x\n{% include 'secrets' %}",
            "chat.jinja:2: template not found: tried to include non-existing template 'secrets'",
        ),
    ] {
        assert_eq!(rendered(source), expected);
    }
}

#[test]
fn hostile_templates_come_to_an_end() {
    for (source, expected) in [
        (
            "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}",
            "chat.jinja:1: the template takes more than 1000000 steps",
        ),
        (
            "{% for a in range(1000) %}{{ 'x' * 90000000 }}{% endfor %}",
            "chat.jinja:1: the template writes more than 67108864 bytes",
        ),
        (
            "{% macro f() %}{{ f() }}{% endmacro %}\n{{ f() }}",
            "chat.jinja:1: recursion limit exceeded",
        ),
        (
            "{{ 'x' * 9000000000 }}",
            "chat.jinja:1: repeated string is too large",
        ),
    ] {
        assert_eq!(rendered(source), expected);
    }
    assert!(rendered("{% include 'chat' %}").starts_with("chat.jinja:1: "));
    assert_eq!(
        rendered(&"x".repeat(300_000)),
        "chat.jinja:1: 300000 bytes are too long for a chat template; at most 262144 are taken"
    );
    // However deep an expression is nested.
    let deep = format!("{{{{ {}1{} }}}}", "(".repeat(50_000), ")".repeat(50_000));
    assert!(rendered(&deep).starts_with("chat.jinja:1: syntax error"));
}

/// Imports a small model with more files beside its own.
fn imported(files: &[(&str, &str)]) -> (TempDir, Result<Package, ImportError>) {
    let dir = TempDir::new().unwrap();
    let source = dir.path().join("source");
    Model::new().write(&source);
    for (name, content) in files {
        fs::write(source.join(name), content).unwrap();
    }
    let package = dir.path().join("package");
    let package = import(&source, &package, &ImportOptions::default(), &mut |_| ());
    (dir, package)
}

fn tokenizer_config(config: &Value) -> (TempDir, Package) {
    let (dir, package) = imported(&[("tokenizer_config.json", &config.to_string())]);
    (dir, package.unwrap())
}

fn written(package: &Package) -> Option<String> {
    let template = package.chat_template().unwrap()?;
    Some(template.render(&question(), true).unwrap())
}

#[test]
fn a_template_is_imported_from_wherever_it_is() {
    let one = json!({"chat_template": "{{ bos_token }}one", "bos_token": "t0", "eos_token": null});
    let (_dir, package) = tokenizer_config(&one);
    assert_eq!(written(&package).unwrap(), "t0one");
    let files = &package.manifest().files;
    assert!(files.contains_key("chat_template.jinja"));
    package.verify(|_, _| ()).unwrap();

    let named = json!({
        "chat_template": [{"name": "tools", "template": "no"}, {"name": "default", "template": "{{ eos_token }}"}],
        "eos_token": {"content": "t7", "lstrip": false},
    });
    assert_eq!(written(&tokenizer_config(&named).1).unwrap(), "t7");

    let (_dir, package) = imported(&[
        ("tokenizer_config.json", &one.to_string()),
        ("chat_template.jinja", "file {{ bos_token }}"),
    ]);
    assert_eq!(written(&package.unwrap()).unwrap(), "file t0");

    let (_dir, package) = imported(&[("chat_template.jinja", "{{ bos_token }} {{ eos_token }}")]);
    assert_eq!(written(&package.unwrap()).unwrap(), "t0 t1");

    let (_dir, package) = imported(&[]);
    let package = package.unwrap();
    assert_eq!(written(&package), None);
    assert_eq!(package.manifest().chat, None);
}

#[test]
fn tokens_that_begin_and_end_a_text_are_those_of_all_files() {
    let (_dir, package) = imported(&[
        (
            "tokenizer_config.json",
            r#"{"bos_token": "t0", "eos_token": "t5", "add_bos_token": true}"#,
        ),
        (
            "generation_config.json",
            r#"{"eos_token_id": [2, 9], "temperature": 0.6}"#,
        ),
    ]);
    let shape = package.unwrap().shape().clone();
    assert_eq!((shape.bos, shape.eos), (Some(0), vec![5, 1, 2, 9]));

    let bos = |config: Value| tokenizer_config(&config).1.shape().bos;
    assert_eq!(bos(json!({"add_bos_token": false})), None);
    assert_eq!(
        bos(json!({"add_bos_token": true, "bos_token": "t4"})),
        Some(4)
    );
    assert_eq!(bos(json!({"add_bos_token": true})), Some(0));
    // This tokenizer puts nothing first itself.
    assert_eq!(bos(json!({})), None);
}

#[test]
fn files_that_are_not_what_they_must_be_are_refused() {
    for (name, content, expected) in [
        ("tokenizer_config.json", "{", "tokenizer_config.json: EOF"),
        (
            "tokenizer_config.json",
            r#"{"chat_template": 7}"#,
            "tokenizer_config.json: data did not match",
        ),
        (
            "generation_config.json",
            r#"{"eos_token_id": "x"}"#,
            "generation_config.json: data did not match",
        ),
        (
            "generation_config.json",
            r#"{"eos_token_id": 40}"#,
            "generation_config.json: eos is 40, but must be below",
        ),
    ] {
        let error = imported(&[(name, content)]).1.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_manifest_that_promises_a_template_must_list_it() {
    let (dir, package) = imported(&[("chat_template.jinja", "x")]);
    let package = package.unwrap();
    let path = dir.path().join("package/manifest.json");
    let mut manifest = package.manifest().clone();
    manifest.chat = None;
    fs::write(&path, serde_json::to_vec(&manifest).unwrap()).unwrap();
    let error = Package::open(package.dir()).unwrap_err().to_string();
    assert!(
        error.contains("`chat_template.jinja` is listed, but"),
        "{error}"
    );

    let mut manifest = package.manifest().clone();
    manifest.files.remove("chat_template.jinja");
    fs::write(&path, serde_json::to_vec(&manifest).unwrap()).unwrap();
    let error = Package::open(package.dir()).unwrap_err().to_string();
    assert!(
        error.contains("`chat_template.jinja` is not listed"),
        "{error}"
    );
}
