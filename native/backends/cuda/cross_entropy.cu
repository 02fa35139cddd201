// The output layer and its loss by chunks of the rows that have a label; see ops/cross_entropy.h. Which rows those are is
// known on the device alone: an index of them is made there, and launches for rows past their end end at once.
//
// [1] logits of a chunk   [2] loss   [3] gradients of the logits, then of x and W
// In bfloat16, x and W, the second product takes e^(logit - largest) in bfloat16, which lies where the logits lay; the
// sum over them and the label's own row of W come in afterwards, in float32.
#include "ops/cross_entropy.h"

#include <optional>

#include "backends/cuda/cross_entropy.h"
#include "backends/cuda/fault.h"
#include "backends/cuda/ops.h"
#include "backends/cuda/product.h"
#include "core/device_memory.h"

namespace nibble::cuda {

namespace {

// Of a chunk of labelled rows.
struct Chunk {
  const int32_t* order;  // the rows that have a label, in order
  const int32_t* count;  // how many there are
  const int32_t* labels;
  const float* weights;  // of the rows; may be null
  int64_t begin;  // of the chunk, in `order`
  int64_t vocabulary, width;
  float scale;
  float* logits;         // [rows, V]
  float* factor;         // [rows] the row's scale / sum of e^(logit - largest)
  uint16_t* gradients;   // [rows, V] of the logits, bfloat16; may be null
  bool gradient_needed;  // in place of the logits, where they are not in pairs

