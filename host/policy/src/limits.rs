//! How much of the machine a policy may use.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What one policy may use: memory for its instance, and time and data for each call.
///
/// In configuration files times are in milliseconds (`place-ms = 2000`) and sizes in bytes; what is left out has its default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Limits {
    /// Bytes of memory that one instance may have. 64 MiB.
    pub memory: usize,
    /// Bytes that a component's file may have. 16 MiB.
    pub component: usize,
    /// Bytes that a policy may hand back in one call, its log messages among them. 16 MiB.
    pub message: usize,
    /// Bytes of a log message that are written; the rest is cut. 400.
    pub log_message: usize,
    /// Log messages that are written in a second; the rest is dropped. 10.
    pub log_rate: u32,
    /// Time to instantiate and initialise. 5 s.
    #[serde(rename = "init-ms", with = "milliseconds")]
    pub init: Duration,
    /// Time for a placement. 2 s.
    #[serde(rename = "place-ms", with = "milliseconds")]
    pub place: Duration,
    /// Time for a verdict on a round. 20 ms.
    #[serde(rename = "admit-ms", with = "milliseconds")]
    pub admit: Duration,
    /// Time for one layer's scores. 20 ms.
    #[serde(rename = "score-ms", with = "milliseconds")]
    pub score: Duration,
    /// Faults in a row after which a policy is replaced by the one in force before it. 3.
    pub strikes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 64 << 20,
            component: 16 << 20,
            message: 16 << 20,
            log_message: 400,
            log_rate: 10,
            init: Duration::from_secs(5),
            place: Duration::from_secs(2),
            admit: Duration::from_millis(20),
            score: Duration::from_millis(20),
            strikes: 3,
        }
    }
}

mod milliseconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        time: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survive_json_and_know_their_keys() {
        let limits = Limits {
            admit: Duration::from_millis(7),
            ..Limits::default()
        };
        let json = serde_json::to_string(&limits).unwrap();
        assert!(json.contains(r#""admit-ms":7"#), "{json}");
        assert_eq!(serde_json::from_str::<Limits>(&json).unwrap(), limits);
        assert_eq!(
            serde_json::from_str::<Limits>("{}").unwrap(),
            Limits::default()
        );
        assert!(serde_json::from_str::<Limits>(r#"{"admit":7}"#).is_err());
    }
}
