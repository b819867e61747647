#!/usr/bin/env bash
# Everything this project wants to know from a GPU, in one call of at most ten minutes on a machine that may have nothing but a driver, nvcc and PyTorch.
#
#   tools/gpu_check.sh [--run] [--bin DIR] [--only PART]... [--budget SECONDS]
#       Runs the parts, each under its own limit; a part that fails or hangs never stops the next. Results are files in ${OUT:-gpu_out}, a table comes last.
#       Exit status: 0 when every part that ran succeeded and none was refused.
#   tools/gpu_check.sh --pack DIR [--bin DIR]
#       On a machine that can build: puts the programs, the libraries that a bare machine lacks, and this script into DIR, to be carried there.
#
#   --bin DIR     where gpu_check, kd_bench_step and kd_bench are (default: what was packed beside this script, else build/ of the repository)
#   --only PART   only this part, with all the time there is; may be repeated
#   --budget S    seconds in all (540); what would begin later is left out
#
# parts, in order, most telling first: probe ceilings correct verify steps-equal kernels graph tune steps profile demo memcheck racecheck compile
# shellcheck disable=SC2015,SC2317  # "a && b || fail" is meant so; the parts are called by name
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
program=gpu_check.sh
PACK_LIMIT_MIB=60
programs=(gpu_check kd_bench_step kd_bench)

fail() { echo "$program: $*" >&2; exit 2; }
usage() { sed -n '2,/^# shellcheck/{/^# shellcheck/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; }

# ---- arguments -----------------------------------------------------------------------------------------------------------------------

all_parts=(probe ceilings correct verify steps-equal kernels graph tune steps profile demo memcheck racecheck compile)
declare -A limit=(  # seconds
  [probe]=20 [ceilings]=30 [correct]=90 [verify]=25 [steps-equal]=45 [kernels]=60 [graph]=25 [tune]=75 [steps]=150 [profile]=60 [demo]=60 [memcheck]=40 [racecheck]=120 [compile]=240)
pack='' bin='' budget=540 only=()
while (($#)); do
  case $1 in
    --run) ;;
    --pack | --bin | --only | --budget)
      (($# >= 2)) || fail "$1 needs a value"
      case $1 in
        --pack) pack=$2 ;;
        --bin) bin=$2 ;;
        --only) only+=("$2") ;;
        --budget) budget=$2 ;;
      esac
      shift ;;
    -h | --help) usage; exit 0 ;;
    *) fail "unknown argument '$1'; --help says what there is" ;;
  esac
  shift
done
[[ $budget =~ ^[0-9]+$ ]] && ((budget > 0)) || fail "--budget $budget: a number of seconds above 0 is needed"
for part in ${only[@]+"${only[@]}"}; do
  [[ " ${all_parts[*]} " == *" $part "* ]] || fail "--only $part: no such part; there are: ${all_parts[*]}"
done
source_tree=$here/..
packed=$here/programs.tar.gz
if [[ -z $bin && ! -f $packed ]]; then bin=$source_tree/build; fi
commit=$(cat "$here/COMMIT" 2>/dev/null || git -C "$source_tree" describe --always --dirty 2>/dev/null || echo unknown)

# ---- pack ----------------------------------------------------------------------------------------------------------------------------

# Belongs to every system, to the driver, to CUDA, or is found on the machine that has PyTorch: never carried.
is_foreign() { [[ $1 =~ ^(linux-vdso|ld-linux|lib(c|m|mvec|pthread|dl|rt)\.so|libcuda|libcudnn|libcublas|libnv) ]]; }
# A newer system has newer ones; carried for the case that it has none or older.
is_compilers() { [[ $1 =~ ^(libstdc\+\+|libgcc_s|libgomp) ]]; }

