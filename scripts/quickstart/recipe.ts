// The figures that make the quickstart's base model: its shape, its seeds, its training. Change one, run prepare.ts and pretrain.ts.
import { fileURLToPath } from "node:url";

/** Where the model and its data are shipped. */
export const modelFolder = fileURLToPath(new URL("../../models/quickstart/", import.meta.url));

export const vocabSize = 1536;
/** The model saw no longer text than this. */
export const contextTokens = 256;

/** Each part draws from a seed of its own: one may change without the others. */
export const seeds = {
  tokenizer: 1,
  train: 11,
  heldOut: 12,
  corpus: 7,
  heldOutCorpus: 8,
  weights: 3,
} as const;

export const pretraining = {
  documents: 24_000,
  /** About 1/sqrt(hidden size): a smaller start learns far later at this size. */
  weightStd: 0.06,
  evalSteps: 500,
  /** As `nibble train` takes it. A batch is about 1000 tokens: many small steps teach more than few large ones. */
  recipe: {
    full: true,
    bits: 16,
    dtype: "float32",
    epochs: 1,
    shuffle: false,
    batchSize: 16,
    gradAccum: 1,
    lr: 2e-3,
    beta2: 0.95,
    weightDecay: 0.1,
    maxGradNorm: 1,
    schedule: "cosine",
    warmup: 100,
    gradientCheckpointing: "none",
    maxLength: contextTokens,
  },
} as const;

export const tokenizerDocuments = 20_000;
export const trainRows = 700;
export const heldOutRows = 150;

/** config.json. Every linear layer's input is a multiple of 64, a block of NF4. */
export const modelConfig = {
  architectures: ["LlamaForCausalLM"],
  attention_bias: false,
  attention_dropout: 0.0,
  bos_token_id: 0,
  dtype: "bfloat16",
  eos_token_id: 1,
  head_dim: 32,
  hidden_act: "silu",
  hidden_size: 256,
  initializer_range: 0.02,
  intermediate_size: 640,
  max_position_embeddings: contextTokens,
  mlp_bias: false,
  model_type: "llama",
  num_attention_heads: 8,
  num_hidden_layers: 4,
  num_key_value_heads: 4,
  pad_token_id: 2,
  rms_norm_eps: 1e-6,
  rope_parameters: { rope_theta: 10000.0, rope_type: "default" },
  tie_word_embeddings: true,
  use_cache: true,
  vocab_size: vocabSize,
};

/** How the base is fine-tuned on its instruction set: what the demo does, and anybody with `nibble train --config`. */
export const fineTuningFile = fileURLToPath(new URL("../../examples/quickstart.yaml", import.meta.url));
