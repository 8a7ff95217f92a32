//! Parses `#[rehearsal(...)]` on one field.

use proc_macro2::Span;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Attribute, Error, Expr, Ident, Lit, Meta, Path, Token};

/// The words of [`Word::ALL`], for messages.
const WORDS: &str = "`class`, `id`, `representative`, `bytes`, `late`, `layout` or `skip`";

/// The mark of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// The class of each row.
    Class,
    /// The id of each row's sample in the data set.
    Id,
    /// Written by the buffer.
    Representative,
    /// Integers that are stored as bytes.
    Bytes,
    /// Known after the forward pass only.
    Late,
    /// The row layout.
    Layout,
    /// Not a column.
    Skip,
}

impl Word {
    /// All words.
    const ALL: [Word; 7] = [
        Word::Class,
        Word::Id,
        Word::Representative,
        Word::Bytes,
        Word::Late,
        Word::Layout,
        Word::Skip,
    ];

    /// The word in the source.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Word::Class => "class",
            Word::Id => "id",
            Word::Representative => "representative",
            Word::Bytes => "bytes",
            Word::Late => "late",
            Word::Layout => "layout",
            Word::Skip => "skip",
        }
    }

    /// Whether at most one field of a batch can have the word.
    pub(crate) fn is_unique(self) -> bool {
        matches!(self, Word::Class | Word::Id | Word::Representative | Word::Layout)
    }

    /// The reason why a field cannot have both words. No two words can be combined.
    fn conflict(self, other: Word) -> &'static str {
        match (self, other) {
            (Word::Layout, _) | (_, Word::Layout) => "a row layout is not a tensor",
            (Word::Late, _) | (_, Word::Late) => "incoming mini-batches have no late values",
            (Word::Skip, _) | (_, Word::Skip) => "a skipped field is neither stored nor replayed",
            (Word::Representative, _) | (_, Word::Representative) => {
                "a `representative` field is Boolean and written by the buffer"
            }
            (Word::Bytes, _) | (_, Word::Bytes) => "classes and ids are not limited to a byte",
            _ => "a field has one role",
        }
    }

    /// Parses a word.
    fn read(path: &Path) -> Result<Word, Error> {
        let found = path
            .segments
            .iter()
            .map(|segment| segment.ident.to_string())
            .collect::<Vec<_>>()
            .join("::");
        let known = Word::ALL.into_iter().find(|word| path.is_ident(word.name()));
        known.ok_or_else(|| {
            let closest = Word::ALL
                .into_iter()
                .map(|word| (strsim::levenshtein(&found.to_lowercase(), word.name()), word))
                .min_by_key(|(d, _)| *d);
            let hint = match closest {
                // With up to one wrong letter in three, assume a typing error.
                Some((d, word)) if d <= (word.name().len() / 3).max(1) => {
                    format!(", did you mean `{}`? Expected", word.name())
                }
                _ => ": expected".to_string(),
            };
            Error::new_spanned(path, format!("unknown attribute `{found}`{hint} {WORDS}"))
        })
    }
}

/// A word and its place in the source.
#[derive(Clone)]
pub(crate) struct Mark {
    /// The word.
    pub(crate) word: Word,
    /// Its place in the source.
    pub(crate) span: Span,
    /// The function that adds entries for representatives to a skipped field.
    pub(crate) fill: Option<Path>,
    /// The element type of a late field: the name of a `LateType`.
    pub(crate) late: Option<&'static str>,
}

/// The element types of late fields: the argument of `late`, and the name of the `LateType`.
const LATE_TYPES: [(&str, &str); 3] = [("f32", "F32"), ("f16", "F16"), ("bf16", "BF16")];

/// The name of the option of `skip`.
const FILL: &str = "fill";

/// An entry of the list in `#[rehearsal(...)]`. It accepts more than is valid, so that an invalid
/// entry does not hide the next one.
enum Entry {
    Meta(Box<Meta>),
    Literal(Lit),
}

impl Parse for Entry {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        if input.peek(Lit) {
            input.parse().map(Entry::Literal)
        } else {
            input.parse().map(|meta| Entry::Meta(Box::new(meta)))
        }
    }
}

