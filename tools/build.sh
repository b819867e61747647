#!/usr/bin/env bash
# Installs what is missing, configures and builds. Usage: tools/build.sh [PRESET [TARGET...]]   (release, everything)
# KD_CUDA=ON|OFF in the environment: insist on the CUDA backend, or leave it out; by default it is built where nvcc and cuDNN are.
# The build folder is the preset's (build/ for release) or $KD_BUILD_DIR, and is used again when it is there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

preset=${1:-release}
shift $(($# > 0))
folder=build$([[ $preset == release ]] || echo "-$preset")
folder=${KD_BUILD_DIR:-$folder}

if [[ $preset == tsan ]]; then tools/install_deps.sh --tsan; else tools/install_deps.sh; fi
echo "configure: $folder ($preset)"
mkdir -p "$folder"
cmake --preset "$preset" -B "$folder" ${KD_CUDA:+-DKD_CUDA="$KD_CUDA"} >"$folder/configure.log" 2>&1 || { cat "$folder/configure.log" >&2; exit 1; }
echo "build: ${*:-everything}"
cmake --build "$folder" --target "${@:-all}"
