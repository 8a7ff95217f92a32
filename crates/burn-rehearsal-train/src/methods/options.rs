//! Options of methods.

use burn_rehearsal::error::ConfigError;
use std::fmt;
use std::ops::RangeInclusive;

/// An option of a method: a number with a name.
#[derive(Debug, Clone, PartialEq)]
pub struct MethodOption {
    /// The name, in snake case.
    pub name: &'static str,
    /// One line of help, without a period at its end.
    pub help: &'static str,
    /// The value.
    pub value: f64,
    /// The valid values.
    pub range: RangeInclusive<f64>,
}

/// Writes the name and the value, for example `alpha=0.2`.
impl fmt::Display for MethodOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.value)
    }
}

/// The error for an option that a method does not have.
pub(super) fn unknown(name: &str, options: &[MethodOption]) -> ConfigError {
    let names: Vec<_> = options.iter().map(|option| option.name).collect();
    let names = if names.is_empty() { "none: it has no options".into() } else { names.join(", ") };
    ConfigError::UnknownName { what: "option of this method", name: name.to_owned(), names }
}

/// Replaces the value of one of `options`, whose fields are `fields`.
pub(super) fn set(
    options: &[MethodOption],
    fields: &mut [&mut f64],
    (name, value): (&str, f64),
) -> Result<(), ConfigError> {
    let found = options.iter().zip(fields).find(|(option, _)| option.name == name);
    let (option, field) = found.ok_or_else(|| unknown(name, options))?;
    if !option.range.contains(&value) {
        let range = format!("{:?}", option.range);
        return Err(ConfigError::OutOfRange { what: name.to_owned(), value, range });
    }
    **field = value;
    Ok(())
}

/// Declares a method with options. Each has a default and a range. The documentation of a field is
/// its help.
macro_rules! options {
    (
        $(#[$meta:meta])*
        pub struct $Method:ident {
            $($(#[doc = $help:literal])+ $field:ident = $default:literal in $range:expr,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq)]
        pub struct $Method {
            $($(#[doc = $help])+ #[doc = concat!("\n\nDefault: ", stringify!($default), ".")] pub $field: f64,)*
        }

        impl $Method {
            /// The method with its default options.
            pub const DEFAULT: Self = Self { $($field: $default),* };

            fn list(&self) -> Vec<$crate::methods::MethodOption> {
                vec![$($crate::methods::MethodOption {
                    name: stringify!($field),
                    help: concat!($($help),+).trim().trim_end_matches('.'),
                    value: self.$field,
                    range: $range,
                }),*]
            }

            fn replaced(
                &self,
                values: &[(&str, f64)],
            ) -> Result<Box<dyn $crate::methods::Method>, burn_rehearsal::error::ConfigError> {
                let mut replaced = *self;
                for &value in values {
                    $crate::methods::options::set(
                        &self.list(),
                        &mut [$(&mut replaced.$field),*],
                        value,
                    )?;
                }
                Ok(Box::new(replaced))
            }
        }

        impl Default for $Method {
            fn default() -> Self {
                Self::DEFAULT
            }
        }
    };
}
pub(super) use options;

/// The methods of [`Method`](super::Method) for a method that [`options!`] declares.
macro_rules! forward {
    () => {
        fn options(&self) -> Vec<$crate::methods::MethodOption> {
            self.list()
        }

        fn with_options(
            &self,
            values: &[(&str, f64)],
        ) -> Result<Box<dyn $crate::methods::Method>, burn_rehearsal::error::ConfigError> {
            self.replaced(values)
        }
    };
}
pub(super) use forward;