pack_up() {
  local name path kib
  for name in "${programs[@]}"; do
    [[ -x $bin/$name ]] || fail "--pack: no $name in $bin; build it first, or say --bin DIR"
  done
  stage=$(mktemp -d) || fail "--pack: no temporary folder"
  trap 'rm -rf "$stage"' EXIT
  mkdir -p "$stage/bin" "$stage/lib" "$stage/lib/compiler" "$pack" || fail "--pack $pack: cannot be made"
  for name in "${programs[@]}"; do
    cp "$bin/$name" "$stage/bin/" && strip "$stage/bin/$name" || fail "--pack: $bin/$name could not be copied and stripped"
    while read -r name path; do
      if is_foreign "$name"; then continue; fi
      [[ -f $path ]] || fail "--pack: $name, which the programs need, was not found"
      if is_compilers "$name"; then name=compiler/$name; fi
      cp -L "$path" "$stage/lib/$name" || fail "--pack: $path could not be copied"
    done < <(ldd "$bin/$name" | awk '$2 == "=>" { print $1, ($3 == "not" ? "-" : $3) }')
  done
  (cd "$stage" && find . -type f -printf '%9s  %P\n' | sort -k 2)
  tar -C "$stage" -czf "$pack/programs.tar.gz" bin lib || fail "--pack: $pack/programs.tar.gz could not be written"
  cp "${BASH_SOURCE[0]}" "$pack/gpu_check.sh" && cp "$here/bench_against_torch.py" "$here/ncu_table.py" "$pack/" || fail "--pack: the scripts could not be copied"
  echo "$commit" >"$pack/COMMIT"
  kib=$(du -sk --apparent-size "$pack" | cut -f 1)
  echo "$pack: $((kib / 1024)).$((kib % 1024 * 10 / 1024)) MiB to carry; there: $(basename "$pack")/gpu_check.sh"
  ((kib <= PACK_LIMIT_MIB * 1024)) || fail "--pack: more than $PACK_LIMIT_MIB MiB will not be carried; build for one architecture"
}

if [[ -n $pack ]]; then
  pack_up
  exit 0
fi

# ---- what is on this machine ---------------------------------------------------------------------------------------------------------

out=${OUT:-gpu_out}
mkdir -p "$out" || fail "OUT=$out: cannot be made"
out=$(cd "$out" && pwd)
rm -f "$out"/{summary,log,plan_book,verified}.txt "$out"/{checks,steps,kernels,profile}.csv "$out/device.json"  # of an earlier call
work=$(mktemp -d) || fail "no temporary folder"
# Only this process removes it: a background process that is ended before it has reset its traps runs them.
trap '[[ $BASHPID == "$$" ]] && rm -rf "$work"' EXIT
if [[ -z $bin ]]; then
  tar -C "$work" -xzf "$packed" || fail "$packed could not be unpacked"
  bin=$work/bin
fi
program_out=$work/out  # what the parts write; collected into few files, which are easier to bring home
mkdir -p "$program_out"

have() { command -v "$1" >/dev/null 2>&1; }
# pip's CUDA libraries: nvidia/<component>/lib in any of python's folders.
pip_libraries() {
  have python3 || return 0
  python3 -c 'import glob, sys; print(":".join(d for p in sys.path if p for d in sorted(glob.glob(p + "/nvidia/*/lib"))))' 2>/dev/null
}

# How our programs are started. GOMP_SPINCOUNT: with it they need not start themselves once more, which would lose a sanitizer.
libraries=''
settings=(GOMP_SPINCOUNT=20000)
ours() { env LD_LIBRARY_PATH="$libraries" "${settings[@]}" "$@"; }

start_seconds=$SECONDS
elapsed() { echo $((SECONDS - start_seconds)); }

# Finds a way to start gpu_check, and leaves in `problem` why there is none.
problem=''
find_programs() {
  local base pip=''
  pip=$(pip_libraries)
  base=${pip:+$pip}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  local folder message name
  for folder in "$bin" "$work/build"; do
    if [[ $folder == "$work/build" ]]; then build_here || return 1; fi
    for name in "${programs[@]}"; do
      [[ -x $folder/$name ]] || { problem="no $name in $folder"; continue 2; }
    done
    for libraries in "$folder/../lib:$base" "$folder/../lib:$folder/../lib/compiler:$base"; do
      if message=$(ours "$folder/gpu_check" --help 2>&1 >/dev/null); then
        bin=$(cd "$folder" && pwd)
        return 0
      fi
      problem="$folder/gpu_check does not start here: $(head -n 1 <<<"$message")"
    done
  done
  return 1
}

