// Linear layers as sums of packed products: the adapter is one more term of the base layer's product, so
// that y and d_x are written once. Layers of one x share it packed, their d_x is one sum, and what needs nothing of each
// other runs side by side: threads wait for each other twice a pass.
#include "ops/linear.h"

#include "backends/cpu/elements.h"
#include "backends/cpu/few.h"
#include "backends/cpu/gemm.h"
#include "backends/cpu/lora.h"
#include "backends/cpu/ops.h"
#include "backends/cpu/workspace.h"
#include "core/thread_pool.h"

namespace nibble::cpu::NIBBLE_ISA {

namespace {

constexpr int64_t kBiasColumns = 64;  // of one task

Tensor float_matrix(float* data, int64_t rows, int64_t columns) {
  return {.data = data, .dtype = DType::kF32, .rank = 2, .shape = {rows, columns}};
}

void add_column_sums(const Tensor& d_y, float* sums) {
  const int64_t rows = d_y.dim(0), columns = d_y.dim(1);
  parallel_for((columns + kBiasColumns - 1) / kBiasColumns, [&](int64_t task) {
    const int64_t begin = task * kBiasColumns;
    const int64_t count = begin + kBiasColumns < columns ? kBiasColumns : columns - begin;
    float total[kBiasColumns] = {}, row[kBiasColumns];
    for (int64_t n = 0; n < rows; ++n) {
      fetch(matrix_of(d_y), n, begin, count, row);
      for (int64_t j = 0; j < count; ++j) total[j] += row[j];
    }
    for (int64_t j = 0; j < count; ++j) sums[begin + j] += total[j];
  });
}

// x or d_y of products that run one after the other: packed once for all that it meets, where all have its lanes.
class Shared {
 public:
  explicit Shared(const Tensor& t) : operand_{matrix_of(t), true}, depth_(t.dim(1)), count_(t.dim(0)) {}

  void meets(const Operand& b) {
    const Lane lane = lane_of(operand_, b);
    is_alike_ = is_alike_ && (!is_met_ || lane == lane_);
    is_met_ = true;
    lane_ = lane;
  }
  void pack(Mixing mixing) {
    is_packed_ = is_met_ && is_alike_ && count_ > kFewRows;
    if (!is_packed_) return;
    const bool in_floats = operand_.matrix.dtype == DType::kBF16 && lane_ == Lane::kFloat;
    if (!in_floats || !rows_have_quarters(machine(), count_, depth_)) mixing = Mixing::kNone;
    rows_.reserve(operand_, lane_, depth_, count_, mixing);
    rows_.pack(0, count_);
  }
  Term times(const Operand& b) const {
    return {.a = operand_, .b = b, .depth = depth_, .packed = is_packed_ ? &rows_ : nullptr};
  }

 private:
  const Operand operand_;
  const int64_t depth_, count_;
  PackedRows rows_;
  Lane lane_ = Lane::kFloat;
  bool is_met_ = false, is_alike_ = true, is_packed_ = false;
};

struct ForwardLayer {
  explicit ForwardLayer(const LinearForwardArgs& args) : a(args), weight(args.w), w{weight.matrix(), true} {}

  bool adapts() const { return bool(a.a); }
  // Only in training: elsewhere a row's bits must not depend on the rows beside it.
  Mixing mixing() const { return adapts() ? Mixing::kAlike : Mixing::kNone; }
  Operand down() const { return {matrix_of(a.a).rounded_as(a.x.dtype), true}; }
  Operand up() const { return {matrix_of(a.b).rounded_as(a.x.dtype), true}; }
  Operand h() const { return {matrix_of(a.h).scaled(a.scaling).rounded_as(a.x.dtype), true}; }
  // h of the adapter
  Term project(const Shared& x) const {
    if (a.dropout.p == 0) return x.times(down());
    return {.a = {matrix_of(a.x).dropped(a.dropout).rounded_as(a.x.dtype), true}, .b = down(), .depth = a.w.in};
  }

