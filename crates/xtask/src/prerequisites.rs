//! The tools that the gate needs, and how to install them.
//!
//! All missing tools are named at once, with the commands that install them. In CI (`CI=true`), as
//! root, on Debian or Ubuntu, their Debian packages are installed automatically.

use std::process::Command;

use crate::error::{Error, Result};
use crate::process;

/// The source of a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Remedy {
    /// Packages of Debian and Ubuntu.
    Debian(&'static [&'static str]),
    /// A component of the Rust toolchain.
    Rustup(&'static str),
}

/// A tool that the gate needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tool {
    /// A description for people.
    what: &'static str,
    /// A command that succeeds if and only if the tool is installed.
    probe: &'static [&'static str],
    remedy: Remedy,
}

/// The tools of the default leg.
pub(crate) const TOOLS: [Tool; 3] = [
    Tool {
        what: "a C linker `cc`",
        probe: &["cc", "--version"],
        remedy: Remedy::Debian(&["gcc", "libc6-dev"]),
    },
    Tool {
        what: "`cargo fmt`",
        probe: &["cargo", "fmt", "--version"],
        remedy: Remedy::Rustup("rustfmt"),
    },
    Tool {
        what: "`cargo clippy`",
        probe: &["cargo", "clippy", "--version"],
        remedy: Remedy::Rustup("clippy"),
    },
];

/// The additional tools for MPI.
pub(crate) const MPI_TOOLS: [Tool; 3] = [
    Tool {
        what: "an MPI with headers (`mpicc`)",
        probe: &["mpicc", "--version"],
        remedy: Remedy::Debian(&["libopenmpi-dev"]),
    },
    Tool {
        what: "MPI's launcher `mpirun`",
        probe: &["mpirun", "--version"],
        remedy: Remedy::Debian(&["openmpi-bin"]),
    },
    Tool {
        what: "libclang, which parses the headers of MPI",
        probe: &["sh", "-c", FIND_LIBCLANG],
        remedy: Remedy::Debian(&["libclang-dev"]),
    },
];

/// Succeeds if bindgen finds libclang, and libclang finds compiler headers (`stddef.h`).
const FIND_LIBCLANG: &str = "{ test -n \"$LIBCLANG_PATH\" || ldconfig -p | grep -q libclang \
    || ls /usr/lib/llvm-*/lib/libclang*.so*; } \
    && { command -v clang || ls /usr/lib/llvm-*/lib/clang/*/include/stddef.h; }";

/// The tools that build libjpeg-turbo.
pub(crate) const TURBOJPEG_TOOLS: [Tool; 3] = [
    Tool { what: "CMake", probe: &["cmake", "--version"], remedy: Remedy::Debian(&["cmake"]) },
    Tool { what: "`make`", probe: &["make", "--version"], remedy: Remedy::Debian(&["make"]) },
    Tool { what: "the assembler NASM", probe: &["nasm", "-v"], remedy: Remedy::Debian(&["nasm"]) },
];

/// The additional tools for wgpu: the driver of any GPU, or Mesa's, which runs on the CPU.
pub(crate) const WGPU_TOOLS: [Tool; 1] = [Tool {
    what: "a Vulkan driver",
    probe: &["sh", "-c", FIND_VULKAN],
    remedy: Remedy::Debian(&["mesa-vulkan-drivers", "libvulkan1"]),
}];

/// Succeeds if the Vulkan loader and a driver are installed, or if the system does not need them
/// (Metal, DirectX).
const FIND_VULKAN: &str = "test \"$(uname)\" != Linux \
    || { { ldconfig -p || /sbin/ldconfig -p; } | grep -q libvulkan.so.1 \
    && { test -n \"$VK_DRIVER_FILES$VK_ICD_FILENAMES\" \
    || ls /usr/share/vulkan/icd.d/*.json || ls /etc/vulkan/icd.d/*.json; }; }";

/// Checks that all tools are installed, and installs packages if that is allowed.
pub(crate) fn ensure(tools: &'static [Tool]) -> Result<()> {
    let mut missing = missing(tools, is_there);
    let packages = debian_packages(&missing);
    if !packages.is_empty() && may_install() {
        install(&packages)?;
        missing.retain(|tool| !is_there(tool));
    }
    if missing.is_empty() { Ok(()) } else { Err(Error::MissingTools(message(&missing))) }
}

