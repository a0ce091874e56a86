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
    let folders = folders();
    let mut places = folders.iter().map(|f| f.join(name));
    if let Some(place) = places.find(|p| p.is_dir()) {
        return Ok(place);
    }
    let data = data_folder().map(|d| format!(", neither in {} nor", d.join("models").display()));
    bail!(
        "found no model `{}`{} in a folder `models` near this program. Give a package's folder with --model, or make a package with \
         `halo model import`",
        name.display(),
        data.unwrap_or_default()
    )
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
