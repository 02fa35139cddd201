// Ops that compute nothing: they take and give back the workspace that the CPU backend's take, so that the peak
// of a step can be counted from shapes alone. The sizes are those of backends/cpu/{gemm,linear,cross_entropy,
// attention,norm,optimizer}.cpp; packages/engine/estimate.test.ts holds them to what steps really take.
#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <vector>

#include "core/memory.h"
#include "core/thread_pool.h"
#include "ops/backend.h"

namespace nibble {

namespace meta {

namespace {

// Floats of workspace, held as long as it lives.
class Space {
 public:
  explicit Space(int64_t floats) : block_(meta_memory().allocate(floats * 4, Kind::kWorkspace)) {}
  ~Space() { meta_memory().release(block_); }
  Space(const Space&) = delete;
  Space& operator=(const Space&) = delete;

 private:
  void* block_;
};

int64_t blocks_of(int64_t count, int64_t size) { return (count + size - 1) / size; }

template <typename Args>
void nothing(const Args&) {}

bool multiplies_pairs() { return std::strcmp(isa_name(), "avx512_bf16") == 0; }

constexpr int64_t kDepth = 256, kPitch = kDepth + 16, kTileColumns = 32, kPanelColumns = 256;
constexpr int64_t kFewRows = 8;

// One sum of products of a matrix product.
struct Term {
  int64_t depth;
  bool is_bf16 = false;    // both operands are, or are rounded to it
  bool is_packed = false;  // its A is packed already
};

struct Product {
  bool beside = false;  // C is not summed in place
  bool few = true;      // may take the way for few rows
};

int64_t packed_row(const Term& t) {
  return blocks_of(t.depth, kDepth * (t.is_bf16 && multiplies_pairs() ? 2 : 1)) * kPitch;
}

// The workspace of backends/cpu/gemm.cpp.
void gemm(std::initializer_list<Term> terms, int64_t m, int64_t n, Product product) {
  int64_t packed = 0, depth = 0, laid_out = 0;
  bool whole = false;
  for (const Term& t : terms) {
    if (t.is_packed) whole = true;
    else packed += packed_row(t);
    depth += t.depth;
    laid_out += m * ((t.depth + 15) / 16 * 16);
  }
  if (m <= kFewRows && product.few) {
    const Space x(laid_out);
    return;
  }
  const int64_t slab = whole ? m : std::min(m, std::max<int64_t>((8 << 20) / std::max<int64_t>(packed, 1), 256));
  const int64_t wanted = int64_t(std::min(double(2 * (slab + 32) * n * depth) / 8e6, 32.0));
  int64_t rows = slab, columns = kPanelColumns;
  const auto tasks = [&] { return blocks_of(slab, rows) * blocks_of(n, columns); };
  while (tasks() < wanted && rows > 256) rows = (rows + 1) / 2;
  while (tasks() < wanted && columns > kTileColumns) columns /= 2;
  std::vector<std::unique_ptr<Space>> own;
  for (const Term& t : terms) {
    if (!t.is_packed) own.push_back(std::make_unique<Space>(packed_row(t) * slab));
  }
  const int64_t piece = blocks_of(columns * kDepth + (product.beside ? rows * columns : 0), 16) * 16;
  const Space scratch((piece + 1) * thread_count());
}

bool is_bf16(const Tensor& t) { return t.dtype == DType::kBF16; }
bool is_bf16(const Weight& w) { return (w.quantized ? w.dtype : w.data.dtype) == DType::kBF16; }

// x or d_y, packed once for the products with W and with the adapter where both have its lanes.
struct Shared {
  bool pairs_weight, pairs_adapter, is_packed;
  Space rows;

