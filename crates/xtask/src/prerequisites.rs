//! What must be installed before the gate can start, and how to install it.
//!
//! Every missing thing is named at once, with the command that installs it. Only where it is asked
//! for (`CI=true`), allowed (root) and known how (Debian or Ubuntu), the Debian packages are
//! installed here.

use std::process::Command;

use crate::error::{Error, Result};
use crate::process;

/// Where a tool comes from.
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
    /// What it is, for people.
    what: &'static str,
    /// A command that succeeds if and only if the tool is there.
    probe: &'static [&'static str],
    /// How to get it.
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

/// What the MPI leg needs besides.
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
        what: "libclang, which reads MPI's headers",
        probe: &["sh", "-c", FIND_LIBCLANG],
        remedy: Remedy::Debian(&["libclang-dev"]),
    },
];

/// Succeeds if libclang is where bindgen looks for it, and compiler headers for it (`stddef.h`) are
/// there as well.
const FIND_LIBCLANG: &str = "{ test -n \"$LIBCLANG_PATH\" || ldconfig -p | grep -q libclang || ls /usr/lib/llvm-*/lib/libclang*.so*; } \
                             && { command -v clang || ls /usr/lib/llvm-*/lib/clang/*/include/stddef.h; }";

/// What libjpeg-turbo is built with.
pub(crate) const TURBOJPEG_TOOLS: [Tool; 3] = [
    Tool { what: "CMake", probe: &["cmake", "--version"], remedy: Remedy::Debian(&["cmake"]) },
    Tool { what: "`make`", probe: &["make", "--version"], remedy: Remedy::Debian(&["make"]) },
    Tool { what: "the assembler NASM", probe: &["nasm", "-v"], remedy: Remedy::Debian(&["nasm"]) },
];

/// What the wgpu leg needs besides: any GPU's driver will do, Mesa's runs on the CPU.
pub(crate) const WGPU_TOOLS: [Tool; 1] = [Tool {
    what: "a Vulkan driver",
    probe: &["sh", "-c", FIND_VULKAN],
    remedy: Remedy::Debian(&["mesa-vulkan-drivers", "libvulkan1"]),
}];

/// Succeeds if Vulkan's loader and some driver are there, or if the system has graphics of its own
/// (Metal, DirectX).
const FIND_VULKAN: &str = "test \"$(uname)\" != Linux || { { ldconfig -p || /sbin/ldconfig -p; } | grep -q libvulkan.so.1 \
                           && { test -n \"$VK_DRIVER_FILES$VK_ICD_FILENAMES\" || ls /usr/share/vulkan/icd.d/*.json || ls /etc/vulkan/icd.d/*.json; }; }";

/// Checks that all tools are there, after installing what we may install.
pub(crate) fn ensure(tools: &'static [Tool]) -> Result<()> {
    let mut missing = missing(tools, is_there);
    let packages = debian_packages(&missing);
    if !packages.is_empty() && may_install() {
        install(&packages)?;
        missing.retain(|tool| !is_there(tool));
    }
    if missing.is_empty() { Ok(()) } else { Err(Error::Missing(message(&missing))) }
}

/// Those of `tools` that are not there.
fn missing(tools: &[Tool], is_there: impl Fn(&Tool) -> bool) -> Vec<Tool> {
    tools.iter().filter(|tool| !is_there(tool)).copied().collect()
}

/// Runs the tool's probe.
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
    let mut lines = vec!["the gate needs what is not installed here:".to_owned()];
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

/// Whether this is a run of continuous integration (`CI=true`), where nothing is skipped.
pub(crate) fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|ci| ci == "true")
}

/// Whether we are asked, allowed and able to install Debian packages.
fn may_install() -> bool {
    let user =
        Command::new("id").arg("-u").output().map(|output| output.stdout).unwrap_or_default();
    let os_release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    installs(in_ci(), &String::from_utf8_lossy(&user), &os_release)
}

/// The rule of [`may_install`]: it is CI, the user is 0, and the system is Debian, Ubuntu or like
/// them.
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
            "the gate needs what is not installed here:\n  \
             a C linker `cc`: on Debian or Ubuntu, apt-get install gcc libc6-dev\n  \
             `cargo clippy`: rustup component add clippy"
        );
    }

    #[test]
    fn nothing_is_missing_where_every_probe_succeeds() {
        assert_eq!(missing(&TOOLS, |_| true), []);
    }

    #[test]
    fn a_tool_whose_probe_cannot_be_started_is_missing() {
        let tool =
            Tool { what: "x", probe: &["no-such-program-anywhere"], remedy: Remedy::Rustup("x") };
        assert!(!is_there(&tool));
    }

    #[test]
    fn packages_are_installed_only_in_ci_as_root_on_debian_or_its_kin() {
        assert!(installs(true, "0\n", "NAME=\"Debian GNU/Linux\"\nID=debian\n"));
        assert!(installs(true, "0\n", "ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"));
        assert!(!installs(false, "0\n", "ID=debian\n"));
        assert!(!installs(true, "1000\n", "ID=debian\n"));
        assert!(!installs(true, "0\n", "ID=fedora\nID_LIKE=\"rhel\"\n"));
    }
}
