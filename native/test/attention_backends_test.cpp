// Attention of every backend against the reference, the CUDA device's two forms among them: head sizes on either side of
// what flash attention takes, documents that begin and end anywhere in its blocks of 128 rows and tiles of 32 and 64,
// windows, grouped heads.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "ops/attention.h"
#include "test/support.h"

namespace nibble::test {

namespace {

struct Case {
  std::vector<int64_t> starts;
  int64_t heads, kv_heads, size, window;
  DType dtype;
};

void run(Bench& b, const Case& c) {
  const int64_t n = c.starts.back();
  const AttentionShape shape{c.heads, c.kv_heads, 1 / std::sqrt(float(c.size)), c.window};
  const Tensor starts = b.indices(int64_t(c.starts.size()), 1);
  for (size_t i = 0; i < c.starts.size(); ++i) put(starts, int64_t(i), double(c.starts[i]));
  const auto queries = [&] { return b.random(c.dtype, {n, c.heads * c.size}, 2); };
  const auto keys = [&] { return b.random(c.dtype, {n, c.kv_heads * c.size}, 2); };
  const AttentionForwardArgs f{.shape = shape, .q = queries(), .k = keys(), .v = keys(), .starts = starts,
                               .o = b.out(c.dtype, {n, c.heads * c.size}), .lse = b.out(DType::kF32, {n, c.heads})};
  attention_forward(f);
  attention_backward({.shape = shape, .d_o = queries(), .q = f.q, .k = f.k, .v = f.v, .o = f.o, .lse = f.lse,
                      .starts = starts, .d_q = b.out(c.dtype, {n, c.heads * c.size}),
                      .d_k = b.out(c.dtype, {n, c.kv_heads * c.size}), .d_v = b.out(c.dtype, {n, c.kv_heads * c.size})});
}

// Queries [from, from + count) of a sequence.
struct Queries {
  int sequence, from, count;
};

constexpr int64_t kSequences = 3, kLength = 320, kSlots = kSequences * kLength;

// Pages that lie before every window of their sequence may be gone: their entries are of no page.
void take_pages_away(const Tensor& table, const std::vector<Queries>& queries, int64_t window, int64_t page) {
  std::array<int64_t, kSequences> first;
  first.fill(kLength);
  for (const Queries& q : queries) first[q.sequence] = std::min<int64_t>(first[q.sequence], q.from);
  for (int64_t s = 0; s < kSequences; ++s)
    for (int64_t p = 0; (p + 1) * page <= first[s] - window + 1; ++p) put(table, s * kLength / page + p, double(1 << 30));
}

// Of three sequences whose pages lie in no order, some longer than a part of what a device's block reads.
void run_paged(Bench& b, const Case& c, const std::vector<Queries>& queries, int64_t page = 16) {
  const int64_t columns = kLength / page, page_count = kSlots / page;
  const AttentionShape shape{c.heads, c.kv_heads, 1 / std::sqrt(float(c.size)), c.window};
  const auto cache = [&] { return b.random(c.dtype, {page_count, c.kv_heads, page, c.size}, 2); };
  const auto tokens = [&](int64_t count) { return b.random(c.dtype, {count, c.kv_heads * c.size}, 2); };
  const Tensor k_cache = cache(), v_cache = cache(), table = b.indices(page_count, 1);
  for (int64_t i = 0; i < page_count; ++i) put(table, i, double(i * 37 % page_count));
  Tensor pages = table;
  pages.rank = 2;
  pages.shape = {kSequences, columns};
  // Every slot is written, in no order, and some of them again.
  const Tensor slots = b.indices(kSlots, 1);
  for (int64_t i = 0; i < kSlots; ++i) put(slots, i, double(i * 77 % kSlots));
  kv_write({.k = tokens(kSlots), .v = tokens(kSlots), .slot = slots, .k_cache = k_cache, .v_cache = v_cache});
  kv_write({.k = tokens(4), .v = tokens(4), .slot = b.values(DType::kI32, {0, 959, 37 * 16 + 15, 500}), .k_cache = k_cache,
            .v_cache = v_cache});
  if (c.window > 0) take_pages_away(table, queries, c.window, page);
  int64_t n = 0;
  for (const Queries& q : queries) n += q.count;
  const Tensor sequence = b.indices(n, 1), position = b.indices(n, 1);
  int64_t row = 0;
  for (const Queries& q : queries)
    for (int i = 0; i < q.count; ++i, ++row) {
      put(sequence, row, q.sequence);
      put(position, row, q.from + i);
    }
  paged_attention({.shape = shape, .q = b.random(c.dtype, {n, c.heads * c.size}, 2), .k_cache = k_cache,
                   .v_cache = v_cache, .block_table = pages, .sequence = sequence, .position = position,
                   .o = b.out(c.dtype, {n, c.heads * c.size})});
}

void expect(const Case& c) {
  const std::string name = "attention of " + std::to_string(c.starts.back()) + " rows, " + std::to_string(c.heads) + "/" +
                           std::to_string(c.kv_heads) + " heads of " + std::to_string(c.size) + ", window " +
                           std::to_string(c.window) + ", " + name_of(c.dtype);
  expect_like_reference(name, c.dtype == DType::kBF16 ? 0x1p-7 : 2e-6, [&](Bench& b) { run(b, c); });
}

}  // namespace

TEST(AttentionBackends, LikeReference) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    expect({{0}, 2, 1, 64, 0, dtype});
    expect({{0, 1}, 1, 1, 1, 0, dtype});
    expect({{0, 0, 1, 3, 9}, 2, 1, 20, 0, dtype});
    expect({{0, 33, 70}, 6, 2, 24, 7, dtype});
    expect({{0, 5, 130}, 2, 1, 33, 65, dtype});
    expect({{0, 40}, 2, 1, 264, 0, dtype});
    expect({{0, 3, 20}, 2, 2, 512, 0, dtype});
  }
}