  __device__ bool has(int64_t row) const { return begin + row < *count; }
  __device__ int64_t source(int64_t row) const { return order[begin + row]; }
  // Of the op's row n.
  __device__ float weight_of(int64_t n) const { return weights == nullptr ? 1.0f : weights[n]; }
};

// One block; a thread goes over a run of rows.
__global__ void order_kernel(const int32_t* labels, int64_t rows, int64_t vocabulary, int32_t* order, int32_t* count,
                             int* fault) {
  __shared__ int32_t before[kThreads + 1];
  const int64_t each = blocks_of(rows, kThreads), begin = least(rows, threadIdx.x * each), end = least(rows, begin + each);
  int32_t mine = 0;
  for (int64_t n = begin; n < end; ++n) {
    mine += labels[n] >= 0 && checked_index(labels[n], vocabulary, kLabels, fault) >= 0;
  }
  before[threadIdx.x + 1] = mine;
  __syncthreads();
  if (threadIdx.x == 0) {
    before[0] = 0;
    for (int i = 0; i < kThreads; ++i) before[i + 1] += before[i];
    *count = before[kThreads];
  }
  __syncthreads();
  int32_t at = before[threadIdx.x];
  for (int64_t n = begin; n < end; ++n) {
    if (labels[n] >= 0 && labels[n] < vocabulary) order[at++] = int32_t(n);
  }
}

// A block a row: x of the chunk's rows one after the other, zeros past the last.
template <typename T>
__global__ void gather_kernel(Chunk c, const T* x, T* to) {
  const int64_t row = blockIdx.x;
  const T* const from = c.has(row) ? x + c.source(row) * c.width : nullptr;
  for (int64_t i = threadIdx.x; i < c.width; i += blockDim.x) to[row * c.width + i] = from == nullptr ? T{} : from[i];
}

struct Softmax {
  float top, total;
};

__device__ inline Softmax softmax_of(const float* row, int64_t vocabulary, float* scratch) {
  Softmax s{-INFINITY, 0};
  for (int64_t v = threadIdx.x; v < vocabulary; v += blockDim.x) {
    if (row[v] > s.top) {
      s.total = s.total * expf(s.top - row[v]) + 1;
      s.top = row[v];
    } else {
      s.total += expf(row[v] - s.top);
    }
  }
  const float top = block_max(s.top, scratch);
  const float mine = s.top == -INFINITY && s.total == 0 ? 0.0f : s.total * expf(s.top - top);
  return {top, block_sum(mine, scratch)};
}

// A block a row: its loss, and in the place of its logits what the second product takes.
template <bool kPairs>
__global__ void loss_kernel(Chunk c, float* loss) {
  __shared__ float scratch[kWarpThreads];
  const int64_t at = blockIdx.x, vocabulary = c.vocabulary;
  float* const row = c.logits + at * vocabulary;
  uint16_t* const gradients = c.gradients == nullptr ? nullptr : c.gradients + at * vocabulary;
  if (!c.has(at)) {  // counts for nothing in W's gradient
    for (int64_t v = threadIdx.x; v < vocabulary; v += blockDim.x) {
      if (gradients != nullptr) gradients[v] = 0;
      if (!kPairs && c.gradient_needed) row[v] = 0;
    }
    return;
  }
  const int64_t n = c.source(at), label = c.labels[n];
  // [2]
  const Softmax s = softmax_of(row, vocabulary, scratch);
  const float row_weight = c.weight_of(n), scale = c.scale * row_weight;
  if (threadIdx.x == 0) {
    loss[n] = row_weight * (logf(s.total) + s.top - row[label]);
    c.factor[at] = scale / s.total;
  }
  __syncthreads();
  // [3]
  for (int64_t first = 0; c.gradient_needed && first < vocabulary; first += blockDim.x) {
    const int64_t v = first + threadIdx.x;
    const float weight = v < vocabulary ? expf(row[v] - s.top) : 0.0f;
    const float d = scale * (weight / s.total - (v == label ? 1.0f : 0.0f));
    if (kPairs) __syncthreads();  // they go where logits lay that all have read
    if (v >= vocabulary) continue;
    if (gradients != nullptr) gradients[v] = float_to_bf16(d);
    if (kPairs) {
      reinterpret_cast<uint16_t*>(row)[v] = float_to_bf16(weight);
    } else {
      row[v] = d;
    }
  }
}

// A block a row of d_x, from its sums over the vocabulary.
template <typename T, bool kPairs>
__global__ void finish_kernel(Chunk c, const __grid_constant__ WeightView w, const float* sums, T* d_x) {
  const int64_t row = blockIdx.x;
  if (!c.has(row)) return;
  const int64_t n = c.source(row), label = c.labels[n];
  const float scale = c.scale * c.weight_of(n);
  for (int64_t i = threadIdx.x; i < c.width; i += blockDim.x) {
    const float sum = sums[row * c.width + i];
    set(d_x[n * c.width + i], kPairs ? c.factor[row] * sum - scale * w.element(label, i) : sum);
  }
}

// Products and kernels of chunks, and the workspace that they share.
class Loss {
 public:
  Loss(const CrossEntropyArgs& a, int64_t logits_max);
  void run();

 private:
  void run_chunk(int64_t rows);
  template <typename T>
  void gather(int64_t rows);
  void backward_input(int64_t rows);
  void backward_weight(int64_t rows);
  Product of_rows(int64_t rows) const { return {.m = rows, .rows_used = chunk_.count, .rows_before = chunk_.begin}; }

