// Argument order is that of native/sampling.ts.
#include "ops/sampling.h"

#include "binding/arguments.h"

namespace nibble::binding {

namespace {

// (logits, row, temperature, topK, topP, minP, repetitionPenalty, seen, seed, stream, wantLogprob)
Napi::Value sample(Napi::Env env, const Arguments& a) {
  const Sample result = nibble::sample({.logits = a.tensor(0), .row = a.integer(1),
                                        .temperature = float(a.number(2)), .top_k = a.integer(3),
                                        .top_p = float(a.number(4)), .min_p = float(a.number(5)),
                                        .repetition_penalty = float(a.number(6)), .seen = a.maybe_tensor(7),
                                        .seed = uint64_t(a.integer(8)), .stream = uint64_t(a.integer(9)),
                                        .wants_logprob = a.flag(10)});
  Napi::Object o = Napi::Object::New(env);
  o.Set("token", result.token);
  o.Set("logprob", double(result.logprob));
  return o;
}

}  // namespace

void define_sampling(Napi::Object exports) { define<sample>(exports, "sample"); }

}  // namespace nibble::binding
