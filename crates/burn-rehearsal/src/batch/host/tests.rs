//! Tests of columns in host memory.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::batch::{Column, Field};
use burn::tensor::{Bytes, GradientCheckpointingStrategy, Int};

fn with_room(rows: usize, room: usize, device: &Device) -> Tensor<3, Int> {
    tensor_with_room((0..rows as i32 * 6).collect(), [rows, 2, 3], room, device)
}

fn column(rows: usize, room: usize, device: &Device) -> Column {
    with_room(rows, room, device).into_column("x").unwrap()
}

fn memory(column: &Column) -> *const u8 {
    column.host_rows().unwrap().bytes().as_ptr()
}

fn values(column: Column) -> Vec<i32> {
    column.into_data("x").unwrap().iter::<i32>().collect()
}

#[test]
fn rows_are_appended_in_spare_memory() {
    for device in [Device::flex(), Device::flex().autodiff()] {
        let tail = column(2, 0, &device);
        let before = column(4, 3, &device);
        let place = memory(&before);
        let after = before.append(tail, "x").unwrap();
        assert_eq!(
            (after.rows(), after.row_shape(), after.device().is_autodiff()),
            (6, [2, 3].as_slice(), device.is_autodiff())
        );
        assert_eq!(memory(&after), place);
        assert_eq!(values(after), (0..24).chain(0..12).collect::<Vec<_>>());
    }
}

#[test]
fn floats_on_an_autodiff_device_are_appended_in_place() {
    let device = Device::flex().autodiff();
    let floats = |rows: usize, room| {
        tensor_with_room::<f32, burn::tensor::Float, 2>(
            vec![1.5; rows * 2],
            [rows, 2],
            room,
            &device,
        )
    };
    let before = floats(4, 1).into_column("x").unwrap();
    let place = memory(&before);
    let after = before.append(floats(1, 0).into_column("x").unwrap(), "x").unwrap();
    assert_eq!((memory(&after), after.device().is_autodiff()), (place, true));
    assert_eq!(after.into_data("x").unwrap().iter::<f32>().collect::<Vec<_>>(), [1.5; 10]);
}

#[test]
fn shared_memory_and_memory_without_room_are_copied() {
    let device = Device::flex();
    let expected: Vec<i32> = (0..24).chain(0..12).collect();
    assert_eq!(values(column(4, 1, &device).append(column(2, 0, &device), "x").unwrap()), expected);
    let owner = with_room(4, 2, &device);
    let shared = owner.clone().into_column("x").unwrap();
    assert_eq!(values(shared.append(column(2, 0, &device), "x").unwrap()), expected);
    assert_eq!(owner.into_data().iter::<i32>().collect::<Vec<_>>(), (0..24).collect::<Vec<_>>());
}

#[test]
fn only_memory_without_another_owner_is_reused() {
    let device = Device::flex();
    let mut values = column(2, 0, &device);
    let place = memory(&values);
    assert!(values.clone().memory_mut().is_none());
    let bytes = values.memory_mut().unwrap();
    assert_eq!((bytes.as_ptr(), bytes.len()), (place, 12 * size_of::<i32>()));
}

#[test]
fn rows_of_a_slice_are_appended_in_place_and_not_reused() {
    let device = Device::flex();
    let part = with_room(6, 0, &device).slice(1..3).into_column("x").unwrap();
    let place = memory(&part);
    let mut after = part.append(column(2, 0, &device), "x").unwrap();
    assert_eq!((memory(&after), values(after.clone())), (place, (6..18).chain(0..12).collect()));
    assert!(after.memory_mut().is_none() && column(2, 1, &device).memory_mut().is_none());
}

#[test]
fn shared_bytes_are_not_overwritten() {
    let bytes = Bytes::from_elems((0..12).collect::<Vec<i32>>()).shared();
    let data = TensorData::from_bytes(bytes.clone(), [2, 6], burn::tensor::DType::I32);
    let rows =
        Tensor::<2, Int>::from_data(data, (&Device::flex(), burn::tensor::DType::I32)).slice(0..1);
    let all = rows.into_column("x").unwrap().append(column_of(vec![7; 6]), "x").unwrap();
    assert_eq!(values(all), (0..6).chain([7; 6]).collect::<Vec<_>>());
    assert_eq!(bytemuck::cast_slice::<u8, i32>(&bytes), (0..12).collect::<Vec<i32>>());
}