impl Entry {
    /// The path in `fill = path`. `None` if this is another entry.
    fn fill(&self) -> Option<Result<Path, Error>> {
        let Entry::Meta(meta) = self else { return None };
        if !meta.path().is_ident(FILL) {
            return None;
        }
        let path = match &**meta {
            Meta::NameValue(pair) => match &pair.value {
                Expr::Path(function) if function.qself.is_none() => Some(function.path.clone()),
                _ => None,
            },
            _ => None,
        };
        let expected = "expected the path of a function: `#[rehearsal(skip, fill = function)]`";
        Some(path.ok_or_else(|| Error::new_spanned(meta, expected)))
    }

    /// The word, if the entry consists of a known word.
    fn mark(&self) -> Result<Mark, Error> {
        let (path, excess) = match self {
            Entry::Literal(literal) => {
                return Err(Error::new_spanned(
                    literal,
                    format!("expected a word without quotes: {WORDS}"),
                ));
            }
            Entry::Meta(meta) => match &**meta {
                Meta::Path(path) => (path, None),
                Meta::NameValue(pair) => (&pair.path, Some((pair.eq_token.span, "value"))),
                Meta::List(list) => (&list.path, Some((list.delimiter.span().join(), "argument"))),
            },
        };
        let word = Word::read(path)?;
        let mark = Mark { word, span: path.span(), fill: None, late: None };
        if let (Word::Late, Entry::Meta(meta)) = (word, self)
            && let Meta::List(list) = &**meta
        {
            let argument: Option<Ident> = list.parse_args().ok();
            let named = |(name, _): &(&str, _)| {
                argument.as_ref().is_some_and(|argument| *argument == **name)
            };
            return match LATE_TYPES.into_iter().find(named) {
                Some((_, late)) => Ok(Mark { late: Some(late), ..mark }),
                None => Err(Error::new(
                    list.delimiter.span().join(),
                    "expected `late(f32)`, `late(f16)` or `late(bf16)`",
                )),
            };
        }
        match excess {
            Some((span, what)) => Err(Error::new(
                span,
                format!("`{0}` takes no {what}: write `#[rehearsal({0})]`", word.name()),
            )),
            None => Ok(mark),
        }
    }
}

/// Whether this is a `rehearsal` attribute.
pub(crate) fn is_ours(attribute: &Attribute) -> bool {
    attribute.path().is_ident("rehearsal")
}

/// Parses the attributes of a field. `None` is a plain tensor field. Appends mistakes to `errors`.
pub(crate) fn read(attributes: &[Attribute], errors: &mut Vec<Error>) -> Option<Mark> {
    let mut first: Option<Mark> = None;
    let mut fill = None;
    for attribute in attributes.iter().filter(|attribute| is_ours(attribute)) {
        for entry in entries(attribute, errors) {
            match entry.fill() {
                Some(Err(error)) => errors.push(error),
                Some(Ok(path)) if fill.is_some() => {
                    errors.push(Error::new_spanned(path, "`fill` is given twice"))
                }
                Some(Ok(path)) => fill = Some(path),
                None => match (entry.mark(), &first) {
                    (Err(error), _) => errors.push(error),
                    (Ok(mark), None) => first = Some(mark),
                    (Ok(mark), Some(before)) => errors.push(clash(before.word, mark)),
                },
            }
        }
    }
    match (&mut first, fill) {
        (Some(mark), Some(path)) if mark.word == Word::Skip => mark.fill = Some(path),
        (_, Some(path)) => errors.push(Error::new_spanned(
            path,
            "`fill` belongs to a skipped field: `#[rehearsal(skip, fill = function)]`",
        )),
        (_, None) => {}
    }
    first
}

