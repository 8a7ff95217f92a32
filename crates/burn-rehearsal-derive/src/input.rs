//! The struct as the macro sees it, and the mistakes that can be seen without knowing types.

use crate::attributes::{self, Mark, Word};
use syn::{Data, DeriveInput, Error, Fields, FieldsNamed, Generics, Ident, Type};

/// One field of the struct.
pub(crate) struct Field<'a> {
    /// The field's name.
    pub(crate) ident: &'a Ident,
    /// The field's type.
    pub(crate) ty: &'a Type,
    /// What the field is marked as; `None` is a plain tensor field.
    pub(crate) mark: Option<Mark>,
}

impl Field<'_> {
    /// What the field is marked as.
    pub(crate) fn word(&self) -> Option<Word> {
        self.mark.as_ref().map(|mark| mark.word)
    }

    /// Whether the field is a column.
    pub(crate) fn is_column(&self) -> bool {
        self.word() != Some(Word::Skip)
    }
}

/// A struct that can be a mini-batch: named fields, at least one of them stored, no two of the same
/// role.
pub(crate) struct Batch<'a> {
    /// The struct's name.
    pub(crate) ident: &'a Ident,
    /// The struct's parameters.
    pub(crate) generics: &'a Generics,
    /// All fields, in the order of declaration.
    pub(crate) fields: Vec<Field<'a>>,
}

impl<'a> Batch<'a> {
    /// Reads the struct.
    ///
    /// # Errors
    ///
    /// All mistakes in it, combined, each at the offending token.
    pub(crate) fn read(input: &'a DeriveInput) -> Result<Self, Error> {
        let mut errors = Vec::new();
        for attribute in input.attrs.iter().filter(|attribute| attributes::is_ours(attribute)) {
            errors.push(Error::new_spanned(
                attribute,
                "`#[rehearsal(...)]` belongs on a field, not on the type",
            ));
        }
        let fields = match named(input) {
            Ok(named) => read_fields(named, &mut errors),
            Err(error) => {
                errors.push(error);
                Vec::new()
            }
        };
        check_roles(&fields, &mut errors);
        // With a mistake elsewhere the fields may not be what they seem, so that this one would
        // only confuse.
        if errors.is_empty()
            && !fields
                .iter()
                .any(|field| field.is_column() && field.word() != Some(Word::Representative))
        {
            errors.push(Error::new_spanned(
                &input.ident,
                format!(
                    "`{}` has nothing to store: a mini-batch needs at least one tensor field that is neither `skip` nor `representative`",
                    input.ident
                ),
            ));
        }
        let combined = errors.into_iter().reduce(|mut all, error| {
            all.combine(error);
            all
        });
        match combined {
            Some(errors) => Err(errors),
            None => Ok(Batch { ident: &input.ident, generics: &input.generics, fields }),
        }
    }
}

/// The fields of a struct with named fields; anything else is a mistake.
fn named(input: &DeriveInput) -> Result<&FieldsNamed, Error> {
    let message = |what| {
        format!(
            "`RehearsalBatch` needs a struct with named fields, one for each tensor: `{}` is {what}",
            input.ident
        )
    };
    match &input.data {
        Data::Struct(data) => match &data.fields {
            Fields::Named(fields) => Ok(fields),
            Fields::Unnamed(fields) => Err(Error::new_spanned(fields, message("a tuple struct"))),
            Fields::Unit => Err(Error::new_spanned(&input.ident, message("a unit struct"))),
        },
        Data::Enum(data) => Err(Error::new_spanned(data.enum_token, message("an enum"))),
        Data::Union(data) => Err(Error::new_spanned(data.union_token, message("a union"))),
    }
}

/// Reads every field with its attributes.
fn read_fields<'a>(fields: &'a FieldsNamed, errors: &mut Vec<Error>) -> Vec<Field<'a>> {
    let read = |field: &'a syn::Field| {
        let mark = attributes::read(&field.attrs, errors);
        field.ident.as_ref().map(|ident| Field { ident, ty: &field.ty, mark })
    };
    fields.named.iter().filter_map(read).collect()
}