build_here() {
  local why=''
  have cmake || why='no cmake'
  have nvcc || why='no nvcc'
  [[ -f $source_tree/CMakeLists.txt ]] || why='no source tree beside this script'
  if [[ -z $why ]]; then
    echo "building in $work/build: $problem"
    # shellcheck disable=SC2016
    timeout -k 5 180 bash -c 'cmake -S "$1" -B "$2" -DKD_CUDA=ON -DKD_TESTS=OFF && cmake --build "$2" --target gpu_check kd_bench_step kd_bench -j "$(nproc)"' - \
      "$source_tree" "$work/build" >"$work/build.log" 2>&1 && return 0
    cat "$work/build.log" >>"$out/log.txt"
    why="the build failed: $(grep -m 1 -iE 'error|could not find' "$work/build.log" || tail -n 1 "$work/build.log")"
  fi
  problem="$problem; cannot be built here: $why"
  return 1
}

python_with_torch() {
  have python3 || { echo 'no python3 here'; return 1; }
  python3 -c 'import torch, torchvision' 2>/dev/null || { echo 'python3 has no torch and torchvision here'; return 1; }
}

# bench_against_torch.py starts kd_bench_step itself, and PyTorch must not see our libraries.
torch_bench() {
  python_with_torch || return 1
  {
    echo '#!/usr/bin/env bash'
    printf 'exec env LD_LIBRARY_PATH=%q' "$libraries"
    printf ' %q' "${settings[@]}" "$bin/kd_bench_step"
    echo ' "$@"'
  } >"$work/kd_bench_step"
  chmod +x "$work/kd_bench_step"
  python3 -u "$here/bench_against_torch.py" "$work/kd_bench_step" --device cuda "$@"
}

sanitize() {
  have compute-sanitizer || { echo 'no compute-sanitizer here'; return 1; }
  ours compute-sanitizer --tool "$1" --target-processes all --error-exitcode 99 "$bin/gpu_check" correct --tiny --out "$program_out/$1"
}

# ---- parts: what each runs; its last line goes into the table ------------------------------------------------------------------------

check() { ours "$bin/gpu_check" "$@" --out "$program_out"; }
part_probe() {
  if have nvidia-smi; then nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.mem,temperature.gpu --format=csv; fi
  if have nvcc; then nvcc --version | tail -n 2; fi
  echo "commit $commit"
  check probe
}
part_ceilings() { check ceilings; }
part_correct() { check correct; }
part_verify() { check verify --commit "$commit"; }
part_steps-equal() { check steps-equal; }
part_kernels() { check kernels; }
part_graph() {
  local flag
  for flag in '' --no-graph; do
    ours "$bin/kd_bench_step" --device cuda --precision bf16 --seconds 1 --case r18_train_32_b128 --case kd_2xr50_r18_32_b128 ${flag:+"$flag"} || return 1
  done
}
part_tune() { check tune --seconds $(($1 > 25 ? $1 - 15 : 10)); }
part_steps() { torch_bench --rounds 3 --seconds 0.4 --limit $(($1 - 20)) --csv "$program_out/steps.csv"; }
# Every kernel of whole steps by name and size, the libraries' too. Launched one by one and timed alone: gaps are not in it, and caches stay as they are.
part_profile() {
  have ncu || { echo 'no ncu here'; return 1; }
  local name
  for name in r18_train_224_b256 r50_infer_224_b256 r18_train_32_b128; do
    ours ncu --csv --clock-control none --cache-control none --metrics gpu__time_duration.sum,dram__bytes.sum \
      "$bin/kd_bench_step" --device cuda --precision bf16 --no-graph --seconds 0.001 --case $name >"$work/$name.ncu" || { tail -n 3 "$work/$name.ncu"; return 1; }
    python3 "$here/ncu_table.py" "$work/$name.ncu" --case $name --csv "$program_out/profile_$name.csv" || return 1
  done
}
# What users do: the demo's four small networks, then a whole ResNet-18, from image bytes to weights.
part_demo() {
  (cd "$work" && ours "$bin/kd_bench" demo --device cuda --out "$work/demo" &&
    ours "$bin/kd_bench" train --device cuda --out "$work/demo" name=whole data.name=shapes data.train_size=20000 data.test_size=1000 view=strong \
      precision=bf16 optim.batch=128 optim.epochs=3 </dev/null)
}
part_memcheck() { sanitize memcheck; }
part_racecheck() { sanitize racecheck; }
part_compile() {  # what a case takes to compile is minutes rather than seconds
  torch_bench --mode reduce-overhead freezing --precision bf16 --case r18_train_224_b256 r50_infer_224_b256 kd_2xr50_r18_224_b128 r18_train_32_b128 \
    kd_2xr50_r18_32_b128 --rounds 3 --seconds 0.4 --limit $(($1 > 150 ? $1 - 100 : $1 / 3)) --csv "$program_out/compile.csv"
}

