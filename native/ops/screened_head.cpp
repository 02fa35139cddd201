#include "ops/screened_head.h"

#include "ops/backend.h"
#include "ops/checks.h"

namespace nibble {

namespace {

void check(const char* op, const Weight& w, const HeadScreen& s, Device device) {
  check_weight(op, w, device);
  require(!w.quantized, op, "w: expected a dense weight, got a 4-bit one");
  require(w.in <= kScreenColumnsMax, op, "w: expected at most ", kScreenColumnsMax, " columns, got ", w.in);
  check_device(op, "codes", s.codes, device);
  check_dtype(op, "codes", s.codes, DType::kU8);
  check_shape(op, "codes", s.codes,
              {screen_groups(w.out), screen_pitch(w.in) / kScreenQuad, kScreenRows, kScreenQuad});
  check_floats(op, "scale", s.scale, w.out, device);
  check_floats(op, "error", s.error, w.out, device);
  check_floats(op, "norm", s.norm, w.out, device);
}

const Backend& backend_with_screens(const char* op, Device device) {
  const Backend& backend = backend_of(device);
  require(backend.screen_head != nullptr && backend.screened_head != nullptr, op, "expected a device with screens, got ",
          name_of(device));
  return backend;
}

}  // namespace

void screen_head(const ScreenHeadArgs& a) {
  const char* op = "screen_head";
  check(op, a.w, a.screen, a.w.data.device);
  backend_with_screens(op, a.w.data.device).screen_head(a);
}

void screened_head(const ScreenedHeadArgs& a) {
  const char* op = "screened_head";
  check(op, a.w, a.screen, a.x.device);
  check_dtype(op, "x", a.x, DType::kF32);
  require(a.x.rank == 2 && a.x.dim(1) == a.w.in, op, "x: expected shape [N,", a.w.in, "], got ", a.x);
  check_device(op, "y", a.y, a.x.device);
  check_dtype(op, "y", a.y, DType::kF32);
  check_shape(op, "y", a.y, {a.x.dim(0), a.w.out});
  require(a.keep >= 1, op, "keep: expected at least 1, got ", a.keep);
  if (a.x.dim(0) > 0) backend_with_screens(op, a.x.device).screened_head(a);
}

}  // namespace nibble
