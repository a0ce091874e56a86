//! Calibrates a package on texts, stores the calibration in it, and prints what it is worth:
//!
//! ```sh
//! cargo run --release -p halo-eval --example calibrate -- models/tiny host/eval/data/stories.txt:1 host/eval/data/books.txt:12
//! ```
//!
//! The number after a text says how many paragraphs make a document of it.

use std::error::Error;
use std::fs;
use std::path::Path;

use halo_engine::{Engine, EngineOptions};
use halo_eval::{CalibrateOptions, Documents, calibrate};
use halo_models::Package;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let package = arguments.next().ok_or("name a package and texts")?;
    let package = Package::open(Path::new(&package))?;
    let mut texts = Vec::new();
    for argument in arguments {
        let (path, run) = argument.rsplit_once(':').unwrap_or((&argument, "1"));
        texts.push(Documents::from_text(
            path,
            &fs::read_to_string(path)?,
            0,
            run.parse()?,
        ));
    }
    let engine = Engine::start(&EngineOptions::default())?;
    let options = CalibrateOptions::default();
    let calibrated = calibrate(&engine, &package, &texts, &options, &mut |progress| {
        eprint!(
            "\r{:?} {}/{}  ",
            progress.stage, progress.done, progress.total
        );
    })?;
    package.with_calibration(&calibrated.calibration)?;
    println!("{:#?}", calibrated.report);
    Ok(())
}
