// Ops that compute nothing: they take and give back the workspace that another backend's take, so that the peak of a step
// can be counted from shapes alone. Those of a card are its own, without their kernels (backends/cuda/counting). The sizes
// of the CPU's are those of backends/cpu/{gemm,linear,cross_entropy,attention,norm,optimizer}.cpp;
// packages/engine/estimate.test.ts holds them to what steps really take.
#include "backends/meta/backend.h"

#include <algorithm>
#include <cstring>
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
using cpu::meta::columns_have_quarters;
using cpu::meta::rows_have_quarters;
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
  bool mixes = false;       // its A is packed for products in quarters

  int64_t lane_elements() const { return is_bf16 && multiplies_pairs() ? 2 : 1; }
  cpu::meta::Blocks blocks() const { return {machine().width, lane_elements(), depth}; }
  int64_t packed_floats(int64_t rows) const { return mixes ? blocks().mixed_floats(rows) : blocks().packed_floats(rows); }
};

struct Product {
  bool beside = false;  // C is not summed in place
  bool rounds = false;  // C is bfloat16: in place if its depth is one pass
  bool few = true;      // may take the way for few rows
  bool mixes = false;   // comes in quarters where that is less work
};

// For an operand whose rows are multiplied whole.
bool lies_packed(DType stored, int64_t columns, bool pairs) { return rows_lie_packed(stored, columns, columns, pairs); }

// The workspace of products that run together in backends/cpu/gemm.cpp.
class Together {
 public:
  void add(std::vector<Term> terms, int64_t m, int64_t n, Product product) {
    cpu::meta::Depths depths;
    int64_t laid_out = 0;
    bool whole = false;
    for (Term& t : terms) {
      const bool has_quarters = product.mixes && product.rounds && t.lane_elements() == 1 && columns_have_quarters(machine(), n);
      t.mixes = has_quarters && (t.is_packed ? t.mixes : rows_have_quarters(machine(), m, t.depth));
      whole = whole || t.is_packed;
      depths.add(t.blocks(), t.mixes);
      laid_out += m * ((t.depth + 15) / 16 * 16);
    }
    if (m <= kFewRows && product.few) {
      const Space x(laid_out);
      return;
    }
    const cpu::meta::Plan plan = cpu::meta::plan_of(machine(), m, n, depths, whole);
    for (const Term& t : terms) {
      if (!t.is_packed && (t.mixes || !t.lies_packed)) own_.push_back(std::make_unique<Space>(t.packed_floats(plan.slab_rows)));
    }
    const bool beside = product.beside || depths.mixed > 0 || (product.rounds && !cpu::meta::is_one_pass(depths.lanes));
    scratch_ = std::max(scratch_, plan.scratch_floats(beside));
  }
  void run() const {
    const Space scratch((blocks_of(scratch_, 16) * 16 + 1) * thread_count());
  }

 private:
  std::vector<std::unique_ptr<Space>> own_;
  int64_t scratch_ = 0;
};

void gemm(const std::vector<Term>& terms, int64_t m, int64_t n, Product product) {
  Together one;
  one.add(terms, m, n, product);
  one.run();
}

bool is_bf16(const Tensor& t) { return t.dtype == DType::kBF16; }
bool is_bf16(const Weight& w) { return (w.quantized ? w.dtype : w.data.dtype) == DType::kBF16; }

// x or d_y of products that run one after the other: packed once for all that it meets, where all have its lanes.
class Shared {
 public:
  explicit Shared(const Tensor& t) : t_(t) {}