/// Reports every second `class`, `id` or `representative` field.
fn check_roles(fields: &[Field<'_>], errors: &mut Vec<Error>) {
    for (index, field) in fields.iter().enumerate() {
        let Some(mark) = field.mark.as_ref().filter(|mark| mark.word.is_unique()) else { continue };
        if let Some(first) =
            fields[..index].iter().find(|earlier| earlier.word() == Some(mark.word))
        {
            let word = mark.word.name();
            errors.push(Error::new(
                mark.span,
                format!(
                    "a batch has at most one `{word}` field, and `{}` already is it",
                    first.ident
                ),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use syn::parse_quote;

    /// The messages of the mistakes in `input`.
    fn mistakes(input: &DeriveInput) -> Vec<String> {
        Batch::read(input).err().into_iter().flatten().map(|error| error.to_string()).collect()
    }

    #[test]
    fn fields_keep_their_order_and_marks() {
        let input = parse_quote! {
            struct Batch<const D: usize> {
                x: Tensor<D>,
                #[rehearsal(skip)]
                note: String,
                #[rehearsal(class)]
                y: Tensor<1, Int>,
            }
        };
        let batch = Batch::read(&input).ok().unwrap();
        let fields: Vec<_> = batch
            .fields
            .iter()
            .map(|field| (field.ident.to_string(), field.word(), field.is_column()))
            .collect();
        let expected =
            [("x", None, true), ("note", Some(Word::Skip), false), ("y", Some(Word::Class), true)];
        assert_eq!(fields, expected.map(|(name, word, column)| (name.to_string(), word, column)));
    }

    #[test]
    fn only_a_struct_with_named_fields_will_do() {
        let start =
            "`RehearsalBatch` needs a struct with named fields, one for each tensor: `B` is ";
        assert_eq!(
            mistakes(&parse_quote!(
                enum B {
                    X,
                }
            )),
            [format!("{start}an enum")]
        );
        assert_eq!(mistakes(&parse_quote!(union B { x: u8 })), [format!("{start}a union")]);
        assert_eq!(
            mistakes(&parse_quote!(
                struct B(Tensor<2>);
            )),
            [format!("{start}a tuple struct")]
        );
        assert_eq!(
            mistakes(&parse_quote!(
                struct B;
            )),
            [format!("{start}a unit struct")]
        );
    }

    #[test]
    fn a_batch_without_a_stored_field_is_a_mistake() {
        for input in [
            parse_quote!(
                struct B {}
            ),
            parse_quote!(
                struct B {
                    #[rehearsal(skip)]
                    note: String,
                }
            ),
            parse_quote!(
                struct B {
                    #[rehearsal(representative)]
                    replayed: Tensor<1, Bool>,
                }
            ),
        ] {
            let found = mistakes(&input);
            assert!(
                found.len() == 1 && found[0].starts_with("`B` has nothing to store"),
                "{found:?}"
            );
        }
    }

    #[test]
    fn a_role_is_taken_once_and_bytes_and_skip_any_number_of_times() {
        for word in ["class", "id", "representative"] {
            let word = Ident::new(word, proc_macro2::Span::call_site());
            let input = parse_quote!(
                struct B {
                    x: T,
                    #[rehearsal(#word)]
                    a: T,
                    #[rehearsal(#word)]
                    b: T,
                    #[rehearsal(#word)]
                    c: T,
                }
            );
            let message = format!("a batch has at most one `{word}` field, and `a` already is it");
            assert_eq!(mistakes(&input), [message.clone(), message]);
        }
        for word in ["bytes", "skip"] {
            let word = Ident::new(word, proc_macro2::Span::call_site());
            let input = parse_quote!(
                struct B {
                    x: T,
                    #[rehearsal(#word)]
                    a: T,
                    #[rehearsal(#word)]
                    b: T,
                }
            );
            assert_eq!(mistakes(&input), [""; 0]);
        }
    }

    #[test]
    fn mistakes_of_all_fields_and_of_the_type_are_reported_together() {
        let input = parse_quote! {
            #[rehearsal(class)]
            struct B {
                #[rehearsal(clas)]
                x: T,
                #[rehearsal(bytes, skip)]
                y: T,
            }
        };
        let found = mistakes(&input);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].contains("belongs on a field"), "{found:?}");
    }
}
