//! What docs/ and README.md say about `halo`: the example configuration is whole and right, every command is one, and this
//! is what `--help` says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use halo_fabric::{Encoding, Loss, Mode, Transport};
use halo_policy::Limits;
use halo_runtime::config::{Config, Network, Packages, Policies, Sync, Testing};
use halo_runtime::{Arrangement, AttentionPlace, Concealment, SyncMode};
use toml::{Table, Value};

/// The project's folder.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn example() -> String {
    fs::read_to_string(root().join("docs/halo.toml")).unwrap()
}

/// The example with every key that is commented out uncommented. Keys follow the `#` at once, prose after a space.
fn uncommented() -> String {
    let example = example();
    let lines = example.lines().map(|line| match line.strip_prefix('#') {
        Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase()) => key,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A configuration in which every key has a value. A new key must be added here, since nothing is left to a default.
fn filled() -> Config {
    Config {
        name: Some("node".into()),
        model: Some("model".into()),
        onnxruntime: Some("libonnxruntime.so".into()),
        threads: Some(2),
        memory: Some(1),
        start: Some(0.5),
        packages: Packages {
            folder: Some("models".into()),
            limit: Some(1),
        },
        network: Network {
            cluster: "home".into(),
            mode: Mode::Client,
            listen: vec!["127.0.0.1:7447".into()],
            connect: vec!["127.0.0.1:7448".into()],
            scouting: false,
        },
        sync: Sync {
            mode: SyncMode::Strict,
            bound_ms: 1,
            conceal: Concealment::Last,
            activation: Encoding::F32,
            partial: Encoding::F16,
        },
        policy: Policies {
            scheduler: Some("scheduler-even".into()),
            predictor: Some("predictor-static".into()),
            attention: AttentionPlace::Even,
            folder: Some("policies".into()),
            limits: Limits::default(),
            settings: BTreeMap::new(),
        },
        testing: Testing {
            loss: Some(Loss::Bursty {
                rate: 0.1,
                burst: 2.0,
            }),
            seed: 1,
            transport: Transport::Tcp,
            slowdown: Some(2.0),
            arrangement: Arrangement::Worst,
        },
    }
}

/// All values by their dotted keys. A policy's settings are its own affair.
fn values(config: &Config) -> BTreeMap<String, Value> {
    fn collect(prefix: &str, table: &Table, values: &mut BTreeMap<String, Value>) {
        for (key, value) in table {
            let key = format!("{prefix}{key}");
            match value {
                Value::Table(_) if key == "policy.settings" => {}
                Value::Table(table) => collect(&format!("{key}."), table, values),
                value => {
                    values.insert(key, value.clone());
                }
            }
        }
    }
    let mut values = BTreeMap::new();
    collect("", &Table::try_from(config).unwrap(), &mut values);
    values
}

#[test]
fn the_example_configuration_changes_nothing() {
    let mut config: Config = toml::from_str(&example()).unwrap();
    let settings = std::mem::take(&mut config.policy.settings);
    assert_eq!(config, Config::default());
    assert!(settings.values().all(BTreeMap::is_empty));
}

#[test]
fn the_example_configuration_has_every_key() {
    let shown: Config = toml::from_str(&uncommented()).unwrap();
    let keys = |config: &Config| values(config).into_keys().collect::<BTreeSet<_>>();
    assert_eq!(keys(&shown), keys(&filled()));
    assert!(keys(&Config::default()).is_subset(&keys(&shown)));
    // What a key is called when it is written is what it is called when it is read.
    let written = toml::to_string(&filled()).unwrap();
    assert_eq!(toml::from_str::<Config>(&written).unwrap(), filled());
}

#[test]
fn the_example_configuration_shows_the_defaults() {
    let shown = values(&toml::from_str(&uncommented()).unwrap());
    for (key, default) in values(&Config::default()) {
        assert_eq!(shown[&key], default, "{key}");
    }
}

#[test]
fn the_example_configuration_names_every_choice() {
    let text = example();
    let modes = [Mode::Peer, Mode::Client, Mode::Router].map(Value::try_from);
    let syncs = [SyncMode::Strict, SyncMode::Relaxed, SyncMode::LikeTcp].map(Value::try_from);
    let encodings = Encoding::ALL.map(Value::try_from);
    let conceals = Concealment::ALL.map(Value::try_from);
    let transports = [Transport::Udp, Transport::Tcp].map(Value::try_from);
    let arrangements = Arrangement::ALL.map(Value::try_from);
    let choices = modes.into_iter().chain(syncs).chain(conceals);
    let choices = choices.chain(encodings).chain(transports);
    for choice in choices.chain(arrangements) {
        let choice = choice.unwrap().to_string();
        assert!(text.contains(&choice), "{choice}");
    }
    for model in ["random", "bursty"] {
        let shown = text
            .split(&format!("{{ model = \"{model}\""))
            .nth(1)
            .unwrap();
        let loss = format!(
            "loss = {{ model = \"{model}\"{} }}",
            shown.split_once(" }").unwrap().0
        );
        assert!(toml::from_str::<Testing>(&loss).is_ok(), "{loss}");
    }
}

#[test]
fn the_example_configuration_shows_the_settings_of_scheduler_halo() {
    let shown: Config = toml::from_str(&uncommented()).unwrap();
    let source = root().join("plugins/scheduler-halo/src/lib.rs");
    let source = fs::read_to_string(source).unwrap();
    let rows = source.lines().filter_map(|l| l.strip_prefix("//! | `"));
    let documented = rows.map(|row| {
        let mut cells = row.split('|').map(str::trim);
        let key = cells.next().unwrap().trim_end_matches('`');
        (key.to_owned(), cells.next().unwrap().to_owned())
    });
    let documented = documented.collect::<BTreeMap<_, _>>();
    assert_eq!(shown.policy.settings["scheduler-halo"], documented);
    assert_eq!(shown.policy.settings.len(), 1);
}

/// README.md and every page below docs/.
fn pages() -> Vec<PathBuf> {
    let mut pages = vec![root().join("README.md")];
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "md") {
                pages.push(path);
            }
        }
    }
    pages
}

/// The lines of a page's shell blocks.
fn commands(text: &str) -> impl Iterator<Item = &str> {
    let blocks = text.split("```sh\n").skip(1);
    blocks
        .filter_map(|rest| rest.split_once("```"))
        .flat_map(|(block, _)| block.lines())
}

#[test]
fn commands_are_understood() {
    let mut checked = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for line in commands(&text).filter(|line| line.starts_with("halo ")) {
            let words = shlex::split(line).expect("quotes are closed");
            if let Err(error) = halo_cli::command().try_get_matches_from(words) {
                panic!("{}: `{line}`: {error}", page.display());
            }
            checked += 1;
        }
    }
    assert!(checked >= 20, "only {checked} commands were found");
}

/// The words that lead to a command and to each command below it.
fn subcommands(command: &clap::Command, path: &[String]) -> Vec<Vec<String>> {
    let mut all = vec![path.to_vec()];
    for below in command.get_subcommands() {
        let path = [path, &[below.get_name().to_owned()]].concat();
        all.extend(subcommands(below, &path));
    }
    all
}

#[test]
fn help() {
    for path in subcommands(&halo_cli::command(), &[]) {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_halo"))
            .args(&path)
            .arg("--help")
            .env_clear()
            .output()
            .unwrap();
        assert!(output.status.success(), "{path:?}");
        let help = String::from_utf8(output.stdout).unwrap();
        let name = [&["help".to_owned()], &path[..]].concat().join("_");
        insta::assert_snapshot!(name, help);
    }
}