  const LinearForwardArgs& a;
  const WeightMatrix weight;
  const Operand w;
};

struct BackwardLayer {
  explicit BackwardLayer(const LinearBackwardArgs& args)
      : a(args), weight(args.w), w{weight.matrix(), false}, d_y(args.d_y), d_h_space(rows() * rank()) { pack(); }

  int64_t rows() const { return a.d_y.dim(0); }
  int64_t rank() const { return a.a ? a.a.dim(0) : 0; }
  bool needs_d_h() const { return a.a && (a.d_x || a.d_a); }
  bool drops() const { return a.a && a.dropout.p > 0; }
  Operand up() const { return {matrix_of(a.b).scaled(a.scaling).rounded_as(a.d_y.dtype), false}; }
  Matrix d_h() const { return matrix_of(d_h_space.data(), rank()).rounded_as(a.d_y.dtype); }

  // d_x from d_h through A and the dropout mask, and from d_y through W: the terms, and how many.
  int input_terms(Term* terms) const {
    if (!a.a) return terms[0] = {.a = {matrix_of(a.d_y), true}, .b = w, .depth = a.w.out}, 1;
    terms[0] = {.a = {d_h(), true}, .b = {matrix_of(a.a).rounded_as(a.d_y.dtype), false}, .depth = rank(),
                .mask = drops() ? &a.dropout : nullptr};
    terms[1] = d_y.times(w);
    return 2;
  }

  const LinearBackwardArgs& a;
  const WeightMatrix weight;
  const Operand w;
  Shared d_y;
  const Workspace d_h_space;

 private:
  void pack() {
    if (!needs_d_h()) return;
    d_y.meets(w);
    d_y.meets(up());
    d_y.pack(a.d_x ? Mixing::kAll : Mixing::kNone);
  }
};

// Products that run together, and their terms.
struct Together {
  Product products[kTogetherMax];
  Term terms[kTogetherMax + 2 * kLinearsMax];
  int count = 0, terms_count = 0;

  // The terms have been written from terms[terms_count] on.
  void add(int of_product, const Result& result) {
    products[count++] = {terms + terms_count, of_product, result};
    terms_count += of_product;
  }
  Term* next() { return terms + terms_count; }
  void run() const { gemm(products, count); }