/// The list in an attribute. An empty or missing list is a mistake.
fn entries(attribute: &Attribute, errors: &mut Vec<Error>) -> Vec<Entry> {
    let parsed = match &attribute.meta {
        Meta::List(list) => list.parse_args_with(Punctuated::<Entry, Token![,]>::parse_terminated),
        _ => Ok(Punctuated::new()),
    };
    match parsed {
        Ok(entries) if entries.is_empty() => {
            errors.push(Error::new_spanned(
                &attribute.meta,
                format!("expected `#[rehearsal(WORD)]` with {WORDS}"),
            ));
            Vec::new()
        }
        Ok(entries) => entries.into_iter().collect(),
        Err(error) => {
            errors.push(error);
            Vec::new()
        }
    }
}

/// The error of a second word on a field.
fn clash(before: Word, mark: Mark) -> Error {
    let (a, b) = (before.name(), mark.word.name());
    let message = match before == mark.word {
        true => format!("`{a}` is given twice"),
        false => format!("`{b}` conflicts with `{a}`: {}", before.conflict(mark.word)),
    };
    Error::new(mark.span, message)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use syn::parse_quote;

    /// The word of the attributes, or all error messages.
    fn read_all(attributes: &[Attribute]) -> Result<Option<Word>, Vec<String>> {
        let mut errors = Vec::new();
        let word = read(attributes, &mut errors).map(|mark| mark.word);
        if errors.is_empty() {
            return Ok(word);
        }
        Err(errors.iter().map(Error::to_string).collect())
    }

    /// The mark of an attribute, or its first error message.
    fn read_one(attribute: Attribute) -> Result<Option<Mark>, String> {
        let mut errors = Vec::new();
        let mark = read(&[attribute], &mut errors);
        errors.first().map_or(Ok(mark), |error| Err(error.to_string()))
    }

    #[test]
    fn every_word_is_parsed_and_other_attributes_are_ignored() {
        assert_eq!(
            read_all(&[parse_quote!(#[serde(skip)]), parse_quote!(#[doc = "class"])]),
            Ok(None)
        );
        assert_eq!(read_all(&[parse_quote!(#[rehearsal(class)])]), Ok(Some(Word::Class)));
        assert_eq!(read_all(&[parse_quote!(#[rehearsal(id,)])]), Ok(Some(Word::Id)));
        assert_eq!(
            read_all(&[parse_quote!(#[rehearsal(representative)])]),
            Ok(Some(Word::Representative))
        );
        assert_eq!(read_all(&[parse_quote!(#[rehearsal(bytes)])]), Ok(Some(Word::Bytes)));
        assert_eq!(read_all(&[parse_quote!(#[rehearsal(late)])]), Ok(Some(Word::Late)));
        assert_eq!(read_all(&[parse_quote!(#[rehearsal(layout)])]), Ok(Some(Word::Layout)));
        assert_eq!(read_all(&[parse_quote!(#[rehearsal(skip)])]), Ok(Some(Word::Skip)));
    }

    #[test]
    fn a_late_field_can_have_an_element_type() {
        let late = |attribute| read_one(attribute).map(|mark| mark.and_then(|mark| mark.late));
        assert_eq!(late(parse_quote!(#[rehearsal(late)])), Ok(None));
        assert_eq!(late(parse_quote!(#[rehearsal(late(f32))])), Ok(Some("F32")));
        assert_eq!(late(parse_quote!(#[rehearsal(late(f16))])), Ok(Some("F16")));
        assert_eq!(late(parse_quote!(#[rehearsal(late(bf16))])), Ok(Some("BF16")));
        for wrong in [
            parse_quote!(#[rehearsal(late(f64))]),
            parse_quote!(#[rehearsal(late())]),
            parse_quote!(#[rehearsal(late("f32"))]),
            parse_quote!(#[rehearsal(late(f16, f32))]),
        ] {
            assert!(late(wrong).unwrap_err().contains("expected `late(f32)`"));
        }
        let value = late(parse_quote!(#[rehearsal(late = f32)])).unwrap_err();
        assert_eq!(value, "`late` takes no value: write `#[rehearsal(late)]`");
    }

    #[test]
    fn an_unknown_word_suggests_the_closest_one() {
        let message = |attribute| read_all(&[attribute]).unwrap_err().join("|");
        assert_eq!(
            message(parse_quote!(#[rehearsal(label)])),
            format!("unknown attribute `label`: expected {WORDS}")
        );
        assert_eq!(
            message(parse_quote!(#[rehearsal(Class)])),
            format!("unknown attribute `Class`, did you mean `class`? Expected {WORDS}")
        );
        assert!(
            message(parse_quote!(#[rehearsal(representitive)]))
                .contains("did you mean `representative`?")
        );
        assert!(message(parse_quote!(#[rehearsal(type)])).contains("found keyword `type`"));
        assert!(
            message(parse_quote!(#[rehearsal(burn::id)])).contains("unknown attribute `burn::id`")
        );
        assert!(message(parse_quote!(#[rehearsal("class")])).contains("without quotes"));
    }

    #[test]
    fn no_word_takes_a_value_or_an_argument() {
        assert_eq!(
            read_all(&[parse_quote!(#[rehearsal(class = 3)])]).unwrap_err(),
            ["`class` takes no value: write `#[rehearsal(class)]`"]
        );
        assert_eq!(
            read_all(&[parse_quote!(#[rehearsal(bytes(8))])]).unwrap_err(),
            ["`bytes` takes no argument: write `#[rehearsal(bytes)]`"]
        );
    }

    #[test]
    fn only_a_skipped_field_can_have_a_fill_function() {
        let fill = |attribute| {
            read_one(attribute).map(|mark| mark.is_some_and(|mark| mark.fill.is_some()))
        };
        assert_eq!(fill(parse_quote!(#[rehearsal(skip, fill = module::function)])), Ok(true));
        assert_eq!(fill(parse_quote!(#[rehearsal(fill = function, skip)])), Ok(true));
        assert_eq!(fill(parse_quote!(#[rehearsal(skip)])), Ok(false));
        let wrong: [Attribute; 5] = [
            parse_quote!(#[rehearsal(skip, fill)]),
            parse_quote!(#[rehearsal(skip, fill = "function")]),
            parse_quote!(#[rehearsal(skip, fill(function))]),
            parse_quote!(#[rehearsal(class, fill = function)]),
            parse_quote!(#[rehearsal(fill = function)]),
        ];
        for attribute in wrong {
            assert!(fill(attribute).unwrap_err().contains("`#[rehearsal(skip, fill = function)]`"));
        }
        assert!(
            fill(parse_quote!(#[rehearsal(skip, fill = a, fill = b)]))
                .unwrap_err()
                .contains("given twice")
        );
    }

    #[test]
    fn an_attribute_without_a_word_is_an_error() {
        for attribute in [
            parse_quote!(#[rehearsal]),
            parse_quote!(#[rehearsal()]),
            parse_quote!(#[rehearsal = "class"]),
        ] {
            assert_eq!(
                read_all(&[attribute]).unwrap_err(),
                [format!("expected `#[rehearsal(WORD)]` with {WORDS}")]
            );
        }
    }

    #[test]
    fn any_two_words_conflict_in_one_list_or_in_two() {
        for a in Word::ALL {
            for b in Word::ALL {
                let [x, y] = [a, b].map(|word| syn::Ident::new(word.name(), Span::call_site()));
                let list = read_all(&[parse_quote!(#[rehearsal(#x, #y)])]).unwrap_err();
                let two =
                    read_all(&[parse_quote!(#[rehearsal(#x)]), parse_quote!(#[rehearsal(#y)])])
                        .unwrap_err();
                let start = if a == b {
                    format!("`{x}` is given twice")
                } else {
                    format!("`{y}` conflicts with `{x}`: ")
                };
                assert!(list.len() == 1 && list[0].starts_with(&start), "{list:?}");
                assert_eq!(list, two);
            }
        }
    }

    #[test]
    fn all_errors_of_a_field_are_reported() {
        let found = read_all(&[
            parse_quote!(#[rehearsal(class = 3, clas)]),
            parse_quote!(#[rehearsal(id, skip)]),
        ])
        .unwrap_err();
        assert_eq!(found.len(), 3, "{found:?}");
    }
}
