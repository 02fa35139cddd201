#include "ops/linear.h"

#include <cmath>

#include "ops/backend.h"
#include "ops/checks.h"

namespace nibble {

namespace {

// The checks of one op: its name, its device and the dtype of its activations.
struct Check {
  const char* op;
  Device device;
  DType activation;

  // [rows, columns] of the given dtype on the op's device.
  void matrix(const char* name, const Tensor& t, DType dtype, int64_t rows, int64_t columns) const {
    require(bool(t), op, name, ": expected a tensor [", rows, ",", columns, "], got none");
    check_device(op, name, t, device);
    check_dtype(op, name, t, dtype);
    require(t.has_shape({rows, columns}), op, name, ": expected shape [", rows, ",", columns, "], got ",
            t);
  }

  void vector(const char* name, const Tensor& t, int64_t count) const {
    check_device(op, name, t, device);
    check_dtype(op, name, t, DType::kF32);
    check_count(op, name, t, count);
  }

  // The rank of an adapter [R, in], [out, R].
  int64_t adapter(const Tensor& a, const Tensor& b, int64_t out, int64_t in, float scaling) const {
    require(bool(a) && bool(b), op, "lora: expected both a and b, got one of them");
    require(a.rank == 2 && a.dim(0) >= 1, op, "lora.a: expected shape [R,", in, "], R >= 1, got ", a);
    matrix("lora.a", a, DType::kF32, a.dim(0), in);
    matrix("lora.b", b, DType::kF32, out, a.dim(0));
    require(std::isfinite(scaling), op, "lora.scaling: expected a finite number, got ", scaling);
    return a.dim(0);
  }

