// Attention of each instruction set against the reference, on tensors whose memory ends where they
// end: under the sanitizers, a read or write past a row is an error. Values are tested more widely in
// native/attention.test.ts.
#include "ops/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "ops/backend.h"

namespace nibble {
namespace {

struct Case {
  std::vector<int32_t> starts;
  int64_t heads, kv_heads, head_size, window;
  DType dtype;
  int64_t rows() const { return starts.back(); }
  AttentionShape shape() const { return {heads, kv_heads, 1 / std::sqrt(float(head_size)), window}; }
};

class Attention : public testing::TestWithParam<Case> {
 protected:
  Tensor make(DType dtype, std::initializer_list<int64_t> shape, Device device = Device::kCpu) {
    Tensor t{.dtype = dtype, .device = device, .rank = int(shape.size())};
    std::copy(shape.begin(), shape.end(), t.shape.begin());
    blocks_.push_back(std::make_unique<uint8_t[]>(size_t(t.bytes())));
    t.data = blocks_.back().get();
    return t;
  }
  Tensor random(std::initializer_list<int64_t> shape) {
    Tensor t = make(GetParam().dtype, shape);
    std::uniform_real_distribution<float> uniform(-2, 2);
    for (int64_t i = 0; i < t.count(); ++i) {
      if (t.dtype == DType::kF32) t.f32()[i] = uniform(random_);
      else t.u16()[i] = float_to_bf16(uniform(random_));
    }
    return t;
  }
  Tensor integers(const std::vector<int32_t>& values, std::initializer_list<int64_t> shape) {
    Tensor t = make(DType::kI32, shape);
    if (!values.empty()) std::memcpy(t.data, values.data(), values.size() * 4);
    return t;
  }
  Tensor like(const Tensor& t, Device device = Device::kCpu) {
    Tensor copy = t;
    blocks_.push_back(std::make_unique<uint8_t[]>(size_t(t.bytes())));
    copy.data = blocks_.back().get();
    copy.device = device;
    return copy;
  }
  void expect_paged_equals_packed(int64_t page);

