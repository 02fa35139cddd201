// The next tokens. On the device, a block a row: the largest logit, the sums of exponentials, and the kMost likeliest tokens
// of a row that is drawn from. They come down together; the host puts them in order and draws as the CPU does. Where a draw
// needs more than those (a flat distribution, a large top_k) or other logits (penalties, tokens that may not come), the row
// itself comes down and is the CPU's. See ops/sampling.h.
#include "ops/sampling.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "backends/cuda/kernel.h"
#include "backends/cuda/ops.h"
#include "core/device_memory.h"

namespace nibble::cuda {

namespace {

constexpr int kBlock = 1024;
constexpr int kMost = 256;

struct Candidate {
  float logit;
  int32_t token;
};

__device__ inline Candidate better(Candidate a, Candidate b) {
  return b.logit > a.logit || (b.logit == a.logit && b.token < a.token) ? b : a;
}

// What is asked of a row, and what is found.
struct Question {
  int64_t row;
  float temperature, min_p;
  int wants_logprob;
};
struct Answer {
  Candidate best;
  int is_bad;             // NaN or +Inf, or nothing above -Inf
  float log_total;        // of exp(logit - best)
  double mass, kept;      // of exp((logit - best) / temperature); of those of at least min_p
};

// Descending logits as ascending integers.
__device__ inline uint32_t key_of(float logit) {
  const uint32_t bits = float_to_bits(logit + 0.0f);  // -0 becomes 0
  return (bits & 0x80000000u) != 0 ? bits : 0x7fffffffu - bits;
}

// The key of the kMost-th of a row, 8 bits at a time, and how many are before it.
struct Threshold {
  uint32_t key;
  int before;
};
__device__ Threshold threshold_of(const float* logits, int64_t vocabulary, int* count) {
  Threshold t{0, 0};
  for (int shift = 24; shift >= 0; shift -= 8) {
    if (threadIdx.x < 256) count[threadIdx.x] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < vocabulary; i += kBlock) {
      const uint32_t key = key_of(logits[i]);
      if (shift == 24 || key >> (shift + 8) == t.key >> (shift + 8)) atomicAdd(&count[(key >> shift) & 255], 1);
    }
    __syncthreads();
    int digit = 0;
    for (; digit < 255 && t.before + count[digit] < kMost; ++digit) t.before += count[digit];
    t.key |= uint32_t(digit) << shift;
    __syncthreads();
  }
  return t;
}

// The first kMost by (logit descending, token ascending), in no order.
__device__ void select(const float* logits, int64_t vocabulary, int* shared, Candidate* to) {
  const Threshold t = threshold_of(logits, vocabulary, shared);
  int* const of_warp = shared;
  const int lane = int(threadIdx.x) % kWarpThreads, warp = int(threadIdx.x) / kWarpThreads;
  int before = 0, equal = t.before;  // where the next of each go
  for (int64_t chunk = 0; chunk < vocabulary && (before < t.before || equal < kMost); chunk += kBlock) {
    const int64_t i = chunk + threadIdx.x;
    const uint32_t key = i < vocabulary ? key_of(logits[i]) : 0xffffffffu;
    for (int pass = 0; pass < 2; ++pass) {
      const bool mine = i < vocabulary && (pass == 0 ? key < t.key : key == t.key);
      const unsigned warps_own = __ballot_sync(kFullWarp, mine);
      if (lane == 0) of_warp[warp] = __popc(warps_own);
      __syncthreads();
      int at = pass == 0 ? before : equal, all = 0;
      for (int w = 0; w < kBlock / kWarpThreads; ++w) {
        if (w < warp) at += of_warp[w];
        all += of_warp[w];
      }
      at += __popc(warps_own & ((1u << lane) - 1));
      if (mine && at < kMost) to[at] = {logits[i], int32_t(i)};
      (pass == 0 ? before : equal) += all;
      __syncthreads();
    }
  }
}

__global__ void __launch_bounds__(kBlock, 1) sample_kernel(const float* all, int64_t vocabulary, const Question* questions,
                                                        Answer* answers, Candidate* candidates) {
  __shared__ double scratch[kWarpThreads];
  __shared__ Candidate bests[kWarpThreads];
  __shared__ int counts[256];
  const Question q = questions[blockIdx.x];
  const float* const logits = all + q.row * vocabulary;
  Candidate best{-INFINITY, INT32_MAX};
  int bad = 0;
  for (int64_t i = threadIdx.x; i < vocabulary; i += kBlock) {
    bad |= !(logits[i] < INFINITY);
    best = better(best, {logits[i], int32_t(i)});
  }
  for (int mask = 16; mask > 0; mask /= 2) {
    best = better(best, {__shfl_xor_sync(kFullWarp, best.logit, mask), __shfl_xor_sync(kFullWarp, best.token, mask)});
  }
  if (threadIdx.x % kWarpThreads == 0) bests[threadIdx.x / kWarpThreads] = best;
  const bool any_bad = block_sum(double(bad), scratch) > 0;  // a barrier, too
  for (int i = 0; i < kBlock / kWarpThreads; ++i) best = better(best, bests[i]);
  const bool is_bad = any_bad || best.logit == -INFINITY;
  double total = 0, mass = 0, kept = 0;
  for (int64_t i = threadIdx.x; i < vocabulary && !is_bad; i += kBlock) {
    if (q.wants_logprob) total += double(expf(logits[i] - best.logit));
    if (q.temperature == 0) continue;
    const float p = expf((logits[i] - best.logit) / q.temperature);
    mass += double(p);
    if (p >= q.min_p) kept += double(p);
  }
  total = block_sum(total, scratch);
  mass = block_sum(mass, scratch);
  kept = block_sum(kept, scratch);
  if (threadIdx.x == 0) answers[blockIdx.x] = {best, is_bad, float(log(total)), mass, kept};
  if (q.temperature > 0 && !is_bad) select(logits, vocabulary, counts, candidates + int64_t(blockIdx.x) * kMost);
}

// The token, from the likeliest ones; nothing where they are too few to tell.
std::optional<Candidate> draw(const SampleArgs& a, const Answer& answer, Candidate* some, int64_t vocabulary) {
  int64_t count = least(kMost, vocabulary);
  std::sort(some, some + count, [](const Candidate& x, const Candidate& y) {
    return x.logit > y.logit || (x.logit == y.logit && x.token < y.token);
  });
  float p[kMost];
  for (int64_t i = 0; i < count; ++i) p[i] = std::exp((some[i].logit - answer.best.logit) / a.temperature);
  const auto sum = [&](int64_t n) {
    double mass = 0;
    for (int64_t i = 0; i < n; ++i) mass += double(p[i]);
    return mass;
  };
  const bool limited = a.top_k > 0 && a.top_k < vocabulary, nucleus = a.top_p < 1;
  bool is_whole = count == vocabulary;  // no token that may be drawn is missing
  if (limited) {
    is_whole = true;
    count = least(count, a.top_k);
  }
  // [2] top-k, top-p, min-p
  const double total = limited ? sum(count) : answer.mass;
  int64_t kept = count;
  if (nucleus) {
    double before = 0;
    for (kept = 0; kept < count && (kept == 0 || before < double(a.top_p) * total); ++kept) before += double(p[kept]);
    if (!is_whole && before < double(a.top_p) * total) return std::nullopt;
    is_whole = true;
  }
  while (kept > 1 && p[kept - 1] < a.min_p * p[0]) {
    --kept;
    is_whole = true;
  }
  // [3] draw
  const double at = draw_of(a) * (limited || nucleus ? sum(kept) : answer.kept);
  double running = 0;
  for (int64_t i = 0; i < kept; ++i) {
    running += double(p[i]);
    if (running > at) return some[i];
  }
  if (!is_whole) return std::nullopt;
  return some[kept - 1];
}

// Rows as they are, by the CPU.
void sample_on_host(const Tensor& logits, const SampleArgs* rows, const std::vector<int>& which, Sample* results) {
  const int64_t vocabulary = logits.dim(1), count = int64_t(which.size());
  std::vector<float> copies(size_t(count * vocabulary));
  std::vector<SampleArgs> args;
  for (int64_t i = 0; i < count; ++i) {
    args.push_back(rows[which[size_t(i)]]);
    download(copies.data() + i * vocabulary, logits.f32() + args.back().row * vocabulary, vocabulary * 4);
    args.back().row = i;
  }
  std::vector<Sample> drawn(which.size());
  nibble::sample({.data = copies.data(), .dtype = DType::kF32, .device = Device::kCpu, .rank = 2,
                  .shape = {count, vocabulary}}, args.data(), int(count), drawn.data());
  for (int64_t i = 0; i < count; ++i) results[which[size_t(i)]] = drawn[size_t(i)];
}

void sample_on_device(const Tensor& logits, const SampleArgs* rows, const std::vector<int>& which, Sample* results,
                      std::vector<int>& undecided) {
  const int64_t vocabulary = logits.dim(1), count = int64_t(which.size());
  std::vector<Question> questions;
  bool draws = false;
  for (int i : which) {
    questions.push_back({rows[i].row, rows[i].temperature, rows[i].min_p, rows[i].wants_logprob});
    draws = draws || rows[i].temperature > 0;
  }
  const Workspace<Question> asked(count);
  const Workspace<Answer> found(count);
  const Workspace<Candidate> likeliest(draws ? count * kMost : 1);
  upload(asked.data(), questions.data(), count * int64_t(sizeof(Question)));
  launch(sample_kernel, grid_of(count), kBlock, 0, static_cast<const float*>(logits.f32()), vocabulary,
         static_cast<const Question*>(asked.data()), found.data(), likeliest.data());
  std::vector<Answer> answers(which.size());
  std::vector<Candidate> some(draws ? which.size() * kMost : 0);
  download(answers.data(), found.data(), count * int64_t(sizeof(Answer)));
  if (draws) download(some.data(), likeliest.data(), count * kMost * int64_t(sizeof(Candidate)));
  for (size_t i = 0; i < which.size(); ++i) {
    const SampleArgs& a = rows[which[i]];
    const Answer& answer = answers[i];
    std::optional<Candidate> token = answer.best;
    if (a.temperature > 0 && !answer.is_bad) token = draw(a, answer, some.data() + i * kMost, vocabulary);
    if (!token) undecided.push_back(which[i]);
    else results[which[i]] = answer.is_bad ? Sample{kNoToken, 0}
                                           : Sample{token->token, token->logit - answer.best.logit - answer.log_total};
  }
}

}  // namespace

void sample(const Tensor& logits, const SampleArgs* rows, int count, Sample* results) {
  std::vector<int> here, there;
  for (int i = 0; i < count; ++i) {
    const bool is_ours = !rows[i].changes_logits() && rows[i].top_k <= kMost;
    (is_ours ? here : there).push_back(i);
  }
  if (!here.empty()) sample_on_device(logits, rows, here, results, there);
  if (!there.empty()) sample_on_host(logits, rows, there, results);
}

}  // namespace nibble::cuda
