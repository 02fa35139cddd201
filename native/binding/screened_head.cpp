// Argument order is that of native/screened-head.ts.
#include "ops/screened_head.h"

#include "binding/arguments.h"

namespace nibble::binding {

namespace {

HeadScreen screen(const Arguments& a) {
  return {.codes = a.tensor(1), .scale = a.tensor(2), .error = a.tensor(3), .norm = a.tensor(4)};
}

// (weight, codes, scale, error, norm)
Napi::Value screen_head(Napi::Env env, const Arguments& a) {
  nibble::screen_head({.w = a.weight(0), .screen = screen(a)});
  return env.Undefined();
}

// (weight, codes, scale, error, norm, x, keep, y)
Napi::Value screened_head(Napi::Env env, const Arguments& a) {
  nibble::screened_head({.x = a.tensor(5), .w = a.weight(0), .screen = screen(a),
                         .keep = a.integer(6), .y = a.tensor(7)});
  return env.Undefined();
}

}  // namespace

void define_screened_head(Napi::Object exports) {
  define<screen_head>(exports, "screenHead");
  define<screened_head>(exports, "screenedHead");
}

}  // namespace nibble::binding
