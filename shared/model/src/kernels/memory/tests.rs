use mlx_rs::Device;
use mlx_rs::ops::indexing::TryIndexOp;

use super::*;

fn numbers() -> Array {
    Device::set_default(&Device::cpu());
    Array::from_slice(&[1.0_f32, 2.0, 3.0, 4.0], &[2, 2])
}

#[test]
fn what_is_not_computed_yet_is_computed_when_it_is_read() {
    let sum = numbers().add(numbers()).unwrap();
    assert_eq!(read::<f32>(&sum).unwrap(), [2.0, 4.0, 6.0, 8.0]);
}

#[test]
fn an_array_of_ones_own_is_written_in_place() {
    let mut array = fresh::<f32>(&[2, 2]).unwrap();
    let before = write::<f32>(&mut array).unwrap();
    before.copy_from_slice(&[5.0, 6.0, 7.0, 8.0]);
    let place = before.as_ptr();
    assert!((place as usize).is_multiple_of(64));
    assert_eq!(write::<f32>(&mut array).unwrap().as_ptr(), place);
    let sum = array.add(numbers()).unwrap();
    assert_eq!(read::<f32>(&sum).unwrap(), [6.0, 8.0, 10.0, 12.0]);
}

#[test]
fn who_shares_an_array_keeps_what_was_in_it() {
    let mut array = numbers();
    let handle = array.clone();
    let waiting = array.try_index(1..2).unwrap();
    write::<f32>(&mut array).unwrap().fill(9.0);
    assert_eq!(read::<f32>(&handle).unwrap(), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(read::<f32>(&waiting).unwrap(), [3.0, 4.0]);
    assert_eq!(read::<f32>(&array).unwrap(), [9.0; 4]);
}

#[test]
fn other_types_and_gaps_are_refused() {
    let array = numbers();
    assert!(read::<i32>(&array).is_err());
    assert!(read::<f32>(&array.t()).is_err());
    let nothing = fresh::<f32>(&[0, 3]).unwrap();
    assert!(read::<f32>(&nothing).unwrap().is_empty());
}
