//! ONNX Runtime's shared library: which one, where it belongs, and taking it out of its wheel.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use zip::ZipArchive;

/// The release that HALO is built and tested with.
pub(crate) const VERSION: &str = "1.31.1";

/// CPython's tag of the wheels. The wheel is only unzipped, so this need not be the Python that is installed.
pub(crate) const PYTHON: &str = "312";

/// The wheel for one architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pin {
    /// As in `std::env::consts::ARCH`.
    pub(crate) arch: &'static str,
    /// Python's name of the platform.
    pub(crate) platform: &'static str,
    /// Of the whole wheel, in megabytes: what will be downloaded.
    pub(crate) megabytes: u32,
    /// SHA-256 of the wheel, in hex.
    pub(crate) wheel: String,
    /// SHA-256 of the shared library in it, in hex.
    pub(crate) library: String,
}

impl Pin {
    /// The pin for the architecture named `arch`.
    pub(crate) fn of(arch: &str) -> Result<Self> {
        let pins = pins();
        let known: Vec<_> = pins.iter().map(|pin| pin.arch).collect();
        let known = known.join(" and ");
        pins.into_iter().find(|pin| pin.arch == arch).with_context(|| {
            format!(
                "set-up knows ONNX Runtime {VERSION} for Linux on {known} only, and this machine is {arch}: \
                 build libonnxruntime.so yourself and set ORT_DYLIB_PATH to it"
            )
        })
    }

    /// The wheel's file name.
    pub(crate) fn wheel_name(&self) -> String {
        format!(
            "onnxruntime-{VERSION}-cp{PYTHON}-cp{PYTHON}-{}.whl",
            self.platform
        )
    }
}

fn pins() -> [Pin; 2] {
    [
        Pin {
            arch: "x86_64",
            platform: "manylinux_2_28_x86_64",
            megabytes: 24,
            wheel: "1f3dea47f2f0e5117c2404cea7d21fd253ae7836a3bf167a501cdfbb2600d536".to_owned(),
            library: "fc44112fbe06d7d689c57e11d3862031f64711007e4ee020f8eed5185fd2c1d3".to_owned(),
        },
        Pin {
            arch: "aarch64",
            platform: "manylinux_2_28_aarch64",
            megabytes: 21,
            wheel: "0b9a492176886992e0e875f06bc0367e333f5fff11711a2d642e18b02f3009cc".to_owned(),
            library: "8aa3b76b28c778a2b1dd660d34161adb1d508c9ccd04ff9dc80e26eca5df8467".to_owned(),
        },
    ]
}

/// The library's file name.
pub(crate) fn library_name() -> String {
    format!("libonnxruntime.so.{VERSION}")
}

/// The folder, in the data folder, that holds the library and its licences.
pub(crate) fn folder(data: &Path) -> PathBuf {
    data.join("onnxruntime").join(VERSION)
}

/// Whether `folder` holds the very library of `pin`.
pub(crate) fn is_present(folder: &Path, pin: &Pin) -> Result<bool> {
    let library = folder.join(library_name());
    match File::open(&library) {
        Ok(file) => Ok(sha256(file)
            .with_context(|| format!("cannot read {}", library.display()))?
            == pin.library),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", library.display())),
    }
}

/// Takes the library and its licences out of `wheel` into `folder`, and returns the library's path. Where something is not
/// as `pin` says, `folder` stays as it was.
pub(crate) fn install(wheel: &Path, pin: &Pin, folder: &Path) -> Result<PathBuf> {
    let mut file = File::open(wheel).with_context(|| format!("cannot open {}", wheel.display()))?;
    let found = sha256(&mut file).with_context(|| format!("cannot read {}", wheel.display()))?;
    ensure!(
        found == pin.wheel,
        "{} is not the wheel that HALO was tested with: its SHA-256 is {found}, and {} has {}. \
         Look at which package index pip is configured to use (python3 -m pip config list), then try again",
        wheel.display(),
        pin.wheel_name(),
        pin.wheel
    );
    let mut archive =
        ZipArchive::new(file).with_context(|| format!("{} is not a wheel", wheel.display()))?;

    fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let library = unpack(
        &mut archive,
        &format!("onnxruntime/capi/{}", library_name()),
        folder,
    )?;
    let found = sha256(library.reopen()?)?;
    if found != pin.library {
        bail!(
            "{} in {} has the SHA-256 {found} instead of {}",
            library_name(),
            wheel.display(),
            pin.library
        );
    }
    for name in ["LICENSE", "ThirdPartyNotices.txt"] {
        persist(
            unpack(&mut archive, &format!("onnxruntime/{name}"), folder)?,
            &folder.join(name),
        )?;
    }
    // Last, so that whoever sees the library sees all.
    let path = folder.join(library_name());
    persist(library, &path)?;
    Ok(path)
}

