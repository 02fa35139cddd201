// Ops that compute nothing: they take and give back the workspace that the CPU backend's take, so that the peak
// of a step can be counted from shapes alone. The sizes are those of backends/cpu/{gemm,linear,cross_entropy,
// attention,norm,optimizer}.cpp; packages/engine/estimate.test.ts holds them to what steps really take.
#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#define NIBBLE_ISA meta
#include "ops/cross_entropy_plan.h"
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

using cpu::meta::blocks_of;
using cpu::meta::rows_lie_packed;

template <typename Args>
void nothing(const Args&) {}

bool multiplies_pairs() { return std::strcmp(isa_name(), "avx512_bf16") == 0; }

constexpr int64_t kFewRows = 8;

cpu::meta::Machine machine() {
  const std::string isa = isa_name();
  const int64_t width = isa == "portable" ? 4 : isa == "avx2" ? 8 : 16;
  return {width, 2 * width, thread_count()};
}

// One sum of products of a matrix product.
struct Term {
  int64_t depth;
  bool is_bf16 = false;     // both operands are, or are rounded to it
  bool is_packed = false;   // its A is packed already
  bool lies_packed = false; // its A needs no packing

  int64_t lane_elements() const { return is_bf16 && multiplies_pairs() ? 2 : 1; }
  int64_t packed_floats(int64_t rows) const {
    return cpu::meta::Blocks(machine().width, lane_elements(), depth).packed_floats(rows);
  }
};

struct Product {
  bool beside = false;  // C is not summed in place
  bool rounds = false;  // C is bfloat16: in place if its depth is one pass
  bool few = true;      // may take the way for few rows
};

// For an operand whose rows are multiplied whole.
bool lies_packed(DType stored, int64_t columns, bool pairs) { return rows_lie_packed(stored, columns, columns, pairs); }

// The workspace of backends/cpu/gemm.cpp.
void gemm(std::initializer_list<Term> terms, int64_t m, int64_t n, Product product) {
  int64_t lanes = 0, laid_out = 0;
  bool whole = false;
  for (const Term& t : terms) {
    whole = whole || t.is_packed;
    lanes += blocks_of(t.depth, t.lane_elements());
    laid_out += m * ((t.depth + 15) / 16 * 16);
  }
  if (m <= kFewRows && product.few) {
    const Space x(laid_out);
    return;
  }
  const cpu::meta::Plan plan = cpu::meta::plan_of(machine(), m, n, lanes, whole);
  std::vector<std::unique_ptr<Space>> own;
  for (const Term& t : terms) {
    if (!t.is_packed && !t.lies_packed) own.push_back(std::make_unique<Space>(t.packed_floats(plan.slab_rows)));
  }
  const bool beside = product.beside || (product.rounds && !cpu::meta::is_one_pass(lanes));
  const Space scratch((blocks_of(plan.scratch_floats(beside), 16) * 16 + 1) * thread_count());
}

bool is_bf16(const Tensor& t) { return t.dtype == DType::kBF16; }
bool is_bf16(const Weight& w) { return (w.quantized ? w.dtype : w.data.dtype) == DType::kBF16; }

// x or d_y, packed once for the products with W and with the adapter where both have its lanes.
struct Shared {
  bool pairs_weight, pairs_adapter, is_packed;
  bool lies_weight, lies_adapter;
  int64_t depth;
  Space rows;

  Shared(const Tensor& t, const Weight& w)
      : pairs_weight(is_bf16(t) && is_bf16(w)), pairs_adapter(is_bf16(t)),
        is_packed(t.dim(0) > kFewRows && (pairs_weight == pairs_adapter || !multiplies_pairs())),
        lies_weight(lies_packed(t.dtype, t.dim(1), pairs_weight && multiplies_pairs())),
        lies_adapter(lies_packed(t.dtype, t.dim(1), pairs_adapter && multiplies_pairs())),
        depth(t.dim(1)),
        rows(is_packed && !lies_weight ? Term{t.dim(1), pairs_weight}.packed_floats(t.dim(0)) : 0) {}

  Term times_weight() const { return {depth, pairs_weight, is_packed, lies_weight}; }
  Term times_adapter() const { return {depth, pairs_adapter, is_packed, lies_adapter}; }
};

// x or d_y on its own.
Term plain(const Tensor& t, bool pairs) {
  return {t.dim(1), pairs, false, lies_packed(t.dtype, t.dim(1), pairs && multiplies_pairs())};
}

// h or d_h times an adapter's matrix.
Term narrow(int64_t rank, bool rounds, float factor) {
  return {rank, rounds, false, !rounds && factor == 1 && lies_packed(DType::kF32, rank, false)};
}

