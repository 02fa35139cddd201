#!/usr/bin/env bash
# The C++ tests on a card: every kernel against the reference backend, the device's memory, and both again under
# compute-sanitizer where it is installed. For a bare machine: no Node, no network, no compiler.
#   test-gpu.sh BINARY OUT     BINARY: build/gpu/nibble_test of `npm run test:gpu`; OUT: folder of the results
set -uo pipefail
binary=$(realpath "$1")
mkdir -p "$2"
out=$(realpath "$2")
cd "$(mktemp -d)" # tests make spill files where they run
export NIBBLE_REQUIRE_CUDA=1
failed=0
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader >"$out/device.txt"
date -u +%FT%TZ >>"$out/device.txt"
"$binary" --gtest_brief=1 "--gtest_output=json:$out/test.json" || failed=1
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
if [ -z "$sanitizer" ]; then
  echo "compute-sanitizer is not installed: not run" | tee "$out/sanitizer.txt"
else
  # The large cases take too long there; what they add is more of the same.
  for tool in memcheck racecheck synccheck; do
    timeout 150 "$sanitizer" --tool "$tool" --error-exitcode 9 --log-file "$out/$tool.txt" "$binary" --gtest_brief=1 \
      "--gtest_filter=Cuda.*:Linear.LoraAdd*:Rope.LikeReference:Embedding.LikeReference:CrossEntropy.LikeReference:Shapes/Attention*"
    code=$?
    echo "$tool: exit $code" | tee -a "$out/sanitizer.txt"
    [ $code -eq 0 ] || failed=1
  done
fi
exit $failed
