#!/usr/bin/env bash
# Installs the Debian or Ubuntu packages that building and testing Retort needs. Does nothing when all of them are there.
# Usage: tools/install_deps.sh [--tsan]     with it also what the ThreadSanitizer build needs: clang follows the emulated kernels' fibers, gcc hardly
set -euo pipefail

packages=(
  cmake ninja-build g++ python3            # build; python3 runs tools/check_deps.py in the tests
  libdnnl-dev                              # oneDNN: convolutions, matrix products
  nlohmann-json3-dev libyaml-cpp-dev libcli11-dev libfmt-dev
  libstb-dev libjpeg-dev zlib1g-dev curl ca-certificates   # image files in and out, archives; curl does the download of "data fetch"
  libgtest-dev libbenchmark-dev            # tests, kd_bench_kernels
)

[[ ${1:-} == --tsan ]] && packages+=(clang libclang-rt-dev libomp-dev llvm)

fail() { echo "tools/install_deps.sh: $*" >&2; exit 1; }

command -v dpkg-query >/dev/null && command -v apt-get >/dev/null ||
  fail "apt is missing; this script knows Debian and Ubuntu. Elsewhere install the equivalents of: ${packages[*]}"

missing=()
for package in "${packages[@]}"; do
  [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
done
if ((${#missing[@]} == 0)); then
  echo "packages: all ${#packages[@]} installed"
  exit 0
fi

echo "packages: installing ${missing[*]}"
as_root=(env)
if ((EUID != 0)); then
  command -v sudo >/dev/null || fail "not root and no sudo; as root run: apt-get install ${missing[*]}"
  as_root=(sudo env)
fi
"${as_root[@]}" apt-get update -qq || fail "apt-get update failed; is the network there?"
"${as_root[@]}" DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
  fail "apt-get could not install: ${missing[*]}"
