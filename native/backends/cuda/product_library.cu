// Products of many rows over 4-bit weights by cuBLASLt, beside our own tiles; chosen by name (core/device_products.h). It has
// what a card's generation is fastest with (wgmma on sm_90), our tiles decode inside the product instead.
//
// [1] x, and the adapter's h behind it, as one matrix of bfloat16: the adapter's term is more depth of the same sums
// [2] columns of C by chunks: their weights are decoded, and the adapter's matrix put behind them, to one buffer that stays
//     in the L2 cache
// [3] cuBLASLt multiplies both, with sums in float32, to the chunk's columns
//
// The library is opened when it is first used: $NIBBLE_CUBLASLT, else its names of CUDA 13 and 12. Its entry points and
// constants are written here, as no header of it is needed to build: they are of cublasLt.h and have not changed since 11.
#include <dlfcn.h>

#include <cstdlib>
#include <map>
#include <memory>
#include <tuple>
#include <type_traits>

#include "backends/cuda/product.h"
#include "core/device_products.h"
#include "core/error.h"

namespace nibble::cuda {

namespace {

constexpr int64_t kRowsMin = 128;                   // of C: below, decoding is most of the work
constexpr int64_t kChunkBytes = int64_t{16} << 20;  // of the weights' buffer: a third of the L2 cache of an H100
constexpr int64_t kScratchBytes = int64_t{32} << 20;
constexpr int64_t kPack = 8;  // elements of 16 bytes

constexpr int kBF16 = 14, kFloat = 0, kSumsInFloat = 68, kTransposed = 1;
constexpr int kTransposeA = 3, kScratchMax = 1;  // of a product, of a preference

struct Algorithm {
  uint64_t data[8];
};
struct Found {
  Algorithm algorithm;
  size_t scratch_bytes;
  int status;
  float waves;
  int reserved[4];
};

class Library {
 public:
  // Throws FAILED_PRECONDITION where there is none.
  static Library& open() {
    static Library* instance = nullptr;
    if (instance == nullptr) instance = new Library;
    return *instance;
  }

  int (*create)(void**);
  int (*product_create)(void**, int sums, int scale);
  int (*product_set)(void*, int attribute, const void*, size_t);
  int (*product_destroy)(void*);
  int (*layout_create)(void**, int type, uint64_t rows, uint64_t columns, int64_t pitch);
  int (*layout_destroy)(void*);
  int (*preference_create)(void**);
  int (*preference_set)(void*, int attribute, const void*, size_t);
  int (*preference_destroy)(void*);
  int (*find)(void*, void*, void*, void*, void*, void*, void*, int, Found*, int*);
  int (*multiply)(void*, void*, const void* alpha, const void* a, void*, const void* b, void*, const void* beta,
                  const void* c, void*, void* d, void*, const Algorithm*, void* scratch, size_t, void* stream);

  void* handle() const { return handle_; }

  static void check(int status, const char* what) {
    if (status != 0) throw Error(Code::kInternal, "cublaslt", std::string(what) + ": status " + std::to_string(status));
  }

 private:
  Library() {
    const char* const named = std::getenv("NIBBLE_CUBLASLT");
    std::string why;
    for (const char* name : {named, "libcublasLt.so.13", "libcublasLt.so.12"}) {
      if (name == nullptr || (named != nullptr && name != named)) continue;
      file_ = dlopen(name, RTLD_NOW | RTLD_LOCAL);
      if (file_ != nullptr) break;
      why = dlerror();
    }
    if (file_ == nullptr) refuse("expected libcublasLt.so.13 or .12, or its path in NIBBLE_CUBLASLT, got " + why);
    load(create, "Create");
    load(product_create, "MatmulDescCreate");
    load(product_set, "MatmulDescSetAttribute");
    load(product_destroy, "MatmulDescDestroy");
    load(layout_create, "MatrixLayoutCreate");
    load(layout_destroy, "MatrixLayoutDestroy");
    load(preference_create, "MatmulPreferenceCreate");
    load(preference_set, "MatmulPreferenceSetAttribute");
    load(preference_destroy, "MatmulPreferenceDestroy");
    load(find, "MatmulAlgoGetHeuristic");
    load(multiply, "Matmul");
    check(create(&handle_), "create");
  }

  template <typename F>
  void load(F& to, const char* name) {
    to = reinterpret_cast<F>(dlsym(file_, (std::string("cublasLt") + name).c_str()));
    if (to == nullptr) refuse(dlerror());
  }
  [[noreturn]] static void refuse(const std::string& why) {
    throw Error(Code::kFailedPrecondition, "cublaslt", why + "; NIBBLE_CUDA_GEMM=own does without");
  }