  const CrossEntropyArgs& a_;
  const WeightView w_;
  const bool pairs_;  // both x and W are bfloat16
  const int64_t rows_, chunk_rows_;
  const Workspace<int32_t> order_, count_;
  const Workspace<float> x_, logits_, factor_, sums_;  // x_: of either dtype
  std::optional<Workspace<uint16_t>> gradients_;
  Chunk chunk_;
};

Loss::Loss(const CrossEntropyArgs& a, int64_t logits_max)
    : a_(a), w_(view_of(a.w)), pairs_(a.x.dtype == DType::kBF16 && w_.dtype == DType::kBF16), rows_(a.x.dim(0)),
      chunk_rows_(least(rows_, most(logits_max / w_.out, 1))), order_(rows_), count_(1), x_(chunk_rows_ * w_.in),
      logits_(chunk_rows_ * w_.out), factor_(chunk_rows_), sums_(a.d_x ? chunk_rows_ * w_.in : 0) {
  if (a.d_w && pairs_) gradients_.emplace(chunk_rows_ * w_.out);
  chunk_ = {.order = order_.data(), .count = count_.data(), .labels = a.labels.i32(),
            .weights = a.weights ? a.weights.f32() : nullptr, .vocabulary = w_.out, .width = w_.in, .scale = a.scale, .logits = logits_.data(), .factor = factor_.data(),
            .gradients = gradients_ ? gradients_->data() : nullptr, .gradient_needed = a.d_x || a.d_w};
}

void Loss::run() {
  clear(a_.loss.data, a_.loss.bytes());
  if (a_.d_x) clear(a_.d_x.data, a_.d_x.bytes());
  launch(order_kernel, grid_of(1), kThreads, 0, chunk_.labels, rows_, w_.out, order_.data(), count_.data(), fault_word());
  for (chunk_.begin = 0; chunk_.begin < rows_; chunk_.begin += chunk_rows_) {
    run_chunk(least(chunk_rows_, rows_ - chunk_.begin));
  }
}

template <typename T>
void Loss::gather(int64_t rows) {
  launch(gather_kernel<T>, grid_of(rows), threads_for(w_.in), 0, chunk_, data_as<T>(a_.x), reinterpret_cast<T*>(x_.data()));
}

void Loss::run_chunk(int64_t rows) {
  with_activation(a_.x.dtype, [&](auto t) { gather<decltype(t)>(rows); });
  // [1]
  Product p = of_rows(rows);
  p.term[0] = {.a = {.data = x_.data(), .dtype = a_.x.dtype, .pitch = w_.in}, .b = kWeight, .depth = w_.in};
  p.n = w_.out;
  p.c = logits_.data();
  multiply(p, w_);
  const auto loss = pairs_ ? loss_kernel<true> : loss_kernel<false>;
  launch(loss, grid_of(rows), kThreads, 0, chunk_, a_.loss.f32());
  if (a_.d_x) backward_input(rows);
  if (a_.d_w) backward_weight(rows);
}

void Loss::backward_input(int64_t rows) {
  Operand weights{.data = logits_.data(), .pitch = w_.out};
  if (pairs_) {  // the first half of the logits' place
    weights.dtype = DType::kBF16;
    weights.pitch = 2 * w_.out;
  }
  Product p = of_rows(rows);
  p.term[0] = {.a = weights, .b = kWeightTransposed, .depth = w_.out};
  p.n = w_.in;
  p.c = sums_.data();
  multiply(p, w_);
  with_activation(a_.d_x.dtype, [&](auto t) {
    using T = decltype(t);
    const auto finish = pairs_ ? finish_kernel<T, true> : finish_kernel<T, false>;
    launch(finish, grid_of(rows), threads_for(w_.in), 0, chunk_, w_, sums_.data(), data_as<T>(a_.d_x));
  });
}

void Loss::backward_weight(int64_t rows) {
  Operand d{.data = logits_.data(), .pitch = w_.out, .columns = true, .rounding = a_.x.dtype};
  if (pairs_) {
    d.data = gradients_->data();
    d.dtype = DType::kBF16;
  }
  const Operand x{.data = x_.data(), .dtype = a_.x.dtype, .pitch = w_.in, .columns = true};
  multiply({.term = {{.a = d, .b = x, .depth = rows}}, .m = w_.out, .n = w_.in, .c = a_.d_w.data, .accumulate = true}, w_);
}

}  // namespace

void linear_cross_entropy(const CrossEntropyArgs& a, int64_t logits_max) { Loss(a, logits_max).run(); }
void linear_cross_entropy(const CrossEntropyArgs& a) { linear_cross_entropy(a, kLogitsMax); }

}  // namespace nibble::cuda
