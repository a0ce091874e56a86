//! What costs speed on a machine, as its kernel tells it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Finding, good, slow};
use crate::output;

/// Hotter than this, processors begin to slow down: a Raspberry Pi at 80 °C.
const HOT: i64 = 80_000;

/// A machine by what is below its `/proc` and `/sys`, and by what its programs say.
#[derive(Debug)]
pub(crate) struct Machine {
    root: PathBuf,
    /// Runs a program, and gives what it prints if it runs well.
    run: fn(&str, &[&str]) -> Option<String>,
}

impl Machine {
    pub(crate) fn this() -> Self {
        Self {
            root: "/".into(),
            run,
        }
    }

    /// Everything that costs speed, or could.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let mut findings = vec![self.processor()];
        findings.extend(self.governor());
        findings.extend(self.heat());
        findings.push(self.receive_buffer());
        findings.extend(self.links());
        findings
    }

    fn processor(&self) -> Finding {
        const WHAT: &str = "processor";
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let features = self.features();
        let comma = if features.is_empty() { "" } else { ", " };
        let found = format!(
            "{} with {cores} cores{comma}{features}",
            std::env::consts::ARCH
        );
        let fast = features.contains("dotprod") || features.contains("avx2");
        if fast || !["x86_64", "aarch64"].contains(&std::env::consts::ARCH) {
            return good(WHAT, found);
        }
        let advice = "it lacks the dot-product instructions that 4-bit products are written for (as a Raspberry Pi 4 does): expect a third of the speed";
        slow(WHAT, found, advice)
    }

    /// The processor's features that 4-bit products use, as the kernel names them.
    pub(crate) fn features(&self) -> String {
        let info = self.read("proc/cpuinfo").unwrap_or_default();
        let line = info
            .lines()
            .find(|l| l.starts_with("flags") || l.starts_with("Features"))
            .unwrap_or_default();
        let known = [
            ("asimddp", "dotprod"),
            ("i8mm", "i8mm"),
            ("avx2", "avx2"),
            ("avx512_vnni", "avx512-vnni"),
            ("avx_vnni", "avx-vnni"),
        ];
        let found = known
            .iter()
            .filter(|(flag, _)| line.split_whitespace().any(|f| f == *flag))
            .map(|(_, name)| *name);
        found.collect::<Vec<_>>().join(" ")
    }

    /// What decides how fast the cores run. Nothing where that is not the system's affair, as in virtual machines.
    fn governor(&self) -> Option<Finding> {
        const WHAT: &str = "governor";
        let mut governors: Vec<String> = self
            .folders("sys/devices/system/cpu")
            .iter()
            .filter_map(|core| self.read(core.join("cpufreq/scaling_governor")))
            .collect();
        governors.sort();
        governors.dedup();
        let found = governors.join(", ");
        Some(match &governors[..] {
            [] => return None,
            [one] if one == "performance" => good(WHAT, found),
            _ => slow(
                WHAT,
                format!("{found}: cores are slow to speed up for each token"),
                "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
            ),
        })
    }

    /// Whether the processor is, or was, slowed down by heat or for want of power.
    fn heat(&self) -> Option<Finding> {
        const WHAT: &str = "heat";
        const COOL: &str =
            "give it a heat sink and a fan; `halo bench` before and after says what that is worth";
        const POWER: &str = "use the power supply that is made for the board (27 W for a Raspberry Pi 5) and a short cable";
        let zones = self.folders("sys/class/thermal");
        let hottest = zones
            .iter()
            .filter_map(|zone| self.number(zone.join("temp")))
            .max();
        let degrees = hottest.map_or_else(String::new, |t| format!("{} °C", t / 1000));
        // Raspberry Pi's firmware: in the low bits what is now, 16 bits further up what was since the start.
        let firmware = self
            .read("sys/devices/platform/soc/soc:firmware/get_throttled")
            .and_then(|hex| u32::from_str_radix(hex.trim_start_matches("0x"), 16).ok())
            .unwrap_or(0);
        let has = |bit: u32| (firmware | firmware >> 16) & 1 << bit != 0;
        if has(0) {
            return Some(slow(
                WHAT,
                "the voltage is or was too low, and the cores slow".into(),
                POWER,
            ));
        }
        let throttled = self
            .folders("sys/devices/system/cpu")
            .iter()
            .filter_map(|core| self.number(core.join("thermal_throttle/core_throttle_count")))
            .any(|count| count > 0);
        if throttled || [1, 2, 3].into_iter().any(has) {
            let now = if degrees.is_empty() {
                degrees
            } else {
                format!(", now {degrees}")
            };
            return Some(slow(
                WHAT,
                format!("the processor was slowed down by heat{now}"),
                COOL,
            ));
        }
        match hottest? {
            hot if hot >= HOT => Some(slow(WHAT, degrees, COOL)),
            _ => Some(good(WHAT, degrees)),
        }
    }

    /// Bursts of prefill packets arrive faster than they are read.
    fn receive_buffer(&self) -> Finding {
        const WHAT: &str = "UDP buffer";
        const WANTED: u64 = 4 << 20;
        match self
            .number("proc/sys/net/core/rmem_max")
            .map(i64::unsigned_abs)
        {
            Some(limit) if limit < WANTED => slow(
                WHAT,
                format!(
                    "receive buffers of {} at most; long prompts will lose packets and ask again",
                    output::bytes(limit)
                ),
                &format!(
                    "sudo sysctl -w net.core.rmem_max={WANTED} net.core.rmem_default={WANTED}"
                ),
            ),
            Some(limit) => good(
                WHAT,
                format!("receive buffers of up to {}", output::bytes(limit)),
            ),
            None => good(WHAT, "no limit known".into()),
        }
    }

    /// The links that are up, each with what holds it back.
    fn links(&self) -> Vec<Finding> {
        let links = self.folders("sys/class/net");
        let link = |folder: &PathBuf| {
            // Bridges, tunnels and the like have no device.
            let real = self.root.join(folder).join("device").exists();
            let up = self.read(folder.join("operstate"))? == "up";
            let name = folder.file_name()?.to_str()?;
            (real && up).then(|| self.link(folder, name))
        };
        links.iter().filter_map(link).collect()
    }

    fn link(&self, folder: &Path, name: &str) -> Finding {
        const WHAT: &str = "link";
        if self.root.join(folder).join("wireless").exists() {
            let power_save = (self.run)("iw", &["dev", name, "get", "power_save"]);
            return match power_save
                .as_deref()
                .and_then(|said| said.trim().rsplit(' ').next())
            {
                Some("off") => good(WHAT, format!("{name}: WiFi, without power saving")),
                Some(_) => slow(
                    WHAT,
                    format!(
                        "{name}: WiFi that saves power, so packets wait up to a tenth of a second"
                    ),
                    &format!("sudo iw dev {name} set power_save off"),
                ),
                None => slow(
                    WHAT,
                    format!("{name}: WiFi, of which is not known whether it saves power"),
                    &format!("sudo apt install iw, then: sudo iw dev {name} set power_save off"),
                ),
            };
        }
        // Virtual ones know no speed, or say -1.
        match self.number(folder.join("speed")).filter(|speed| *speed > 0) {
            Some(speed @ ..1000) => slow(
                WHAT,
                format!("{name}: {speed} Mbit/s"),
                &format!(
                    "use a cable with all eight wires (Cat 5e or better) and a gigabit switch; then: sudo ethtool --negotiate {name}"
                ),
            ),
            Some(speed) => good(WHAT, format!("{name}: {speed} Mbit/s")),
            None => good(WHAT, format!("{name}: up")),
        }
    }

    /// What a small file of the kernel's says, if anything.
    fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        let text = fs::read_to_string(self.root.join(path)).ok()?;
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    fn number(&self, path: impl AsRef<Path>) -> Option<i64> {
        self.read(path)?.parse().ok()
    }

    /// What lies in a folder, by name, as paths from the root.
    fn folders(&self, folder: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.root.join(folder)).into_iter().flatten();
        let mut paths: Vec<PathBuf> = entries
            .flatten()
            .map(|entry| Path::new(folder).join(entry.file_name()))
            .collect();
        paths.sort();
        paths
    }
}

