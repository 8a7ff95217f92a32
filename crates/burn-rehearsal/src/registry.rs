//! Registration of built-in policies and sampling rules, one line each.

/// Declares an enum with one variant for each built-in rule. A rule is a type that implements the
/// trait and `Default`. The names are those of the rules, and the doc comments of the variants are
/// their summaries.
macro_rules! registry {
    (
        $(#[$meta:meta])*
        pub enum $Kind:ident: $what:literal, dyn $Trait:ident {
            $($(#[doc = $summary:literal])+ $Variant:ident => $module:ident::$Type:ident,)+
        }
    ) => {
        $(pub use $module::$Type;)+

        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum $Kind {
            $($(#[doc = $summary])+ #[doc = concat!("\n\nSee [`", stringify!($Type), "`].")] $Variant,)+
        }

        impl $Kind {
            /// All built-in rules.
            pub const ALL: &'static [Self] = &[$(Self::$Variant),+];

            /// The name in kebab case.
            pub fn name(self) -> &'static str {
                match self { $(Self::$Variant => <$Type as $Trait>::name(&$Type::default()),)+ }
            }

            /// A summary in one line, without a final period.
            pub fn summary(self) -> &'static str {
                match self { $(Self::$Variant => concat!($($summary),+).trim().trim_end_matches('.'),)+ }
            }

            pub(crate) fn init(self) -> Box<dyn $Trait> {
                match self { $(Self::$Variant => Box::new($Type::default()),)+ }
            }
        }

        /// Writes the [name](Self::name).
        impl std::fmt::Display for $Kind {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }

        /// Parses the [name](Self::name).
        impl std::str::FromStr for $Kind {
            type Err = crate::error::ConfigError;

            fn from_str(name: &str) -> Result<Self, Self::Err> {
                Self::ALL.iter().copied().find(|kind| kind.name() == name).ok_or_else(|| crate::error::ConfigError::UnknownName {
                    what: $what,
                    name: name.to_owned(),
                    names: Self::ALL.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", "),
                })
            }
        }

        #[cfg(test)]
        #[test]
        fn names_match_those_in_configuration_files() {
            for &kind in $Kind::ALL {
                let text = format!("\"{}\"", kind.name().replace('-', "_"));
                assert_eq!(serde_json::to_string(&kind).ok(), Some(text));
                assert_eq!(kind.name().parse(), Ok(kind));
                assert!(!kind.summary().is_empty());
            }
            assert!("lottery".parse::<$Kind>().is_err_and(|error| error.to_string().contains($Kind::ALL[0].name())));
        }
    };
}
pub(crate) use registry;
