use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use halo_engine::{Engine, EngineOptions};
use halo_eval::{CalibrateOptions, Calibrated, Documents, EvalError, Progress, Stage, calibrate};
use halo_models::Package;

use crate::texts::{calibration, copy, tiny};

fn run(
    package: &Package,
    texts: &[Documents],
    options: &CalibrateOptions,
) -> Result<Calibrated, EvalError> {
    let engine = Engine::start(&EngineOptions::default()).unwrap();
    calibrate(&engine, package, texts, options, &mut |_| ())
}

#[test]
fn the_probe_beats_the_mean_and_the_mean_beats_chance() {
    let package = tiny();
    let texts = calibration();
    let options = CalibrateOptions::default();
    let Calibrated {
        calibration,
        report,
    } = run(&package, &texts, &options).unwrap();

    for kept in report.texts.iter().chain([&report.overall]) {
        println!(
            "{}: {} tokens, {} of {} groups lost, kept: oracle {:.3}, probe {:.3}, static {:.3}, random {:.3}",
            kept.text,
            kept.tokens,
            report.lost,
            report.groups,
            kept.oracle,
            kept.probe,
            kept.static_mean,
            kept.random
        );
        assert_eq!(kept.random, 0.75);
        assert!(kept.static_mean > kept.random, "{kept:?}");
        assert!(kept.probe > kept.static_mean + 0.01, "{kept:?}");
        assert!(kept.oracle > kept.probe && kept.oracle < 1.0, "{kept:?}");
    }
    assert_eq!(report.texts.len(), 2);
    assert_eq!((report.lost, report.groups), (6, 24));
    assert_eq!(
        report.overall.tokens,
        report.texts[0].tokens + report.texts[1].tokens
    );
    assert!(report.tokens > 30_000 && report.overall.tokens * 5 < report.tokens);
    // Of those that keep nearly as much as the best, the lowest rank, and of that the largest ridge.
    let best = report.candidates.iter().fold(0f64, |m, c| m.max(c.kept));
    for c in &report.candidates {
        if c.kept >= best - 1e-3 {
            assert!((c.rank, -c.ridge) >= (report.rank, -report.ridge), "{c:?}");
        }
        if (c.rank, c.ridge) == (report.rank, report.ridge) {
            assert!(
                c.kept >= best - 1e-3 && c.kept == report.overall.probe,
                "{c:?}"
            );
        }
    }

    // The committed calibration is this one. Another processor may round otherwise, so a little may differ.
    let committed = package.calibration().unwrap().unwrap();
    let names: Vec<_> = committed.arrays.keys().collect();
    assert_eq!(names, calibration.arrays.keys().collect::<Vec<_>>());
    let (ours, theirs) = (&calibration.arrays["mean"], &committed.arrays["mean"]);
    assert_eq!(ours.shape, theirs.shape);
    for (a, b) in ours.values.iter().zip(&theirs.values) {
        assert!((a - b).abs() <= 0.01 * b, "{a} {b}");
    }
}

#[test]
fn the_same_input_gives_the_same_bytes_and_a_package_keeps_them() {
    let folder = tempfile::tempdir().unwrap();
    let options = CalibrateOptions {
        max_tokens: Some(3000),
        ..CalibrateOptions::default()
    };
    let mut bytes = Vec::new();
    for name in ["a", "b"] {
        let package = copy(&tiny(), &folder.path().join(name));
        let calibrated = run(&package, &calibration(), &options).unwrap();
        assert!(calibrated.report.tokens <= 3000 && calibrated.report.tokens > 2900);
        let identity = package.identity().to_owned();
        package.with_calibration(&calibrated.calibration).unwrap();
        let again = Package::open(package.dir()).unwrap();
        again.verify(|_, _| ()).unwrap();
        assert_eq!(again.identity(), identity);
        assert_eq!(
            again.calibration().unwrap().unwrap(),
            calibrated.calibration
        );
        bytes.push(fs::read(package.dir().join("calibration.safetensors")).unwrap());
    }
    assert_eq!(bytes[0], bytes[1]);
}

#[test]
fn progress_counts_documents_and_layers() {
    let mut texts = calibration();
    texts.iter_mut().for_each(|text| text.texts.truncate(8));
    let engine = Engine::start(&EngineOptions::default()).unwrap();
    let mut seen = Vec::new();
    calibrate(
        &engine,
        &tiny(),
        &texts,
        &CalibrateOptions::default(),
        &mut |p| {
            seen.push((p.stage, p.done, p.total));
        },
    )
    .unwrap();
    let running = (1..=16).map(|done| (Stage::Running, done, 16));
    let fitting = (1..=6).map(|done| (Stage::Fitting, done, 6));
    // One document in seven of each text comes after the fit.
    let mut expected: Vec<_> = running.collect();
    expected.splice(14..14, fitting);
    assert_eq!(seen, expected);
}

