//! How single values are read and written, in any format.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::budget::Ratio;

use super::sections::Registry;

/// What can stand in a configuration. Sealed by being private.
pub(super) trait Plain: Sized {
    /// For error messages: what is wanted.
    const WANTED: &'static str;

    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error>;
    fn write<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error>;
}

/// For `#[serde(with = ..)]`: a field that may be left out.
pub(super) mod optional {
    use serde::{Deserializer, Serializer};

    use super::Plain;

    pub(in super::super) fn deserialize<'de, T: Plain, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<T>, D::Error> {
        T::read(from).map(Some)
    }

    #[allow(clippy::ref_option)] // so calls it serde
    pub(in super::super) fn serialize<T: Plain, S: Serializer>(
        value: &Option<T>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => value.write(to),
            None => to.serialize_none(),
        }
    }
}

/// A setting that can be switched off: `"off"`, or its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)] // off and on are all there is
pub enum Setting<T> {
    /// `"off"`.
    Off,
    /// The value.
    On(T),
}

impl<T> Setting<T> {
    /// The value, if it is on.
    pub fn as_option(&self) -> Option<&T> {
        match self {
            Self::Off => None,
            Self::On(value) => Some(value),
        }
    }
}

impl<T> From<T> for Setting<T> {
    fn from(value: T) -> Self {
        Self::On(value)
    }
}

impl<T: Plain> Plain for Setting<T> {
    const WANTED: &'static str = T::WANTED;

    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(OffOr(PhantomData))
    }

    fn write<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => to.serialize_str(OFF),
            Self::On(value) => value.write(to),
        }
    }
}

const OFF: &str = "off";

struct OffOr<T>(PhantomData<T>);

impl<'de, T: Plain> Visitor<'de> for OffOr<T> {
    type Value = Setting<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{OFF}\" or {}", T::WANTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        if text == OFF {
            return Ok(Setting::Off);
        }
        T::read(text.into_deserializer()).map(Setting::On)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Self::Value, E> {
        T::read(value.into_deserializer()).map(Setting::On)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Self::Value, E> {
        T::read(value.into_deserializer()).map(Setting::On)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
        T::read(value.into_deserializer()).map(Setting::On)
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Self::Value, E> {
        T::read(value.into_deserializer()).map(Setting::On)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::read(MapAccessDeserializer::new(map)).map(Setting::On)
    }
}

/// Whether each service has a policy of its own: `true`, `false`, or a table with the registry's
/// settings, which means `true`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(clippy::exhaustive_enums)] // one or many
pub enum PerKey {
    /// One policy for all calls.
    No,
    /// One for each [`Key`](crate::Key).
    Yes(Registry),
}

impl Plain for PerKey {
    const WANTED: &'static str = "true, false, or a table of capacity and idle_after";

    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(YesNoOr)
    }

    fn write<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::No => to.serialize_bool(false),
            Self::Yes(registry) if *registry == Registry::default() => to.serialize_bool(true),
            Self::Yes(registry) => registry.write(to),
        }
    }
}

struct YesNoOr;

impl<'de> Visitor<'de> for YesNoOr {
    type Value = PerKey;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PerKey::WANTED)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<PerKey, E> {
        Ok(if value {
            PerKey::Yes(Registry::default())
        } else {
            PerKey::No
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PerKey, A::Error> {
        Registry::read(MapAccessDeserializer::new(map)).map(PerKey::Yes)
    }
}

impl Plain for Duration {
    const WANTED: &'static str = "a duration with its unit, such as \"250ms\" or \"1m 30s\"";

    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_str(Length)
    }

    fn write<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_duration(*self))
    }
}

struct Length;

impl Visitor<'_> for Length {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Duration::WANTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
        let wrong = |problem: &dyn fmt::Display| {
            E::custom(format_args!(
                "{text:?} is not {}: {problem}",
                Duration::WANTED
            ))
        };
        // The parser takes a bare zero.
        if !text.chars().any(char::is_alphabetic) {
            return Err(wrong(&"there is no unit"));
        }
        humantime::parse_duration(text).map_err(|error| wrong(&error))
    }
}

impl Plain for Ratio {
    const WANTED: &'static str = "a share, such as \"50%\" or 0.5";

    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Share)
    }

    fn write<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let millionths = self.in_millionths();
        let (whole, rest) = (millionths / HUNDREDTH, millionths % HUNDREDTH);
        if rest == 0 {
            return to.collect_str(&format_args!("{whole}%"));
        }
        let text = format!("{whole}.{rest:04}");
        to.collect_str(&format_args!("{}%", text.trim_end_matches('0')))
    }
}

/// In millionths.
const HUNDREDTH: u64 = 10_000;

struct Share;

impl Visitor<'_> for Share {
    type Value = Ratio;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Ratio::WANTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Ratio, E> {
        let percent = text.trim().strip_suffix('%');
        let percent = percent.and_then(|number| number.trim().parse::<f64>().ok());
        let Some(percent) = percent else {
            return Err(E::custom(format_args!("{text:?} is not {}", Ratio::WANTED)));
        };
        self.visit_f64(percent / 100.0)
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Ratio, E> {
        Ratio::try_from(value).map_err(|error| E::custom(error.problem()))
    }

    #[allow(clippy::cast_precision_loss)] // far above what is allowed
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Ratio, E> {
        self.visit_f64(value as f64)
    }

    #[allow(clippy::cast_precision_loss)] // far above what is allowed
    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Ratio, E> {
        self.visit_f64(value as f64)
    }
}

/// Those that serde knows already.
macro_rules! plain {
    ($($kind:ty, $wanted:literal;)*) => {$(
        impl Plain for $kind {
            const WANTED: &'static str = $wanted;

            fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                Self::deserialize(from)
            }

            fn write<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                self.serialize(to)
            }
        }
    )*};
}
pub(super) use plain;

plain! {
    bool, "true or false";
    f64, "a number";
    u32, "a whole number";
    usize, "a whole number";
    Vec<String>, "a list of hosts";
    crate::backoff::Jitter, "a kind of jitter";
    crate::breaker::CountAs, "what it counts as";
    crate::limit::Order, "an order";
}