fn column_of(values: Vec<i32>) -> Column {
    Tensor::<2, Int>::from_data(
        TensorData::new(values, [1, 6]),
        (&Device::flex(), burn::tensor::DType::I32),
    )
    .into_column("x")
    .unwrap()
}

#[test]
fn host_rows_of_a_slice_are_its_rows() {
    let device = Device::flex();
    let part = with_room(4, 2, &device).slice(1..3).into_column("x").unwrap();
    let rows = part.host_rows().unwrap();
    assert_eq!(bytemuck::cast_slice::<u8, i32>(rows.bytes()), (6..18).collect::<Vec<i32>>());
    assert_eq!(rows.dtype(), burn::tensor::DType::I32);
}

/// The values and the autodiff association of a tensor, before and after a conversion to a column
/// and back.
fn there_and_back<const D: usize>(
    tensor: Tensor<D>,
) -> [(TensorData, Option<GradientCheckpointingStrategy>); 2] {
    let data = |tensor: Tensor<D>| {
        (tensor.clone().into_data(), tensor.device().gradient_checkpointing_strategy())
    };
    let column = tensor.clone().into_column("x").unwrap();
    assert_eq!(
        column.device().gradient_checkpointing_strategy(),
        tensor.device().gradient_checkpointing_strategy()
    );
    [data(tensor), data(Tensor::from_column(column, "x").unwrap())]
}

#[test]
fn a_column_returns_its_tensor_for_every_memory_layout() {
    for device in [
        Device::flex(),
        Device::flex().autodiff(),
        Device::flex().autodiff().gradient_checkpointing(),
    ] {
        let whole: Tensor<3> = Tensor::from_data(
            TensorData::new((0..24).map(|n| n as f32).collect(), [4, 2, 3]),
            &device,
        );
        let row: Tensor<2> =
            Tensor::from_data(TensorData::new(vec![1f32, 2.0, 3.0], [1, 3]), &device);
        let tracked =
            if device.is_autodiff() { whole.clone().require_grad() * 2.0 } else { whole.clone() };
        let views = [
            whole.clone(),
            whole.clone().permute([2, 0, 1]),
            whole.clone().slice([1..3, 0..2, 1..3]),
            whole.slice(2..4),
            tracked,
        ];
        let views =
            views.map(there_and_back).into_iter().chain([there_and_back(row.expand([5, 3]))]);
        for (at, [before, after]) in views.enumerate() {
            assert_eq!(before, after, "view {at} on {device:?}");
        }
    }
}

#[test]
fn gradients_flow_through_a_column() {
    let weights: Tensor<2> = Tensor::ones([2, 3], &Device::flex().autodiff()).require_grad();
    let column =
        (weights.clone() * 3.0).into_column("x").unwrap().append(column_of_ones(), "x").unwrap();
    let gradients = Tensor::<2>::from_column(column, "x").unwrap().sum().backward();
    assert_eq!(
        weights.grad(&gradients).unwrap().into_data().iter::<f32>().collect::<Vec<_>>(),
        [3.0; 6]
    );
}

fn column_of_ones() -> Column {
    Tensor::<2>::ones([1, 3], &Device::flex()).into_column("x").unwrap()
}

#[test]
fn rows_from_a_device_store_are_appended_in_place() {
    let before = column(4, 2, &Device::flex());
    let place = memory(&before);
    let tail = Column::of_values(column(2, 0, &Device::flex()).into_values(), [2, 3].into());
    let after = before.append(tail, "x").unwrap();
    assert_eq!((memory(&after), values(after)), (place, (0..24).chain(0..12).collect()));
}

#[test]
fn a_column_with_a_wrong_row_shape_is_refused() {
    for row_shape in [vec![1], vec![1000], vec![2, 2]] {
        let data = TensorData::new(vec![0f32; 4], [2, 2]);
        let column =
            Column::from_data(data, crate::batch::Kind::Float, row_shape.into(), &Device::flex());
        assert!(
            Tensor::<2>::from_column(column.clone(), "x").is_err()
                && Tensor::<3>::from_column(column, "x").is_err()
        );
    }
}

#[test]
#[should_panic(expected = "Shape")]
fn a_wrong_number_of_values_panics_like_burn() {
    let _: Tensor<2, Int> = tensor_with_room(vec![0i32; 5], [2, 3], 1, &Device::flex());
}
