//! What a host may take of this machine: by control groups of version 2, or of version 1 where a controller is only there.

use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::stat::{major, minor};

use super::condition::Condition;
use super::host::Host;

/// The shortest quota that the kernel takes, in microseconds, and the shortest period. A share is given in the shortest stretches that
/// there are, since a slow core is always slow, not fast and then not there.
const SHORTEST_US: f64 = 1_000.0;

/// How long the kernel may take to see that a control group is empty.
const PATIENCE: Duration = Duration::from_secs(5);

/// A bound on what runs on a host.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Limit {
    /// The cores of this machine, as a list like `0,2-3`.
    Cores(String),
    /// Time on them, in cores; `None` for all there is.
    Share(Option<f64>),
    /// Bytes of memory.
    Memory(Option<u64>),
    /// Bytes a second that are read from a disk.
    Disk(Disk, Option<u64>),
}

/// A disk's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Disk {
    major: u64,
    minor: u64,
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl Disk {
    /// The one on which a file or folder lies.
    pub(super) fn of(path: &Path) -> Result<Self> {
        let device = fs::metadata(path)
            .with_context(|| format!("cannot find {}", path.display()))?
            .dev();
        let numbers = format!("{}:{}", major(device), minor(device));
        // Only whole disks can be held back, and a partition lies in its disk's folder.
        let folder = Path::new("/sys/dev/block").join(&numbers);
        let disk = if folder.join("partition").exists() {
            fs::read_to_string(folder.join("../dev"))?
        } else {
            numbers
        };
        let parse = |(major, minor): (&str, &str)| Some((major.parse().ok()?, minor.parse().ok()?));
        let (major, minor) = (disk.trim().split_once(':').and_then(parse))
            .with_context(|| format!("`{}` is no number of a disk", disk.trim()))?;
        ensure!(
            major > 0,
            "{} is not on a disk of its own that could be held back",
            path.display()
        );
        Ok(Self { major, minor })
    }
}

impl Limit {
    /// A share of the cores' time, if it can be; 0 for all of it.
    pub(super) fn share(cores: f64) -> Result<Self> {
        ensure!(
            cores == 0.0 || (0.1..=1024.0).contains(&cores),
            "{cores} cores are no share: it is 0.1 or more, or 0 for no bound"
        );
        Ok(Self::Share((cores > 0.0).then_some(cores)))
    }

    fn controller(&self) -> Controller {
        match self {
            Self::Cores(_) => Controller::Cpuset,
            Self::Share(_) => Controller::Cpu,
            Self::Memory(_) => Controller::Memory,
            Self::Disk(..) => Controller::Disk,
        }
    }

    /// Files of the control group, and what to write into them.
    fn settings(&self, version: Version) -> Vec<(&'static str, String)> {
        let or = |number: Option<u64>, none: &str| number.map_or(none.into(), |n| n.to_string());
        match (self, version) {
            (Self::Cores(cores), _) => vec![("cpuset.cpus", cores.clone())],
            (Self::Share(share), version) => {
                let period = SHORTEST_US / share.unwrap_or(1.0).min(1.0);
                let quota = share.map(|share| (share * period).round() as u64);
                let period = period.round();
                match version {
                    Version::V2 => vec![("cpu.max", format!("{} {period}", or(quota, "max")))],
                    Version::V1 => vec![
                        ("cpu.cfs_period_us", period.to_string()),
                        ("cpu.cfs_quota_us", or(quota, "-1")),
                    ],
                }
            }
            (Self::Memory(bytes), Version::V2) => vec![("memory.max", or(*bytes, "max"))],
            (Self::Memory(bytes), Version::V1) => vec![("memory.limit_in_bytes", or(*bytes, "-1"))],
            (Self::Disk(disk, bytes), Version::V2) => {
                vec![("io.max", format!("{disk} rbps={}", or(*bytes, "max")))]
            }
            (Self::Disk(disk, bytes), Version::V1) => {
                let file = "blkio.throttle.read_bps_device";
                vec![(file, format!("{disk} {}", or(*bytes, "0")))]
            }
        }
    }
}

