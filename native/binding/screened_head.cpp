// Argument order is that of native/screened-head.ts.
#include "ops/screened_head.h"

#include "binding/arguments.h"

namespace nibble::binding {

namespace {

constexpr size_t kRest = Arguments::kWeightArguments;  // where the op's own arguments begin

HeadScreen screen(const Arguments& a) {
  return {.codes = a.tensor(kRest), .scale = a.tensor(kRest + 1), .error = a.tensor(kRest + 2),
          .norm = a.tensor(kRest + 3)};
}

// (weight, codes, scale, error, norm)
Napi::Value screen_head(Napi::Env env, const Arguments& a) {
  nibble::screen_head({.w = a.weight(0), .screen = screen(a)});
  return env.Undefined();
}

// (weight, codes, scale, error, norm, x, keep, y)
Napi::Value screened_head(Napi::Env env, const Arguments& a) {
  nibble::screened_head({.x = a.tensor(kRest + 4), .w = a.weight(0), .screen = screen(a),
                         .keep = a.integer(kRest + 5), .y = a.tensor(kRest + 6)});
  return env.Undefined();
}

}  // namespace

void define_screened_head(Napi::Object exports) {
  define<screen_head>(exports, "screenHead");
  define<screened_head>(exports, "screenedHead");
}

}  // namespace nibble::binding