  Shared(const Tensor& t, const Weight& w)
      : pairs_weight(is_bf16(t) && is_bf16(w)), pairs_adapter(is_bf16(t)),
        is_packed(t.dim(0) > kFewRows && (pairs_weight == pairs_adapter || !multiplies_pairs())),
        rows(is_packed ? packed_row({t.dim(1), pairs_weight}) * t.dim(0) : 0) {}
};

void linear_forward(const LinearForwardArgs& a) {
  const int64_t m = a.x.dim(0);
  const Product out{.beside = is_bf16(a.y)};
  if (!a.a) return gemm({{a.w.in, is_bf16(a.x) && is_bf16(a.w)}}, m, a.w.out, out);
  const int64_t rank = a.a.dim(0);
  const bool rounds = is_bf16(a.x);  // the adapter, which then has no way for few rows
  const Shared x(a.x, a.w);
  gemm({{a.w.in, x.pairs_adapter, x.is_packed && a.dropout.p == 0}}, m, rank, {.few = !rounds});
  gemm({{a.w.in, x.pairs_weight, x.is_packed}, {rank, rounds}}, m, a.w.out, {.beside = out.beside, .few = !rounds});
}

void backward_input(const LinearBackwardArgs& a, const Term& base) {
  const Product out{.beside = is_bf16(a.d_x) || a.dropout.p > 0, .few = false};
  if (a.a) return gemm({{a.a.dim(0), is_bf16(a.d_y)}, base}, a.d_y.dim(0), a.w.in, out);
  gemm({base}, a.d_y.dim(0), a.w.in, out);
}

void linear_backward(const LinearBackwardArgs& a) {
  const int64_t m = a.d_y.dim(0), rank = a.a ? a.a.dim(0) : 0;
  const bool rounds = is_bf16(a.d_y);
  const Space d_h(m * rank);
  if (a.a && (a.d_x || a.d_a)) {
    const Shared d_y(a.d_y, a.w);
    gemm({{a.w.out, d_y.pairs_adapter, d_y.is_packed}}, m, rank, {.few = false});
    if (a.d_x) backward_input(a, {a.w.out, d_y.pairs_weight, d_y.is_packed});
  } else if (a.d_x) {
    backward_input(a, {a.w.out, rounds && is_bf16(a.w)});
  }
  if (a.d_a) gemm({{m, rounds}}, rank, a.w.in, {.few = false});
  if (a.d_b) gemm({{m, rounds}}, rank, a.w.out, {.beside = true, .few = false});
  if (a.d_w) gemm({{m, rounds}}, a.w.out, a.w.in, {.few = false});
}

void lora_add(const LoraAddArgs& a) {
  const int64_t m = a.end - a.begin, rank = a.a.dim(0);
  const Space h(m * rank);
  gemm({{a.x.dim(1)}}, m, rank, {});
  gemm({{rank}}, m, a.y.dim(1), {.beside = is_bf16(a.y)});
}

void linear_cross_entropy(const CrossEntropyArgs& a) {
  const int64_t n = a.x.dim(0), width = a.w.in, vocabulary = a.w.out;
  const Space labelled(n);
  const int64_t count = std::count_if(a.labels.i32(), a.labels.i32() + n, [](int32_t label) { return label >= 0; });
  if (count == 0) return;
  const int64_t rows = std::min(count, std::max<int64_t>((8 << 20) / vocabulary, 64));
  const Space x(rows * width), logits(rows * vocabulary), d_x(a.d_x ? rows * width : 0);
  const bool pairs = is_bf16(a.x) && is_bf16(a.w);
  gemm({{width, pairs}}, rows, vocabulary, {});
  if (a.d_x) gemm({{vocabulary, pairs}}, rows, width, {.few = false});
  if (a.d_w) gemm({{rows, is_bf16(a.x)}}, vocabulary, width, {.few = false});
}

void norm_backward(const NormBackwardArgs& a) {
  const int64_t rows = a.s.dim(0);
  const int64_t per_group = rows / 64 >= 16 ? blocks_of(rows, 64) : 16;
  const Space parts(blocks_of(rows, per_group) * ((a.d_weight ? 1 : 0) + (a.d_bias ? 1 : 0)) * a.s.dim(1));
}

void attention_forward(const AttentionForwardArgs& a) {
  const Space runs(blocks_of(a.q.dim(0), 8) * 4);
}

void attention_backward(const AttentionBackwardArgs& a) {
  const int64_t wide = a.q.dtype == DType::kF32 ? 0 : a.q.count() + 2 * a.k.count();
  const Space deltas(a.q.dim(0) * a.shape.heads + wide);
  const Space runs(blocks_of(a.q.dim(0), 64) * 4);
}

double sum_squares(const Tensor& x) {
  const Space partial(blocks_of(x.count(), 1 << 14) * 2);
  return 0;
}

Sample sample(const SampleArgs& a) {
  const Space candidates(a.logits.dim(-1) * 5);
  return {};
}

}  // namespace

const Backend& backend() {
  static const Backend instance = {
      .name = "meta",
      .quantize4 = nothing,
      .dequantize4 = nothing,
      .linear_forward = linear_forward,
      .linear_backward = linear_backward,
      .lora_add = lora_add,
      .linear_cross_entropy = linear_cross_entropy,
      .embedding_forward = nothing,
      .embedding_backward = nothing,
      .norm_forward = nothing,
      .norm_backward = norm_backward,
      .rope = nothing,
      .activation_forward = nothing,
      .activation_backward = nothing,
      .attention_forward = attention_forward,
      .attention_backward = attention_backward,
      .paged_attention = nothing,
      .kv_write = nothing,
      .adamw = nothing,
      .sum_squares = sum_squares,
      .add = nothing,
      .scale = nothing,
      .convert = nothing,
      .random_fill = nothing,
      .sample = sample,
  };
  return instance;
}

}  // namespace meta

const Backend& meta_backend() { return meta::backend(); }

}  // namespace nibble