impl Condition for Limit {
    fn set(&self, host: &Host) -> Result<()> {
        let controller = self.controller();
        let hierarchy = Hierarchy::of(controller).with_context(|| {
            let advice = match controller {
                Controller::Memory => {
                    "; on Raspberry Pi OS, add `cgroup_enable=memory` to /boot/firmware/cmdline.txt"
                }
                _ => "",
            };
            format!(
                "this machine has no control groups with `{}`{advice}",
                controller.name(Version::V2)
            )
        })?;
        let folder = hierarchy.folder.join(&host.namespace);
        for (file, value) in self.settings(hierarchy.version) {
            let path = folder.join(file);
            fs::write(&path, &value)
                .with_context(|| format!("cannot write `{value}` into {}", path.display()))?;
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Controller {
    Cpuset,
    Cpu,
    Memory,
    Disk,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

impl Controller {
    const ALL: [Self; 4] = [Self::Cpuset, Self::Cpu, Self::Memory, Self::Disk];

    fn name(self, version: Version) -> &'static str {
        match (self, version) {
            (Self::Cpuset, _) => "cpuset",
            (Self::Cpu, _) => "cpu",
            (Self::Memory, _) => "memory",
            (Self::Disk, Version::V1) => "blkio",
            (Self::Disk, Version::V2) => "io",
        }
    }
}

/// Where a controller's groups are.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    version: Version,
    folder: PathBuf,
}

impl Hierarchy {
    fn of(controller: Controller) -> Option<Self> {
        Self::among(controller, &fs::read_to_string("/proc/mounts").ok()?)
    }

    /// Of the mounted file systems, as `/proc/mounts` has them.
    fn among(controller: Controller, mounts: &str) -> Option<Self> {
        let mount = |line: &str| {
            let mut words = line.split(' ').skip(1);
            let (folder, kind, options) = (words.next()?, words.next()?, words.next()?);
            let folder = PathBuf::from(folder);
            let (version, there) = match kind {
                "cgroup2" => {
                    let there = fs::read_to_string(folder.join("cgroup.controllers")).ok()?;
                    (Version::V2, there)
                }
                "cgroup" => (Version::V1, options.to_owned()),
                _ => return None,
            };
            let name = controller.name(version);
            let mut there = there.split([',', ' ', '\n']);
            there
                .any(|there| there == name)
                .then_some(Self { version, folder })
        };
        // A controller is in one of them only.
        mounts.lines().find_map(mount)
    }

    /// All that there are, each once.
    fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for hierarchy in Controller::ALL.into_iter().filter_map(Self::of) {
            if !all.contains(&hierarchy) {
                all.push(hierarchy);
            }
        }
        all
    }
}

/// Makes control groups of a name.
pub(super) fn make(name: &str) -> Result<()> {
    for controller in Controller::ALL {
        let Some(Hierarchy { version, folder }) = Hierarchy::of(controller) else {
            continue;
        };
        let group = folder.join(name);
        let made = match version {
            Version::V1 => create(&group).and_then(|()| match controller {
                // Nothing may join one that has no cores and no memory.
                Controller::Cpuset => ["cpuset.cpus", "cpuset.mems"]
                    .into_iter()
                    .try_for_each(|file| fs::write(group.join(file), fs::read(folder.join(file))?)),
                _ => Ok(()),
            }),
            Version::V2 => {
                let enable = format!("+{}", controller.name(version));
                fs::write(folder.join("cgroup.subtree_control"), enable)
                    .and_then(|()| create(&group))
            }
        };
        made.with_context(|| format!("cannot make the control group {}", group.display()))?;
    }
    Ok(())
}

/// Makes a folder that may be there.
fn create(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// The control groups of a name.
pub(super) fn folders(name: &str) -> Vec<PathBuf> {
    let folders = Hierarchy::all()
        .into_iter()
        .map(|hierarchy| hierarchy.folder.join(name));
    folders.filter(|folder| folder.is_dir()).collect()
}

/// Takes the control groups away whose names begin so. Nothing may run in them any more.
pub(super) fn remove(prefix: &str) -> Result<()> {
    for Hierarchy { folder, .. } in Hierarchy::all() {
        let entries =
            fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        for entry in entries {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                remove_empty(&entry.path()).with_context(|| {
                    format!("cannot remove the control group {}", entry.path().display())
                })?;
            }
        }
    }
    Ok(())
}

fn remove_empty(folder: &Path) -> io::Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        match fs::remove_dir(folder) {
            // What was killed counts until it is quite gone.
            Err(error) if error.kind() == ErrorKind::ResourceBusy && Instant::now() < end => {
                thread::sleep(Duration::from_millis(20));
            }
            removed => return removed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_are_found_in_either_version() {
        let unified = tempfile::tempdir().unwrap();
        fs::write(unified.path().join("cgroup.controllers"), "cpuset io\n").unwrap();
        let mounts = format!(
            "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
             cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0\n\
             cgroup2 {} cgroup2 rw,relatime 0 0\n",
            unified.path().display()
        );
        let found = |controller| Hierarchy::among(controller, &mounts);
        let v2 = Hierarchy {
            version: Version::V2,
            folder: unified.path().to_owned(),
        };
        let v1 = Hierarchy {
            version: Version::V1,
            folder: "/sys/fs/cgroup/cpu,cpuacct".into(),
        };
        assert_eq!(found(Controller::Cpuset), Some(v2.clone()));
        assert_eq!(found(Controller::Disk), Some(v2));
        assert_eq!(found(Controller::Cpu), Some(v1));
        assert_eq!(found(Controller::Memory), None);
    }

    #[test]
    fn limits_are_written_as_each_version_has_them() {
        let disk = Disk {
            major: 179,
            minor: 0,
        };
        let of = |limit: Limit, version| {
            let settings = limit.settings(version).into_iter();
            settings
                .map(|(file, value)| format!("{file}={value}"))
                .collect::<Vec<_>>()
                .join(" ")
        };
        for (limit, v1, v2) in [
            (
                Limit::Cores("0,2".into()),
                "cpuset.cpus=0,2",
                "cpuset.cpus=0,2",
            ),
            (
                Limit::Share(Some(0.5)),
                "cpu.cfs_period_us=2000 cpu.cfs_quota_us=1000",
                "cpu.max=1000 2000",
            ),
            (
                Limit::Share(None),
                "cpu.cfs_period_us=1000 cpu.cfs_quota_us=-1",
                "cpu.max=max 1000",
            ),
            (
                Limit::Memory(Some(7)),
                "memory.limit_in_bytes=7",
                "memory.max=7",
            ),
            (
                Limit::Memory(None),
                "memory.limit_in_bytes=-1",
                "memory.max=max",
            ),
            (
                Limit::Disk(disk, Some(9)),
                "blkio.throttle.read_bps_device=179:0 9",
                "io.max=179:0 rbps=9",
            ),
            (
                Limit::Disk(disk, None),
                "blkio.throttle.read_bps_device=179:0 0",
                "io.max=179:0 rbps=max",
            ),
        ] {
            assert_eq!(of(limit.clone(), Version::V1), v1);
            assert_eq!(of(limit, Version::V2), v2);
        }
    }
}
