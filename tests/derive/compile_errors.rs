//! Each `derive/fail_*.rs` must fail with the errors in its `.txt` file. `OVERWRITE=1` updates the
//! files; review the changes.
//!
//! The compiler gets the crates that this test is linked to, so that Burn is not compiled again.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The lines of JSON that a program prints.
fn messages(lines: &[u8]) -> impl Iterator<Item = Value> {
    let lines = lines.split(|&byte| byte == b'\n').filter(|line| line.starts_with(b"{"));
    lines.map(|line| serde_json::from_slice(line).unwrap())
}

/// The arguments for the compiler that name the crates of this test.
fn crates() -> Vec<String> {
    let features = "burn-rehearsal-testing/mpi,burn-rehearsal-tests/mpi";
    let built = Command::new(env!("CARGO"))
        .args(["test", "--workspace", "--test", "derive", "--no-run", "--locked"])
        .args(["--message-format=json", "--features"])
        .arg(if cfg!(feature = "mpi") { features } else { "" })
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let mut arguments = Vec::new();
    for artifact in messages(&built.stdout) {
        let name = artifact["target"]["name"].as_str().unwrap_or_default();
        let files = artifact["filenames"].as_array().into_iter().flatten();
        let library = files.filter_map(Value::as_str).find(|file| file.ends_with(".rmeta"));
        if ["burn", "burn_rehearsal"].contains(&name)
            && let Some(file) = library
        {
            let folder = Path::new(file).parent().unwrap().display();
            arguments.extend(["--extern".to_owned(), format!("{name}={file}")]);
            arguments.extend(["-L".to_owned(), format!("dependency={folder}")]);
        }
    }
    assert_eq!(arguments.len(), 8, "{arguments:?}");
    arguments
}

/// The place of an error, the text there, the message, and the notes.
fn described(error: &Value) -> Option<String> {
    let spans = error["spans"].as_array()?;
    let primary = spans.iter().find(|span| span["is_primary"] == true)?;
    let line = &primary["text"][0];
    let text = line["text"].as_str()?;
    let column = |name: &str| line[name].as_u64().map(|column| column as usize - 1);
    let marked = &text[column("highlight_start")?..column("highlight_end")?];
    let mut described = format!(
        "{}:{} `{marked}`\n    {}\n",
        primary["line_start"],
        primary["column_start"],
        error["message"].as_str()?
    );
    let notes =
        error["children"].as_array()?.iter().filter(|child| child["spans"] == Value::Array(vec![]));
    let notes = notes.filter_map(|note| note["message"].as_str());
    for note in primary["label"].as_str().into_iter().chain(notes) {
        described += &format!("    note: {}\n", note.replace('\n', "\n          "));
    }
    Some(described)
}

#[test]
fn compile_errors_point_at_the_mistake() {
    let crates = crates();
    let out = tempfile::tempdir().unwrap();
    for case in ["attributes", "late", "private_skip", "shape", "types"] {
        let compiled = Command::new("rustc")
            .args(["--edition=2024", "--emit=metadata", "--error-format=json", "--out-dir"])
            .arg(out.path())
            .arg(format!("derive/fail_{case}.rs"))
            .args(&crates)
            .output()
            .unwrap();
        let errors = messages(&compiled.stderr).filter(|message| message["level"] == "error");
        let errors: String = errors.filter_map(|error| described(&error)).collect();
        let expected = format!("derive/fail_{case}.txt");
        if std::env::var_os("OVERWRITE").is_some() {
            std::fs::write(&expected, &errors).unwrap();
        }
        assert_eq!(errors, std::fs::read_to_string(&expected).unwrap(), "{case}");
    }
}
