// A Llama folder of random weights to measure with, in bfloat16, with a byte-level BPE tokenizer of the same size:
//   node scripts/run.mjs ../bench/make-model 20m|135m|1b DIR
// What it says is noise; what it costs is what a trained model of its shape costs.
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { readModelConfig } from "#packages/hub";
import { createModel } from "../packages/engine/full-parameters.ts";
import { freeModel } from "../packages/engine/model-load.ts";
import { saveModel } from "../packages/engine/model-save.ts";
import { bpeModel, byteCharacters, specialTokens } from "../scripts/quickstart/bpe.ts";

interface Shape {
  hidden: number;
  ffn: number;
  layers: number;
  heads: number;
  kvHeads: number;
  vocab: number;
}

/** 135m: SmolLM2-135M. 1b: TinyLlama-1.1B with tied embeddings. */
const shapes = {
  "20m": { hidden: 256, ffn: 688, layers: 6, heads: 8, kvHeads: 4, vocab: 32000 },
  "135m": { hidden: 576, ffn: 1536, layers: 30, heads: 9, kvHeads: 3, vocab: 49152 },
  "1b": { hidden: 2048, ffn: 5632, layers: 22, heads: 32, kvHeads: 4, vocab: 32000 },
} as const satisfies Record<string, Shape>;

const special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

function configOf({ hidden, ffn, layers, heads, kvHeads, vocab }: Shape): object {
  return {
    architectures: ["LlamaForCausalLM"],
    model_type: "llama",
    hidden_size: hidden,
    intermediate_size: ffn,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    head_dim: hidden / heads,
    vocab_size: vocab,
    max_position_embeddings: 8192,
    rms_norm_eps: 1e-5,
    rope_theta: 100_000,
    hidden_act: "silu",
    attention_bias: false,
    mlp_bias: false,
    tie_word_embeddings: true,
    bos_token_id: 0,
    eos_token_id: 2,
    dtype: "bfloat16",
  };
}

/** As many merges as a trained tokenizer of this size has: of two letters, of three, of four. */
function merges(count: number): [string, string][] {
  const letters = [..."abcdefghijklmnopqrstuvwxyzĠ"];
  const pairs = letters.flatMap((a) => letters.map((b): [string, string] => [a, b]));
  const names = pairs.map((pair) => pair.join(""));
  const threes = names.flatMap((ab) => letters.map((c): [string, string] => [ab, c]));
  const fours = names.flatMap((ab) => names.map((cd): [string, string] => [ab, cd]));
  return [...pairs, ...threes, ...fours].slice(0, count);
}

function tokenizerOf(vocab: number): object {
  const joined = merges(vocab - special.length - byteCharacters.length);
  const tokens = [...special, ...byteCharacters, ...joined.map((pair) => pair.join(""))];
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: specialTokens(special),
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: null,
    decoder: byteLevel,
    model: bpeModel({ tokens, merges: joined }),
  };
}

export function makeModel(size: keyof typeof shapes, out: string): void {
  const shape = shapes[size];
  mkdirSync(dirname(out), { recursive: true });
  const source = mkdtempSync(join(dirname(out), "config-"));
  const write = (name: string, value: object) => writeFileSync(join(source, name), `${JSON.stringify(value)}\n`);
  try {
    write("config.json", configOf(shape));
    write("tokenizer.json", tokenizerOf(shape.vocab));
    const tokens = { bos_token: special[0], eos_token: special[2], pad_token: special[2] };
    write("tokenizer_config.json", { ...tokens, tokenizer_class: "GPT2Tokenizer", model_max_length: 8192 });
    const { config } = readModelConfig(source);
    const model = createModel(config, { seed: 1, std: 0.04 });
    try {
      saveModel(out, model, { sourceDir: source, dtype: "bfloat16", figures: [["weights", "random"]] });
    } finally {
      freeModel(model);
    }
  } finally {
    rmSync(source, { recursive: true, force: true });
  }
}

if (import.meta.main) {
  const [size = "", out = ""] = process.argv.slice(2);
  if (!(size in shapes) || out === "") throw new Error(`expected ${Object.keys(shapes).join("|")} and a folder`);
  if (existsSync(out)) throw new Error(`${out} is there already`);
  makeModel(size as keyof typeof shapes, out);
}
