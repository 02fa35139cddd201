// config.json and generation_config.json of a Llama-family model, in one typed object. Both spellings
// are read: transformers 5 (dtype, rope_parameters) and 4 (torch_dtype, rope_theta + rope_scaling).
// What the engine cannot run is refused here, by name, before any weight is read.
import { NibbleError } from "#packages/errors";
import { describe, Fields, type JsonObject } from "./json.ts";
import { parseRope, type Rope } from "./rope-config.ts";

const supportedArchitectures = ["LlamaForCausalLM"] as const;

/** Names as in transformers' LlamaConfig, in camelCase. */
export interface LlamaConfig {
  architecture: (typeof supportedArchitectures)[number];
  hiddenSize: number;
  intermediateSize: number;
  layerCount: number;
  headCount: number;
  kvHeadCount: number;
  headDim: number;
  vocabSize: number;
  rmsNormEps: number;
  rope: Rope;
  tieWordEmbeddings: boolean;
  attentionBias: boolean;
  mlpBias: boolean;
  maxPositionEmbeddings: number;
  hiddenAct: "silu";
  /** generation_config.json wins over config.json; null where neither names one. */
  bosTokenId: number | null;
  /** Any of these ends a generation. */
  eosTokenIds: readonly number[];
  padTokenId: number | null;
  /** Of the plain weights, as the file says; null where it does not. */
  dtype: string | null;
  /** As stored; quant-state.ts reads the tensors, which are what counts. */
  quantization: JsonObject | null;
}

const op = "model_config";

function unsupported(message: string, file: string): never {
  throw new NibbleError(`${file}: ${message}`, { code: "FAILED_PRECONDITION", op, details: { file } });
}

export function parseLlamaConfig(config: JsonObject, generation: JsonObject | null, file: string): LlamaConfig {
  const architecture = checkArchitecture(config, file);
  const f = new Fields(config, op, file);
  const headCount = f.integer("num_attention_heads");
  const hiddenSize = f.integer("hidden_size");
  const maxPositionEmbeddings = f.integer("max_position_embeddings", 2048);
  const hiddenAct = f.string("hidden_act", "silu");
  if (hiddenAct !== "silu") unsupported(`hidden_act: expected silu, got ${hiddenAct}`, file);
  const quantization = f.child("quantization_config")?.object ?? null;
  const ids = new Fields(
    { ...config, ...withoutNulls(generation) },
    op,
    generation ? `${file} and generation_config.json` : file,
  );
  const parsed: LlamaConfig = {
    architecture,
    hiddenSize,
    intermediateSize: f.integer("intermediate_size"),
    layerCount: f.integer("num_hidden_layers"),
    headCount,
    kvHeadCount: f.integer("num_key_value_heads", headCount),
    headDim: f.integer("head_dim", Math.floor(hiddenSize / headCount)),
    vocabSize: f.integer("vocab_size"),
    rmsNormEps: f.number("rms_norm_eps", 1e-6, 0),
    rope: parseRope(config, maxPositionEmbeddings, file),
    tieWordEmbeddings: f.boolean("tie_word_embeddings", false),
    attentionBias: f.boolean("attention_bias", false),
    mlpBias: f.boolean("mlp_bias", false),
    maxPositionEmbeddings,
    hiddenAct,
    bosTokenId: tokenId(ids, "bos_token_id"),
    eosTokenIds: tokenIds(ids, "eos_token_id"),
    padTokenId: tokenId(ids, "pad_token_id"),
    dtype: f.string("dtype", f.string("torch_dtype", "")) || null,
    quantization,
  };
  checkShapes(parsed, config, file);
  return parsed;
}

function checkArchitecture(config: JsonObject, file: string): LlamaConfig["architecture"] {
  const names = config["architectures"];
  const named = Array.isArray(names) && names.length > 0 ? names : [config["model_type"]];
  const known = supportedArchitectures.find((a) => named.includes(a));
  if (known) return known;
  if (names === undefined && config["model_type"] === "llama") return "LlamaForCausalLM";
  return unsupported(
    `architecture ${describe(named[0])} is not supported; supported: ${supportedArchitectures.join(", ")}`,
    file,
  );
}

function withoutNulls(object: JsonObject | null): JsonObject {
  const wanted = ["bos_token_id", "eos_token_id", "pad_token_id"];
  const entries = Object.entries(object ?? {}).filter(([key, value]) => wanted.includes(key) && value !== null);
  return Object.fromEntries(entries);
}

function tokenId(f: Fields, key: string): number | null {
  // Some early Llama conversions have pad_token_id -1 for "none".
  const value = f.object[key];
  return value === undefined || value === null || value === -1 ? null : f.integer(key, undefined, 0);
}

function tokenIds(f: Fields, key: string): number[] {
  const value = f.object[key];
  if (!Array.isArray(value)) {
    const one = tokenId(f, key);
    return one === null ? [] : [one];
  }
  const ok = value.every((id) => Number.isSafeInteger(id) && id >= 0);
  return ok ? value : f.fail(key, "a token id or a list of them");
}

function checkShapes(c: LlamaConfig, config: JsonObject, file: string): void {
  const f = new Fields(config, op, file);
  if (c.headCount % c.kvHeadCount !== 0) f.fail("num_key_value_heads", `a divisor of ${c.headCount}`);
  if (c.headDim % 2 !== 0) unsupported(`head_dim: expected an even number (rope turns pairs), got ${c.headDim}`, file);
  for (const [key, ids] of [
    ["bos_token_id", [c.bosTokenId]],
    ["eos_token_id", c.eosTokenIds],
  ] as const) {
    const outside = ids.find((id) => id !== null && id >= c.vocabSize);
    if (outside === undefined) continue;
    const message = `${file}: ${key}: expected an id below vocab_size ${c.vocabSize}, got ${outside}`;
    throw new NibbleError(message, { code: "INVALID_ARGUMENT", op, details: { file } });
  }
}
