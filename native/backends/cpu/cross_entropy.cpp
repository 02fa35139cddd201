// Softmax over the vocabulary a block at a time (Dao et al., arXiv:2205.14135, with W as keys and values): the logits of
// a block are made, weighed against the largest so far, and multiplied with W while they are in the cache. What a
// shard of the vocabulary summed up is joined at the end. The label's own weight is left out of the products: its
// gradient is a difference that rounding must not touch.
#include "ops/cross_entropy.h"

#include <math.h>

#include "backends/cpu/elements.h"
#include "backends/cpu/gemm.h"
#include "backends/cpu/math.h"
#include "backends/cpu/ops.h"
#include "backends/cpu/workspace.h"
#include "core/thread_pool.h"
#include "ops/cross_entropy_plan.h"

namespace nibble::cpu::NIBBLE_ISA {

namespace {

constexpr float kNothing = -3.4028235e38f;  // running maximum before any logit

float largest(const float* x, int64_t count) {
  Vec top = load(x);
  for (int64_t i = kWidth; i < count; i += kWidth) top = load(x + i) > top ? load(x + i) : top;
  return max(top);
}

float exp_of(float x) {
  return exp(splat(x))[0];
}

// Rows with a label, gathered: x has the dtype of the op's x, and its rows as the products read them.
struct Rows {
  const int32_t* index;  // in the op's tensors
  int64_t count;
  Tensor x;
  const PackedRows* packed;
};

// Memory of a slab of rows, [shards, rows, ...].
struct Memory {
  float *sums, *panels, *top, *total, *chosen;
  float* log_total;  // out [rows]: log of the sum of e^logit
};

class Slab {
 public:
  Slab(const CrossEntropyArgs& a, const Matrix& w, const LossPlan& plan, const Rows& rows, const Memory& memory,
       const Scratch& scratch)
      : a_(a), w_(w), plan_(plan), rows_(rows), memory_(memory), scratch_(scratch), lane_(rows.packed->lane()),
        depth_(blocks_of(lane_, a.w.in)) {}

  // Losses and, with d_x, gradients of the slab's rows.
  void run() {
    const int64_t row_tasks = blocks_of(rows_.count, plan_.task_rows);
    for (int64_t step = 0; step < plan_.shard_blocks; ++step) {
      pack(step);
      parallel_for(plan_.shards * row_tasks, [&](int64_t task) {
        const int64_t row = task % row_tasks * plan_.task_rows;
        add_block(task / row_tasks, step, row, least(plan_.task_rows, rows_.count - row));
      });
    }
    parallel_for(rows_.count, [&](int64_t i) { finish(i); });
  }

 private:
  // The step-th block of a shard: its first word, and how many; none past the end.
  int64_t first_of(int64_t shard, int64_t step) const { return (shard * plan_.shard_blocks + step) * plan_.block; }
  int64_t words_of(int64_t first) const { return least(plan_.block, a_.w.out - first); }
  float* turned(int64_t shard) const { return memory_.panels + shard * plan_.turned; }
  float* straight(int64_t shard) const { return memory_.panels + plan_.shards * plan_.turned + shard * plan_.straight; }

  // W of one block of every shard, as the operand of both products.
  void pack(int64_t step) {
    const int64_t words = blocks_of(plan_.block, kLossColumns), features = a_.d_x ? blocks_of(a_.w.in, kLossColumns) : 0;
    parallel_for(plan_.shards * (words + features), [&](int64_t task) {
      const int64_t shard = task / (words + features), part = task % (words + features);
      const int64_t first = first_of(shard, step), count = words_of(first);
      if (count <= 0) return;
      if (part < words) pack_words(shard, first, part * kLossColumns, count);
      else pack_features(shard, first, (part - words) * kLossColumns, count);
    });
  }

  // In quarters.
  bool mixes(int64_t count) const { return plan_.mixes && count == plan_.block; }

  void pack_words(int64_t shard, int64_t first, int64_t column, int64_t count) {
    if (column >= count) return;
    const Operand w{w_, true};
    const int64_t columns = least(kLossColumns, count - column);
    for (int64_t i = 0; i < depth_.count; ++i) {
      const int64_t k0 = i * depth_.depth, depth = least(depth_.depth, a_.w.in - k0);
      const int64_t at = mixes(count) ? seven_floats(k0, count) + seven_floats(depth, column)
                                      : k0 / elements_of(lane_) * plan_.block + column * lanes_of(lane_, depth);
      if (mixes(count)) pack_quarters(w, first + column, columns, k0, depth, turned(shard) + at);
      else pack_columns(w, lane_, first + column, columns, k0, depth, turned(shard) + at);
    }
  }