  // gradient += left^T right, summed over the rows of both; or its transpose: the operand with fewer columns is left.
  void add_gradient(const Matrix& left, const Matrix& right, int64_t rows, const Tensor& gradient, bool turned) {
    *next() = {.a = {left, false}, .b = {right, false}, .depth = rows};
    add(1, {.c = gradient, .add = true, .turned = turned});
  }
  void add_gradients(const BackwardLayer& layer) {
    const LinearBackwardArgs& a = layer.a;
    const DType dtype = a.d_y.dtype;
    if (a.d_a)
      add_gradient(layer.d_h(), matrix_of(a.x).dropped(a.dropout).rounded_as(dtype), layer.rows(), a.d_a, false);
    if (a.d_b)
      add_gradient(matrix_of(a.h).scaled(a.scaling).rounded_as(dtype), matrix_of(a.d_y), layer.rows(), a.d_b, true);
    if (a.d_w) add_gradient(matrix_of(a.d_y), matrix_of(a.x), layer.rows(), a.d_w, false);
  }
};

using ForwardLayers = Few<ForwardLayer, kLinearsMax>;
using BackwardLayers = Few<BackwardLayer, kLinearsMax>;

// Of few rows, one wait for the threads serves all layers, and x is laid out once.
bool run_few_rows(ForwardLayers& layers, const Beside& beside = {}) {
  Term terms[kLinearsMax];
  Product products[kLinearsMax];
  for (int i = 0; i < layers.count(); ++i) {
    const LinearForwardArgs& a = layers[i].a;
    terms[i] = {.a = {matrix_of(a.x), true}, .b = layers[i].w, .depth = a.w.in};
    products[i] = {terms + i, 1, {.c = a.y, .bias = a.bias.f32()}};
    if (layers[i].adapts() || !is_for_few_rows(terms + i, 1, products[i].result)) return false;
  }
  gemm_few_rows(products, layers.count(), beside);
  return true;
}

void run_adapters(ForwardLayers& layers, const Shared& x) {
  Together all;
  for (const ForwardLayer& layer : layers) {
    if (!layer.adapts()) continue;
    *all.next() = layer.project(x);
    all.add(1, {.c = layer.a.h});
  }
  all.run();
}

void run_adapters(BackwardLayers& layers) {
  Together all;
  for (const BackwardLayer& layer : layers) {
    if (!layer.needs_d_h()) continue;
    *all.next() = layer.d_y.times(layer.up());
    all.add(1, {.c = float_matrix(layer.d_h_space.data(), layer.rows(), layer.rank())});
  }
  all.run();
}

}  // namespace

void linears_forward(const LinearForwardArgs* args, int count) {
  ForwardLayers layers;
  Shared x(args[0].x);
  Mixing mixing = Mixing::kNone;
  for (int i = 0; i < count; ++i) {
    const ForwardLayer& layer = layers.add(args[i]);
    if (layer.adapts()) mixing = layer.mixing();
    if (count > 1 || layer.adapts()) x.meets(layer.w);
    if (layer.adapts()) x.meets(layer.down());
  }
  if (run_few_rows(layers)) return;
  x.pack(mixing);
  run_adapters(layers, x);
  Together all;
  for (const ForwardLayer& layer : layers) {
    all.next()[0] = x.times(layer.w);
    if (layer.adapts()) all.next()[1] = {.a = layer.h(), .b = layer.up(), .depth = layer.a.a.dim(0)};
    all.add(layer.adapts() ? 2 : 1, {.c = layer.a.y, .bias = layer.a.bias.f32(), .mixing = layer.mixing()});
  }
  all.run();
}

bool linears_adapted(const LinearForwardArgs* args, int count, const LoraAddArgs* adds, int adds_count, const Soon* soon,
                     int soon_count) {
  if (!kMultipliesPairs) return false;
  ForwardLayers layers;
  for (int i = 0; i < count; ++i) layers.add(args[i]);
  const LoraPieces pieces(adds, adds_count);
  return run_few_rows(layers, {adds_count > 0 ? &pieces : nullptr, soon, soon_count});
}

void linears_backward(const LinearBackwardArgs* args, int count) {
  BackwardLayers layers;
  for (int i = 0; i < count; ++i) layers.add(args[i]);
  run_adapters(layers);
  // A mask is of one layer's own sum: then d_x is summed a layer at a time.
  bool drops = false;
  for (const BackwardLayer& layer : layers) drops = drops || layer.drops();
  const int first_part = drops ? 1 : count;
  Together all;
  if (args[0].d_x) {
    int terms = 0;
    for (int i = 0; i < first_part; ++i) terms += layers[i].input_terms(all.next() + terms);
    all.add(terms, {.c = args[0].d_x, .add = args[0].accumulate_dx, .mixing = Mixing::kAll});
  }
  for (const BackwardLayer& layer : layers) all.add_gradients(layer);
  all.run();
  for (int i = first_part; i < count && args[0].d_x; ++i) {
    Term terms[2];
    gemm(terms, layers[i].input_terms(terms), {.c = args[0].d_x, .add = true, .mixing = Mixing::kAll});
  }
  for (int i = 0; i < count; ++i)
    if (args[i].d_bias) add_column_sums(args[i].d_y, args[i].d_bias.f32());
}

void scale_columns(const ScaleColumnsArgs& a) {
  const int64_t out = a.y.dim(1);
  const float *factor = a.factor.f32(), *bias = a.bias.f32();
  with_type(a.y.dtype, [&](auto type) {
    auto* const y = data_as<decltype(type)>(a.y);
    parallel_for(a.end - a.begin, [&](int64_t row) {
      auto* const to = y + (a.begin + row) * out;
      each_vector(0, out, [&](int64_t i, int n) NIBBLE_INLINE {
        const Vec b = bias == nullptr ? Vec{} : load(bias + i, n);
        store(to + i, fma(load(factor + i, n), load(to + i, n) - b, b), n);
      });
    });
  });
}

}  // namespace nibble::cpu::NIBBLE_ISA
