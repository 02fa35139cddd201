#include "ops/cross_entropy.h"

#include <cmath>

#include "ops/backend.h"
#include "ops/checks.h"

namespace nibble {

namespace {

void check_labels(const char* op, const CrossEntropyArgs& a, int64_t n) {
  check_dtype(op, "labels", a.labels, DType::kI32);
  check_count(op, "labels", a.labels, n);
  if (a.labels.device == Device::kCuda) return;  // not readable here; the kernel takes them as they are
  for (int64_t i = 0; i < n; ++i) {
    const int32_t label = a.labels.i32()[i];
    require(label < a.w.out, op, "labels: expected below ", a.w.out, ", got ", label, " in row ", i);
  }
}

void check_weights(const char* op, const CrossEntropyArgs& a, int64_t n) {
  if (!a.weights) return;
  check_dtype(op, "weights", a.weights, DType::kF32);
  check_count(op, "weights", a.weights, n);
  if (a.weights.device == Device::kCuda || a.weights.device == Device::kMeta) return;  // not readable here
  for (int64_t i = 0; i < n; ++i) {
    const float weight = a.weights.f32()[i];
    require(std::isfinite(weight) && weight >= 0, op, "weights: expected a finite number from 0, got ", weight, " in row ", i);
  }
}

}  // namespace

void linear_cross_entropy(const CrossEntropyArgs& a) {
  const char* op = "linear_cross_entropy";
  const Device device = a.x.device;
  require(a.x.dtype == DType::kF32 || a.x.dtype == DType::kBF16, op, "x: expected float32 or bfloat16, got ",
          name_of(a.x.dtype));
  check_weight(op, a.w, device);
  require(a.x.rank == 2 && a.x.dim(1) == a.w.in, op, "x: expected shape [N,", a.w.in, "], got ", a.x);
  const int64_t n = a.x.dim(0);
  for (const Tensor* t : {&a.labels, &a.weights, &a.loss, &a.d_x, &a.d_w}) {
    if (*t) check_device(op, "labels, weights, loss, d_x, d_w", *t, device);
  }
  check_labels(op, a, n);
  check_weights(op, a, n);
  check_dtype(op, "loss", a.loss, DType::kF32);
  check_count(op, "loss", a.loss, n);
  require(std::isfinite(a.scale), op, "scale: expected a finite number, got ", a.scale);
  if (a.d_x) {
    check_dtype(op, "d_x", a.d_x, a.x.dtype);
    require(a.d_x.has_shape({n, a.w.in}), op, "d_x: expected shape ", a.x, ", got ", a.d_x);
  }
  if (a.d_w) {
    require(!a.w.quantized, op, "d_w: expected a dense weight, got a 4-bit one");
    check_dtype(op, "d_w", a.d_w, DType::kF32);
    require(a.d_w.has_shape({a.w.out, a.w.in}), op, "d_w: expected shape [", a.w.out, ",", a.w.in, "], got ",
            a.d_w);
  }
  if (n > 0) backend_of(device).linear_cross_entropy(a);
}

}  // namespace nibble
