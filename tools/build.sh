#!/usr/bin/env bash
# Installs what is missing, configures and builds. Usage: tools/build.sh [PRESET [TARGET...]]   (release, everything)
# The build folder is the preset's (build/ for release) or $KD_BUILD_DIR, and is used again when it is there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

preset=${1:-release}
shift $(($# > 0))
folder=build$([[ $preset == release ]] || echo "-$preset")
folder=${KD_BUILD_DIR:-$folder}

tools/install_deps.sh
echo "configure: $folder ($preset)"
mkdir -p "$folder"
cmake --preset "$preset" -B "$folder" >"$folder/configure.log" 2>&1 || { cat "$folder/configure.log" >&2; exit 1; }
echo "build: ${*:-everything}"
cmake --build "$folder" --target "${@:-all}"