TEST(AttentionBackends, FlashAcrossBlocksOfRows) {
  expect({{0, 128}, 1, 1, 64, 0, DType::kBF16});
  expect({{0, 50, 129, 200}, 4, 2, 64, 0, DType::kBF16});
  expect({{0, 1, 2, 190, 300}, 2, 1, 128, 0, DType::kBF16});
  expect({{0, 260}, 3, 1, 72, 40, DType::kBF16});
  expect({{0, 64, 128, 192}, 1, 1, 8, 2, DType::kBF16});
}

TEST(AttentionBackends, PagedLikeReference) {
  const std::vector<Queries> alone = {{0, 319, 1}, {2, 0, 1}, {1, 255, 1}, {0, 256, 1}, {2, 17, 1}};
  for (DType dtype : {DType::kF32, DType::kBF16})
    for (auto [heads, kv_heads, size, window] : std::vector<std::array<int64_t, 4>>{
             {1, 1, 1, 0}, {4, 4, 64, 0}, {6, 2, 128, 0}, {6, 1, 20, 40}, {3, 1, 33, 0}, {5, 1, 264, 300}, {2, 2, 512, 0}})
      expect_like_reference("paged attention, heads of " + std::to_string(size), dtype == DType::kBF16 ? 0x1p-8 : 2e-6,
                            [&](Bench& b) { run_paged(b, {{}, heads, kv_heads, size, window, dtype}, alone); });
}

// Rows of a sequence that follow each other, some in two blocks of a device's, beside rows that are alone.
TEST(AttentionBackends, PromptsOverTheCacheLikeReference) {
  const std::vector<Queries> prompts = {{0, 300, 3}, {1, 100, 20}, {2, 10, 140}, {0, 7, 1}, {1, 0, 16}};
  for (DType dtype : {DType::kF32, DType::kBF16})
    for (auto [heads, kv_heads, size, window] :
         std::vector<std::array<int64_t, 4>>{{2, 1, 64, 0}, {4, 2, 24, 0}, {2, 2, 128, 40}, {1, 1, 72, 0}})
      expect_like_reference("prompts over the cache, heads of " + std::to_string(size), dtype == DType::kBF16 ? 0x1p-7 : 2e-6,
                            [&](Bench& b) { run_paged(b, {{}, heads, kv_heads, size, window, dtype}, prompts); });
}

// Windows that begin within a group of 16 keys, within a block of 64 and in its last group; runs whose rows' windows begin
// apart; pages that are part of a group, a group and more.
TEST(AttentionBackends, PagesBeforeAWindowAreNotRead) {
  const std::vector<Queries> rows = {{0, 319, 1}, {1, 150, 20}, {2, 99, 3}};
  for (DType dtype : {DType::kF32, DType::kBF16})
    for (int64_t page : {1, 4, 16, 32})
      for (auto [size, window] : std::vector<std::array<int64_t, 2>>{{64, 37}, {24, 64}})
        expect_like_reference("window " + std::to_string(window) + " over pages of " + std::to_string(page) + ", heads of " +
                                  std::to_string(size),
                              dtype == DType::kBF16 ? 0x1p-7 : 2e-6,
                              [&](Bench& b) { run_paged(b, {{}, 2, 1, size, window, dtype}, rows, page); });
}

}  // namespace nibble::test
