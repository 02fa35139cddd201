// The names and shapes of a Llama model's weights, as they stand in its files.
import type { LlamaConfig } from "./llama-config.ts";

/** The linear layers of a block, in the order of its forward pass; LoRA and quantization work on these. */
export const llamaLinears = [
  "self_attn.q_proj",
  "self_attn.k_proj",
  "self_attn.v_proj",
  "self_attn.o_proj",
  "mlp.gate_proj",
  "mlp.up_proj",
  "mlp.down_proj",
] as const;

export type LlamaLinear = (typeof llamaLinears)[number];

/** [out, in] of a linear layer's weight. */
export function llamaLinearShape(config: LlamaConfig, linear: LlamaLinear): [number, number] {
  const { hiddenSize: hidden, intermediateSize: ffn } = config;
  const queries = config.headCount * config.headDim;
  const keys = config.kvHeadCount * config.headDim;
  switch (linear) {
    case "self_attn.q_proj":
      return [queries, hidden];
    case "self_attn.k_proj":
    case "self_attn.v_proj":
      return [keys, hidden];
    case "self_attn.o_proj":
      return [hidden, queries];
    case "mlp.gate_proj":
    case "mlp.up_proj":
      return [ffn, hidden];
    case "mlp.down_proj":
      return [hidden, ffn];
  }
}

/** Module paths of all linear layers but the head: "model.layers.0.self_attn.q_proj" and so on, with [out, in]. */
export function llamaModules(config: LlamaConfig): Map<string, [number, number]> {
  const modules = new Map<string, [number, number]>();
  for (let layer = 0; layer < config.layerCount; layer++) {
    for (const linear of llamaLinears) {
      modules.set(`model.layers.${layer}.${linear}`, llamaLinearShape(config, linear));
    }
  }
  return modules;
}

/** Every weight that a 16-bit checkpoint must hold, with its shape. */
export function llamaWeights(config: LlamaConfig): Map<string, readonly number[]> {
  const { hiddenSize, vocabSize } = config;
  const weights = new Map<string, readonly number[]>();
  weights.set("model.embed_tokens.weight", [vocabSize, hiddenSize]);
  for (const [module, shape] of llamaModules(config)) {
    weights.set(`${module}.weight`, shape);
    const biased = module.includes(".self_attn.") ? config.attentionBias : config.mlpBias;
    if (biased) weights.set(`${module}.bias`, [shape[0]]);
  }
  for (let layer = 0; layer < config.layerCount; layer++) {
    weights.set(`model.layers.${layer}.input_layernorm.weight`, [hiddenSize]);
    weights.set(`model.layers.${layer}.post_attention_layernorm.weight`, [hiddenSize]);
  }
  weights.set("model.norm.weight", [hiddenSize]);
  if (!config.tieWordEmbeddings) weights.set("lm_head.weight", [vocabSize, hiddenSize]);
  return weights;
}

/** Tensors that old or tied checkpoints carry and no reader needs. */
export function isIgnorable(config: LlamaConfig, name: string): boolean {
  if (name.endsWith(".rotary_emb.inv_freq")) return true;
  return config.tieWordEmbeddings && name === "lm_head.weight";
}
