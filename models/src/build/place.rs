//! Where a package goes.

use std::fs;
use std::path::{Path, PathBuf};

use crate::atomic::{Building, temporary_folder};
use crate::error::ImportError;
use crate::manifest::{self, MANIFEST};
use crate::package::Package;

/// Where a package goes, which is free or may be used again.
pub(crate) struct Place {
    destination: PathBuf,
    parent: PathBuf,
    name: String,
    /// There is a package that will be replaced.
    replaces: bool,
}

impl Place {
    pub(crate) fn new(destination: &Path, overwrite: bool) -> Result<Self, ImportError> {
        let no_name = || {
            let what = destination.display();
            ImportError::Option(format!(
                "{what} does not name a folder; give the package's folder a name"
            ))
        };
        let name = destination.file_name().ok_or_else(no_name)?;
        let replaces = destination.symlink_metadata().is_ok();
        if replaces && !destination.join(MANIFEST).is_file() {
            let path = destination.into();
            return Err(ImportError::NotAPackage { path });
        }
        if replaces && !overwrite {
            let path = destination.into();
            return Err(ImportError::Exists { path });
        }
        let parent = match destination.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.into(),
            _ => PathBuf::from("."),
        };
        Ok(Self {
            destination: destination.into(),
            parent,
            name: name.to_string_lossy().into_owned(),
            replaces,
        })
    }

    /// The name of the package's folder.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Builds a package beside the destination and moves it there when it is whole and has been opened once.
    pub(crate) fn fill(
        &self,
        build: impl FnOnce(&Path) -> Result<(), ImportError>,
    ) -> Result<Package, ImportError> {
        fs::create_dir_all(&self.parent).map_err(ImportError::io(&self.parent))?;
        let building = Building::new(&self.parent).map_err(ImportError::io(&self.parent))?;
        build(building.path())?;
        drop(Package::open(building.path())?);
        self.take(building.path())?;
        Ok(Package::open(&self.destination)?)
    }

    /// Moves a finished package here. Files of the old folder that are no part of a package, a README for instance,
    /// stay.
    fn take(&self, package: &Path) -> Result<(), ImportError> {
        let destination = &self.destination;
        let error = || ImportError::io(destination);
        if !self.replaces {
            return fs::rename(package, destination).map_err(error());
        }
        let aside = temporary_folder(&self.parent).map_err(error())?;
        let old = aside.path().join("old");
        fs::rename(destination, &old).map_err(error())?;
        if let Err(failure) = fs::rename(package, destination) {
            fs::rename(&old, destination).map_err(error())?;
            return Err(error()(failure));
        }
        for entry in fs::read_dir(&old).map_err(error())? {
            let name = entry.map_err(error())?.file_name();
            if !name.to_str().is_some_and(manifest::is_package_file) {
                fs::rename(old.join(&name), destination.join(&name)).map_err(error())?;
            }
        }
        Ok(())
    }
}
