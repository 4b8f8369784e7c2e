#!/bin/bash
# Installs what building, running and testing Wharf needs on Debian 12, and only what is missing. Root, or a user
# with sudo. Uses apt and the crates registry, nothing else. `--test` and `--bench` add what those need.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$HOME/.cargo/bin:$PATH"

say() { echo "setup: $*" >&2; }

if ! command -v cargo >/dev/null; then
    say "cargo is missing. Install Rust (https://rustup.rs): curl https://sh.rustup.rs -sSf | sh -s -- -y"
    say "rust-toolchain.toml then picks the version this repository is built with."
    exit 1
fi

# package → a file that shows it is there. PostgreSQL is asked for by its server, whatever its version.
declare -A wants=(
    [postgresql]="/usr/lib/postgresql/*/bin/postgres"
    [btrfs-progs]="/usr/bin/mkfs.btrfs /usr/sbin/mkfs.btrfs /sbin/mkfs.btrfs"
    [mmdebstrap]="/usr/bin/mmdebstrap"
    [gcc]="/usr/bin/gcc"
    [libc6-dev]="/usr/include/stdlib.h"
    [git]="/usr/lib/git-core/git-http-backend"
    [util-linux]="/usr/bin/flock"
    [python3]="/usr/bin/python3"
    [procps]="/usr/bin/ps /bin/ps"
    [passwd]="/usr/sbin/useradd"
    [ca-certificates]="/etc/ssl/certs/ca-certificates.crt"
)
if [[ "${1:-}" == "--test" ]]; then
    wants[busybox-static]="/bin/busybox"
    wants[zstd]="/usr/bin/zstd"
    wants[python3-venv]="/usr/share/doc/python3-venv"
    wants[xvfb]="/usr/bin/Xvfb"
    wants[openbox]="/usr/bin/openbox"
    wants[x11vnc]="/usr/bin/x11vnc"
    wants[xterm]="/usr/bin/xterm"
    wants[procps]="/usr/bin/pgrep"
    wants[e2fsprogs]="/usr/sbin/mkfs.ext4 /sbin/mkfs.ext4"
    wants[openssh-server]="/usr/sbin/sshd"
    wants[iproute2]="/usr/bin/ip /bin/ip /sbin/ip"
fi
if [[ "${1:-}" == "--test" || "${1:-}" == "--bench" ]]; then
    wants[docker.io]="/usr/sbin/dockerd"
fi

missing=()
for package in "${!wants[@]}"; do
    found=
    for candidate in ${wants[$package]}; do
        [[ -e "$candidate" ]] && found=1
    done
    [[ -n "$found" ]] || missing+=("$package")
done
if ((${#missing[@]})); then
    say "installing ${missing[*]}"
    as_root=()
    if ((EUID != 0)); then
        command -v sudo >/dev/null || { say "run as root once: apt-get install ${missing[*]}"; exit 1; }
        as_root=(sudo)
    fi
    export DEBIAN_FRONTEND=noninteractive
    # Debian's package would start a cluster of its own; Wharf runs a private one.
    if [[ " ${missing[*]} " == *" postgresql "* && ! -e /etc/postgresql-common/createcluster.conf ]]; then
        "${as_root[@]}" mkdir -p /etc/postgresql-common
        echo "create_main_cluster = false" | "${as_root[@]}" tee /etc/postgresql-common/createcluster.conf >/dev/null
    fi
    # The tests start their own; this keeps the package from opening the machine to the world.
    if [[ " ${missing[*]} " == *" openssh-server "* ]]; then
        "${as_root[@]}" mkdir -p /etc/ssh
        "${as_root[@]}" touch /etc/ssh/sshd_not_to_be_run
    fi
    "${as_root[@]}" apt-get update -q
    "${as_root[@]}" apt-get install -q -y --no-install-recommends "${missing[@]}"
fi

if [[ "${1:-}" == "--test" ]] && ! command -v cargo-nextest >/dev/null; then
    say "installing cargo-nextest (a few minutes)"
    cargo install cargo-nextest --locked
fi
