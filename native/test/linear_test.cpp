// Matrix products over dense and 4-bit weights on tensors that end where their memory does: packing and
// tiles that read a row or a code too many are an error here. Values are tested more widely in
// native/linear.test.ts and native/cross-entropy.test.ts.
#include "ops/linear.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "ops/cross_entropy.h"
#include "ops/quantize4.h"
#include "test/support.h"

namespace nibble::test {

namespace {

struct Form {
  DType dtype;
  bool quantized, nested;
  int64_t block_size;
  Code4 type = Code4::kNf4;
};

constexpr Form kForms[] = {
    {DType::kF32, false, false, 0},  {DType::kBF16, false, false, 0}, {DType::kF16, false, false, 0},
    {DType::kF32, true, false, 64},  {DType::kBF16, true, true, 64},  {DType::kF16, true, true, 32},
    {DType::kBF16, true, false, 256}, {DType::kF32, true, true, 64, Code4::kFp4},
    {DType::kF32, true, false, 64, Code4::kInt4},
};

Weight make_weight(Bench& b, const Form& form, int64_t out, int64_t in) {
  Weight w{.out = out, .in = in, .data = b.random(form.dtype, {out, in}), .dtype = form.dtype};
  if (!form.quantized) return w;
  const int64_t blocks = (out * in + form.block_size - 1) / form.block_size;
  const Tensor codes = b.filled(DType::kU8, {(out * in + 1) / 2}, 0), absmax = b.filled(DType::kF32, {blocks}, 0);
  quantize4({.input = w.data, .codes = codes, .absmax = absmax, .type = form.type, .block_size = form.block_size});
  w.data = codes;
  w.quantized = true;
  w.type = form.type;
  w.block_size = form.block_size;
  w.absmax = absmax;
  if (!form.nested) return w;
  const Tensor offset = b.filled(DType::kF32, {1}, 0);
  w.absmax = b.filled(DType::kU8, {blocks}, 0);
  w.nested_absmax = b.filled(DType::kF32, {(blocks + 255) / 256}, 0);
  quantize_absmax({.absmax = absmax, .codes = w.absmax, .nested_absmax = w.nested_absmax, .offset = offset});
  w.nested_map = b.random(DType::kF32, {256});
  w.nested_offset = float(get(offset, 0));
  return w;
}

void run_linear(Bench& b, const Form& form, DType dtype, int64_t rows, int64_t out, int64_t in, int64_t rank) {
  const Weight w = make_weight(b, form, out, in);
  const Dropout dropout{.p = rank > 1 ? 0.2f : 0, .seed = 3, .stream = 4};
  LinearForwardArgs f{.x = b.random(dtype, {rows, in}), .w = w, .bias = b.random(DType::kF32, {out}),
                      .scaling = 0.5f, .dropout = dropout, .y = b.out(dtype, {rows, out})};
  if (rank > 0) {
    f.a = b.random(DType::kF32, {rank, in});
    f.b = b.random(DType::kF32, {out, rank});
    f.h = b.out(DType::kF32, {rows, rank});
  }
  linear_forward(f);
  LinearBackwardArgs g{.d_y = b.random(dtype, {rows, out}), .x = f.x, .w = w, .a = f.a, .b = f.b, .scaling = 0.5f,
                       .dropout = dropout, .h = f.h, .d_x = b.out(dtype, {rows, in})};
  if (rank > 0) {
    g.d_a = b.compared(b.random(DType::kF32, {rank, in}));
    g.d_b = b.compared(b.random(DType::kF32, {out, rank}));
  }
  if (!form.quantized) g.d_w = b.compared(b.random(DType::kF32, {out, in}));
  g.d_bias = b.compared(b.random(DType::kF32, {out}));
  linear_backward(g);
}

// Layers of one x, some with an adapter, of differing widths and ranks.
void run_linears(Bench& b, DType dtype, int64_t rows, int64_t in, float p) {
  const int64_t outs[] = {70, 33, 700, 16}, ranks[] = {4, 0, 17, 1};
  const Form forms[] = {kForms[4], kForms[1], kForms[4], kForms[0]};
  const Tensor x = b.random(dtype, {rows, in}), d_x = b.compared(b.random(dtype, {rows, in}));
  LinearForwardArgs f[kLinearsMax];
  LinearBackwardArgs g[kLinearsMax];
  for (int i = 0; i < kLinearsMax; ++i) {
    const Dropout dropout{.p = p, .seed = 3, .stream = uint64_t(i)};
    f[i] = {.x = x, .w = make_weight(b, forms[i], outs[i], in), .bias = b.random(DType::kF32, {outs[i]}),
            .scaling = 0.5f, .dropout = dropout, .y = b.out(dtype, {rows, outs[i]})};
    g[i] = {.d_y = b.random(dtype, {rows, outs[i]}), .x = x, .w = f[i].w, .scaling = 0.5f, .dropout = dropout,
            .d_x = d_x, .accumulate_dx = true};
    if (!f[i].w.quantized) g[i].d_w = b.compared(b.random(DType::kF32, {outs[i], in}));
    if (ranks[i] == 0) continue;
    f[i].a = g[i].a = b.random(DType::kF32, {ranks[i], in});
    f[i].b = g[i].b = b.random(DType::kF32, {outs[i], ranks[i]});
    f[i].h = g[i].h = b.out(DType::kF32, {rows, ranks[i]});
    g[i].d_a = b.compared(b.random(DType::kF32, {ranks[i], in}));
    g[i].d_b = b.compared(b.random(DType::kF32, {outs[i], ranks[i]}));
  }
  linears_forward(f, kLinearsMax);
  linears_backward(g, kLinearsMax);
}

}  // namespace

TEST(Linear, LayersOfOneXLikeEachAlone) {
  for (DType dtype : {DType::kF32, DType::kBF16})
    for (int64_t rows : {0, 1, 7, 40, 150})
      for (float p : {0.0f, 0.2f})
        expect_cpu_like_reference("linears", p > 0 && dtype == DType::kBF16 ? 1e-2 : 2e-5,  // d_x is rounded after each layer
                                  [&](Bench& b) { run_linears(b, dtype, rows, 130, p); });
  expect_error("[linear_forward] layers: expected 1..4, got 5", [] { linears_forward(nullptr, 5); });
}

TEST(Linear, LikeReference) {
  struct Shape {
    int64_t rows, out, in, rank;
  };
  const Shape shapes[] = {{0, 3, 5, 1}, {1, 1, 1, 0}, {1, 67, 35, 2}, {3, 33, 64, 4}, {7, 16, 129, 0}, {40, 50, 63, 8},
                          // Few rows with codes taken apart; more than one block of depth; of columns.
                          {5, 32, 128, 2}, {31, 40, 300, 17}, {12, 300, 64, 3},
                          // Few rows in pairs: runs of rows, columns beyond a group, rows beyond them.
                          {1, 20, 192, 0}, {13, 37, 64, 0}, {33, 16, 128, 0},
                          // Few rows on the CUDA device: outputs past a block, inputs past a warp's turn.
                          {1, 19, 1120, 0}, {2, 35, 96, 0}, {4, 6, 64, 0}, {8, 17, 2080, 0}};
  for (const Form& form : kForms)
    for (DType dtype : {DType::kF32, DType::kBF16})
      for (const Shape& s : shapes)
        expect_like_reference("linear", 5e-6,
                              [&](Bench& b) { run_linear(b, form, dtype, s.rows, s.out, s.in, s.rank); });
}

// Whole numbers, whose sums are exact in float32 in whatever order: products in quarters must give the very same.
TEST(Linear, InQuartersExactly) {
  struct Shape {
    int64_t rows, out, in, rank;
    float p;
  };
  // One block of depth and three; columns of several panels; runs of rows, and an odd one; dropout's mask between the sums.
  const Shape shapes[] = {{96, 64, 128, 4, 0}, {193, 320, 256, 4, 0.5f}, {291, 128, 2176 + 128, 0, 0}, {98, 2048, 64, 1, 0}};
  for (const Shape& s : shapes)
    expect_cpu_like_reference("linear in quarters", 0, [&](Bench& b) {
      const auto whole = [&](DType dtype, std::initializer_list<int64_t> shape, double limit) {
        const Tensor t = b.filled(dtype, shape, 0);
        for (int64_t i = 0; i < t.count(); ++i) put(t, i, std::floor((2 * b.uniform() - 1) * limit));
        return t;
      };
      const DType bf16 = DType::kBF16, f32 = DType::kF32;
      const Weight w{.out = s.out, .in = s.in, .data = whole(f32, {s.out, s.in}, 4), .dtype = f32};
      const Dropout dropout{.p = s.p, .seed = 3, .stream = 4};
      LinearForwardArgs f{.x = whole(bf16, {s.rows, s.in}, 4), .w = w, .bias = whole(f32, {s.out}, 9), .scaling = 0.5f,
                          .dropout = dropout, .y = b.out(bf16, {s.rows, s.out})};
      LinearBackwardArgs g{.d_y = whole(bf16, {s.rows, s.out}, 4), .w = w, .scaling = 0.5f, .dropout = dropout,
                           .d_x = b.compared(whole(bf16, {s.rows, s.in}, 9)), .accumulate_dx = true};
      if (s.rank > 0) {
        f.a = g.a = whole(f32, {s.rank, s.in}, 2);
        f.b = g.b = whole(f32, {s.out, s.rank}, 2);
        f.h = b.out(f32, {s.rows, s.rank});
      }
      linear_forward(f);
      linear_backward(g);
    });
}

TEST(Linear, LoraAddTouchesItsRowsOnly) {
  for (DType dtype : {DType::kF32, DType::kBF16})
    expect_like_reference("lora_add", 3e-6, [&](Bench& b) {
      lora_add({.x = b.random(dtype, {9, 37}), .a = b.random(DType::kF32, {3, 37}), .b = b.random(DType::kF32, {3, 21}),
                .scaling = 2, .begin = 2, .end = 7, .y = b.compared(b.random(dtype, {9, 21}))});
    });
}

TEST(Linear, LoraAddOfRowsThatLieAsPacks) {
  for (DType dtype : {DType::kF32, DType::kBF16})
    for (DType stored : {DType::kF32, DType::kBF16})
      for (int64_t in : {8, 264, 1032})
        for (int64_t out : {8, 48, 2056})
          expect_like_reference("lora_add", 3e-6, [&](Bench& b) {
            lora_add({.x = b.random(dtype, {5, in}), .a = b.random(stored, {3, in}), .b = b.random(stored, {3, out}),
                      .scaling = 2, .begin = 1, .end = 4, .y = b.compared(b.random(dtype, {5, out}))});
          });
}

TEST(Linear, ScaleColumnsTouchesItsRowsOnly) {
  for (DType dtype : {DType::kF32, DType::kBF16})
    for (bool has_bias : {false, true})
      expect_like_reference("scale_columns", 1e-6, [&](Bench& b) {
        scale_columns({.factor = b.random(DType::kF32, {21}), .bias = has_bias ? b.random(DType::kF32, {21}) : Tensor{},
                       .begin = 2, .end = 7, .y = b.compared(b.random(dtype, {9, 21}))});
      });
}

TEST(Linear, LoraAddsOfManyRowsRanksAndLayers) {
  for (DType dtype : {DType::kF32, DType::kBF16})
    expect_like_reference("lora_adds", 3e-6, [&](Bench& b) {
      const Tensor x = b.random(dtype, {40, 37}), y = b.compared(b.random(dtype, {40, 21}));
      const Tensor wide = b.compared(b.random(dtype, {40, 300}));
      std::vector<LoraAddArgs> all;
      for (int64_t n = 0; n < 38; ++n) {  // more than one launch takes; the last rows have no adapter
        const int64_t rank = n % 5 + 1, out = n % 7 == 0 ? 300 : 21;
        const DType stored = n % 3 == 0 ? DType::kF32 : DType::kBF16;
        all.push_back({.x = x, .a = b.random(stored, {rank, 37}), .b = b.random(stored, {rank, out}),
                       .scaling = 0.5f, .begin = n, .end = n + n % 2, .y = out == 300 ? wide : y});
      }
      lora_adds(all.data(), int(all.size()));
    });
}

// Three layers of one x, adapters of differing ranks and rows on some of them; y of each layer.
std::vector<Tensor> run_adapted(Bench& b, const Form& form, DType dtype, int64_t rows, bool together) {
  const int64_t outs[] = {150, 40, 64}, in = 128;
  const Tensor x = b.random(dtype, {rows, in});
  std::vector<LinearForwardArgs> layers;
  std::vector<LoraAddArgs> adds;
  std::vector<Tensor> ys;
  for (int64_t out : outs) {
    ys.push_back(b.out(dtype, {rows, out}));
    layers.push_back({.x = x, .w = make_weight(b, form, out, in), .y = ys.back()});
    for (int64_t row = 0, i = 0; row < rows; row += 1 + i % 3, ++i) {
      if ((i + out) % 4 == 0) continue;  // this adapter leaves the layer out
      const int64_t rank = i % 2 == 0 ? 16 : 1 + i % 19, end = row + 1 + i % 3;
      const DType stored = i % 5 == 4 ? DType::kF32 : DType::kBF16;
      adds.push_back({.x = x, .a = b.random(stored, {rank, in}), .b = b.random(stored, {rank, out}), .scaling = 0.5f,
                      .begin = row, .end = end < rows ? end : rows, .y = ys.back()});
    }
  }
  const int layers_count = int(layers.size()), adds_count = int(adds.size());
  if (together) {
    linears_adapted(layers.data(), layers_count, adds.data(), adds_count);
  } else {
    linears_forward(layers.data(), layers_count);
    lora_adds(adds.data(), adds_count);
  }
  return ys;
}

TEST(Linear, LayersWithAdaptersLikeReference) {
  for (DType dtype : {DType::kF32, DType::kBF16})
    for (int64_t rows : {1, 7, 32, 40})
      expect_like_reference("linears_adapted", 5e-6, [&](Bench& b) { run_adapted(b, kForms[4], dtype, rows, true); });
}

TEST(Linear, LayersWithAdaptersAreTheOnesThenTheOthers) {
  for_each_isa([&](const std::string& isa) {
    for (const Form& form : {kForms[1], kForms[3], kForms[4]})
      for (DType dtype : {DType::kF32, DType::kBF16})
        for (int64_t rows : {1, 5, 13, 32, 40}) {
          Bench one(Device::kCpu), other(Device::kCpu);
          const auto got = run_adapted(one, form, dtype, rows, true), want = run_adapted(other, form, dtype, rows, false);
          for (size_t i = 0; i < got.size(); ++i)
            for (int64_t k = 0; k < got[i].count(); ++k) ASSERT_EQ(get(got[i], k), get(want[i], k)) << isa << " " << rows;
        }
  });
}

// Asking for memory, of any length, none or more pieces than a task takes, changes no result.
TEST(Linear, WhatIsReadSoonChangesNothing) {
  for_each_isa([&](const std::string& isa) {
    for (const Form& form : {kForms[1], kForms[4]})
      for (int64_t rows : {1, 8, 13, 32, 40})
        for (int pieces : {1, 3, 2000}) {
          Bench b(Device::kCpu);
          const Tensor x = b.random(DType::kBF16, {rows, 128}), y = b.out(DType::kBF16, {rows, 150});
          const LinearForwardArgs layer{.x = x, .w = make_weight(b, form, 150, 128), .y = y};
          std::vector<Soon> soon;
          for (int i = 0; i < pieces; ++i) soon.push_back({x.u8(), i % 3 == 0 ? 0 : i});
          linears_forward(&layer, 1);
          const std::vector<uint16_t> want(y.u16(), y.u16() + y.count());
          std::fill_n(y.u16(), y.count(), uint16_t(0x7fc0));
          linears_adapted(&layer, 1, nullptr, 0, soon.data(), pieces);
          for (int64_t i = 0; i < y.count(); ++i) ASSERT_EQ(y.u16()[i], want[size_t(i)]) << isa << " " << rows << " " << i;
        }
  });
}

TEST(Linear, AdaptersOfOtherLayersAreRefused) {
  Bench b(Device::kCpu);
  const Tensor x = b.random(DType::kF32, {3, 8}), y = b.random(DType::kF32, {3, 4}), other = b.random(DType::kF32, {3, 4});
  const LinearForwardArgs layer{.x = x, .w = make_weight(b, kForms[0], 4, 8), .y = y};
  const LoraAddArgs add{.x = x, .a = b.random(DType::kF32, {2, 8}), .b = b.random(DType::kF32, {2, 4}), .end = 3, .y = other};
  expect_error("[lora_add] x, y: expected those of the layers, in their order, got another's at 0",
               [&] { linears_adapted(&layer, 1, &add, 1); });
}

TEST(CrossEntropy, LikeReference) {
  for (const Form& form : kForms)
    for (DType dtype : {DType::kF32, DType::kBF16})
      for (int64_t rows : {0, 1, 13})
        for (int64_t vocabulary : {1, 70, 1031})
          // The weights of a row may be rounded to bfloat16 as operands; see ops/cross_entropy.h.
          expect_like_reference("linear_cross_entropy", dtype == DType::kBF16 ? 0x1p-8 : 5e-6, [&](Bench& b) {
            const Weight w = make_weight(b, form, vocabulary, 24);
            const Tensor labels = b.indices(rows, vocabulary);
            for (int64_t n : {1, 5, 6, 7, 12}) {
              if (n < rows && rows > 2) labels.i32()[n] = -1;
            }
            const Tensor weights = rows > 1 ? b.random(DType::kF32, {rows}) : Tensor{};
            for (int64_t n = 0; weights && n < rows; ++n) put(weights, n, std::abs(get(weights, n)));
            linear_cross_entropy({.x = b.random(dtype, {rows, 24}), .w = w, .labels = labels, .weights = weights, .scale = 0.25f,
                                  .loss = b.out(DType::kF32, {rows}), .d_x = b.out(dtype, {rows, 24}),
                                  .d_w = form.quantized ? Tensor{}
                                                        : b.compared(b.random(DType::kF32, {vocabulary, 24}))});
          });
}

TEST(CrossEntropy, InQuartersLikeReference) {
  for (int64_t rows : {96, 205})
    expect_cpu_like_reference("linear_cross_entropy", 0x1p-8, [&](Bench& b) {
      const Weight w = make_weight(b, kForms[4], 600, 128);
      linear_cross_entropy({.x = b.random(DType::kBF16, {rows, 128}), .w = w, .labels = b.indices(rows, 600), .scale = 0.25f,
                            .loss = b.out(DType::kF32, {rows}), .d_x = b.out(DType::kBF16, {rows, 128})});
    });
}

}  // namespace nibble::test
