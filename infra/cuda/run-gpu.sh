#!/usr/bin/env bash
# All proofs of a card in one command of at most ten minutes, for a bare machine with a card, CUDA's driver and python3: no
# Node, no network, no compiler. `npm run pack:gpu` puts a copy of it beside what it needs; run it in the checkout:
#   build/gpu/run.sh OUT [--seconds 570] [--only tests,bench,sanitizer] [--rows step-65b,…]
# tests: every kernel against the reference backend, the device's memory, the golden models and runs. bench: bench/gpu.ts,
# with python3's PyTorch, transformers and PEFT beside it. sanitizer: compute-sanitizer, where it is installed, in the time
# that is left. OUT gets eight files.
set -uo pipefail
pack=$(cd "$(dirname "$0")" && pwd)
checkout=$PWD
mkdir -p "$1" && out=$(realpath "$1") && shift
seconds=570 only=tests,bench,sanitizer rows=()
while [ $# -gt 1 ]; do
  case $1 in
  --seconds) seconds=$2 ;;
  --only) only=$2 ;;
  --rows) rows=(--rows "$2") ;;
  *) echo "run.sh: unknown option $1" >&2 && exit 2 ;;
  esac
  shift 2
done
left() { echo $((seconds - SECONDS)); }
wants() { [[ ,$only, == *,$1,* ]]; }
failed=0
note() { echo "== $1 ($SECONDS s)" | tee -a "$out/summary.txt"; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unpack() { # FILE: FILE.xz of the pack into $work, by xz or, where there is none, python3
  xz -dc "$pack/$1.xz" >"$work/$1" 2>/dev/null ||
    python3 -c 'import lzma,shutil,sys; shutil.copyfileobj(lzma.open(sys.argv[1]), open(sys.argv[2],"wb"))' \
      "$pack/$1.xz" "$work/$1" || return 1
  chmod +x "$work/$1"
}
for file in node nibble.node nibble_test node_modules.tar; do
  unpack "$file" || { echo "run.sh: $pack/$file.xz cannot be unpacked" >&2 && exit 2; }
done
[ -e "$checkout/node_modules" ] || tar -xf "$work/node_modules.tar" -C "$checkout"
export NIBBLE_ADDON=$work/nibble.node NIBBLE_REQUIRE_CUDA=1 NIBBLE_COMMIT=$(cat "$pack/commit")
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
why=$("$work/node" -p 'require(process.env.NIBBLE_ADDON).cudaUnavailable()' 2>&1)
[ -z "$why" ] || { note "no card that can be used here, nothing was run: $why" && exit 1; }

if wants tests; then
  # Tests make spill files where they run.
  (cd "$work" && timeout 120 ./nibble_test --gtest_brief=1 "--gtest_output=json:$out/test.json") 2>&1 | tail -40 >"$out/tests.txt"
  code=${PIPESTATUS[0]}
  [ "$code" -eq 0 ] || failed=1
  note "C++ tests: exit $code"
  timeout 90 "${node[@]}" --test --test-reporter=spec test/cuda/*.cuda.ts >>"$out/tests.txt" 2>&1
  code=$?
  [ $code -eq 0 ] || failed=1
  note "golden models and runs, memory: exit $code"
fi

if wants bench; then
  reserve=15
  wants sanitizer && reserve=45
  timeout $(($(left) - 5)) "${node[@]}" bench/gpu.ts --device cuda --budget $(($(left) - reserve)) --out "$out" "${rows[@]}" \
    2>&1 | tee "$out/bench.txt"
  code=${PIPESTATUS[0]}
  [ "$code" -eq 0 ] || failed=1
  note "bench: exit $code"
fi

if wants sanitizer; then
  sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
  [ -n "$sanitizer" ] || note "compute-sanitizer is not installed: not run"
  # The large cases take too long there; what they add is more of the same.
  filter="Cuda*:Attention*:Linear.LoraAdd*:Rope.LikeReference:Embedding.LikeReference:CrossEntropy.LikeReference:AttentionBackends.*"
  for tool in memcheck racecheck synccheck; do
    [ -n "$sanitizer" ] && [ "$(left)" -gt 12 ] || continue
    (cd "$work" && timeout $(($(left) - 5)) "$sanitizer" --tool "$tool" --error-exitcode 9 ./nibble_test --gtest_brief=1 \
      "--gtest_filter=$filter") 2>&1 | tail -200 >>"$out/sanitizer.txt"
    code=${PIPESTATUS[0]}
    # 124: the time was over, and what was looked at was clean.
    [ "$code" -eq 0 ] || [ "$code" -eq 124 ] || failed=1
    note "$tool: exit $code"
  done
fi
exit $failed