/// Those of `tools` that are not installed.
fn missing(tools: &[Tool], is_there: impl Fn(&Tool) -> bool) -> Vec<Tool> {
    tools.iter().filter(|tool| !is_there(tool)).copied().collect()
}

/// Runs the probe of a tool.
fn is_there(tool: &Tool) -> bool {
    match tool.probe {
        ["cargo", arguments @ ..] => process::succeeds(&mut process::cargo(arguments)),
        [program, arguments @ ..] => process::succeeds(Command::new(program).args(arguments)),
        [] => false,
    }
}

/// The Debian packages of `tools`.
fn debian_packages(tools: &[Tool]) -> Vec<&'static str> {
    let packages =
        |tool: &Tool| if let Remedy::Debian(packages) = tool.remedy { packages } else { &[] };
    tools.iter().flat_map(packages).copied().collect()
}

/// One line for each missing tool, with the command that installs it.
fn message(missing: &[Tool]) -> String {
    let mut lines = vec!["these tools are not installed:".to_owned()];
    for Tool { what, remedy, .. } in missing {
        lines.push(match remedy {
            Remedy::Debian(packages) => {
                format!("  {what}: on Debian or Ubuntu, apt-get install {}", packages.join(" "))
            }
            Remedy::Rustup(component) => format!("  {what}: rustup component add {component}"),
        });
    }
    lines.join("\n")
}

/// Whether this runs in continuous integration (`CI=true`), where no step is skipped.
pub(crate) fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|ci| ci == "true")
}

/// Whether Debian packages are to be installed automatically.
fn may_install() -> bool {
    let user =
        Command::new("id").arg("-u").output().map(|output| output.stdout).unwrap_or_default();
    let os_release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    installs(in_ci(), &String::from_utf8_lossy(&user), &os_release)
}

/// The rule of [`may_install`]: this is CI, the user ID is 0, and the system is Debian, Ubuntu or a
/// derivative.
fn installs(ci: bool, user: &str, os_release: &str) -> bool {
    let debian = os_release
        .lines()
        .filter_map(|line| line.strip_prefix("ID=").or_else(|| line.strip_prefix("ID_LIKE=")))
        .flat_map(|value| value.trim_matches('"').split_whitespace())
        .any(|id| id == "debian" || id == "ubuntu");
    ci && user.trim() == "0" && debian
}

/// Installs Debian packages.
fn install(packages: &[&str]) -> Result<()> {
    println!("installing {}", packages.join(" "));
    process::run(Command::new("apt-get").arg("update"))?;
    let mut command = Command::new("apt-get");
    command
        .args(["install", "-y", "--no-install-recommends"])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive");
    process::run(&mut command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_tools_are_named_with_the_command_that_installs_them() {
        let missing = missing(&TOOLS, |tool| tool.what == "`cargo fmt`");
        assert_eq!(debian_packages(&missing), ["gcc", "libc6-dev"]);
        assert_eq!(
            message(&missing),
            "these tools are not installed:\n  \
             a C linker `cc`: on Debian or Ubuntu, apt-get install gcc libc6-dev\n  \
             `cargo clippy`: rustup component add clippy"
        );
    }

    #[test]
    fn nothing_is_missing_if_every_probe_succeeds() {
        assert_eq!(missing(&TOOLS, |_| true), []);
    }

    #[test]
    fn a_tool_whose_probe_cannot_be_started_is_missing() {
        let tool =
            Tool { what: "x", probe: &["no-such-program-anywhere"], remedy: Remedy::Rustup("x") };
        assert!(!is_there(&tool));
    }

    #[test]
    fn packages_are_installed_only_in_ci_as_root_on_debian() {
        assert!(installs(true, "0\n", "NAME=\"Debian GNU/Linux\"\nID=debian\n"));
        assert!(installs(true, "0\n", "ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"));
        assert!(!installs(false, "0\n", "ID=debian\n"));
        assert!(!installs(true, "1000\n", "ID=debian\n"));
        assert!(!installs(true, "0\n", "ID=fedora\nID_LIKE=\"rhel\"\n"));
    }
}
