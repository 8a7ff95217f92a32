//! `#[derive(RehearsalBatch)]`: the generated code, and its compile errors.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData};
use burn_rehearsal::batch::{Column, FieldSpec, Kind, Role};
use burn_rehearsal::error::BatchError;
use burn_rehearsal::{RehearsalBatch, RowLayout};

#[path = "derive/compile_errors.rs"]
mod compile_errors;
#[path = "derive/pass_generic.rs"]
mod pass_generic;
#[path = "derive/pass_hostile_scope.rs"]
mod pass_hostile_scope;

#[derive(RehearsalBatch, Clone, Debug)]
struct Batch {
    #[rehearsal(bytes)]
    images: Tensor<4, Int>,
    #[rehearsal(skip)]
    note: String,
    signal: Tensor<3>,
    features: Tensor<2>,
    mask: Tensor<2, Bool>,
    #[rehearsal(class)]
    targets: Tensor<1, Int>,
    #[rehearsal(id)]
    index: Tensor<1, Int>,
    weights: Tensor<1>,
    #[rehearsal(representative)]
    replayed: Tensor<1, Bool>,
    #[rehearsal(skip)]
    epoch: usize,
}

/// The values `0..elements` modulo 251 as bytes.
fn bytes<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D, Int> {
    let values: Vec<u8> = (0..shape.iter().product::<usize>()).map(|i| (i % 251) as u8).collect();
    Tensor::from_data(TensorData::new(values, shape), (device, DType::U8))
}

/// A mini-batch of `rows` rows, in which each field has its own element type.
fn batch(rows: usize) -> Batch {
    let device = Device::flex();
    let float = |n: usize| (0..n).map(|i| i as f32 * 0.5 - 1.0).collect::<Vec<_>>();
    let long = |n: usize| (0..n).map(|i| i as i64 - (1 << 40)).collect::<Vec<_>>();
    let flags = |n: usize| (0..n).map(|i| i % 3 == 0).collect::<Vec<_>>();
    Batch {
        images: bytes([rows, 3, 4, 5], &device),
        note: "kept".to_string(),
        signal: Tensor::from_data(
            TensorData::new(float(rows * 6), [rows, 2, 3]),
            (&device, DType::F32),
        ),
        features: Tensor::from_data(
            TensorData::new(float(rows * 7), [rows, 7]),
            (&device, DType::F64),
        ),
        mask: Tensor::from_data(TensorData::new(flags(rows * 2), [rows, 2]), &device),
        targets: bytes([rows], &device).cast(DType::I32),
        index: Tensor::from_data(TensorData::new(long(rows), [rows]), (&device, DType::I64)),
        weights: Tensor::from_data(TensorData::new(float(rows), [rows]), (&device, DType::F32)),
        replayed: Tensor::from_data(TensorData::new(flags(rows), [rows]), &device),
        epoch: 7,
    }
}

/// The tensors of a mini-batch as data, which can be compared.
fn data(batch: Batch) -> [TensorData; 8] {
    [
        batch.images.into_data(),
        batch.signal.into_data(),
        batch.features.into_data(),
        batch.mask.into_data(),
        batch.targets.into_data(),
        batch.index.into_data(),
        batch.weights.into_data(),
        batch.replayed.into_data(),
    ]
}

/// The columns of a mini-batch, and its skipped fields.
fn parts<B: RehearsalBatch>(batch: B) -> (Vec<Column>, B::Rest) {
    let mut columns = Vec::new();
    let rest = batch.into_parts(&mut columns).unwrap();
    (columns, rest)
}

#[test]
fn fields_are_listed_in_order_without_skipped_ones() {
    let spec = |name, role, bytes, kind| FieldSpec { name, role, bytes, kind, late: None };
    let expected = [
        spec("images", Role::Data, true, Kind::Int),
        spec("signal", Role::Data, false, Kind::Float),
        spec("features", Role::Data, false, Kind::Float),
        spec("mask", Role::Data, false, Kind::Bool),
        spec("targets", Role::Class, false, Kind::Int),
        spec("index", Role::Id, false, Kind::Int),
        spec("weights", Role::Data, false, Kind::Float),
        spec("replayed", Role::Representative, false, Kind::Bool),
    ];
    assert_eq!(Batch::FIELDS, expected);
}

#[test]
fn a_round_trip_keeps_values_shapes_and_element_types() {
    for rows in [1, 6] {
        let before = data(batch(rows));
        let (columns, rest) = parts(batch(rows));
        let after =
            data(Batch::from_parts(columns.into_iter(), rest, RowLayout::default()).unwrap());
        assert_eq!(after, before);
        let dtypes = after.each_ref().map(TensorData::dtype);
        assert_eq!(dtypes[..3], [DType::U8, DType::F32, DType::F64]);
        assert_eq!(dtypes[4..7], [DType::I32, DType::I64, DType::F32]);
        assert_eq!(after[0].shape().as_slice(), [rows, 3, 4, 5]);
    }
}

