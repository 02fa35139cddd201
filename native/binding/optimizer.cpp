// Argument orders are those of native/optimizer.ts.
#include "ops/optimizer.h"

#include <vector>

#include "binding/arguments.h"

namespace nibble::binding {

namespace {

// (p, g, m, v, mAbsmax, vAbsmax, lr, beta1, beta2, eps, weightDecay, gradScale, step)
Napi::Value adamw(Napi::Env env, const Arguments& a) {
  nibble::adamw({.p = a.tensor(0), .g = a.tensor(1), .m = a.tensor(2), .v = a.tensor(3),
                 .m_absmax = a.maybe_tensor(4), .v_absmax = a.maybe_tensor(5), .lr = a.number(6),
                 .beta1 = a.number(7), .beta2 = a.number(8), .eps = a.number(9), .weight_decay = a.number(10),
                 .grad_scale = a.number(11), .step = a.integer(12)});
  return env.Undefined();
}

// (x, ...)
Napi::Value sum_squares(Napi::Env env, const Arguments& a) {
  std::vector<Tensor> all;
  for (size_t i = 0; i < a.count(); ++i) all.push_back(a.tensor(i));
  return Napi::Number::New(env, nibble::sum_squares(all.data(), int(all.size())));
}

}  // namespace

void define_optimizer(Napi::Object exports) {
  define<adamw>(exports, "adamw");
  define<sum_squares>(exports, "sumSquares");
}

}  // namespace nibble::binding
