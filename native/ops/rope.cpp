#include "ops/rope.h"

#include "ops/backend.h"
#include "ops/checks.h"

namespace nibble {

void rope(const RopeArgs& a) {
  const char* op = "rope";
  check_float32_or_bf16(op, "x", a.x);
  require(a.x.rank == 2, op, "x: expected shape [N,heads*D], got ", a.x);
  require(a.cos.rank == 2 && a.cos.dim(1) >= 1, op, "cos: expected shape [P,D/2], got ", a.cos);
  const Device device = a.x.device;
  check_floats(op, "cos", a.cos, a.cos.count(), device);
  check_like(op, "sin", a.sin, "cos", a.cos);
  const int64_t head_size = 2 * a.cos.dim(1);
  require(a.x.dim(1) % head_size == 0, op, "x: expected rows of heads of ", head_size, " (cos has ", a.cos.dim(1),
          " columns), got shape ", a.x);
  check_count(op, "positions", a.positions, a.x.dim(0));
  check_indices(op, "positions", a.positions, a.cos.dim(0), device);
  backend_of(device).rope(a);
}

}  // namespace nibble
