//! Generates the implementation.
//!
//! Paths are absolute and local variables have unlikely names, so that the code does not depend on
//! names in the user's scope. The tokens of a field's type are used unchanged: the compiler reports
//! a wrong type at the type. It does so once, because every use is the same `<Type as Field>`.

use crate::attributes::Word;
use crate::input::{Batch, Field};
use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Generics, Type};

/// The implementation of `RehearsalBatch` for `batch`, and the struct of its late fields.
pub(crate) fn implementation(batch: &Batch<'_>) -> TokenStream {
    let ident = batch.ident;
    let (impl_generics, ty_generics, where_clause) = batch.generics.split_for_impl();

    let numbered: Vec<_> =
        batch.fields.iter().enumerate().map(|(index, field)| (field, local(index))).collect();
    let columns: Vec<_> = numbered.iter().filter(|(field, _)| field.is_column()).collect();
    let marked = |word| move |(field, _): &&(&Field<'_>, Ident)| field.word() == Some(word);
    let rest: Vec<_> = numbered.iter().filter(marked(Word::Skip)).collect();
    let late: Vec<_> = numbered
        .iter()
        .filter_map(|(field, local)| Some(LateField { field, local, ty: field.late_type()? }))
        .collect();
    let layout = numbered.iter().find(marked(Word::Layout));
    let idents: Vec<_> = numbered.iter().map(|(field, _)| field.ident).collect();
    let locals: Vec<_> = numbered.iter().map(|(_, local)| local).collect();
    let rest_types: Vec<_> = rest.iter().map(|(field, _)| field.ty).collect();
    let rest_locals: Vec<_> = rest.iter().map(|(_, local)| local).collect();

    let fills = fill(&rest.iter().map(|(field, _)| *field).collect::<Vec<_>>());

    let specs = columns
        .iter()
        .map(|(field, _)| spec(field, field.ty))
        .chain(late.iter().map(|late| spec(late.field, late.ty)));
    let bounds = columns
        .iter()
        .map(|(field, _)| bound(field, field.ty))
        .chain(late.iter().map(|late| bound(late.field, late.ty)));
    let names: Vec<_> = columns.iter().map(|(field, _)| name(field)).collect();
    let types: Vec<_> = columns.iter().map(|(field, _)| field.ty).collect();
    // Exists, because a valid batch has a stored field.
    let row_field = columns
        .iter()
        .map(|(field, _)| field)
        .find(|field| field.word() != Some(Word::Representative));
    let (row_type, row_ident) = row_field.map(|field| (field.ty, field.ident)).unzip();
    let column_locals: Vec<_> = columns.iter().map(|(_, local)| local).collect();

    let (late_type, late_struct) = late_struct(batch, &late);
    let (late_locals, late_names): (Vec<_>, Vec<_>) =
        late.iter().map(|late| (late.local, name(late.field))).unzip();
    let late_tensors: Vec<_> = late.iter().map(|late| late.ty).collect();
    let incoming_layout = layout.map(|(_, local)| quote!(::core::mem::drop(#local);));
    let set_layout = layout.map(|(field, local)| {
        let ty = field.ty;
        let span = Span::call_site().located_at(ty.span());
        quote_spanned!(span=> let #local: #ty = __layout;)
    });

    quote! {
        #late_struct

        #[automatically_derived]
        #[allow(deprecated)]
        impl #impl_generics ::burn_rehearsal::batch::RehearsalBatch for #ident #ty_generics #where_clause {
            type Rest = (#(#rest_types,)*);

            type Late = #late_type;

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
                #incoming_layout
                #(if ::core::option::Option::is_some(&#late_locals) {
                    return ::core::result::Result::Err(
                        ::burn_rehearsal::error::BatchError::LateFilled { field: #late_names }
                    );
                })*
                #(__columns.push(<#types as ::burn_rehearsal::batch::Field>::into_column(#column_locals, #names)?);)*
                ::core::result::Result::Ok((#(#rest_locals,)*))
            }

            #fills

            fn from_parts(
                mut __columns: impl ::core::iter::Iterator<Item = ::burn_rehearsal::batch::Column>,
                __rest: Self::Rest,
                __layout: ::burn_rehearsal::RowLayout<Self>,
            ) -> ::core::result::Result<Self, ::burn_rehearsal::error::BatchError> {
                #set_layout
                let mut __next = |field| {
                    ::core::iter::Iterator::next(&mut __columns).ok_or(::burn_rehearsal::error::BatchError::ColumnType { field })
                };
                #(let #column_locals = <#types as ::burn_rehearsal::batch::Field>::from_column(__next(#names)?, #names)?;)*
                #(let #late_locals = match ::core::iter::Iterator::next(&mut __columns) {
                    ::core::option::Option::Some(__column) => ::core::option::Option::Some(
                        <#late_tensors as ::burn_rehearsal::batch::Field>::from_column(
                            __column,
                            #late_names
                        )?
                    ),
                    ::core::option::Option::None => ::core::option::Option::None,
                };)*
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

/// A late field, its local variable, and the type of its tensor.
struct LateField<'a> {
    field: &'a Field<'a>,
    local: &'a Ident,
    ty: &'a Type,
}

/// The type of the late fields of `batch`, and its declaration if there are any.
fn late_struct(batch: &Batch<'_>, late: &[LateField<'_>]) -> (TokenStream, TokenStream) {
    if late.is_empty() {
        return (quote!(::burn_rehearsal::batch::NoLateFields), TokenStream::new());
    }
    let visibility = batch.visibility;
    let ident = format_ident!("{}Late", batch.ident.unraw(), span = batch.ident.span());
    let generics = used(batch.generics, late.iter().map(|late| late.ty));
    let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
    let title = format!("The late fields of [`{}`].", batch.ident);
    let idents: Vec<_> = late.iter().map(|late| late.field.ident).collect();
    let types: Vec<_> = late.iter().map(|late| late.ty).collect();
    let names: Vec<_> = late.iter().map(|late| name(late.field)).collect();
    // The documentation of the batch's field is about drawn rows.
    let docs =
        names.iter().map(|name| format!("The values of `{name}`, one row per incoming row."));
    let element_types = late.iter().map(|late| element_type(late.field));
    let declaration = quote! {
        #[doc = #title]
        #[derive(::core::clone::Clone, ::core::fmt::Debug)]
        #visibility struct #ident #generics #where_clause {
            #(#[doc = #docs] pub #idents: #types,)*
        }

        #[automatically_derived]
        impl #impl_generics ::burn_rehearsal::batch::LateFields for #ident #ty_generics
        #where_clause
        {
            fn into_columns(
                self,
                __columns: &mut ::std::vec::Vec<::burn_rehearsal::batch::Column>,
            ) -> ::core::result::Result<(), ::burn_rehearsal::error::BatchError> {
                #(__columns.push(
                    <#types as ::burn_rehearsal::batch::LateField>::into_late_column(
                        self.#idents,
                        #names,
                        #element_types
                    )?
                );)*
                ::core::result::Result::Ok(())
            }
        }
    };
    (quote!(#ident #ty_generics), declaration)
}

/// The generic parameters, and their bounds, that occur in `types`.
fn used<'a>(generics: &Generics, types: impl Iterator<Item = &'a Type>) -> Generics {
    let mut idents = Vec::new();
    types.for_each(|ty| collect_idents(ty.to_token_stream(), &mut idents));
    let name = |param: &syn::GenericParam| match param {
        syn::GenericParam::Type(param) => Some(param.ident.clone()),
        syn::GenericParam::Const(param) => Some(param.ident.clone()),
        syn::GenericParam::Lifetime(_) => None,
    };
    let (used, unused): (Vec<_>, Vec<_>) = generics
        .params
        .iter()
        .cloned()
        .partition(|param| name(param).is_some_and(|name| idents.contains(&name)));
    let unused: Vec<_> = unused.iter().filter_map(name).collect();
    let where_clause = generics.where_clause.clone().map(|mut clause| {
        clause.predicates = clause
            .predicates
            .into_iter()
            .filter(|predicate| {
                let mut idents = Vec::new();
                collect_idents(predicate.to_token_stream(), &mut idents);
                !idents.iter().any(|ident| unused.contains(ident))
            })
            .collect();
        clause
    });
    Generics { params: used.into_iter().collect(), where_clause, ..generics.clone() }
}

/// Appends all identifiers in `tokens`.
fn collect_idents(tokens: TokenStream, idents: &mut Vec<Ident>) {
    for token in tokens {
        match token {
            TokenTree::Ident(ident) => idents.push(ident),
            TokenTree::Group(group) => collect_idents(group.stream(), idents),
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}

/// The element type of a late field, as an `Option<LateType>`.
fn element_type(field: &Field<'_>) -> TokenStream {
    match field.mark.as_ref().and_then(|mark| mark.late) {
        Some(late) => {
            let late = Ident::new(late, Span::call_site());
            quote!(::core::option::Option::Some(::burn_rehearsal::batch::LateType::#late))
        }
        None => quote!(::core::option::Option::None),
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

/// The entry of a field with tensors of type `ty` in `FIELDS`.
fn spec(field: &Field<'_>, ty: &Type) -> TokenStream {
    let (name, late) = (name(field), element_type(field));
    let bytes = field.word() == Some(Word::Bytes);
    let role = match field.word() {
        Some(Word::Class) => quote!(Class),
        Some(Word::Id) => quote!(Id),
        Some(Word::Representative) => quote!(Representative),
        Some(Word::Late) => quote!(Late),
        Some(Word::Bytes | Word::Layout | Word::Skip) | None => quote!(Data),
    };
    quote! {
        ::burn_rehearsal::batch::FieldSpec {
            name: #name,
            role: ::burn_rehearsal::batch::Role::#role,
            bytes: #bytes,
            kind: <#ty as ::burn_rehearsal::batch::Field>::KIND,
            late: #late,
        }
    }
}

/// A call that compiles only if the type `ty` of the field's tensors is valid for its word. The
/// compiler reports the type and shows the word as the reason.
fn bound(field: &Field<'_>, ty: &Type) -> TokenStream {
    let Some(mark) = &field.mark else { return TokenStream::new() };
    let required = match mark.word {
        Word::Class | Word::Id => quote!(RowInt),
        Word::Representative => quote!(RowBool),
        Word::Bytes => quote!(IntField),
        Word::Late if mark.late.is_some() => quote!(LateFloat),
        // The compiler reports other wrong types of late fields in the generated struct.
        Word::Late | Word::Layout | Word::Skip => return TokenStream::new(),
    };
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