  // `pairs`: both operands are bfloat16, or are rounded to it.
  void meets(bool pairs) {
    is_alike_ = is_alike_ && (!is_met_ || pairs == pairs_ || !multiplies_pairs());
    is_met_ = true;
    pairs_ = pairs;
  }
  void pack(bool mixes) {
    is_packed_ = is_met_ && is_alike_ && t_.dim(0) > kFewRows;
    mixes_ = is_packed_ && mixes && t_.dtype == DType::kBF16 && Term{t_.dim(1), pairs_}.lane_elements() == 1 &&
             rows_have_quarters(machine(), t_.dim(0), t_.dim(1));
    if (is_packed_ && (mixes_ || !lies(pairs_))) rows_ = std::make_unique<Space>(times(pairs_).packed_floats(t_.dim(0)));
  }
  Term times(bool pairs) const { return {t_.dim(1), pairs, is_packed_, lies(pairs), mixes_}; }

 private:
  bool lies(bool pairs) const { return lies_packed(t_.dtype, t_.dim(1), pairs && multiplies_pairs()); }

  const Tensor& t_;
  bool pairs_ = false, is_met_ = false, is_alike_ = true, is_packed_ = false, mixes_ = false;
  std::unique_ptr<Space> rows_;
};

// x or d_y on its own.
Term plain(const Tensor& t, bool pairs) {
  return {t.dim(1), pairs, false, lies_packed(t.dtype, t.dim(1), pairs && multiplies_pairs())};
}

// h or d_h times an adapter's matrix.
Term narrow(int64_t rank, bool rounds, float factor) {
  return {rank, rounds, false, !rounds && factor == 1 && lies_packed(DType::kF32, rank, false)};
}

void linears_forward(const LinearForwardArgs* args, int count) {
  const int64_t m = args[0].x.dim(0);
  const bool rounds = is_bf16(args[0].x);  // the adapter, which then has no way for few rows
  Shared x(args[0].x);
  for (const LinearForwardArgs* a = args; a < args + count; ++a) {
    if (count > 1 || a->a) x.meets(rounds && is_bf16(a->w));
    if (a->a) x.meets(rounds);
  }
  x.pack(std::any_of(args, args + count, [](const LinearForwardArgs& a) { return bool(a.a); }));
  Together adapters, all;
  for (const LinearForwardArgs* a = args; a < args + count; ++a)
    if (a->a) adapters.add({a->dropout.p > 0 ? Term{a->w.in, rounds} : x.times(rounds)}, m, a->a.dim(0), {.few = !rounds});
  adapters.run();
  for (const LinearForwardArgs* a = args; a < args + count; ++a) {
    std::vector<Term> terms = {x.times(rounds && is_bf16(a->w))};
    if (a->a) terms.push_back(narrow(a->a.dim(0), rounds, a->scaling));
    all.add(terms, m, a->w.out, {.rounds = rounds, .few = !a->a || !rounds, .mixes = bool(a->a)});
  }
  all.run();
}

struct BackwardLayer {
  const LinearBackwardArgs& a;
  int64_t m, rank;
  bool rounds;
  Space d_h;
  Shared d_y;

  explicit BackwardLayer(const LinearBackwardArgs& args)
      : a(args), m(a.d_y.dim(0)), rank(a.a ? a.a.dim(0) : 0), rounds(is_bf16(a.d_y)), d_h(m * rank), d_y(a.d_y) {
    if (!needs_d_h()) return;
    d_y.meets(pairs());
    d_y.meets(rounds);
    d_y.pack(bool(a.d_x));
  }
  bool needs_d_h() const { return a.a && (a.d_x || a.d_a); }
  bool drops() const { return a.a && a.dropout.p > 0; }
  bool pairs() const { return rounds && is_bf16(a.w); }
  void add_input_terms(std::vector<Term>& terms) const {
    if (a.a) terms.insert(terms.end(), {narrow(rank, rounds, 1), d_y.times(pairs())});
    else terms.push_back(plain(a.d_y, pairs()));
  }
  void add_gradients(Together& all) const {
    if (a.d_a) all.add({{m, rounds}}, rank, a.w.in, {.few = false});
    if (a.d_b) all.add({{m, rounds}}, rank, a.w.out, {.beside = true, .few = false});
    if (a.d_w) all.add({{m, rounds}}, a.w.out, a.w.in, {.few = false});
  }
};