  void dropout(const Dropout& d) const {
    require(d.p >= 0 && d.p < 1, op, "dropout.p: expected a number in [0, 1), got ", d.p);
  }
};

// Begins the checks of an op whose activations have the dtype, device and shape [N, ...] of `t`.
Check start(const char* op, const char* name, const Tensor& t) {
  require(t.dtype == DType::kF32 || t.dtype == DType::kBF16, op, name, ": expected float32 or bfloat16, got ",
          name_of(t.dtype));
  require(t.rank == 2, op, name, ": expected two dimensions, got shape ", t);
  return {op, t.device, t.dtype};
}

void check_gradients(const Check& check, const LinearBackwardArgs& a, int64_t n, int64_t rank) {
  const int64_t out = a.w.out, in = a.w.in;
  const char* op = check.op;
  if (a.d_x) check.matrix("d_x", a.d_x, check.activation, n, in);
  require(rank > 0 || (!a.d_a && !a.d_b), op, "d_a, d_b: expected none without an adapter");
  if (a.d_a) check.matrix("d_a", a.d_a, DType::kF32, rank, in);
  if (a.d_b) check.matrix("d_b", a.d_b, DType::kF32, out, rank);
  if (a.d_b) check.matrix("h", a.h, DType::kF32, n, rank);
  if (a.d_a || a.d_w || a.x) check.matrix("x", a.x, check.activation, n, in);
  require(!a.d_w || !a.w.quantized, op, "d_w: expected a dense weight, got a 4-bit one");
  if (a.d_w) check.matrix("d_w", a.d_w, DType::kF32, out, in);
  if (a.d_bias) check.vector("d_bias", a.d_bias, out);
}

void check_forward(const char* op, const Check& check, const LinearForwardArgs& a) {
  const int64_t n = a.x.dim(0);
  check_weight(op, a.w, check.device);
  check.matrix("x", a.x, check.activation, n, a.w.in);
  check.matrix("y", a.y, check.activation, n, a.w.out);
  if (a.bias) check.vector("bias", a.bias, a.w.out);
  if (a.a || a.b) {
    check.matrix("h", a.h, DType::kF32, n, check.adapter(a.a, a.b, a.w.out, a.w.in, a.scaling));
    check.dropout(a.dropout);
  } else {
    require(!a.h, op, "h: expected none without an adapter");
  }
}

void check_backward(const Check& check, const LinearBackwardArgs& a, int64_t n) {
  check_weight(check.op, a.w, check.device);
  check.matrix("d_y", a.d_y, check.activation, n, a.w.out);
  int64_t rank = 0;
  if (a.a || a.b) {
    rank = check.adapter(a.a, a.b, a.w.out, a.w.in, a.scaling);
    check.dropout(a.dropout);
  }
  check_gradients(check, a, n, rank);
}

void check_layer_count(const char* op, int count) {
  require(count >= 1 && count <= kLinearsMax, op, "layers: expected 1..", kLinearsMax, ", got ", count);
}

void check_linears_forward(const LinearForwardArgs* args, int count) {
  const char* op = "linear_forward";
  check_layer_count(op, count);
  const Check check = start(op, "x", args[0].x);
  for (int i = 0; i < count; ++i) {
    require(args[i].x.data == args[0].x.data, op, "x: expected one tensor for all layers");
    check_forward(op, check, args[i]);
  }
}

}  // namespace

void linears_forward(const LinearForwardArgs* args, int count) {
  check_linears_forward(args, count);
  if (args[0].x.dim(0) > 0) backend_of(args[0].x.device).linears_forward(args, count);
}

void linears_backward(const LinearBackwardArgs* args, int count) {
  const char* op = "linear_backward";
  check_layer_count(op, count);
  const Check check = start(op, "d_y", args[0].d_y);
  for (int i = 0; i < count; ++i) {
    require(args[i].x.data == args[0].x.data, op, "x: expected one tensor for all layers");
    require(args[i].d_x.data == args[0].d_x.data, op, "d_x: expected one tensor for all layers");
    check_backward(check, args[i], args[0].d_y.dim(0));
  }
  if (args[0].d_y.dim(0) > 0) backend_of(check.device).linears_backward(args, count);
}

namespace {

void check_lora_add(const LoraAddArgs& a) {
  const char* op = "lora_add";
  const Check check = start(op, "x", a.x);
  const int64_t n = a.x.dim(0);
  check_float32_or_bf16(op, "lora.a", a.a);
  require(a.a.rank == 2 && a.a.dim(0) >= 1, op, "lora.a: expected shape [R,I], R >= 1, got ", a.a);
  require(a.b.rank == 2, op, "lora.b: expected shape [R,O], got ", a.b);
  check.matrix("lora.a", a.a, a.a.dtype, a.a.dim(0), a.x.dim(1));
  check.matrix("lora.b", a.b, a.a.dtype, a.a.dim(0), a.b.dim(1));
  check.matrix("y", a.y, check.activation, n, a.b.dim(1));
  require(std::isfinite(a.scaling), op, "lora.scaling: expected a finite number, got ", a.scaling);
  require(a.begin >= 0 && a.begin <= a.end && a.end <= n, op, "rows: expected 0 <= begin <= end <= ", n, ", got ",
          a.begin, " and ", a.end);
}

void check_lora_adds(const LoraAddArgs* args, int count) {
  for (int i = 0; i < count; ++i) {
    check_lora_add(args[i]);
    check_device("lora_add", "x", args[i].x, args[0].x.device);
    check_dtype("lora_add", "x", args[i].x, args[0].x.dtype);
  }
}

// Each add has x and y of one of the layers, none of a layer before that of the add before it.
void check_order(const LinearForwardArgs* args, int count, const LoraAddArgs* adds, int adds_count) {
  int layer = 0;
  for (int i = 0; i < adds_count; ++i) {
    while (layer < count && args[layer].y.data != adds[i].y.data) ++layer;
    require(layer < count && args[layer].x.data == adds[i].x.data, "lora_add",
            "x, y: expected those of the layers, in their order, got another's at ", i);
  }
}

}  // namespace

void lora_adds(const LoraAddArgs* args, int count) {
  if (count == 0) return;
  check_lora_adds(args, count);
  backend_of(args[0].x.device).lora_adds(args, count);
}

void linears_adapted(const LinearForwardArgs* args, int count, const LoraAddArgs* adds, int adds_count, const Soon* soon,
                     int soon_count) {
  check_linears_forward(args, count);
  check_lora_adds(adds, adds_count);
  check_order(args, count, adds, adds_count);
  if (args[0].x.dim(0) == 0) return;
  const Backend& backend = backend_of(args[0].x.device);
  const auto together = backend.linears_adapted;
  const bool beside = adds_count > 0 || soon_count > 0;
  if (beside && together != nullptr && together(args, count, adds, adds_count, soon, soon_count)) return;
  backend.linears_forward(args, count);
  if (adds_count > 0) backend.lora_adds(adds, adds_count);
}

void scale_columns(const ScaleColumnsArgs& a) {
  const char* op = "scale_columns";
  const Check check = start(op, "y", a.y);
  const int64_t n = a.y.dim(0), out = a.y.dim(1);
  check.vector("factor", a.factor, out);
  if (a.bias) check.vector("bias", a.bias, out);
  require(a.begin >= 0 && a.begin <= a.end && a.end <= n, op, "rows: expected 0 <= begin <= end <= ", n, ", got ",
          a.begin, " and ", a.end);
  if (a.begin < a.end) backend_of(check.device).scale_columns(a);
}

}  // namespace nibble
