//! The command `pack`.

use crate::cli::PackArgs;
use crate::config::MAX_PIXELS;
use crate::console::print_line;
use crate::error::AppError;
use burn_rehearsal_vision::data::{ImageOptions, PackOptions, pack};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::process::ExitCode;

/// Packs a data set, or resumes an interrupted pack.
pub fn run(args: &PackArgs) -> Result<ExitCode, AppError> {
    let side = args.image_size.unwrap_or_else(|| args.data.usual_side());
    if !(1..=MAX_PIXELS).contains(&side) {
        return Err(AppError::option(
            "image-size",
            side,
            format!("must be at least 1 and at most {MAX_PIXELS}"),
        ));
    }
    let images = ImageOptions { side, fit: args.fit.into(), on_damaged: args.on_damaged.into() };
    let source = args.data.open(&images)?;
    let samples = source.train_labels.len() + source.test_labels.len();
    let bar = if std::io::stderr().is_terminal() {
        ProgressBar::new(samples as u64)
    } else {
        ProgressBar::hidden()
    };
    if let Ok(style) = ProgressStyle::with_template(
        "packing {bar:24} {human_pos}/{human_len} images  {per_sec}  {elapsed} (ETA {eta})",
    ) {
        bar.set_style(style);
    }
    let options = PackOptions { format: args.format.into(), images };
    let packed = pack(&source, &options, &args.out, &|samples| bar.inc(samples as u64));
    bar.finish_and_clear();
    let report = packed?;
    print_line(&format!(
        "packed: images {}, left out {}, shards {} (already there {}), bytes {}",
        report.samples,
        report.damaged.len(),
        report.shards,
        report.kept,
        report.bytes
    ));
    report
        .damaged
        .iter()
        .for_each(|path| print_line(&format!("left out, damaged: {}", path.display())));
    print_line(&format!("pack: {}", args.out.display()));
    Ok(ExitCode::SUCCESS)
}
