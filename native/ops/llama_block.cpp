#include "ops/llama_block.h"

#include "core/memory.h"
#include "ops/activation.h"
#include "ops/checks.h"
#include "ops/elementwise.h"
#include "ops/norm.h"
#include "ops/rope.h"

namespace nibble {

namespace {

// Tensors that live as long as the call, of one allocation.
class Arena {
 public:
  Arena(int64_t bytes, Device device)
      : device_(device),
        begin_(static_cast<uint8_t*>(memory_of(device).allocate(bytes, Kind::kActivations))),
        next_(begin_) {}
  ~Arena() { memory_of(device_).release(begin_); }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  static int64_t bytes_of(DType dtype, int64_t count) { return (count * size_of(dtype) + 63) / 64 * 64; }

  Tensor matrix(DType dtype, int64_t rows, int64_t columns) {
    const Tensor t{.data = next_, .dtype = dtype, .device = device_, .rank = 2, .shape = {rows, columns}};
    next_ += bytes_of(dtype, rows * columns);
    return t;
  }
  Tensor vector(DType dtype, int64_t count) {
    const Tensor t{.data = next_, .dtype = dtype, .device = device_, .rank = 1, .shape = {count}};
    next_ += bytes_of(dtype, count);
    return t;
  }

 private:
  Device device_;
  uint8_t *begin_, *next_;
};

class BlockRun {
 public:
  explicit BlockRun(const LlamaBlockArgs& a)
      : a_(a), rows_(a.x.dim(0)), arena_(bytes_of(a), a.x.device), rstd_(arena_.vector(DType::kF32, rows_)),
        y_(like(a.x.dim(1))), stream_(like(a.x.dim(1))), attended_(like(width(kQ))) {
    for (int l = kQ; l < kLlamaLinears; ++l)
      if (l != kDown) out_[l] = like(width(l));
    out_[kDown] = a.x;
  }

  void run() {
    const LlamaBlock& w = a_.block;
    normalize(a_.x, {}, w.input_norm, w.input_eps, {});
    multiply(y_, {kQ, kK, kV});
    for (LlamaLinear l : {kQ, kK}) rope({.x = out_[l], .positions = a_.position, .cos = a_.cos, .sin = a_.sin});
    kv_write({.k = out_[kK], .v = out_[kV], .slot = a_.slot, .k_cache = a_.k_cache, .v_cache = a_.v_cache});
    paged_attention({.shape = a_.shape, .q = out_[kQ], .k_cache = a_.k_cache, .v_cache = a_.v_cache,
                     .block_table = a_.block_table, .sequence = a_.sequence, .position = a_.position, .o = attended_});
    multiply(attended_, {kO});
    normalize(out_[kO], a_.x, w.post_norm, w.post_eps, stream_);
    multiply(y_, {kGate, kUp}, next_pages());
    activation_forward({.kind = Activation::kSilu, .g = out_[kGate], .u = out_[kUp], .y = out_[kUp]});
    multiply(out_[kUp], {kDown});
    add({.x = stream_, .y = a_.x});
  }

 private:
  int64_t width(int l) const { return a_.block.weight[l].out; }
  Tensor like(int64_t columns) { return arena_.matrix(a_.x.dtype, rows_, columns); }

  static int64_t bytes_of(const LlamaBlockArgs& a) {
    const int64_t n = a.x.dim(0);
    const auto of = [&](int64_t columns) { return Arena::bytes_of(a.x.dtype, n * columns); };
    int64_t bytes = Arena::bytes_of(DType::kF32, n) + 2 * of(a.x.dim(1)) + of(a.block.weight[kQ].out);
    for (int l = kQ; l < kDown; ++l) bytes += of(a.block.weight[l].out);
    return bytes;
  }

  void normalize(const Tensor& x, const Tensor& residual, const Tensor& weight, float eps, const Tensor& sum) {
    norm_forward({.kind = Norm::kRms, .x = x, .residual = residual, .weight = weight, .eps = eps, .y = y_, .sum = sum,
                  .rstd = rstd_});
  }