  void pack_features(int64_t shard, int64_t first, int64_t column, int64_t count) {
    const Operand w{w_, false};
    const int64_t columns = least(kLossColumns, a_.w.in - column);
    if (mixes(count)) pack_quarters(w, column, columns, first, count, straight(shard) + seven_floats(count, column));
    else pack_columns(w, lane_, column, columns, first, count, straight(shard) + column * lanes_of(lane_, count));
  }

  void add_block(int64_t shard, int64_t step, int64_t row, int64_t rows) {
    const int64_t first = first_of(shard, step), count = words_of(first);
    if (count <= 0) return;
    const Scratch::Piece piece(scratch_);
    float* const scores = piece.data();
    // [1] logits
    if (mixes(count)) multiply_quarters_of_x(shard, row, rows, scores);
    else multiply_x(shard, row, rows, count, scores);
    // [2] their weights
    for (int64_t r = 0; r < rows; ++r) weigh(shard, row + r, first, count, scores + r * plan_.score_pitch, step == 0);
    // [3] weights times W
    if (!a_.d_x) return;
    if (mixes(count)) return multiply_quarters_of_weights(shard, row, rows, scores, step > 0);
    const Piece product{scores, plan_.score_pitch, straight(shard), lanes_of(lane_, count), lane_};
    multiply(product, rows, a_.w.in, sums(shard, row), plan_.pitch, step > 0);
  }

  void multiply_x(int64_t shard, int64_t row, int64_t rows, int64_t count, float* scores) {
    for (int64_t i = 0; i < depth_.count; ++i) {
      const int64_t k0 = i * depth_.depth, lanes = lanes_of(lane_, least(depth_.depth, a_.w.in - k0));
      const Piece product{rows_.packed->at(i, row), rows_.packed->pitch(),
                          turned(shard) + k0 / elements_of(lane_) * plan_.block, lanes, lane_};
      multiply(product, rows, count, scores, plan_.score_pitch, i > 0);
    }
  }

  void multiply_quarters_of_x(int64_t shard, int64_t row, int64_t rows, float* scores) {
    for (int64_t i = 0; i < depth_.count; ++i) {
      const int64_t k0 = i * depth_.depth, depth = least(depth_.depth, a_.w.in - k0);
      const float* const w = turned(shard) + seven_floats(k0, plan_.block);
      multiply_runs(w, depth, rows, plan_.block, scores, plan_.score_pitch, i > 0,
                    [&](Quarters& q, int64_t r, int64_t) { rows_.packed->place(q, i, row + r); });
    }
  }

  void multiply_quarters_of_weights(int64_t shard, int64_t row, int64_t rows, float* scores, bool add) {
    const int64_t pitch = plan_.score_pitch, depth = plan_.block / 2, s_step = plan_.task_rows / 2 * plan_.mixed_pitch;
    float* const s = scores + plan_.task_rows * pitch;
    const auto place = [&](Quarters& q, int64_t r, int64_t half) {
      for (int64_t i = r; i < r + half; ++i)
        mix_rows(scores + i * pitch, scores + (i + half) * pitch, depth, s + (i - r) * plan_.mixed_pitch, s_step);
      place_rows(q, {scores + r * pitch, pitch}, half, depth, {s, plan_.mixed_pitch}, s_step);
    };
    multiply_runs(straight(shard), 2 * depth, rows, a_.w.in, sums(shard, row), plan_.pitch, add, place);
  }

  // c [rows, columns] (+)= a product in quarters with panels of W; place(quarters, row, half of the run) writes where its
  // rows are.
  template <typename Place>
  static void multiply_runs(const float* w, int64_t depth, int64_t rows, int64_t columns, float* c, int64_t pitch, bool add,
                            Place place) {
    Quarters quarters;
    for (int64_t row = 0, of_run; row < rows; row += of_run) {
      of_run = run_of(rows - row);
      place(quarters, row, of_run / 2);
      for (int64_t j = 0; j < columns; j += kLossColumns) {
        const int64_t pairs = least(kLossColumns, columns - j) / (2 * kTileColumns);
        place_columns(quarters, w + seven_floats(depth, j), depth / 2 * kTileColumns, pairs);
        multiply_quarters(quarters, of_run, pairs, c + row * pitch + j, pitch, add);
      }
    }
  }

  // Of all columns, as many at a time as stay in the second-level cache.
  static void multiply(Piece piece, int64_t rows, int64_t columns, float* c, int64_t pitch, bool add) {
    const int64_t fit = kPanelFloats / 2 / piece.depth / kTileColumns * kTileColumns;
    const int64_t most = fit < kTileColumns ? kTileColumns : fit;
    for (int64_t j = 0; j < columns; j += most) {
      multiply_pieces(&piece, 1, rows, least(most, columns - j), {.c = c + j, .pitch = pitch, .padded = true, .add = add});
      piece.b += most * piece.depth;
    }
  }

