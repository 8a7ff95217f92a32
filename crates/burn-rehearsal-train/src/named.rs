//! Enums whose variants have names, for configurations, command lines and reports.

use burn_rehearsal::error::ConfigError;

/// Declares an enum whose variants have names. The documentation of a variant is its summary.
#[doc(hidden)]
#[macro_export]
macro_rules! named {
    (
        $(#[$meta:meta])*
        pub enum $Kind:ident: $what:literal $(, default $Default:ident)? {
            $($(#[doc = $summary:literal])+ $Variant:ident = $name:literal,)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $Kind {
            $($(#[doc = $summary])+ #[serde(rename = $name)] $Variant,)+
        }

        impl $Kind {
            /// All variants.
            pub const ALL: &'static [Self] = &[$(Self::$Variant),+];

            /// The name in configurations and reports.
            pub fn name(self) -> &'static str {
                match self { $(Self::$Variant => $name,)+ }
            }

            /// One line of help, without a period at its end.
            pub fn summary(self) -> &'static str {
                match self { $(Self::$Variant => concat!($($summary),+).trim().trim_end_matches('.'),)+ }
            }
        }

        $(
            impl Default for $Kind {
                fn default() -> Self {
                    Self::$Default
                }
            }
        )?

        /// Writes the [name](Self::name).
        impl std::fmt::Display for $Kind {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }

        /// Parses the [name](Self::name).
        impl std::str::FromStr for $Kind {
            type Err = burn_rehearsal::error::ConfigError;

            fn from_str(name: &str) -> Result<Self, Self::Err> {
                $crate::named::by_name($what, name, Self::ALL, Self::name)
            }
        }
    };
}

/// Returns the first entry of `all` with this name.
#[doc(hidden)]
pub fn by_name<T: Copy>(
    what: &'static str,
    name: &str,
    all: &[T],
    name_of: impl Fn(T) -> &'static str,
) -> Result<T, ConfigError> {
    let found = all.iter().copied().find(|&entry| name_of(entry) == name);
    found.ok_or_else(|| {
        let names: Vec<_> = all.iter().map(|&entry| name_of(entry)).collect();
        ConfigError::UnknownName { what, name: name.to_owned(), names: names.join(", ") }
    })
}
