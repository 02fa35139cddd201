import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { goldenPath } from "../../test/support/folders.ts";
import type { JsonObject } from "./json.ts";
import { parseLlamaConfig } from "./llama-config.ts";
import { llamaWeights } from "./llama-weights.ts";

const golden: JsonObject = JSON.parse(readFileSync(goldenPath("llama_untied", "config.json"), "utf8"));
const parse = (changes: JsonObject, generation: JsonObject | null = null) =>
  parseLlamaConfig({ ...golden, ...changes }, generation, "config.json");

test("both spellings of dtype and rope", () => {
  assert.deepEqual(parse({}).rope, { theta: 10000, scaling: { type: "default" } });
  const v4 = parse({
    rope_parameters: undefined,
    dtype: undefined,
    torch_dtype: "bfloat16",
    rope_theta: 500000,
    rope_scaling: {
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 8192,
      rope_type: "llama3",
    },
  });
  const llama3 = {
    type: "llama3",
    factor: 8,
    lowFreqFactor: 1,
    highFreqFactor: 4,
    originalMaxPositionEmbeddings: 8192,
  };
  assert.deepEqual([v4.dtype, v4.rope], ["bfloat16", { theta: 500000, scaling: llama3 }]);
  const old = parse({ rope_parameters: undefined, rope_scaling: { type: "linear", factor: 2.5 } });
  assert.deepEqual(old.rope, { theta: 10000, scaling: { type: "linear", factor: 2.5 } });
  const dynamic = parse({ rope_scaling: { type: "dynamic", factor: 2 }, rope_parameters: undefined }).rope.scaling;
  assert.deepEqual(dynamic, { type: "dynamic", factor: 2, originalMaxPositionEmbeddings: 256 });
  const yarn = parse({ rope_parameters: { rope_theta: 1e6, rope_type: "yarn", factor: 4 } }).rope.scaling;
  assert.ok(yarn.type === "yarn" && yarn.betaFast === 32 && yarn.betaSlow === 1 && yarn.attentionFactor === null);
  assert.equal(yarn.originalMaxPositionEmbeddings, 256);
});

test("generation_config wins, and eos may be a list", () => {
  const config = parse({ pad_token_id: -1 }, { eos_token_id: [1, 7], bos_token_id: null });
  assert.deepEqual([config.bosTokenId, config.eosTokenIds, config.padTokenId], [0, [1, 7], null]);
});

test("what cannot be run is refused by name, with what can", () => {
  const cases: [JsonObject, string, RegExp][] = [
    [
      { architectures: ["FalconForCausalLM"] },
      "FAILED_PRECONDITION",
      /"FalconForCausalLM".*supported: LlamaForCausalLM/,
    ],
    [{ architectures: [], model_type: "gpt2" }, "FAILED_PRECONDITION", /"gpt2" is not supported/],
    [{ rope_parameters: { rope_type: "longrope" } }, "FAILED_PRECONDITION", /longrope.*supported: default, linear/],
    [{ partial_rotary_factor: 0.5 }, "FAILED_PRECONDITION", /partial_rotary_factor: expected 1, got 0.5/],
    [{ hidden_act: "relu" }, "FAILED_PRECONDITION", /hidden_act: expected silu, got relu/],
    [{ hidden_size: 0 }, "INVALID_ARGUMENT", /hidden_size: expected a whole number >= 1, got 0/],
    [{ vocab_size: "512" }, "INVALID_ARGUMENT", /vocab_size: .*got "512"/],
    [{ num_key_value_heads: 3 }, "INVALID_ARGUMENT", /num_key_value_heads: expected a divisor of 4, got 3/],
    [{ rms_norm_eps: 0 }, "INVALID_ARGUMENT", /rms_norm_eps: expected a number > 0/],
    [{ eos_token_id: 512 }, "INVALID_ARGUMENT", /eos_token_id: expected an id below vocab_size 512, got 512/],
    [{ rope_parameters: { rope_type: "linear" } }, "INVALID_ARGUMENT", /factor: expected a number > 0, got nothing/],
  ];
  for (const [change, code, message] of cases) assert.throws(() => parse(change), { code, message });
});

test("the weights of a config with biases and a head of its own", () => {
  const weights = llamaWeights(parse({ attention_bias: true, mlp_bias: true, head_dim: 32 }));
  assert.deepEqual(weights.get("model.layers.1.self_attn.k_proj.weight"), [64, 64]);
  assert.deepEqual(weights.get("model.layers.1.self_attn.q_proj.bias"), [128]);
  assert.deepEqual(weights.get("model.layers.0.mlp.down_proj.bias"), [64]);
  assert.deepEqual(weights.get("lm_head.weight"), [512, 64]);
  assert.equal(llamaWeights(parse({})).has("model.layers.0.self_attn.q_proj.bias"), false);
});