#[test]
fn columns_have_the_rows_and_row_shapes_of_their_fields() {
    assert_eq!(batch(6).rows(), 6);
    let (columns, _) = parts(batch(6));
    let shapes: Vec<_> =
        columns.iter().map(|column| (column.rows(), column.row_shape().to_vec())).collect();
    let expected: [&[usize]; 8] = [&[3, 4, 5], &[2, 3], &[7], &[2], &[], &[], &[], &[]];
    assert_eq!(shapes, expected.map(|shape| (6, shape.to_vec())));
    assert_eq!(
        columns.iter().map(Column::kind).collect::<Vec<_>>(),
        Batch::FIELDS.iter().map(|field| field.kind).collect::<Vec<_>>()
    );
}

#[test]
fn skipped_fields_are_kept_as_a_tuple() {
    let (columns, rest) = parts(batch(2));
    assert_eq!(rest, ("kept".to_string(), 7));
    let again =
        Batch::from_parts(columns.into_iter(), ("new".to_string(), 8), RowLayout::default())
            .unwrap();
    assert_eq!((again.note.as_str(), again.epoch), ("new", 8));
}

#[test]
fn a_tensor_without_rows_is_an_error_that_names_the_field() {
    let empty = Batch { features: Tensor::zeros([0, 7], &Device::flex()), ..batch(2) };
    assert_eq!(
        empty.into_parts(&mut Vec::new()).unwrap_err(),
        BatchError::EmptyField { field: "features", shape: vec![0, 7] }
    );
}

#[test]
fn columns_of_another_type_are_an_error_that_names_the_field() {
    let error = |columns: Vec<Column>| {
        Batch::from_parts(columns.into_iter(), (String::new(), 0), RowLayout::default())
            .unwrap_err()
    };
    let (columns, _) = parts(batch(2));
    let mut swapped = columns.clone();
    swapped.swap(1, 2);
    assert_eq!(error(swapped), BatchError::ColumnType { field: "signal" });
    assert_eq!(error(columns[..7].to_vec()), BatchError::ColumnType { field: "replayed" });
    let longer = [columns.as_slice(), &columns[..1]].concat();
    assert!(error(longer).to_string().contains("one column more"));
}

#[test]
fn a_generic_batch_takes_tensor_rank_and_types_from_its_parameters() {
    let images = bytes([2, 3], &Device::flex());
    let targets = bytes([2], &Device::flex());
    let batch = pass_generic::Generic::<_, 2> { images, targets, meta: vec![1.5_f64] };
    let (columns, rest) = parts(batch);
    assert_eq!((columns[0].row_shape(), &rest), ([3].as_slice(), &(vec![1.5],)));
    let again =
        pass_generic::Generic::<_, 2>::from_parts(columns.into_iter(), rest, RowLayout::default())
            .unwrap();
    assert_eq!(again.images.dims(), [2, 3]);
    assert_eq!(<pass_generic::Generic>::FIELDS[0].name, "images");
    assert_eq!(pass_generic::WithId::FIELDS[1].role, Role::Id);
    assert_eq!(pass_generic::WithRepresentative::FIELDS[1].role, Role::Representative);
}

#[test]
fn a_raw_identifier_is_named_without_its_prefix() {
    let names: Vec<_> = pass_hostile_scope::Batch::FIELDS.iter().map(|field| field.name).collect();
    assert_eq!(names, ["type", "columns", "Pixels", "match"]);
}

#[test]
fn the_late_fields_are_a_struct_of_tensors() {
    use burn_rehearsal::batch::{LateFields, LateType};
    type Late = pass_generic::GenericLate<u8>;
    let spec = |name, role, kind, late| FieldSpec { name, role, bytes: false, kind, late };
    let expected = [
        spec("x", Role::Data, Kind::Float, None),
        spec("outputs", Role::Late, Kind::Float, Some(LateType::F16)),
        spec("votes", Role::Late, Kind::Int, None),
    ];
    assert_eq!(Late::FIELDS, expected);
    let device = Device::flex();
    let late = pass_generic::GenericLateLate::<2> {
        outputs: Tensor::ones([2, 3], &device),
        votes: bytes([2], &device),
    };
    let mut columns = Vec::new();
    late.clone().into_columns(&mut columns).unwrap();
    assert_eq!((columns[0].dtype(), columns[1].dtype()), (DType::F16, DType::U8));

    let batch = || Late {
        x: Tensor::ones([2, 2], &device),
        outputs: None,
        votes: None,
        rows: RowLayout::default(),
        meta: 3,
    };
    let (incoming, rest) = parts(batch());
    assert_eq!((incoming.len(), batch().rows()), (1, 2));
    let make =
        |columns: &[Column]| Late::from_parts(columns.iter().cloned(), rest, RowLayout::default());
    assert!(make(&incoming).unwrap().outputs.is_none());
    let all = [incoming, columns].concat();
    assert_eq!(make(&all).unwrap().outputs.map(|outputs| outputs.dims()), Some([2, 3]));
    let filled = Late { outputs: Some(late.outputs), ..batch() };
    assert_eq!(
        filled.into_parts(&mut Vec::new()).unwrap_err(),
        BatchError::LateFilled { field: "outputs" }
    );
}