fn run(program: &str, arguments: &[&str]) -> Option<String> {
    // Debian keeps `iw` where users' shells do not look.
    let known = [program.to_owned(), format!("/usr/sbin/{program}")];
    let output = known
        .iter()
        .find_map(|program| Command::new(program).args(arguments).output().ok())?;
    let printed = String::from_utf8(output.stdout).ok()?;
    output.status.success().then_some(printed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::State;

    /// A machine whose kernel says this, and the findings about one thing: state, words and advice.
    fn found(
        files: &[(&str, &str)],
        iw: fn(&str, &[&str]) -> Option<String>,
        what: &str,
    ) -> Vec<(State, String)> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{text}\n")).unwrap();
        }
        let machine = Machine {
            root: root.path().to_owned(),
            run: iw,
        };
        let findings = machine
            .findings()
            .into_iter()
            .filter(|finding| finding.what == what);
        findings
            .map(|f| {
                (
                    f.state,
                    format!("{} -> {}", f.found, f.advice.unwrap_or_default()),
                )
            })
            .collect()
    }

    fn silent(_: &str, _: &[&str]) -> Option<String> {
        None
    }

    fn one(files: &[(&str, &str)], what: &str) -> (State, String) {
        let mut found = found(files, silent, what);
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    #[test]
    fn every_core_should_have_the_performance_governor() {
        const CPU0: &str = "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor";
        const CPU1: &str = "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor";
        let (state, words) = one(&[(CPU0, "performance"), (CPU1, "ondemand")], "governor");
        assert_eq!(state, State::Slow);
        assert!(
            words.contains("ondemand, performance") && words.contains("echo performance"),
            "{words}"
        );
        assert_eq!(
            one(&[(CPU0, "performance"), (CPU1, "performance")], "governor").0,
            State::Good
        );
        assert!(found(&[], silent, "governor").is_empty());
    }

    #[test]
    fn heat_and_want_of_power_are_told_apart() {
        const TEMP: (&str, &str) = ("sys/class/thermal/thermal_zone0/temp", "61234");
        let firmware = |bits| ("sys/devices/platform/soc/soc:firmware/get_throttled", bits);
        assert_eq!(
            one(&[TEMP, firmware("0")], "heat"),
            (State::Good, "61 °C -> ".into())
        );
        // Under-voltage now; throttled some time ago.
        let (state, words) = one(&[TEMP, firmware("50005")], "heat");
        assert!(
            state == State::Slow && words.contains("power supply"),
            "{words}"
        );
        let (state, words) = one(&[TEMP, firmware("40000")], "heat");
        assert!(
            state == State::Slow && words.contains("heat, now 61 °C") && words.contains("fan"),
            "{words}"
        );
        let counted = (
            "sys/devices/system/cpu/cpu3/thermal_throttle/core_throttle_count",
            "2",
        );
        assert_eq!(one(&[counted], "heat").0, State::Slow);
        assert_eq!(
            one(&[("sys/class/thermal/thermal_zone0/temp", "84000")], "heat").0,
            State::Slow
        );
        assert!(found(&[], silent, "heat").is_empty());
    }

    #[test]
    fn receive_buffers_have_a_least_size() {
        const LIMIT: &str = "proc/sys/net/core/rmem_max";
        let (state, words) = one(&[(LIMIT, "212992")], "UDP buffer");
        assert!(
            state == State::Slow && words.contains("net.core.rmem_max=4194304"),
            "{words}"
        );
        assert_eq!(one(&[(LIMIT, "4194304")], "UDP buffer").0, State::Good);
        assert_eq!(one(&[], "UDP buffer").0, State::Good);
    }

    #[test]
    fn links_that_are_up_are_checked() {
        let files = [
            ("sys/class/net/lo/operstate", "unknown"),
            ("sys/class/net/br0/operstate", "up"),
            ("sys/class/net/eth0/operstate", "up"),
            ("sys/class/net/eth0/device/vendor", "0x1"),
            ("sys/class/net/eth0/speed", "100"),
            ("sys/class/net/eth1/operstate", "down"),
            ("sys/class/net/eth1/device/vendor", "0x1"),
            ("sys/class/net/eth2/operstate", "up"),
            ("sys/class/net/eth2/device/vendor", "0x1"),
            ("sys/class/net/eth2/speed", "1000"),
            ("sys/class/net/wlan0/operstate", "up"),
            ("sys/class/net/wlan0/device/vendor", "0x1"),
            ("sys/class/net/wlan0/wireless/status", ""),
        ];
        fn saving(program: &str, arguments: &[&str]) -> Option<String> {
            assert_eq!(
                (program, arguments),
                ("iw", &["dev", "wlan0", "get", "power_save"][..])
            );
            Some("Power save: on\n".into())
        }
        let states = |iw| {
            let found = found(&files, iw, "link");
            found
                .into_iter()
                .map(|(state, words)| {
                    (
                        state,
                        words.split(" -> ").map(String::from).collect::<Vec<_>>(),
                    )
                })
                .collect::<Vec<_>>()
        };
        let found = states(saving);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].0 == State::Slow && found[0].1[0] == "eth0: 100 Mbit/s");
        assert!(found[1].0 == State::Good && found[1].1[0] == "eth2: 1000 Mbit/s");
        assert!(
            found[2].0 == State::Slow && found[2].1[1] == "sudo iw dev wlan0 set power_save off"
        );
        assert_eq!(
            states(|_, _| Some("Power save: off\n".into()))[2].0,
            State::Good
        );
        assert!(states(silent)[2].1[1].contains("apt install iw"));
    }

    #[test]
    fn the_kernels_names_of_instructions_are_known() {
        let features = |line: &str| {
            let root = tempfile::tempdir().unwrap();
            fs::create_dir(root.path().join("proc")).unwrap();
            fs::write(
                root.path().join("proc/cpuinfo"),
                format!("processor\t: 0\n{line}\n"),
            )
            .unwrap();
            Machine {
                root: root.path().to_owned(),
                run: silent,
            }
            .features()
        };
        assert_eq!(
            features("Features\t: fp asimd asimddp i8mm"),
            "dotprod i8mm"
        );
        assert_eq!(
            features("flags\t\t: fpu avx2 avx512_vnni"),
            "avx2 avx512-vnni"
        );
        assert_eq!(features("Features\t: fp asimd crc32"), "");
    }
}
