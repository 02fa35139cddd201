// Argument orders are those of native/optimizer.ts.
#include "ops/optimizer.h"

#include <vector>

#include "binding/arguments.h"

namespace nibble::binding {

namespace {

// (lr, beta1, beta2, eps, weightDecay, gradScale, step), and of each parameter (p, g, m, v, mAbsmax, vAbsmax)
Napi::Value adamw(Napi::Env env, const Arguments& a) {
  constexpr size_t kHyper = 7, kOwn = 6;
  std::vector<AdamwArgs> all;
  for (size_t at = kHyper; at + kOwn <= a.count(); at += kOwn)
    all.push_back({.p = a.tensor(at), .g = a.tensor(at + 1), .m = a.tensor(at + 2), .v = a.tensor(at + 3),
                   .m_absmax = a.maybe_tensor(at + 4), .v_absmax = a.maybe_tensor(at + 5), .lr = a.number(0),
                   .beta1 = a.number(1), .beta2 = a.number(2), .eps = a.number(3), .weight_decay = a.number(4),
                   .grad_scale = a.number(5), .step = a.integer(6)});
  nibble::adamw(all.data(), int(all.size()));
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