void linear_forward(const LinearForwardArgs& a) {
  const int64_t m = a.x.dim(0);
  const Product out{.rounds = is_bf16(a.y)};
  if (!a.a) return gemm({plain(a.x, is_bf16(a.x) && is_bf16(a.w))}, m, a.w.out, out);
  const int64_t rank = a.a.dim(0);
  const bool rounds = is_bf16(a.x);  // the adapter, which then has no way for few rows
  const Shared x(a.x, a.w);
  gemm({a.dropout.p > 0 ? Term{a.w.in, rounds} : x.times_adapter()}, m, rank, {.few = !rounds});
  gemm({x.times_weight(), narrow(rank, rounds, a.scaling)}, m, a.w.out, {.rounds = out.rounds, .few = !rounds});
}

void linears_forward(const LinearForwardArgs* args, int count) {
  for (int i = 0; i < count; ++i) meta::linear_forward(args[i]);
}

void backward_input(const LinearBackwardArgs& a, const Term& base) {
  const Product out{.beside = a.a && a.dropout.p > 0, .rounds = is_bf16(a.d_x), .few = false};
  if (a.a) return gemm({narrow(a.a.dim(0), is_bf16(a.d_y), 1), base}, a.d_y.dim(0), a.w.in, out);
  gemm({base}, a.d_y.dim(0), a.w.in, out);
}

void linear_backward(const LinearBackwardArgs& a) {
  const int64_t m = a.d_y.dim(0), rank = a.a ? a.a.dim(0) : 0;
  const bool rounds = is_bf16(a.d_y);
  const Space d_h(m * rank);
  if (a.a && (a.d_x || a.d_a)) {
    const Shared d_y(a.d_y, a.w);
    gemm({d_y.times_adapter()}, m, rank, {.few = false});
    if (a.d_x) backward_input(a, d_y.times_weight());
  } else if (a.d_x) {
    backward_input(a, plain(a.d_y, rounds && is_bf16(a.w)));
  }
  if (a.d_a) gemm({{m, rounds}}, rank, a.w.in, {.few = false});
  if (a.d_b) gemm({{m, rounds}}, rank, a.w.out, {.beside = true, .few = false});
  if (a.d_w) gemm({{m, rounds}}, a.w.out, a.w.in, {.few = false});
}

void lora_add(const LoraAddArgs& a) {
  const int64_t m = a.end - a.begin, rank = a.a.dim(0);
  const Space h(m * rank);
  gemm({plain(a.x, false)}, m, rank, {});
  gemm({narrow(rank, false, a.scaling)}, m, a.y.dim(1), {.rounds = is_bf16(a.y)});
}

void linear_cross_entropy(const CrossEntropyArgs& a) {
  const int64_t n = a.x.dim(0), width = a.w.in, vocabulary = a.w.out;
  const Space labelled(n);
  const int64_t count = std::count_if(a.labels.i32(), a.labels.i32() + n, [](int32_t label) { return label >= 0; });
  if (count == 0) return;
  const bool pairs = is_bf16(a.x) && is_bf16(a.w), multiplied = pairs && multiplies_pairs();
  const cpu::meta::LossPlan plan(machine(), multiplied ? 2 : 1, count, vocabulary, width);
  const Space x(plan.slab_rows * width), sums(a.d_x ? plan.sums_floats() : 0), state(plan.state_floats());
  const Space panels(plan.panel_floats(bool(a.d_x)));
  const Space scratch((blocks_of(plan.score_floats(), 16) * 16 + 1) * thread_count());
  const bool lies = lies_packed(a.x.dtype, width, multiplied);
  const Space packed(lies ? 0 : Term{width, pairs}.packed_floats(plan.slab_rows));
  if (!a.d_w) return;
  const int64_t columns = cpu::meta::gradient_columns(plan.slab_rows, vocabulary);
  const Space logits(plan.slab_rows * columns);
  gemm({{width, pairs, false, lies}}, plan.slab_rows, columns, {});
  gemm({{plan.slab_rows, is_bf16(a.x)}}, columns, width, {.few = false});
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

double sum_squares(const Tensor* all, int count) {
  for (int i = 0; i < count; ++i) const Space partial(blocks_of(all[i].count(), 1 << 14) * 2);
  return 0;
}

void screened_head(const ScreenedHeadArgs& a) {
  const int64_t columns = a.w.in, pitch = screen_pitch(columns);
  const Space parts(a.x.dim(0) * pitch / 2 + pitch), rows(64 * columns), ids(a.w.out / 16);
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
      .quantize_absmax = nothing,
      .dequantize_absmax = nothing,
      .count_nonfinite = [](const Tensor&) { return int64_t{0}; },
      .linear_forward = linear_forward,
      .linears_forward = linears_forward,
      .linear_backward = linear_backward,
      .lora_add = lora_add,
      .scale_columns = nothing,
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
      .screen_head = nothing,
      .screened_head = screened_head,
  };
  return instance;
}

}  // namespace meta

const Backend& meta_backend() { return meta::backend(); }

}  // namespace nibble
