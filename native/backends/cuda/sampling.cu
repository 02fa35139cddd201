// The next token. The largest logit is found on the device; a draw is done on the host, on the row that comes down, so
// that it is the CPU's to the bit: the host waits for the token in either case. See ops/sampling.h.
#include "ops/sampling.h"

#include <vector>

#include "backends/cuda/kernel.h"
#include "backends/cuda/ops.h"
#include "core/device_memory.h"

namespace nibble::cuda {

namespace {

struct Best {
  float logit;
  int32_t token;
};

__device__ inline Best better(Best a, Best b) {
  return b.logit > a.logit || (b.logit == a.logit && b.token < a.token) ? b : a;
}

// One block.
__global__ void greedy_kernel(const float* logits, int64_t vocabulary, Sample* result) {
  __shared__ float scratch[kWarpThreads];
  __shared__ Best bests[kWarpThreads];
  Best best{-INFINITY, INT32_MAX};
  int bad = 0;
  for (int64_t i = threadIdx.x; i < vocabulary; i += blockDim.x) {
    bad |= !(logits[i] < INFINITY);
    best = better(best, {logits[i], int32_t(i)});
  }
  for (int mask = 16; mask > 0; mask /= 2) {
    best = better(best, {__shfl_xor_sync(kFullWarp, best.logit, mask), __shfl_xor_sync(kFullWarp, best.token, mask)});
  }
  if (threadIdx.x % kWarpThreads == 0) bests[threadIdx.x / kWarpThreads] = best;
  const bool any_bad = block_max(float(bad), scratch) > 0;  // a barrier, too
  for (int i = 0; i < int(blockDim.x) / kWarpThreads; ++i) best = better(best, bests[i]);
  float total = 0;
  for (int64_t i = threadIdx.x; i < vocabulary; i += blockDim.x) total += expf(logits[i] - best.logit);
  total = block_sum(total, scratch);
  if (threadIdx.x > 0) return;
  *result = any_bad || best.logit == -INFINITY ? Sample{kNoToken, 0} : Sample{best.token, -logf(total)};
}

Sample greedy(const Tensor& logits, const SampleArgs& a) {
  const int64_t vocabulary = logits.dim(1);
  const Workspace<Sample> there(1);
  constexpr int kBlock = 1024;
  launch(greedy_kernel, grid_of(1), kBlock, 0, static_cast<const float*>(logits.f32() + a.row * vocabulary), vocabulary, there.data());
  Sample result{};
  download(&result, there.data(), sizeof result);
  return result;
}

Sample on_host(const Tensor& logits, const SampleArgs& a) {
  const int64_t vocabulary = logits.dim(1);
  std::vector<float> row(static_cast<size_t>(vocabulary));
  download(row.data(), logits.f32() + a.row * vocabulary, vocabulary * 4);
  SampleArgs host = a;
  host.row = 0;
  Sample result{};
  nibble::sample({.data = row.data(), .dtype = DType::kF32, .device = Device::kCpu, .rank = 2, .shape = {1, vocabulary}},
                 &host, 1, &result);
  return result;
}

}  // namespace

void sample(const Tensor& logits, const SampleArgs* rows, int count, Sample* results) {
  for (int i = 0; i < count; ++i) {
    const bool is_greedy = rows[i].temperature == 0 && !rows[i].changes_logits();
    results[i] = is_greedy ? greedy(logits, rows[i]) : on_host(logits, rows[i]);
  }
}

}  // namespace nibble::cuda
