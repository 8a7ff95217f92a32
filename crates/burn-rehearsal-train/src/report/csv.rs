//! A run as lines of comma-separated values, for other tools.

use super::schema::RunReport;
use std::fmt::Write;

/// Every epoch of every run: `method,seed,task,epoch,train_loss,task_1,task_2,…`. Tasks and epochs are counted from 1; `task_i` is the top-1
/// accuracy on that task after the epoch, 0..=1. What was not measured is empty. Lines end with a line feed.
pub fn curves_csv(reports: &[RunReport]) -> String {
    let tasks = reports.iter().map(|report| report.tasks.len()).max().unwrap_or(0);
    let mut csv = String::from("method,seed,task,epoch,train_loss");
    // Writing to a string does not fail.
    for task in 1..=tasks {
        let _ = write!(csv, ",task_{task}");
    }
    csv.push('\n');
    let cell = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
    for report in reports {
        for point in &report.curves {
            let loss = cell(point.train_loss);
            let _ = write!(csv, "{},{},{},{},{loss}", report.method, report.seed, point.task + 1, point.epoch + 1);
            for task in 0..tasks {
                let _ = write!(csv, ",{}", cell(point.top1.get(task).copied().flatten()));
            }
            csv.push('\n');
        }
    }
    csv
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixtures::report;
    use crate::report::schema::{CurvePoint, Method};

    #[test]
    fn every_epoch_is_a_line_with_as_many_cells_as_the_head() {
        let mut run = report(Method::Rehearsal, 2, 7);
        run.curves = vec![
            CurvePoint { task: 0, epoch: 0, train_loss: None, top1: Vec::new() },
            CurvePoint { task: 0, epoch: 1, train_loss: Some(0.5), top1: vec![Some(0.75), None] },
        ];
        let csv = curves_csv(&[run]);
        assert_eq!(csv, "method,seed,task,epoch,train_loss,task_1,task_2\nrehearsal,7,1,1,,,\nrehearsal,7,1,2,0.5,0.75,\n");
    }
}
