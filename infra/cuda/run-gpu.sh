#!/usr/bin/env bash
# All proofs of a card in one command of at most ten minutes, for a bare machine with a card, CUDA's driver and python3: no
# Node, no network, no compiler. `npm run pack:gpu` puts a copy of it beside what it needs; run it in the checkout:
#   build/gpu/run.sh OUT [--seconds 570] [--only tests,bench,sanitizer] [--rows step-65b,…] [--device cuda] [--shape full]
# tests: every kernel against the reference backend, the device's memory, the golden models and runs. bench: bench/gpu.ts,
# with python3's PyTorch, transformers and PEFT beside it. sanitizer: compute-sanitizer, where it is installed, in the time
# that is left. OUT gets eight files. Whatever crashes or hangs, the rest is run, and what there is is written.
# To rehearse it without a card: --device cpu --shape tiny, or an emulated card in $NIBBLE_ADDON with --shape tiny.
set -uo pipefail
pack=$(cd "$(dirname "$0")" && pwd)
checkout=$PWD
[ $# -gt 0 ] && [ -e bench/gpu.ts ] || { echo "usage, in the checkout: build/gpu/run.sh OUT [options]" >&2 && exit 2; }
mkdir -p "$1" && out=$(realpath "$1") && shift
seconds=570 only=tests,bench,sanitizer rows=() device=cuda shape=full
while [ $# -gt 0 ]; do
  case $1 in
  --seconds) seconds=${2?} ;;
  --only) only=${2?} ;;
  --rows) rows=(--rows "${2?}") ;;
  --device) device=${2?} ;;
  --shape) shape=${2?} ;;
  *) echo "run.sh: unknown option $1" >&2 && exit 2 ;;
  esac
  shift 2