# ---- running -------------------------------------------------------------------------------------------------------------------------

rows=()
failures=0

# Few files, rewritten after every part: if this script is stopped, what is done is there.
collect() {
  local file
  for file in plan_book.txt verified.txt device.json; do
    [[ -f $program_out/$file ]] && cp "$program_out/$file" "$out/"
  done
  for file in probe ceilings correct verify steps_equal; do
    [[ -f $program_out/$file.csv ]] && { echo "# $file"; cat "$program_out/$file.csv"; }
  done >"$out/checks.csv"
  for file in kernels tune; do
    [[ -f $program_out/$file.csv ]] && { echo "# $file"; cat "$program_out/$file.csv"; }
  done >"$out/kernels.csv"
  for file in "$program_out"/profile_*.csv; do
    [[ -f $file ]] && { echo "# $(basename "$file" .csv)"; cat "$file"; }
  done >"$out/profile.csv"
  for file in steps compile; do
    [[ -f $program_out/$file.csv ]] && { echo "# against PyTorch: $file"; cat "$program_out/$file.csv"; }
  done >"$out/steps.csv"
  summary >"$out/summary.txt"
  # Later parts use what earlier ones found out.
  settings=(GOMP_SPINCOUNT=20000)
  [[ -s $program_out/plan_book.txt ]] && settings+=("KD_PLAN_BOOK=$program_out/plan_book.txt")
  [[ -s $program_out/verified.txt ]] && settings+=("KD_VERIFIED=$program_out/verified.txt")
  return 0
}

summary() {
  printf '%-12s %-10s %5s  %s\n' part result s 'last line'
  local row
  for row in ${rows[@]+"${rows[@]}"}; do printf '%s\n' "$row"; done
}

note() { rows+=("$(printf '%-12s %-10s %5s  %.120s' "$@")"); }

run_part() {
  local part=$1 seconds=${limit[$1]} left=$((budget - $(elapsed))) log=$work/$1.log began status result
  if ((${#only[@]})); then seconds=$left; fi
  if ((seconds > left)); then seconds=$left; fi
  if ((seconds < 10)); then
    note "$part" 'left out' 0 'no time left'
    ((++failures))
    collect
    return
  fi
  began=$SECONDS
  run_limited "$seconds" "part_$part" "$seconds" >"$log" 2>&1 </dev/null
  status=$?
  case $status in
    0) result=ok ;;
    124 | 137) result='TIME OUT' ;;
    *) result="FAILED $status" ;;
  esac
  if ((status)); then ((++failures)); fi
  note "$part" "$result" $((SECONDS - began)) "$(grep -v '^[[:space:]]*$' "$log" | tail -n 1)"
  { echo "==== $part: $result"; tail -c 3000000 "$log"; echo; } >>"$out/log.txt"
  echo "$part: $result ($((SECONDS - began)) s)"
  collect
}

# timeout(1) runs programs, not functions: the function runs in a process group of its own, which a watcher ends.
run_limited() {
  local seconds=$1 job watcher status
  shift
  set -m
  "$@" &
  job=$!
  { sleep "$seconds"; kill -TERM -- "-$job"; sleep 5; kill -KILL -- "-$job"; } >/dev/null 2>&1 &
  watcher=$!
  set +m
  wait "$job" 2>/dev/null
  status=$?
  kill -TERM -- "-$watcher" 2>/dev/null && wait "$watcher" 2>/dev/null
  ((status == 143)) && status=124
  return $status
}

: >"$out/log.txt"
if find_programs; then
  for part in "${all_parts[@]}"; do
    if ((${#only[@]} == 0)) || [[ " ${only[*]} " == *" $part "* ]]; then run_part "$part"; fi
  done
else
  for part in "${all_parts[@]}"; do note "$part" 'not run' 0 "$problem"; done
  failures=${#all_parts[@]}
  collect
fi

echo
grep -hE '^(#|[a-z0-9_]+,)' "$out/steps.csv" 2>/dev/null
echo
cat "$out/summary.txt"
files=("$out"/*)
echo "$(elapsed) s; in $out: ${files[*]##*/}"
exit $((failures > 0))
