use std::path::Path;

/// The temperature of this machine's hottest part in degrees Celsius, if it tells. A Raspberry Pi slows down from 80 on.
pub(crate) fn temperature() -> Option<f32> {
    hottest(Path::new("/sys/class/thermal"))
}

/// The highest of the temperatures that Linux shows in a folder.
fn hottest(folder: &Path) -> Option<f32> {
    let zones = std::fs::read_dir(folder).ok()?.filter_map(Result::ok);
    let zones = zones.filter(|z| z.file_name().to_string_lossy().starts_with("thermal_zone"));
    let read = |zone: std::fs::DirEntry| {
        let thousandths = std::fs::read_to_string(zone.path().join("temp")).ok()?;
        thousandths.trim().parse::<f32>().ok().map(|t| t / 1000.0)
    };
    zones.filter_map(read).max_by(f32::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hottest_zone_that_tells_counts() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(hottest(folder.path()), None);
        assert_eq!(hottest(&folder.path().join("nowhere")), None);
        let zones = [
            ("thermal_zone0", "41000\n"),
            ("thermal_zone1", "65250\n"),
            ("thermal_zone2", "?"),
            ("cooling_device0", "99000"),
        ];
        for (zone, temperature) in zones {
            std::fs::create_dir(folder.path().join(zone)).unwrap();
            std::fs::write(folder.path().join(zone).join("temp"), temperature).unwrap();
        }
        assert_eq!(hottest(folder.path()), Some(65.25));
    }
}
