//! What can be set.

use crate::bindings::halo::policy::types::Setting;

/// The settings, each a share between 0 and 1.
#[derive(Debug, PartialEq)]
pub struct Settings {
    pub budget: f32,
    pub needed_share: f32,
    pub double_loss: f32,
    pub hysteresis: f32,
    pub standbys: f32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            budget: 0.02,
            needed_share: 0.5,
            double_loss: 0.12,
            hysteresis: 0.1,
            standbys: 0.125,
        }
    }
}

impl Settings {
    /// The defaults with what `settings` says. Unknown keys and values that are no shares are errors.
    pub fn read(settings: &[Setting]) -> Result<Self, String> {
        let mut read = Self::default();
        for Setting { key, value } in settings {
            let place = match key.as_str() {
                "budget" => &mut read.budget,
                "needed-share" => &mut read.needed_share,
                "double-loss" => &mut read.double_loss,
                "hysteresis" => &mut read.hysteresis,
                "standbys" => &mut read.standbys,
                _ => {
                    return Err(format!(
                        "there is no setting {key:?}: budget, needed-share, double-loss, hysteresis and standbys are"
                    ));
                }
            };
            *place = value
                .parse()
                .ok()
                .filter(|share| (0.0..=1.0).contains(share))
                .ok_or_else(|| format!("{key} = {value:?} is not a number between 0 and 1"))?;
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(key: &str, value: &str) -> Result<Settings, String> {
        Settings::read(&[Setting {
            key: key.into(),
            value: value.into(),
        }])
    }

    #[test]
    fn known_keys_are_read_and_others_refused() {
        assert_eq!(
            read("budget", "0.1"),
            Ok(Settings {
                budget: 0.1,
                ..Settings::default()
            })
        );
        assert!(
            read("budgets", "0.1")
                .unwrap_err()
                .contains("no setting \"budgets\"")
        );
        for value in ["", "x", "-0.1", "1.5", "NaN"] {
            assert!(read("budget", value).is_err(), "{value}");
        }
    }
}