done
left() { echo $((seconds - SECONDS)); }
least() { echo $(($1 < $2 ? $1 : $2)); }
wants() { [[ ,$only, == *,$1,* ]]; }
failed=0
: >"$out/summary.txt"
note() { echo "== $1 ($SECONDS s)" | tee -a "$out/summary.txt"; }
# Ends what does not end by itself, and all that it started.
limited() { timeout -k 5 "$@"; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unpack() { # FILE: FILE.xz of the pack into $work, by xz or, where there is none, python3
  xz -dc "$pack/$1.xz" >"$work/$1" 2>/dev/null ||
    python3 -c 'import lzma,shutil,sys; shutil.copyfileobj(lzma.open(sys.argv[1]), open(sys.argv[2],"wb"))' \
      "$pack/$1.xz" "$work/$1" || return 1
}
for file in node programs.tar packages.tar; do
  unpack "$file" || { echo "run.sh: $pack/$file.xz cannot be unpacked" >&2 && exit 2; }
done
chmod +x "$work/node" && tar -xf "$work/programs.tar" -C "$work"
[ -e "$checkout/node_modules" ] || tar -xf "$work/packages.tar" -C "$checkout"
export NIBBLE_ADDON=${NIBBLE_ADDON:-$work/nibble.node} NIBBLE_COMMIT=$(cat "$pack/commit")
# PyTorch's wheels bring cuBLASLt where the loader does not look.
library=$(python3 -c 'import glob,site; print(next(iter(sorted((f for d in site.getsitepackages() for f in glob.glob(d+"/nvidia/*/lib/libcublasLt.so.1[23]")), reverse=True)), ""))' 2>/dev/null)
[ -z "$library" ] || export NIBBLE_CUBLASLT=$library
node=("$work/node" --disable-warning=ExperimentalWarning)
{
  date -u +%FT%TZ
  nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.mem,clocks.max.sm,power.limit --format=csv,noheader ||
    echo "nvidia-smi does not run here"
} >"$out/device.txt" 2>/dev/null
note "unpacked, $(tail -1 "$out/device.txt")"
if [ "$device" = cuda ]; then
  why=$("$work/node" -p 'require(process.env.NIBBLE_ADDON).cudaUnavailable()' 2>&1)
  [ -z "$why" ] || { note "no card that can be used here, nothing was run: $why" && exit 1; }
  [[ $NIBBLE_ADDON != "$work"/* ]] || export NIBBLE_REQUIRE_CUDA=1
fi

# An error of a kernel is one of the process's device for good, so each suite has a process, and after one that failed each
# of its tests. They run four at a time, as the reference takes more than the card; suites that hang end with the time.
file_of() { printf %s "$1" | tr '/*' '+_'; }
export -f file_of
each_of() { # SECONDS NAME…: what each prints and its exit code into tests/; the names of those that failed on stdout
  local most=$1 names=("${@:2}")
  printf '%s\0' "${names[@]}" | limited "$most" xargs -0 -P 4 -I {} bash -c \
    'at=tests/$(file_of "$1"); ./nibble_test --gtest_brief=1 "--gtest_filter=$1" "--gtest_output=json:$at.json" >"$at.txt" 2>&1; echo $? >"$at.code"' \
    each {} 2>/dev/null # of bash, which says what crashed
  for name in "${names[@]}"; do
    [ "$(cat "tests/$(file_of "$name").code" 2>/dev/null)" = 0 ] || echo "$name"
  done
}
native_tests() {
  cd "$work" && mkdir -p tests # tests make spill files where they run
  local listed suites bad alone at
  listed=$(limited 60 ./nibble_test --gtest_list_tests 2>&1) || { echo "nibble_test does not start: $listed" && return 1; }
  mapfile -t suites < <(awk '/^[A-Za-z0-9_\/]+\.( |$)/ { print $1 "*" }' <<<"$listed")
  mapfile -t bad < <(each_of "$(least 110 $(($(left) / 3)))" "${suites[@]}")
  echo "${#suites[@]} suites, ${#bad[@]} failed"
  [ ${#bad[@]} -gt 0 ] || return 0
  for name in "${bad[@]}"; do
    at=tests/$(file_of "$name")
    echo "-- $name exit $(cat "$at.code" 2>/dev/null || echo "none, its time was over")"
    tail -25 "$at.txt" 2>/dev/null
  done
  mapfile -t alone < <(awk -v "bad= ${bad[*]} " '/^[^ ]/ { suite = $1 } /^  / && index(bad, " " suite "* ") { print suite $1 }' <<<"$listed")
  mapfile -t bad < <(each_of "$(least 45 $(($(left) / 4)))" "${alone[@]}")
  echo "-- of the ${#alone[@]} tests of these suites, each in its own process, ${#bad[@]} failed:"
  printf '%s\n' "${bad[@]}"
  return 1
}
# One file of what gtest wrote of each process.
gather_json='
import glob, json, os, sys
def read(path, how):
    try:
        with open(path) as file: return how(file)
    except Exception as error: return str(error)
all = sorted(f[:-4] for f in glob.glob(sys.argv[1] + "/*.txt"))
print(json.dumps({os.path.basename(f): {"exit": read(f + ".code", json.load), "result": read(f + ".json", json.load)} for f in all}))'

if wants tests; then
  (native_tests) >"$out/tests.txt" 2>&1
  code=$?
  [ "$code" -eq 0 ] || failed=1
  python3 -c "$gather_json" "$work/tests" >"$out/test.json"
  note "C++ tests: exit $code, $(grep -m1 -E "suites,|not start" "$out/tests.txt")"
  if [ "$device" = cuda ]; then
    limited "$(least 90 $(($(left) / 4)))" "${node[@]}" --test --test-reporter=spec test/cuda/*.cuda.ts >>"$out/tests.txt" 2>&1
    code=$?
    [ $code -eq 0 ] || failed=1
    note "golden models and runs, memory: exit $code"
  fi
fi

if wants bench; then
  reserve=15
  wants sanitizer && [ "$device" = cuda ] && reserve=45
  budget=$(($(left) - reserve))
  [ "$budget" -gt 0 ] || budget=1 # every row says that there was no time for it
  limited $((budget + 10)) "${node[@]}" bench/gpu.ts --device "$device" --shape "$shape" --budget $budget \
    --out "$out" "${rows[@]}" 2>&1 | tee "$out/bench.txt"
  code=${PIPESTATUS[0]}
  [ "$code" -eq 0 ] || failed=1
  note "bench: exit $code"
fi

if wants sanitizer && [ "$device" = cuda ]; then
  sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
  [ -n "$sanitizer" ] || note "compute-sanitizer is not installed: not run" | tee "$out/sanitizer.txt"
  # The large cases take too long there; what they add is more of the same.
  filter="Cuda*:Attention*:Linear.LoraAdd*:Rope.LikeReference:Embedding.LikeReference:CrossEntropy.LikeReference:AttentionBackends.*"
  for tool in memcheck racecheck synccheck; do
    [ -n "$sanitizer" ] && [ "$(left)" -gt 12 ] || continue
    (cd "$work" && limited $(($(left) - 5)) "$sanitizer" --tool "$tool" --error-exitcode 9 ./nibble_test --gtest_brief=1 \
      "--gtest_filter=$filter") 2>&1 | tail -200 >>"$out/sanitizer.txt"
    code=${PIPESTATUS[0]}
    # 124: the time was over, and what was looked at was clean.
    [ "$code" -eq 0 ] || [ "$code" -eq 124 ] || failed=1
    note "$tool: exit $code"
  done
fi
exit $failed
