// The models that rows are about: the QLoRA paper's LLaMAs (packages/engine/paper.ts) and Llama 3.1 8B, or small ones with
// the same names for a machine without a card.
import type { LlamaConfig } from "#packages/hub";
import { configOfPaper, paperRows } from "../../packages/engine/paper.ts";

const modelNames = ["7b", "8b", "13b", "33b", "65b"] as const;
export type ModelName = (typeof modelNames)[number];

/** "full": as published. "tiny": two layers of 64, which shows that a row runs and nothing else. */
export type ShapeName = "full" | "tiny";

function paper(name: string): LlamaConfig {
  const row = paperRows.find((r) => r.name === `LLaMA ${name.toUpperCase()}`);
  if (row === undefined) throw new RangeError(`no LLaMA ${name}`);
  return configOfPaper(row);
}

/** Llama 3.1 8B (arXiv:2407.21783, table 3), its positions as many as a row asks for. */
function llama8b(): LlamaConfig {
  return {
    ...paper("7b"),
    ...{ hiddenSize: 4096, intermediateSize: 14_336, layerCount: 32, headCount: 32, kvHeadCount: 8, headDim: 128 },
    ...{ vocabSize: 128_256, rmsNormEps: 1e-5, rope: { theta: 500_000, scaling: { type: "default" } } },
  };
}

export function configOf(name: ModelName, shape: ShapeName): LlamaConfig {
  const config = name === "8b" ? llama8b() : paper(name);
  if (shape === "full") return config;
  const kvHeadCount = config.kvHeadCount < config.headCount ? 1 : 2;
  return {
    ...config,
    ...{ hiddenSize: 64, intermediateSize: 96, layerCount: 2, headCount: 2, kvHeadCount, headDim: 32, vocabSize: 128 },
  };
}
