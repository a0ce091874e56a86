use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use halo_engine::library::data_folder;
use halo_models::Package;
use halo_runtime::Config;

/// The model that is used if none is named.
const DEFAULT: &str = "tiny";

/// Opens the model that was asked for: on the command line, in the configuration, or the default one.
pub(crate) fn open(option: Option<&Path>, config: &Config) -> Result<Package> {
    let wanted = option.or(config.model.as_deref());
    Ok(Package::open(&find(wanted)?)?)
}

/// The folder of a model: itself, or by name in the data folder or beside the program.
pub(crate) fn find(wanted: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = wanted.filter(|p| p.exists() || p.components().count() > 1) {
        return Ok(path.to_owned());
    }
    let name = wanted.unwrap_or(Path::new(DEFAULT));
    let places: Vec<PathBuf> = folders().iter().map(|f| f.join(name)).collect();
    match places.iter().find(|p| p.is_dir()) {
        Some(place) => Ok(place.clone()),
        None => {
            let places: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
            bail!(
                "found no model `{}`; looked at {}. Give a package's folder with --model, or make one with `halo model import`",
                name.display(),
                places.join(", ")
            )
        }
    }
}

/// Where models lie: the data folder, and `models` in the folders above the program, where an unpacked release or a build has it.
fn folders() -> Vec<PathBuf> {
    let program = std::env::current_exe().ok();
    let above = program
        .iter()
        .flat_map(|p| p.ancestors().skip(1).take(4))
        .map(|d| d.join("models"));
    data_folder()
        .map(|d| d.join("models"))
        .into_iter()
        .chain(above)
        .collect()
}