  // The layers of one x: together, then each adapter's rows.
  void multiply(const Tensor& x, std::initializer_list<LlamaLinear> layers, const std::vector<Soon>& soon = {}) {
    std::vector<LoraAddArgs> adapters;
    for (LlamaLinear l : layers) {
      for (const LlamaSegment& s : a_.segments) {
        const auto& lora = s.lora[l];
        if (!lora.a) continue;
        adapters.push_back({.x = x, .a = lora.a, .b = lora.b, .scaling = lora.scaling, .begin = s.begin, .end = s.end,
                            .y = out_[l]});
      }
    }
    LinearForwardArgs args[kLlamaLinears];
    int count = 0;
    for (LlamaLinear l : layers)
      args[count++] = {.x = x, .w = a_.block.weight[l], .bias = a_.block.bias[l], .y = out_[l]};
    linears_adapted(args, count, adapters.data(), int(adapters.size()), soon.data(), int(soon.size()));
    for (LlamaLinear l : layers) {
      for (const LlamaSegment& s : a_.segments) {
        if (!s.lora[l].factor) continue;
        scale_columns({.factor = s.lora[l].factor, .bias = a_.block.bias[l], .begin = s.begin, .end = s.end,
                       .y = out_[l]});
      }
    }
  }

  // What the next block's attention reads of its cache, the last rows first, as the CPU takes them. The longest products are
  // made meanwhile: those of many rows leave memory idle, and attention would wait for nothing else.
  std::vector<Soon> next_pages() const {
    std::vector<Soon> soon;
    if (!a_.next_k_cache || a_.x.device != Device::kCpu || rows_ < kIdleRows) return soon;
    const CacheShape cache = cache_shape(a_.next_k_cache);
    const int64_t bytes = cache.kv_heads * cache.page * cache.size * size_of(a_.x.dtype);
    const int32_t *sequence = a_.sequence.i32(), *position = a_.position.i32();
    for (int64_t n = rows_ - 1, left = kSoonBytes; n >= 0; --n) {
      if (n + 1 < rows_ && sequence[n] == sequence[n + 1]) continue;
      const int64_t window = a_.shape.window, first = window > 0 && position[n] >= window ? position[n] - window + 1 : 0;
      const int32_t* const pages = a_.block_table.i32() + sequence[n] * a_.block_table.dim(1);
      for (int64_t p = first / cache.page; p <= position[n] / cache.page && left > 0; ++p, left -= 2 * bytes)
        for (const Tensor& of : {a_.next_k_cache, a_.next_v_cache}) soon.push_back({of.u8() + pages[p] * bytes, bytes});
    }
    return soon;
  }

  static constexpr int64_t kSoonBytes = 4 << 20;  // more would drive itself out of the cache
  static constexpr int64_t kIdleRows = 8;  // of x; the products of fewer wait for memory themselves

  const LlamaBlockArgs& a_;
  int64_t rows_;
  Arena arena_;
  Tensor rstd_, y_, stream_, attended_;
  Tensor out_[kLlamaLinears];
};

}  // namespace

void llama_block(const LlamaBlockArgs& a) {
  const char* op = "llama_block";
  check_float32_or_bf16(op, "x", a.x);
  require(a.x.rank == 2, op, "x: expected shape [N,C], got ", a.x);
  // What the ops of the block do not check for themselves.
  require(a.block.weight[kDown].out == a.x.dim(1), op, "down: expected ", a.x.dim(1), " rows as x has columns, got ",
          a.block.weight[kDown].out);
  if (a.next_k_cache) check_like(op, "next_k_cache", a.next_k_cache, "k_cache", a.k_cache);
  if (a.next_k_cache) check_like(op, "next_v_cache", a.next_v_cache, "v_cache", a.v_cache);
  if (a.x.dim(0) > 0) BlockRun(a).run();
}

}  // namespace nibble