  float* sums(int64_t shard, int64_t row) const { return memory_.sums + (shard * plan_.slab_rows + row) * plan_.pitch; }

  // A row's logits become e^(logit - largest so far): bfloat16 numbers from the row's beginning where pairs are
  // multiplied, 0 for the label and past the end.
  void weigh(int64_t shard, int64_t row, int64_t first, int64_t count, float* score, bool is_first) {
    float &top = memory_.top[shard * plan_.slab_rows + row], &total = memory_.total[shard * plan_.slab_rows + row];
    for (int64_t i = count; i % kWidth != 0; ++i) score[i] = -INFINITY;
    const int64_t label = a_.labels.i32()[rows_.index[row]] - first;
    const bool has_label = label >= 0 && label < count;
    if (has_label) memory_.chosen[row] = score[label];
    if (is_first) top = kNothing, total = 0;
    const float highest = largest(score, count);
    if (highest > top) {
      if (!is_first) shrink(shard, row, exp_of(top - highest), total);
      top = highest;
    }
    Vec sum_of_row{};
    for (int64_t i = 0; i < count; i += kWidth) {
      const Vec weight = exp(load(score + i) - splat(top));
      sum_of_row += weight;
      store_weights(score, i, weight);
    }
    total += sum(sum_of_row);
    if (has_label) clear_weight(score, label);
  }

  void shrink(int64_t shard, int64_t row, float factor, float& total) {
    total *= factor;
    float* const sum = sums(shard, row);
    if (!a_.d_x) return;
    for (int64_t i = 0; i < plan_.pitch; i += kWidth) store(sum + i, load(sum + i) * splat(factor));
  }

  void store_weights(float* row, int64_t at, Vec weights) const {
#if defined(__AVX512BF16__)
    if (lane_ == Lane::kPair) return store_rounded(reinterpret_cast<uint16_t*>(row) + at, weights);
#endif
    store(row + at, weights);
  }
  void clear_weight(float* row, int64_t at) const {
    if (lane_ == Lane::kPair) reinterpret_cast<uint16_t*>(row)[at] = 0;
    else row[at] = 0;
  }

  // [4] what the shards of row i found, joined
  void finish(int64_t i) {
    float top = kNothing, total = 0, share[kLossShards];
    for (int64_t s = 0; s < plan_.shards; ++s) top = top_of(s, i) > top ? top_of(s, i) : top;
    for (int64_t s = 0; s < plan_.shards; ++s) {
      share[s] = exp_of(top_of(s, i) - top);
      total += share[s] * memory_.total[s * plan_.slab_rows + i];
    }
    const float chosen = memory_.chosen[i], weight = a_.weight_of(rows_.index[i]), scale = a_.scale * weight;
    a_.loss.f32()[rows_.index[i]] = weight * (logf(total) + (top - chosen));
    memory_.log_total[i] = logf(total) + top;
    if (!a_.d_x) return;
    for (int64_t s = 0; s < plan_.shards; ++s) share[s] *= scale / total;
    const float of_label = (exp_of(chosen - top) / total - 1) * scale;
    with_type(a_.x.dtype, [&](auto type) { join<decltype(type)>(i, share, of_label); });
  }

  float top_of(int64_t shard, int64_t row) const { return memory_.top[shard * plan_.slab_rows + row]; }

  template <typename T>
  void join(int64_t i, const float* share, float of_label) {
    const int64_t row = rows_.index[i], width = a_.w.in, label = a_.labels.i32()[row];
    T* const d_x = data_as<T>(a_.d_x) + row * width;
    constexpr int64_t kPart = 256;
    alignas(64) float w[kPart];
    for (int64_t begin = 0; begin < width; begin += kPart) {
      fetch(w_, label, begin, least(kPart, width - begin), w);
      each_vector(begin, least(begin + kPart, width), [&](int64_t c, int n) NIBBLE_INLINE {
        Vec total = load(w + c - begin) * splat(of_label);
        for (int64_t s = 0; s < plan_.shards; ++s) total = fma(load(sums(s, i) + c), splat(share[s]), total);
        store(d_x + c, total, n);
      });
    }
  }