void linears_backward(const LinearBackwardArgs* args, int count) {
  std::vector<std::unique_ptr<BackwardLayer>> layers;
  bool drops = false;
  for (int i = 0; i < count; ++i) layers.push_back(std::make_unique<BackwardLayer>(args[i]));
  {
    Together adapters;
    for (const auto& layer : layers) {
      drops = drops || layer->drops();
      if (layer->needs_d_h()) adapters.add({layer->d_y.times(layer->rounds)}, layer->m, layer->rank, {.few = false});
    }
    adapters.run();
  }
  const Product input{.beside = drops, .rounds = is_bf16(args[0].d_y), .few = false, .mixes = true};
  const int first_part = drops ? 1 : count;
  {
    Together all;
    std::vector<Term> terms;
    for (int i = 0; i < first_part; ++i) layers[size_t(i)]->add_input_terms(terms);
    if (args[0].d_x) all.add(terms, args[0].d_y.dim(0), args[0].w.in, input);
    for (const auto& layer : layers) layer->add_gradients(all);
    all.run();
  }
  for (int i = first_part; i < count && args[0].d_x; ++i) {
    std::vector<Term> terms;
    layers[size_t(i)]->add_input_terms(terms);
    gemm(terms, args[i].d_y.dim(0), args[i].w.in, input);
  }
}

void lora_adds(const LoraAddArgs* args, int count) {
  int64_t floats = 0;
  // h, and its parts: backends/cpu/lora_pairs.h.
  for (const LoraAddArgs* a = args; a < args + count; ++a)
    floats += (a->end - a->begin) * (a->a.dim(0) + 3 * blocks_of(a->a.dim(0), machine().width) * machine().width / 2);
  const Space h(floats);
}

void linear_cross_entropy(const CrossEntropyArgs& a) {
  const int64_t n = a.x.dim(0), width = a.w.in, vocabulary = a.w.out;
  const Space labelled(n);
  const int64_t count = std::count_if(a.labels.i32(), a.labels.i32() + n, [](int32_t label) { return label >= 0; });
  if (count == 0) return;
  const bool pairs = is_bf16(a.x) && is_bf16(a.w), multiplied = pairs && multiplies_pairs();
  const cpu::meta::LossPlan plan(machine(), multiplied ? 2 : 1, count, vocabulary, width, a.d_x && is_bf16(a.x));
  const Space x(plan.slab_rows * width), sums(a.d_x ? plan.sums_floats() : 0), state(plan.state_floats());
  const Space panels(plan.panel_floats(bool(a.d_x)));
  const Space scratch((blocks_of(plan.score_floats(), 16) * 16 + 1) * thread_count());
  const bool lies = !plan.mixes && lies_packed(a.x.dtype, width, multiplied);
  const Space packed(lies ? 0 : Term{.depth = width, .is_bf16 = pairs, .mixes = plan.mixes}.packed_floats(plan.slab_rows));
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
  const int64_t n = a.x.dim(0), columns = a.w.in, pitch = screen_pitch(columns), vocabulary = a.w.out;
  const Space values(pitch), parts((n + 3) / 4 * (pitch + 4)), rows(64 * columns), ids(n * (vocabulary / 16));
  const Space highest(n * blocks_of(vocabulary, 128));
}

void sample(const Tensor& logits, const SampleArgs*, int count, Sample* results) {
  const Space rows(logits.dim(-1) * 6 * std::min(count, thread_count()));
  std::fill(results, results + count, Sample{});
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
      .linears_forward = linears_forward,
      .linears_backward = linears_backward,
      .lora_adds = lora_adds,
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
      .adamw = [](const AdamwArgs*, int) {},
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

const Backend& cuda_counting_backend();

namespace {
thread_local bool is_card = false;
}

void count_workspace_of(Device device) { is_card = device == Device::kCuda; }

const Backend& meta_backend() { return is_card ? cuda_counting_backend() : meta::backend(); }

}  // namespace nibble
