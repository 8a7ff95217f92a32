//! Parses the struct, and finds the mistakes that do not depend on types.

use crate::attributes::{self, Mark, Word};
use syn::spanned::Spanned;
use syn::{
    Data, DeriveInput, Error, Fields, FieldsNamed, GenericArgument, Generics, Ident, PathArguments,
    Type, Visibility,
};

/// One field of the struct.
pub(crate) struct Field<'a> {
    /// The name of the field.
    pub(crate) ident: &'a Ident,
    /// The type of the field.
    pub(crate) ty: &'a Type,
    /// The mark of the field. `None` is a plain tensor field.
    pub(crate) mark: Option<Mark>,
}

impl Field<'_> {
    /// The word of the field's mark.
    pub(crate) fn word(&self) -> Option<Word> {
        self.mark.as_ref().map(|mark| mark.word)
    }

    /// Whether the field is a column of incoming mini-batches.
    pub(crate) fn is_column(&self) -> bool {
        !matches!(self.word(), Some(Word::Skip | Word::Late | Word::Layout))
    }

    /// The tensor type of a late field, which is an `Option` of it.
    pub(crate) fn late_type(&self) -> Option<&Type> {
        if self.word() == Some(Word::Late) { option_argument(self.ty) } else { None }
    }
}

/// `T` in `Option<T>`.
fn option_argument(ty: &Type) -> Option<&Type> {
    match ty {
        // A type from a macro is in an invisible group.
        Type::Group(group) => option_argument(&group.elem),
        Type::Paren(paren) => option_argument(&paren.elem),
        Type::Path(path) => {
            let last = path.path.segments.last().filter(|last| last.ident == "Option")?;
            let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
            match (arguments.args.first(), arguments.args.len()) {
                (Some(GenericArgument::Type(argument)), 1) => Some(argument),
                _ => None,
            }
        }
        _ => None,
    }
}

/// A valid mini-batch struct: it has named fields, at least one stored field, no role twice, and a
/// row layout if it has a late field.
pub(crate) struct Batch<'a> {
    /// The visibility of the struct.
    pub(crate) visibility: &'a Visibility,
    /// The name of the struct.
    pub(crate) ident: &'a Ident,
    /// The generic parameters of the struct.
    pub(crate) generics: &'a Generics,
    /// All fields, in declaration order.
    pub(crate) fields: Vec<Field<'a>>,
}

impl<'a> Batch<'a> {
    /// Parses the struct.
    ///
    /// # Errors
    ///
    /// All mistakes, combined. Each points to its token.
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
        check_late(&fields, &mut errors);
        // After another mistake this error could be misleading, because a field may be misread.
        if errors.is_empty()
            && !fields
                .iter()
                .any(|field| field.is_column() && field.word() != Some(Word::Representative))
        {
            errors.push(Error::new_spanned(
                &input.ident,
                format!(
                    "`{}` has nothing to store: a mini-batch needs at least one tensor field that \
                     is neither `skip` nor `representative` nor `late`",
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
            None => Ok(Batch {
                visibility: &input.vis,
                ident: &input.ident,
                generics: &input.generics,
                fields,
            }),
        }
    }
}

/// The fields of a struct with named fields. Any other type is a mistake.
fn named(input: &DeriveInput) -> Result<&FieldsNamed, Error> {
    let message = |what| {
        format!(
            "`RehearsalBatch` needs a struct with named fields, but `{}` is {what}",
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

/// Parses all fields and their attributes.
fn read_fields<'a>(fields: &'a FieldsNamed, errors: &mut Vec<Error>) -> Vec<Field<'a>> {
    let read = |field: &'a syn::Field| {
        let mark = attributes::read(&field.attrs, errors);
        field.ident.as_ref().map(|ident| Field { ident, ty: &field.ty, mark })
    };
    fields.named.iter().filter_map(read).collect()
}

/// Reports `class`, `id` and `representative` fields after the first one.
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
                    "a batch can have only one `{word}` field, and `{}` is already marked",
                    first.ident
                ),
            ));
        }
    }
}

/// Reports late fields that are not options, and a missing row layout.
fn check_late(fields: &[Field<'_>], errors: &mut Vec<Error>) {
    let has_layout = fields.iter().any(|field| field.word() == Some(Word::Layout));
    let mut first = true;
    for field in fields {
        let Some(mark) = field.mark.as_ref().filter(|mark| mark.word == Word::Late) else {
            continue;
        };
        if field.late_type().is_none() {
            errors.push(Error::new(
                field.ty.span(),
                "a `late` field must be an `Option` of a tensor, which the batcher leaves `None`",
            ));
        }
        if std::mem::replace(&mut first, false) && !has_layout {
            errors.push(Error::new(
                mark.span,
                "a batch with a `late` field needs a row layout, whose `annotate` takes the \
                 values: `#[rehearsal(layout)] rows: RowLayout<Self>`",
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use syn::parse_quote;

    /// All error messages for `input`.
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
    fn only_a_struct_with_named_fields_is_accepted() {
        let start = "`RehearsalBatch` needs a struct with named fields, but `B` is ";
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
    fn a_batch_without_a_stored_field_is_an_error() {
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
    fn only_bytes_and_skip_can_mark_several_fields() {
        for word in ["class", "id", "representative", "layout"] {
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
            let message =
                format!("a batch can have only one `{word}` field, and `a` is already marked");
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
    fn a_late_field_is_an_option_and_needs_a_row_layout() {
        let input = parse_quote! {
            struct B {
                x: T,
                #[rehearsal(late)]
                a: T,
                #[rehearsal(late)]
                b: ::core::option::Option<T>,
            }
        };
        let found = mistakes(&input);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("`Option`") && found[1].contains("row layout"), "{found:?}");
        let input = parse_quote! {
            struct B {
                x: T,
                #[rehearsal(late(f16))]
                a: Option<T>,
                #[rehearsal(layout)]
                rows: RowLayout<Self>,
            }
        };
        assert_eq!(mistakes(&input), [""; 0]);
    }

    #[test]
    fn errors_of_all_fields_and_of_the_type_are_reported_together() {
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