/// The archive's entry `name`, in a temporary file of `folder`.
fn unpack(archive: &mut ZipArchive<File>, name: &str, folder: &Path) -> Result<NamedTempFile> {
    let mut entry = archive
        .by_name(name)
        .with_context(|| format!("the wheel holds no {name}"))?;
    let mut file = NamedTempFile::new_in(folder)
        .with_context(|| format!("cannot write to {}", folder.display()))?;
    io::copy(&mut entry, &mut file)
        .with_context(|| format!("cannot unpack {name} into {}", folder.display()))?;
    file.flush()?;
    Ok(file)
}

fn persist(file: NamedTempFile, path: &Path) -> Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    file.as_file()
        .set_permissions(Permissions::from_mode(0o644))
        .with_context(cannot)?;
    file.as_file().sync_all().with_context(cannot)?;
    file.persist(path).with_context(cannot)?;
    Ok(())
}

/// SHA-256 of a file, in hex.
pub(crate) fn sha256_of(path: &Path) -> Result<String> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    sha256(file).with_context(|| format!("cannot read {}", path.display()))
}

fn sha256(mut from: impl Read) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => hasher.update(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

#[cfg(test)]
pub(crate) mod tests {
    use tempfile::TempDir;
    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;

    /// A wheel with these bytes for a library, and the pin that it satisfies.
    pub(crate) fn wheel(folder: &Path, library: &[u8]) -> (PathBuf, Pin) {
        let path = folder.join("onnxruntime.whl");
        let mut writer = ZipWriter::new(File::create(&path).unwrap());
        let name = format!("onnxruntime/capi/{}", library_name());
        for (name, bytes) in [
            (name.as_str(), library),
            ("onnxruntime/LICENSE", b"MIT"),
            ("onnxruntime/ThirdPartyNotices.txt", b"others"),
        ] {
            writer
                .start_file(name, SimpleFileOptions::default())
                .unwrap();
            writer.write_all(bytes).unwrap();
        }
        writer.finish().unwrap();
        let pin = Pin {
            arch: "test",
            platform: "test",
            megabytes: 0,
            wheel: sha256(File::open(&path).unwrap()).unwrap(),
            library: sha256(library).unwrap(),
        };
        (path, pin)
    }

    fn files(folder: &Path) -> Vec<String> {
        let Ok(entries) = fs::read_dir(folder) else {
            return Vec::new();
        };
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn both_architectures_are_pinned() {
        for arch in ["x86_64", "aarch64"] {
            let pin = Pin::of(arch).unwrap();
            assert!(
                pin.wheel_name().contains(VERSION) && pin.wheel_name().contains(arch),
                "{}",
                pin.wheel_name()
            );
            for hash in [&pin.wheel, &pin.library] {
                assert_eq!(hash.len(), 64, "{arch}");
                assert!(
                    hash.bytes()
                        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')),
                    "{arch}"
                );
            }
        }
        let [one, two] = pins();
        assert!(one.wheel != two.wheel && one.library != two.library);
    }

    #[test]
    fn another_architecture_is_told_what_to_do() {
        let error = Pin::of("riscv64").unwrap_err().to_string();
        assert!(
            error.contains("riscv64") && error.contains("ORT_DYLIB_PATH"),
            "{error}"
        );
    }

    #[test]
    fn the_library_and_its_licences_are_installed() {
        let temp = TempDir::new().unwrap();
        let (wheel, pin) = wheel(temp.path(), b"library");
        let folder = folder(temp.path());
        assert!(!is_present(&folder, &pin).unwrap());
        let library = install(&wheel, &pin, &folder).unwrap();
        assert_eq!(fs::read(library).unwrap(), b"library");
        assert_eq!(
            files(&folder),
            ["LICENSE", "ThirdPartyNotices.txt", &library_name()]
        );
        assert!(is_present(&folder, &pin).unwrap());
    }

    #[test]
    fn a_library_that_changed_on_disk_is_not_present() {
        let temp = TempDir::new().unwrap();
        let (wheel, pin) = wheel(temp.path(), b"library");
        let library = install(&wheel, &pin, temp.path()).unwrap();
        fs::write(library, b"librarz").unwrap();
        assert!(!is_present(temp.path(), &pin).unwrap());
    }

    #[test]
    fn another_wheel_is_refused_and_leaves_nothing() {
        let temp = TempDir::new().unwrap();
        let (wheel, mut pin) = wheel(temp.path(), b"library");
        pin.wheel = "0".repeat(64);
        let folder = folder(temp.path());
        let error = install(&wheel, &pin, &folder).unwrap_err().to_string();
        assert!(error.contains(&pin.wheel), "{error}");
        assert_eq!(files(&folder), [""; 0]);
    }

    #[test]
    fn another_library_is_refused_and_leaves_nothing() {
        let temp = TempDir::new().unwrap();
        let (wheel, mut pin) = wheel(temp.path(), b"library");
        pin.library = "0".repeat(64);
        let folder = folder(temp.path());
        let error = install(&wheel, &pin, &folder).unwrap_err().to_string();
        assert!(error.contains(&pin.library), "{error}");
        assert_eq!(files(&folder), [""; 0]);
    }
}
