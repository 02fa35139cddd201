// The entry points of cuBLASLt that backends/cuda/product_library.cu opens, computing on the host: what is passed to them must
// make the right product, or be refused here. Test of the calls, not of the library.
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace {

struct Layout {
  int type;
  uint64_t rows, columns;
  int64_t pitch;
};
struct Product {
  int transposes_a = 0;
};
struct Found {
  uint64_t algorithm[8];
  size_t scratch_bytes;
  int status;
  float waves;
  int reserved[4];
};

constexpr int kInvalid = 7, kBF16 = 14, kFloat = 0;
constexpr uint64_t kMark = 0x6e6962626c65;  // of the algorithm that was found, which must come back
int status_of_find = 0, products = 0;

float element(const void* data, const Layout& l, int64_t row, int64_t column) {
  const int64_t i = column * l.pitch + row;
  if (l.type == kFloat) return static_cast<const float*>(data)[i];
  const uint32_t bits = uint32_t(static_cast<const uint16_t*>(data)[i]) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

void set(void* data, const Layout& l, int64_t row, int64_t column, float value) {
  const int64_t i = column * l.pitch + row;
  if (l.type == kFloat) {
    static_cast<float*>(data)[i] = value;
    return;
  }
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  static_cast<uint16_t*>(data)[i] = uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

template <typename T>
int destroy(void* made) {
  delete static_cast<T*>(made);
  return 0;
}

}  // namespace

#define ENTRY extern "C" __attribute__((visibility("default"))) int

ENTRY fake_products() { return products; }
ENTRY fake_fail_to_find(int status) { return status_of_find = status; }

ENTRY cublasLtCreate(void** handle) {
  static int instance;
  *handle = &instance;
  return 0;
}
ENTRY cublasLtMatmulDescCreate(void** made, int sums, int scale) {
  if (sums != 68 || scale != kFloat) return kInvalid;
  *made = new Product;
  return 0;
}
ENTRY cublasLtMatmulDescSetAttribute(void* product, int attribute, const void* value, size_t bytes) {
  if (attribute != 3 || bytes != sizeof(int)) return kInvalid;
  std::memcpy(&static_cast<Product*>(product)->transposes_a, value, bytes);
  return 0;
}
ENTRY cublasLtMatmulDescDestroy(void* product) { return destroy<Product>(product); }
ENTRY cublasLtMatrixLayoutCreate(void** made, int type, uint64_t rows, uint64_t columns, int64_t pitch) {
  if ((type != kBF16 && type != kFloat) || pitch < int64_t(rows)) return kInvalid;
  *made = new Layout{type, rows, columns, pitch};
  return 0;
}
ENTRY cublasLtMatrixLayoutDestroy(void* layout) { return destroy<Layout>(layout); }
ENTRY cublasLtMatmulPreferenceCreate(void** made) {
  *made = new uint64_t{0};
  return 0;
}
ENTRY cublasLtMatmulPreferenceSetAttribute(void* preference, int attribute, const void* value, size_t bytes) {
  if (attribute != 1 || bytes != sizeof(uint64_t)) return kInvalid;
  std::memcpy(preference, value, bytes);
  return 0;
}
ENTRY cublasLtMatmulPreferenceDestroy(void* preference) { return destroy<uint64_t>(preference); }

ENTRY cublasLtMatmulAlgoGetHeuristic(void*, void* product, void* a, void* b, void* c, void* d, void* preference, int wanted,
                                     Found* found, int* count) {
  if (status_of_find != 0) return status_of_find;
  const auto &of_a = *static_cast<Layout*>(a), &of_b = *static_cast<Layout*>(b), &of_d = *static_cast<Layout*>(d);
  const bool t = static_cast<Product*>(product)->transposes_a != 0;
  const uint64_t n = t ? of_a.columns : of_a.rows, depth = t ? of_a.rows : of_a.columns;
  if (c != d || wanted < 1 || n != of_d.rows || depth != of_b.rows || of_b.columns != of_d.columns) return kInvalid;
  *found = {.algorithm = {kMark}, .scratch_bytes = size_t(*static_cast<uint64_t*>(preference)), .status = 0, .waves = 1,
            .reserved = {}};
  *count = 1;
  return 0;
}

ENTRY cublasLtMatmul(void*, void* product, const void* alpha, const void* a, void* layout_a, const void* b, void* layout_b,
                     const void* beta, const void* c, void*, void* d, void* layout_d, const uint64_t* algorithm, void* scratch,
                     size_t scratch_bytes, void*) {
  const auto &of_a = *static_cast<Layout*>(layout_a), &of_b = *static_cast<Layout*>(layout_b);
  const auto& of_d = *static_cast<Layout*>(layout_d);
  if (algorithm[0] != kMark || c != d) return kInvalid;
  std::memset(scratch, 0xff, scratch_bytes);  // it may use all of what it was promised
  const bool t = static_cast<Product*>(product)->transposes_a != 0;
  const float scale = *static_cast<const float*>(alpha), old = *static_cast<const float*>(beta);
  for (int64_t row = 0; row < int64_t(of_d.rows); ++row)
    for (int64_t column = 0; column < int64_t(of_d.columns); ++column) {
      double sum = 0;
      for (int64_t k = 0; k < int64_t(of_b.rows); ++k)
        sum += double(t ? element(a, of_a, k, row) : element(a, of_a, row, k)) * element(b, of_b, k, column);
      const float before = old == 0 ? 0 : old * element(d, of_d, row, column);
      set(d, of_d, row, column, float(scale * sum) + before);
    }
  ++products;
  return 0;
}
