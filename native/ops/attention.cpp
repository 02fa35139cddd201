#include "ops/attention.h"

#include <cmath>
#include <vector>

#include "ops/backend.h"
#include "ops/checks.h"

namespace nibble {

namespace {

// The tensors of one call against its queries: device, dtype and shape.
class Checks {
 public:
  Checks(const char* op, const AttentionShape& shape, const Tensor& q, const char* q_name) : op_(op), q_(q) {
    require(shape.heads >= 1, op, "heads: expected at least 1, got ", shape.heads);
    require(shape.kv_heads >= 1 && shape.heads % shape.kv_heads == 0, op, "kv_heads: expected a divisor of ",
            shape.heads, " heads, got ", shape.kv_heads);
    require(std::isfinite(shape.scale), op, "scale: expected a finite number, got ", shape.scale);
    require(shape.window >= 0, op, "window: expected 0 (none) or more, got ", shape.window);
    check_rows(op, q_name, q);
    require(q.dim(1) % shape.heads == 0, op, q_name, ": expected rows of ", shape.heads,
            " heads of one size, got shape ", q);
    const int64_t head_size = q.dim(1) / shape.heads;
    require(head_size >= 1 && head_size <= kHeadSizeMax, op, q_name, ": expected a head size of 1..", kHeadSizeMax,
            ", got ", head_size);
    kv_heads_ = shape.kv_heads;
    head_size_ = head_size;
  }

  // Of new tokens: [N, ...], float32 or bfloat16.
  static void check_rows(const char* op, const char* name, const Tensor& t) {
    require(t.dtype == DType::kF32 || t.dtype == DType::kBF16, op, name, ": expected float32 or bfloat16, got ",
            name_of(t.dtype));
    require(t.rank == 2, op, name, ": expected a shape of 2 dimensions, got ", t);
  }

  void like_q(const char* name, const Tensor& t) const { rows(name, t, q_.dim(1)); }
  void like_k(const char* name, const Tensor& t) const { rows(name, t, kv_heads_ * head_size_); }

  void lse(const Tensor& t, int64_t heads) const {
    check_device(op_, "lse", t, q_.device);
    check_dtype(op_, "lse", t, DType::kF32);
    require(t.has_shape({q_.dim(0), heads}), op_, "lse: expected shape [", q_.dim(0), ",", heads, "], got ",
            t);
  }

  void starts(const Tensor& t) const {
    integers("starts", t, 1);
    require(t.dim(0) >= 1, op_, "starts: expected at least 1 element, got none");
    if (q_.device == Device::kCuda) return;
    const int64_t documents = t.dim(0) - 1, rows = q_.dim(0);
    const int32_t* at = t.i32();
    require(at[0] == 0, op_, "starts: expected 0 first, got ", at[0]);
    for (int64_t d = 0; d < documents; ++d) {
      require(at[d] <= at[d + 1], op_, "starts: expected ascending values, got ", at[d], " before ", at[d + 1],
              " at index ", d);
    }
    require(at[documents] == rows, op_, "starts: expected ", rows, " (rows of q) last, got ", at[documents]);
  }

  void cache(const char* name, const Tensor& t, const Tensor& first) const {
    check_device(op_, name, t, q_.device);
    check_dtype(op_, name, t, q_.dtype);
    require(t.rank == 4 && t.dim(1) == kv_heads_ && t.dim(2) >= 1 && t.dim(3) == head_size_, op_, name,
            ": expected shape [pages,", kv_heads_, ",page,", head_size_, "], got ", t);
    require(t.shape == first.shape, op_, name, ": expected the shape of k_cache, ", first, ", got ",
            t);
  }

  void integers(const char* name, const Tensor& t, int rank) const {
    check_device(op_, name, t, q_.device);
    check_dtype(op_, name, t, DType::kI32);
    require(t.rank == rank, op_, name, ": expected a shape of ", rank, " dimensions, got ", t);
  }

 private:
  void rows(const char* name, const Tensor& t, int64_t columns) const {
    check_device(op_, name, t, q_.device);
    check_dtype(op_, name, t, q_.dtype);
    require(t.has_shape({q_.dim(0), columns}), op_, name, ": expected shape [", q_.dim(0), ",", columns, "], got ",
            t);
  }