  void *file_ = nullptr, *handle_ = nullptr;
};

// D = op(A) B by columns, as the library takes matrices: [n, m] is C's chunk of n columns by rows.
struct Shape {
  int64_t m, n, depth, a_pitch, b_pitch, d_pitch;
  bool by_rows;  // A, the weights' buffer, has a row for each of n
  int type;      // of D

  auto key() const { return std::tie(m, n, depth, a_pitch, b_pitch, d_pitch, by_rows, type); }
  bool operator<(const Shape& other) const { return key() < other.key(); }
};

using Handle = std::unique_ptr<void, int (*)(void*)>;

template <typename... A>
Handle made(const char* what, int (*create)(void**, A...), int (*destroy)(void*), std::type_identity_t<A>... args) {
  void* handle = nullptr;
  Library::check(create(&handle, args...), what);
  return {handle, destroy};
}

// What the library is told of a shape, and what it chose for it.
class Plan {
 public:
  explicit Plan(const Shape& s)
      : product_(made("product", lib_.product_create, lib_.product_destroy, kSumsInFloat, kFloat)),
        a_(layout(kBF16, s.by_rows ? s.depth : s.n, s.by_rows ? s.n : s.depth, s.a_pitch)),
        b_(layout(kBF16, s.depth, s.m, s.b_pitch)), d_(layout(s.type, s.n, s.m, s.d_pitch)) {
    if (s.by_rows) Library::check(lib_.product_set(product_.get(), kTransposeA, &kTransposed, sizeof(int)), "product");
    const Handle preference = made("preference", lib_.preference_create, lib_.preference_destroy);
    const uint64_t most = kScratchBytes;
    Library::check(lib_.preference_set(preference.get(), kScratchMax, &most, sizeof most), "preference");
    int count = 0;
    Library::check(lib_.find(lib_.handle(), product_.get(), a_.get(), b_.get(), d_.get(), d_.get(), preference.get(), 1, &found_,
                             &count), "heuristic");
    if (count == 0) throw Error(Code::kInternal, "cublaslt", "heuristic: expected an algorithm, got none");
  }

  void run(const void* a, const void* b, void* d, bool accumulate, void* scratch) const {
    const float one = 1, old = accumulate ? 1 : 0;
    Library::check(lib_.multiply(lib_.handle(), product_.get(), &one, a, a_.get(), b, b_.get(), &old, d, d_.get(), d, d_.get(),
                                 &found_.algorithm, scratch, found_.scratch_bytes, stream_handle()), "product");
  }

 private:
  Handle layout(int type, int64_t rows, int64_t columns, int64_t pitch) const {
    return made("layout", lib_.layout_create, lib_.layout_destroy, type, uint64_t(rows), uint64_t(columns), pitch);
  }

