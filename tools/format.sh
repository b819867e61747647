#!/usr/bin/env bash
# Formats our C++ with clang-format; --check only says what would change. Not a test: versions of clang-format disagree about details.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
command -v clang-format >/dev/null || { echo "tools/format.sh: clang-format is not installed" >&2; exit 1; }

mode=(-i)
[[ ${1:-} == --check ]] && mode=(--dry-run -Werror)
find bench data engine kd kernels models tests -regextype posix-extended -regex '.*\.(h|cpp|cuh|cu)' -print0 | xargs -0 clang-format "${mode[@]}"
