// A Llama-family configuration as GGUF's keys, and its tensors' names there (llama.cpp, gguf-py's constants).
import { NibbleError } from "#packages/errors";
import type { LlamaConfig } from "../llama-config.ts";
import { type LlamaLinear, llamaLinears } from "../llama-weights.ts";
import type { GgufValue } from "./container.ts";

const op = "gguf_export";

/** general.file_type: what most tensors are. */
const fileTypes = { f32: 0, f16: 1, q4_0: 2, q8_0: 7, bf16: 32 } as const;
export type GgufFileType = keyof typeof fileTypes;
export const ggufFileTypes = Object.keys(fileTypes) as GgufFileType[];

const linears: Record<LlamaLinear, string> = {
  "self_attn.q_proj": "attn_q",
  "self_attn.k_proj": "attn_k",
  "self_attn.v_proj": "attn_v",
  "self_attn.o_proj": "attn_output",
  "mlp.gate_proj": "ffn_gate",
  "mlp.up_proj": "ffn_up",
  "mlp.down_proj": "ffn_down",
};
const outside: Record<string, string> = {
  "model.embed_tokens.weight": "token_embd.weight",
  "model.norm.weight": "output_norm.weight",
  "lm_head.weight": "output.weight",
};
const norms: Record<string, string> = { input_layernorm: "attn_norm", post_attention_layernorm: "ffn_norm" };

/** "model.layers.0.self_attn.q_proj.weight" is "blk.0.attn_q.weight". */
export function ggufName(name: string): string {
  const known = outside[name];
  if (known !== undefined) return known;
  const [, layer = "", module = "", kind = ""] = /^model\.layers\.(\d+)\.(.+)\.(weight|bias)$/.exec(name) ?? [];
  const linear = llamaLinears.find((l) => l === module);
  const short = linear ? linears[linear] : norms[module];
  if (short !== undefined) return `blk.${layer}.${short}.${kind}`;
  throw new NibbleError(`${name}: GGUF has no name for it`, { code: "INTERNAL", op });
}

/** Heads whose rows change their order: llama.cpp turns neighbouring pairs, Hugging Face the halves of a head. */
export function rotatedHeads(name: string, config: LlamaConfig): number | null {
  if (name.includes(".self_attn.q_proj.")) return config.headCount;
  return name.includes(".self_attn.k_proj.") ? config.kvHeadCount : null;
}

/** Rows [heads, 2, half] as [heads, half, 2]. */
export function interleaveHeads(values: Float32Array, heads: number, rows: number): Float32Array {
  const columns = values.length / rows;
  const half = rows / heads / 2;
  const out = new Float32Array(values.length);
  for (let row = 0; row < rows; row++) {
    const head = Math.floor(row / (2 * half));
    const within = row % (2 * half);
    const to = 2 * half * head + 2 * (within % half) + Math.floor(within / half);
    out.set(values.subarray(row * columns, (row + 1) * columns), to * columns);
  }
  return out;
}

function ropeKeys({ theta, scaling }: LlamaConfig["rope"]): [string, GgufValue][] {
  const base: [string, GgufValue][] = [["llama.rope.freq_base", { type: "float32", value: theta }]];
  // llama3 is a tensor of factors, rope_freqs.weight.
  if (scaling.type === "default" || scaling.type === "llama3") return base;
  if (scaling.type === "linear") {
    base.push(["llama.rope.scaling.type", { type: "string", value: "linear" }]);
    base.push(["llama.rope.scaling.factor", { type: "float32", value: scaling.factor }]);
    return base;
  }
  const message = `rope type ${scaling.type}: expected default, linear or llama3 for GGUF`;
  throw new NibbleError(message, { code: "FAILED_PRECONDITION", op });
}

export function llamaMetadata(config: LlamaConfig, type: GgufFileType, name: string): Map<string, GgufValue> {
  const counts: Record<string, number> = {
    "general.file_type": fileTypes[type],
    "general.quantization_version": 2,
    "llama.vocab_size": config.vocabSize,
    "llama.context_length": config.maxPositionEmbeddings,
    "llama.embedding_length": config.hiddenSize,
    "llama.block_count": config.layerCount,
    "llama.feed_forward_length": config.intermediateSize,
    "llama.attention.head_count": config.headCount,
    "llama.attention.head_count_kv": config.kvHeadCount,
    "llama.attention.key_length": config.headDim,
    "llama.attention.value_length": config.headDim,
    "llama.rope.dimension_count": config.headDim,
  };
  return new Map<string, GgufValue>([
    ["general.architecture", { type: "string", value: "llama" }],
    ["general.name", { type: "string", value: name }],
    ...Object.entries(counts).map(([key, value]): [string, GgufValue] => [key, { type: "uint32", value }]),
    ["llama.attention.layer_norm_rms_epsilon", { type: "float32", value: config.rmsNormEps }],
    ...ropeKeys(config.rope),
  ]);
}