  const Library& lib_ = Library::open();
  Handle product_, a_, b_, d_;
  Found found_{};
};

const Plan& plan_of(const Shape& shape) {
  constexpr size_t kPlansMax = 512;  // rows of a batch differ from step to step
  static auto* plans = new std::map<Shape, std::unique_ptr<Plan>>;
  const auto known = plans->find(shape);
  if (known != plans->end()) return *known->second;
  if (plans->size() >= kPlansMax) plans->clear();
  auto made = std::make_unique<Plan>(shape);
  return *((*plans)[shape] = std::move(made));
}

// Elements (row, k) of an operand, zeros from `depth` to `padded`, to row * row_pitch + k * depth_pitch.
__global__ void copy_kernel(const __grid_constant__ Operand o, int64_t rows, int64_t depth, int64_t padded, int64_t row_pitch,
                            int64_t depth_pitch, uint16_t* to) {
  const WeightView none{};
  for (int64_t i = first_index(); i < rows * padded; i += index_stride()) {
    // Neighbours write next to each other.
    const int64_t row = depth_pitch == 1 ? i / padded : i % rows, k = depth_pitch == 1 ? i % padded : i / rows;
    to[row * row_pitch + k * depth_pitch] = k < depth ? float_to_bf16(element(o, none, row, k)) : uint16_t{0};
  }
}

// W's rows and columns from those given on, a thread 8 codes.
__global__ void decode_kernel(const __grid_constant__ WeightView w, int64_t row0, int64_t rows, int64_t column0,
                              int64_t columns, int64_t pitch, uint16_t* to) {
  __shared__ CodeTables tables;
  share_tables(w, &tables);
  __syncthreads();
  const int64_t packs = columns / kPack;
  for (int64_t at = first_index(); at < rows * packs; at += index_stride()) {
    const int64_t row = at / packs, column = at % packs * kPack, e = (row0 + row) * w.in + column0 + column;
    const uint32_t codes = *reinterpret_cast<const uint32_t*>(static_cast<const uint8_t*>(w.data) + e / 2);
    const float constant = constant_of(w, tables, fetch_constant(w, e >> w.block_shift));
    *reinterpret_cast<uint4*>(to + row * pitch + column) = decode_pairs(codes, constant, tables.value);
  }
}

void copy(const Operand& o, int64_t rows, int64_t depth, int64_t padded, int64_t row_pitch, int64_t depth_pitch, uint16_t* to) {
  launch(copy_kernel, grid_for(rows * padded), kThreads, 0, o, rows, depth, padded, row_pitch, depth_pitch, to);
}

int64_t padded_to_pack(int64_t count) { return blocks_of(count, kPack) * kPack; }

Products from_environment() {
  const char* const name = std::getenv("NIBBLE_CUDA_GEMM");
  const std::string text = name == nullptr ? "own" : name;
  if (text != "own" && text != "cublaslt") {
    throw Error(Code::kInvalidArgument, "cuda", "NIBBLE_CUDA_GEMM: expected own or cublaslt, got " + text);
  }
  return text == "own" ? Products::kOwn : Products::kLibrary;
}

Products& choice() {
  static Products chosen = from_environment();
  return chosen;
}

}  // namespace

Products chosen_products() { return choice(); }

void choose_products(Products products) {
  if (products == Products::kLibrary) Library::open();
  choice() = products;
}

bool takes_library(const Product& p, const WeightView& w) {
  return choice() == Products::kLibrary && p.term[0].b.is_weight && w.quantized && takes_pairs(p, w) && p.m >= kRowsMin &&
         p.n % kPack == 0 && p.term[0].depth % kPack == 0 && w.in % kPack == 0 && !p.term[0].a.columns && p.bias == nullptr &&
         p.rows_used == nullptr && p.mask.p == 0 && reinterpret_cast<uintptr_t>(w.data) % 4 == 0;
}

void multiply_library(const Product& p, const WeightView& w) {
  const int64_t depth = p.term[0].depth, beside = p.terms == 2 ? padded_to_pack(p.term[1].depth) : 0, all = depth + beside;
  const bool by_rows = !p.term[0].b.columns;
  // [1]
  const Workspace<uint16_t> x(p.m * all);
  copy(p.term[0].a, p.m, depth, depth, all, 1, x.data());
  if (beside > 0) copy(p.term[1].a, p.m, p.term[1].depth, beside, all, 1, x.data() + depth);
  const int64_t chunk = most(kPack, least(p.n, kChunkBytes / (2 * all) / kPack * kPack));
  const Workspace<uint16_t> weights(chunk * all);
  const Workspace<uint8_t> scratch(kScratchBytes);
  for (int64_t first = 0; first < p.n; first += chunk) {
    const int64_t columns = least(chunk, p.n - first), pitch = by_rows ? all : columns;
    // [2]
    const Grid grid = grid_for(columns * depth / kPack);
    if (by_rows) launch(decode_kernel, grid, kThreads, 0, w, first, columns, int64_t{0}, depth, pitch, weights.data());
    else launch(decode_kernel, grid, kThreads, 0, w, int64_t{0}, depth, first, columns, pitch, weights.data());
    if (beside > 0) {
      Operand b = p.term[1].b;
      b.data = static_cast<const uint8_t*>(b.data) + size_of(b.dtype) * b.index(first, 0);
      copy(b, columns, p.term[1].depth, beside, by_rows ? pitch : 1, by_rows ? 1 : pitch,
           weights.data() + (by_rows ? depth : depth * pitch));
    }
    // [3]
    const Shape shape{.m = p.m, .n = columns, .depth = all, .a_pitch = pitch, .b_pitch = all, .d_pitch = p.n,
                      .by_rows = by_rows, .type = p.c_dtype == DType::kBF16 ? kBF16 : kFloat};
    void* const to = static_cast<uint8_t*>(p.c) + first * size_of(p.c_dtype);
    submit([=, a = weights.data(), b = x.data(), space = scratch.data(), accumulate = p.accumulate] {
      plan_of(shape).run(a, b, to, accumulate, space);
    });
  }
}

}  // namespace nibble::cuda