  const CrossEntropyArgs& a_;
  const Matrix& w_;
  const LossPlan& plan_;
  const Rows& rows_;
  const Memory& memory_;
  const Scratch& scratch_;
  const Lane lane_;
  const Blocks depth_;
};

Tensor float_matrix(float* data, int64_t rows, int64_t columns) {
  return {.data = data, .dtype = DType::kF32, .rank = 2, .shape = {rows, columns}};
}

// d_w of a dense W: the logits of some of its rows once more, now that their sums are known.
template <typename T>
void add_weight_gradient(const CrossEntropyArgs& a, const Rows& rows, const float* log_total) {
  const int64_t width = a.w.in, most = gradient_columns(rows.count, a.w.out);
  Workspace logits(rows.count * most);
  for (int64_t first = 0; first < a.w.out; first += most) {
    const int64_t words = least(most, a.w.out - first);
    Tensor w = a.w.data, d_w = a.d_w;
    w.data = w.u8() + first * width * size_of(w.dtype);
    d_w.data = d_w.f32() + first * width;
    d_w.shape[0] = words;
    const Term forward{.a = {matrix_of(rows.x), true}, .b = {matrix_of(w), true}, .depth = width};
    gemm(&forward, 1, {.c = float_matrix(logits.data(), rows.count, words)});
    parallel_for(rows.count, [&](int64_t i) {
      float* const logit = logits.data() + i * words;
      T* const gradient = reinterpret_cast<T*>(logit);
      const int64_t label = a.labels.i32()[rows.index[i]] - first;
      const float scale = a.scale * a.weight_of(rows.index[i]);
      const float chosen = label >= 0 && label < words ? exp_of(logit[label] - log_total[i]) * scale - scale : 0;
      each_vector(0, words, [&](int64_t v, int n) NIBBLE_INLINE {
        store(gradient + v, exp(load(logit + v, n) - splat(log_total[i])) * splat(scale), n);
      });
      if (label >= 0 && label < words) store(gradient + label, splat(chosen), 1);
    });
    const Matrix d_logits{.data = logits.data(), .dtype = a.x.dtype, .columns = words * 4 / int64_t(sizeof(T))};
    const Term backward{.a = {d_logits, false}, .b = {matrix_of(rows.x), false}, .depth = rows.count};
    gemm(&backward, 1, {.c = d_w, .add = true});
  }
}

template <typename T>
void gather(const CrossEntropyArgs& a, const Rows& rows) {
  const int64_t width = a.w.in;
  parallel_for(rows.count, [&](int64_t i) {
    memcpy(data_as<T>(rows.x) + i * width, data_as<T>(a.x) + rows.index[i] * width, size_t(width) * sizeof(T));
  });
}

void run_slabs(const CrossEntropyArgs& a, const int32_t* index, int64_t count) {
  const WeightMatrix weight(a.w);
  const Matrix w = weight.matrix();
  const Lane lane = lane_of({matrix_of(a.x)}, {w});
  const LossPlan plan(machine(), elements_of(lane), count, a.w.out, a.w.in, a.d_x && a.x.dtype == DType::kBF16);
  Workspace x_space(plan.slab_rows * a.w.in), sums(a.d_x ? plan.sums_floats() : 0), state(plan.state_floats()),
      panels(plan.panel_floats(bool(a.d_x)));
  const Scratch scratch(plan.score_floats(), thread_count());
  float* const top = state.data();
  float* const total = top + plan.shards * plan.slab_rows;
  float* const chosen = total + plan.shards * plan.slab_rows;
  const Memory memory{sums.data(), panels.data(), top, total, chosen, chosen + plan.slab_rows};
  const Tensor x{.data = x_space.data(), .dtype = a.x.dtype, .rank = 2, .shape = {plan.slab_rows, a.w.in}};
  PackedRows packed;
  packed.reserve({matrix_of(x), true}, lane, a.w.in, plan.slab_rows, plan.mixes ? Mixing::kAlike : Mixing::kNone);
  for (int64_t done = 0; done < count; done += plan.slab_rows) {
    Rows rows{index + done, least(plan.slab_rows, count - done), x, &packed};
    rows.x.shape[0] = rows.count;
    with_type(a.x.dtype, [&](auto type) { gather<decltype(type)>(a, rows); });
    packed.pack(0, rows.count);
    Slab(a, w, plan, rows, memory, scratch).run();
    if (a.d_w) with_type(a.x.dtype, [&](auto type) { add_weight_gradient<decltype(type)>(a, rows, memory.log_total); });
  }
}

}  // namespace

void linear_cross_entropy(const CrossEntropyArgs& a) {
  const int64_t n = a.x.dim(0);
  memset(a.loss.data, 0, size_t(n) * 4);
  if (a.d_x) memset(a.d_x.data, 0, size_t(a.d_x.bytes()));
  Workspace labelled(n);
  int32_t* const row = reinterpret_cast<int32_t*>(labelled.data());
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (a.labels.i32()[i] >= 0) row[count++] = int32_t(i);
  }
  if (count > 0) run_slabs(a, row, count);
}

}  // namespace nibble::cpu::NIBBLE_ISA