 private:
  std::vector<std::unique_ptr<uint8_t[]>> blocks_;
  std::mt19937 random_{1};
};

float at(const Tensor& t, int64_t i) { return t.dtype == DType::kF32 ? t.f32()[i] : bf16_to_float(t.u16()[i]); }

void expect_close(const Tensor& actual, const Tensor& expected, const char* what) {
  const bool narrow = expected.dtype == DType::kBF16;
  float top = 0;
  for (int64_t i = 0; i < expected.count(); ++i) top = std::max(top, std::fabs(at(expected, i)));
  for (int64_t i = 0; i < expected.count(); ++i) {
    const float want = at(expected, i);
    const float bound = narrow ? 2e-3f + std::fabs(want) / 128 + top / 256 : 2e-5f + 2e-5f * std::fabs(want);
    ASSERT_NEAR(at(actual, i), want, bound) << what << "[" << i << "] " << isa_name();
  }
}

Tensor on(Tensor t, Device device) {
  t.device = device;
  return t;
}

template <typename Body>
void for_each_isa(Body body) {
  for (const Isa isa : kIsas) {
    if (!isa_supported(isa)) continue;
    choose_isa(isa);
    body();
  }
}

TEST_P(Attention, ForwardAndBackwardEqualTheReference) {
  const Case& c = GetParam();
  const Device reference = Device::kReference;
  const Tensor q = random({c.rows(), c.heads * c.head_size}), k = random({c.rows(), c.kv_heads * c.head_size});
  const Tensor v = random({c.rows(), c.kv_heads * c.head_size}), d_o = random({c.rows(), c.heads * c.head_size});
  const Tensor starts = integers(c.starts, {int64_t(c.starts.size())});
  const Tensor o = like(q, reference), lse = make(DType::kF32, {c.rows(), c.heads}, reference);
  const Tensor d_q = like(q, reference), d_k = like(k, reference), d_v = like(k, reference);
  attention_forward({c.shape(), on(q, reference), on(k, reference), on(v, reference), on(starts, reference), o, lse});
  attention_backward({c.shape(), on(d_o, reference), on(q, reference), on(k, reference), on(v, reference), o, lse,
                      on(starts, reference), d_q, d_k, d_v});
  for_each_isa([&] {
    const Tensor cpu_o = like(q), cpu_lse = make(DType::kF32, {c.rows(), c.heads});
    attention_forward({c.shape(), q, k, v, starts, cpu_o, cpu_lse});
    expect_close(cpu_o, o, "o");
    expect_close(cpu_lse, lse, "lse");
    const Tensor cpu_q = like(q), cpu_k = like(k), cpu_v = like(k);
    attention_backward({c.shape(), d_o, q, k, v, on(o, Device::kCpu), on(lse, Device::kCpu), starts, cpu_q, cpu_k,
                        cpu_v});
    expect_close(cpu_q, d_q, "d_q");
    expect_close(cpu_k, d_k, "d_k");
    expect_close(cpu_v, d_v, "d_v");
  });
}

void Attention::expect_paged_equals_packed(int64_t page) {
  const Case& c = GetParam();
  const int64_t columns = c.rows() / page + 1, sequences = int64_t(c.starts.size()) - 1;
  const Tensor q = random({c.rows(), c.heads * c.head_size}), k = random({c.rows(), c.kv_heads * c.head_size});
  const Tensor v = random({c.rows(), c.kv_heads * c.head_size});
  const Tensor starts = integers(c.starts, {int64_t(c.starts.size())});
  std::vector<int32_t> table, sequence, position, slot;
  for (int64_t s = 0; s < sequences; ++s) {  // pages in descending order: none follows its neighbour
    for (int64_t p = 0; p < columns; ++p) table.push_back(int32_t((sequences - s) * columns - 1 - p));
    for (int32_t t = 0; t < c.starts[size_t(s) + 1] - c.starts[size_t(s)]; ++t) {
      sequence.push_back(int32_t(s));
      position.push_back(t);
      slot.push_back(int32_t(table[size_t(s * columns + t / page)] * page + t % page));
    }
  }
  for_each_isa([&] {
    const Tensor k_cache = make(c.dtype, {sequences * columns, c.kv_heads, page, c.head_size});
    const Tensor v_cache = like(k_cache), o = like(q), paged_o = like(q);
    kv_write({k, v, integers(slot, {c.rows()}), k_cache, v_cache});
    paged_attention({c.shape(), q, k_cache, v_cache, integers(table, {sequences, columns}),
                     integers(sequence, {c.rows()}), integers(position, {c.rows()}), paged_o});
    attention_forward({c.shape(), q, k, v, starts, o, make(DType::kF32, {c.rows(), c.heads})});
    EXPECT_EQ(std::memcmp(o.data, paged_o.data, size_t(o.bytes())), 0) << isa_name();
  });
}

// Pages of 16 rows and bfloat16 may be kept in another order.
TEST_P(Attention, PagedEqualsPacked) {
  for (int64_t page : {4, 16, 32}) expect_paged_equals_packed(page);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, Attention,
    testing::Values(Case{{0, 1}, 1, 1, 1, 0, DType::kF32}, Case{{0, 0, 1, 3, 9}, 2, 1, 20, 0, DType::kBF16},
                    Case{{0, 33, 70}, 6, 2, 20, 7, DType::kF32}, Case{{0, 33, 100}, 6, 3, 33, 0, DType::kBF16},
                    Case{{0, 5, 135}, 3, 1, 64, 65, DType::kF32}, Case{{0, 70}, 2, 2, 200, 1, DType::kF32},
                    Case{{0, 5, 135, 300}, 3, 1, 64, 0, DType::kBF16}, Case{{0, 77, 91}, 14, 2, 96, 33, DType::kBF16},
                    Case{{0, 95}, 2, 1, 320, 0, DType::kBF16},
                    Case{{0, 40}, 18, 1, 512, 0, DType::kF32}));

}  // namespace
}  // namespace nibble