  const char* op_;
  const Tensor& q_;
  int64_t kv_heads_ = 0, head_size_ = 0;
};

struct PageRange {
  int64_t first = INT64_MAX, last = -1;
};

// Every page that a query reads must exist. Entries that none reads may hold anything.
void check_pages(const char* op, const PagedAttentionArgs& a) {
  const int64_t sequences = a.block_table.dim(0), columns = a.block_table.dim(1);
  const int64_t pages = a.k_cache.dim(0), page = cache_shape(a.k_cache).page;
  std::vector<PageRange> read(static_cast<size_t>(sequences));
  for (int64_t n = 0; n < a.q.dim(0); ++n) {
    const int64_t s = a.sequence.i32()[n], t = a.position.i32()[n];
    require(s >= 0 && s < sequences, op, "sequence: expected 0..", sequences - 1, ", got ", s, " at index ", n);
    require(t >= 0 && t / page < columns, op, "position: expected 0..", columns * page - 1, ", got ", t, " at index ",
            n);
    const int64_t first = a.shape.window > 0 && t >= a.shape.window ? t - a.shape.window + 1 : 0;
    PageRange& range = read[size_t(s)];
    range.first = first / page < range.first ? first / page : range.first;
    range.last = t / page > range.last ? t / page : range.last;
  }
  for (int64_t s = 0; s < sequences; ++s) {
    for (int64_t p = read[size_t(s)].first; p <= read[size_t(s)].last; ++p) {
      const int32_t entry = a.block_table.i32()[s * columns + p];
      require(entry >= 0 && entry < pages, op, "block_table: expected 0..", pages - 1, ", got ", entry, " at [", s, ",",
              p, "]");
    }
  }
}

}  // namespace

void attention_forward(const AttentionForwardArgs& args) {
  const Checks check("attention_forward", args.shape, args.q, "q");
  check.like_k("k", args.k);
  check.like_k("v", args.v);
  check.starts(args.starts);
  check.like_q("o", args.o);
  check.lse(args.lse, args.shape.heads);
  backend_of(args.q.device).attention_forward(args);
}

void attention_backward(const AttentionBackwardArgs& args) {
  const Checks check("attention_backward", args.shape, args.q, "q");
  check.like_q("d_o", args.d_o);
  check.like_k("k", args.k);
  check.like_k("v", args.v);
  check.like_q("o", args.o);
  check.lse(args.lse, args.shape.heads);
  check.starts(args.starts);
  check.like_q("d_q", args.d_q);
  check.like_k("d_k", args.d_k);
  check.like_k("d_v", args.d_v);
  backend_of(args.q.device).attention_backward(args);
}

void paged_attention(const PagedAttentionArgs& args) {
  const char* op = "paged_attention";
  const Checks check(op, args.shape, args.q, "q");
  check.cache("k_cache", args.k_cache, args.k_cache);
  check.cache("v_cache", args.v_cache, args.k_cache);
  check.integers("block_table", args.block_table, 2);
  check.integers("sequence", args.sequence, 1);
  check.integers("position", args.position, 1);
  check_count(op, "sequence", args.sequence, args.q.dim(0));
  check_count(op, "position", args.position, args.q.dim(0));
  check.like_q("o", args.o);
  if (args.q.device != Device::kCuda) check_pages(op, args);
  backend_of(args.q.device).paged_attention(args);
}

void kv_write(const KvWriteArgs& args) {
  const char* op = "kv_write";
  Checks::check_rows(op, "k", args.k);
  const Tensor* const rows[] = {&args.v, &args.k_cache, &args.v_cache};
  const char* const names[] = {"v", "k_cache", "v_cache"};
  for (int i = 0; i < 3; ++i) {
    check_device(op, names[i], *rows[i], args.k.device);
    check_dtype(op, names[i], *rows[i], args.k.dtype);
  }
  require(args.v.has_shape({args.k.dim(0), args.k.dim(1)}), op, "v: expected the shape of k, ", args.k,
          ", got ", args.v);
  require(args.k_cache.rank == 4 && args.k_cache.dim(1) * args.k_cache.dim(3) == args.k.dim(1), op,
          "k_cache: expected shape [pages,K,page,D] with K * D = ", args.k.dim(1), ", got ", args.k_cache);
  require(args.v_cache.rank == 4 && args.v_cache.shape == args.k_cache.shape, op,
          "v_cache: expected the shape of k_cache, ", args.k_cache, ", got ", args.v_cache);
  check_device(op, "slot", args.slot, args.k.device);
  check_dtype(op, "slot", args.slot, DType::kI32);
  check_count(op, "slot", args.slot, args.k.dim(0));
  const int64_t slots = cache_shape(args.k_cache).slots();
  for (int64_t n = 0; args.k.device != Device::kCuda && n < args.k.dim(0); ++n) {
    const int32_t slot = args.slot.i32()[n];
    require(slot >= 0 && slot < slots, op, "slot: expected 0..", slots - 1, ", got ", slot, " at index ", n);
  }
  backend_of(args.k.device).kv_write(args);
}

}  // namespace nibble