#[test]
fn too_little_text_is_an_error() {
    let package = tiny();
    let story = calibration().swap_remove(0).texts.swap_remove(0);
    let text = |texts: &[&str]| Documents {
        name: "tale.txt".into(),
        texts: texts.iter().map(|&text| text.to_owned()).collect(),
    };
    let refused = |texts: &[Documents]| {
        let error = run(&package, texts, &CalibrateOptions::default());
        error.unwrap_err().to_string()
    };
    assert_eq!(
        refused(&[]),
        "the text to fit has 0 tokens, but a model of width 256 needs 256 at least, and better ten times that; give more text"
    );
    for (texts, count) in [
        (vec![], 0),
        (vec![story.as_str()], 1),
        (vec!["", "", &story], 1),
    ] {
        assert_eq!(
            refused(&[text(&texts)]),
            format!(
                "tale.txt has {count} documents, but calibration needs 2 at least, one to fit and one to choose by; give a longer text, shorter runs of paragraphs, or skip fewer paragraphs"
            )
        );
    }
    // Two documents, but the one to fit is shorter than the model is wide.
    assert!(refused(&[text(&[&story[..40], &story])]).contains("needs 256 at least"));
}

#[test]
fn impossible_options_are_errors() {
    let refused = |change: &dyn Fn(&mut CalibrateOptions)| {
        let mut options = CalibrateOptions::default();
        change(&mut options);
        run(&tiny(), &calibration(), &options)
            .unwrap_err()
            .to_string()
    };
    let rank = "a probe's rank must be 1 or more; name at least one";
    let ridge = "a probe's ridge must be a number above 0; name at least one";
    assert_eq!(refused(&|o| o.ranks.clear()), rank);
    assert_eq!(refused(&|o| o.ranks.push(0)), rank);
    assert_eq!(refused(&|o| o.ridges.clear()), ridge);
    assert_eq!(refused(&|o| o.ridges.push(0.0)), ridge);
    assert_eq!(refused(&|o| o.ridges.push(f64::NAN)), ridge);
    assert_eq!(
        refused(&|o| o.window = 1),
        "the window must be of 2 tokens at least"
    );
}

#[test]
fn an_interrupted_calibration_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("unfinished");
    let mut texts = calibration();
    texts.iter_mut().for_each(|text| text.texts.truncate(8));
    let engine = Engine::start(&EngineOptions::default()).unwrap();
    let package = tiny();
    let calibrate = |texts: &[Documents], file: Option<&Path>, stop: Option<usize>| {
        let options = CalibrateOptions {
            checkpoint: file.map(|file| (file.to_owned(), Duration::ZERO)),
            ..CalibrateOptions::default()
        };
        let mut first = None;
        let run = AssertUnwindSafe(|| {
            let progress = &mut |p: Progress| {
                first.get_or_insert(p.done);
                assert!(Some(p.done) != stop, "interrupted");
            };
            calibrate(&engine, &package, texts, &options, progress).unwrap()
        });
        (catch_unwind(run).ok(), first)
    };
    let (whole, first) = calibrate(&texts, None, None);
    assert_eq!(first, Some(1));

    assert_eq!(calibrate(&texts, Some(&file), Some(5)), (None, Some(1)));
    let kept = fs::read(&file).unwrap();
    assert_eq!(
        calibrate(&texts, Some(&file), None),
        (whole.clone(), Some(6))
    );
    assert!(!file.exists());
    // Interrupted after the last document to fit.
    fs::write(&file, &kept).unwrap();
    assert_eq!(calibrate(&texts, Some(&file), Some(15)), (None, Some(6)));
    assert_eq!(calibrate(&texts, Some(&file), None).0, whole);

    // What is another calibration's, or damaged, counts for nothing.
    fs::write(&file, &kept[..kept.len() - 9]).unwrap();
    assert_eq!(calibrate(&texts, Some(&file), None), (whole, Some(1)));
    fs::write(&file, &kept).unwrap();
    texts[1].texts.swap(0, 1);
    assert_eq!(calibrate(&texts, Some(&file), None).1, Some(1));
}
