//! Generates the implementation.
//!
//! Paths are absolute and local variables have unlikely names, so that the code does not depend on
//! names in the user's scope. The tokens of a field's type are used unchanged: the compiler reports
//! a wrong type at the type. It does so once, because every use is the same `<Type as Field>`.

use crate::attributes::Word;
use crate::input::{Batch, Field};
use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;

/// The implementation of `RehearsalBatch` for `batch`.
pub(crate) fn implementation(batch: &Batch<'_>) -> TokenStream {
    let ident = batch.ident;
    let (impl_generics, ty_generics, where_clause) = batch.generics.split_for_impl();

    let numbered: Vec<_> =
        batch.fields.iter().enumerate().map(|(index, field)| (field, local(index))).collect();
    let (columns, rest): (Vec<_>, Vec<_>) =
        numbered.iter().partition(|(field, _)| field.is_column());
    let idents: Vec<_> = numbered.iter().map(|(field, _)| field.ident).collect();
    let locals: Vec<_> = numbered.iter().map(|(_, local)| local).collect();
    let rest_types: Vec<_> = rest.iter().map(|(field, _)| field.ty).collect();
    let rest_locals: Vec<_> = rest.iter().map(|(_, local)| local).collect();

    let fills = fill(&rest.iter().map(|(field, _)| *field).collect::<Vec<_>>());

    let specs = columns.iter().map(|(field, _)| spec(field));
    let bounds = columns.iter().map(|(field, _)| bound(field));
    let names: Vec<_> = columns.iter().map(|(field, _)| name(field)).collect();
    let types: Vec<_> = columns.iter().map(|(field, _)| field.ty).collect();
    // Exists, because a valid batch has a stored field.
    let row_field = columns
        .iter()
        .map(|(field, _)| field)
        .find(|field| field.word() != Some(Word::Representative));
    let (row_type, row_ident) = row_field.map(|field| (field.ty, field.ident)).unzip();
    let column_locals: Vec<_> = columns.iter().map(|(_, local)| local).collect();

    quote! {
        #[automatically_derived]
        #[allow(deprecated)]
        impl #impl_generics ::burn_rehearsal::batch::RehearsalBatch for #ident #ty_generics #where_clause {
            type Rest = (#(#rest_types,)*);

            const FIELDS: &'static [::burn_rehearsal::batch::FieldSpec] = &[#(#specs),*];

            fn rows(&self) -> usize {
                <#row_type as ::burn_rehearsal::batch::Field>::rows(&self.#row_ident)
            }

            fn into_parts(
                self,
                __columns: &mut ::std::vec::Vec<::burn_rehearsal::batch::Column>,
            ) -> ::core::result::Result<Self::Rest, ::burn_rehearsal::error::BatchError> {
                #(#bounds)*
                let Self { #(#idents: #locals),* } = self;
                #(__columns.push(<#types as ::burn_rehearsal::batch::Field>::into_column(#column_locals, #names)?);)*
                ::core::result::Result::Ok((#(#rest_locals,)*))
            }

            #fills

            fn from_parts(
                mut __columns: impl ::core::iter::Iterator<Item = ::burn_rehearsal::batch::Column>,
                __rest: Self::Rest,
            ) -> ::core::result::Result<Self, ::burn_rehearsal::error::BatchError> {
                let mut __next = |field| {
                    ::core::iter::Iterator::next(&mut __columns).ok_or(::burn_rehearsal::error::BatchError::ColumnType { field })
                };
                #(let #column_locals = <#types as ::burn_rehearsal::batch::Field>::from_column(__next(#names)?, #names)?;)*
                if ::core::iter::Iterator::next(&mut __columns).is_some() {
                    return ::core::result::Result::Err(::burn_rehearsal::error::BatchError::ColumnType {
                        field: "(one column more than fields)",
                    });
                }
                let (#(#rest_locals,)*) = __rest;
                ::core::result::Result::Ok(Self { #(#idents: #locals),* })
            }
        }
    }
}

/// The method `fill`, if a skipped field names a function.
fn fill(rest: &[&Field<'_>]) -> TokenStream {
    let calls = rest.iter().enumerate().filter_map(|(index, field)| {
        let function = field.mark.as_ref()?.fill.as_ref()?;
        let index = syn::Index::from(index);
        Some(quote_spanned!(function.span()=> #function(&mut __rest.#index, __representatives);))
    });
    let calls: Vec<_> = calls.collect();
    if calls.is_empty() {
        return TokenStream::new();
    }
    quote! {
        fn fill(__rest: &mut Self::Rest, __representatives: usize) {
            #(#calls)*
        }
    }
}

/// The local variable for a field. In spite of hygiene, a pattern with the name of a constant in
/// the user's scope means that constant. Therefore the variable has an unlikely name.
fn local(index: usize) -> Ident {
    format_ident!("__field_{index}", span = Span::mixed_site())
}

/// The name of a field in messages: `type`, not `r#type`.
fn name(field: &Field<'_>) -> String {
    field.ident.unraw().to_string()
}

/// The entry of a field in `FIELDS`.
fn spec(field: &Field<'_>) -> TokenStream {
    let (name, ty) = (name(field), field.ty);
    let bytes = field.word() == Some(Word::Bytes);
    let role = match field.word() {
        Some(Word::Class) => quote!(Class),
        Some(Word::Id) => quote!(Id),
        Some(Word::Representative) => quote!(Representative),
        Some(Word::Bytes | Word::Skip) | None => quote!(Data),
    };
    quote! {
        ::burn_rehearsal::batch::FieldSpec {
            name: #name,
            role: ::burn_rehearsal::batch::Role::#role,
            bytes: #bytes,
            kind: <#ty as ::burn_rehearsal::batch::Field>::KIND,
        }
    }
}

/// A call that compiles only if the type of the field is valid for its word. The compiler reports
/// the type and shows the word as the reason.
fn bound(field: &Field<'_>) -> TokenStream {
    let Some(mark) = &field.mark else { return TokenStream::new() };
    let required = match mark.word {
        Word::Class | Word::Id => quote!(RowInt),
        Word::Representative => quote!(RowBool),
        Word::Bytes => quote!(IntField),
        Word::Skip => return TokenStream::new(),
    };
    let ty = field.ty;
    let span = Span::mixed_site().located_at(mark.span);
    let word = Ident::new(mark.word.name(), span);
    let required = quote_spanned!(span=> T: ::burn_rehearsal::batch::#required);
    quote! {
        {
            fn #word<#required>() {}
            #word::<#ty>();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use syn::parse_quote;

    /// The generated implementation, if `input` is valid.
    fn expanded(input: &syn::DeriveInput) -> Option<syn::ItemImpl> {
        Batch::read(input).and_then(|batch| syn::parse2(implementation(&batch))).ok()
    }

    #[test]
    fn generic_parameters_are_kept() {
        let input = parse_quote! {
            struct Batch<T: Send = String, const D: usize = 2> where T: Sync {
                r#type: Tensor<D>,
                #[rehearsal(skip)]
                note: T,
            }
        };
        let (header, body) = expanded(&input).map_or_else(Default::default, |item| {
            let (generics, ty) = (&item.generics, &item.self_ty);
            let bounds = &generics.where_clause;
            (quote!(#generics #ty #bounds).to_string(), quote!(#item).to_string())
        });
        assert_eq!(header, quote!(<T: Send, const D: usize> Batch<T, D> where T: Sync).to_string());
        assert!(body.contains("name : \"type\"") && body.contains("r#type : __field_0"), "{body}");
    }

    #[test]
    fn only_marked_fields_have_a_bound() {
        let input = parse_quote!(
            struct B {
                x: Tensor<2>,
                #[rehearsal(bytes)]
                y: Tensor<2, Int>,
                #[rehearsal(skip)]
                z: u8,
            }
        );
        let body = expanded(&input).map(|item| quote!(#item).to_string()).unwrap_or_default();
        assert_eq!(body.matches("IntField").count(), 1, "{body}");
        assert!(!body.contains("RowInt") && !body.contains("RowBool"), "{body}");
    }
}
