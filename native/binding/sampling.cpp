// Argument order is that of native/sampling.ts.
#include "ops/sampling.h"

#include "binding/arguments.h"
#include "binding/numbers.h"

namespace nibble::binding {

namespace {

// An array of 32-bit whole numbers; null: none.
struct Words {
  const int32_t* data = nullptr;
  int64_t count = 0;

  explicit Words(const Napi::Value& value) {
    if (value.IsNull()) return;
    require(value.IsTypedArray() && value.As<Napi::TypedArray>().TypedArrayType() == napi_int32_array, "sample",
            "expected an Int32Array");
    const auto array = value.As<Napi::Int32Array>();
    data = array.Data();
    count = int64_t(array.ElementLength());
  }
};

// Of each row: (row, temperature, topK, topP, minP, repetitionPenalty, frequencyPenalty, presencePenalty, answerCount, seed,
// stream, wantLogprob), and in arrays of their own: ids that were seen, bits of the tokens that may come.
SampleArgs row_of(Numbers& n, const Words& seen, const Words& allowed) {
  SampleArgs a{.row = n.integer(), .temperature = float(n.number()), .top_k = n.integer()};
  a.top_p = float(n.number());
  a.min_p = float(n.number());
  a.repetition_penalty = float(n.number());
  a.frequency_penalty = float(n.number());
  a.presence_penalty = float(n.number());
  a.answer_count = n.integer();
  a.seed = uint64_t(n.integer());
  a.stream = uint64_t(n.integer());
  a.wants_logprob = n.number() != 0;
  a.seen = seen.data;
  a.seen_count = seen.count;
  a.allowed = reinterpret_cast<const uint32_t*>(allowed.data);
  a.allowed_words = allowed.count;
  return a;
}

// (logits, numbers, seen, allowed): token and logprob of each row, one after the other
Napi::Value sample(Napi::Env env, const Arguments& a) {
  Numbers numbers("sample", a.value(1));
  const auto seen = a.value(2).As<Napi::Array>(), allowed = a.value(3).As<Napi::Array>();
  std::vector<SampleArgs> rows;
  while (!numbers.is_at_end()) {
    const auto i = uint32_t(rows.size());
    rows.push_back(row_of(numbers, Words(seen.Get(i)), Words(allowed.Get(i))));
  }
  std::vector<Sample> results(rows.size());
  nibble::sample(a.tensor(0), rows.data(), int(rows.size()), results.data());
  auto drawn = Napi::Float64Array::New(env, 2 * results.size());
  for (size_t i = 0; i < results.size(); ++i) {
    drawn[2 * i] = results[i].token;
    drawn[2 * i + 1] = double(results[i].logprob);
  }
  return drawn;
}

}  // namespace

void define_sampling(Napi::Object exports) { define<sample>(exports, "sample"); }

}  // namespace nibble::binding
