// The QLoRA paper's memory figures (arXiv:2305.14314, Figure 6: batch 1, 512 tokens, gradient checkpointing, r 64 on
// all linear layers) and the shapes of its models (LLaMA, arXiv:2302.13971, Table 2), so that ours stand beside them.

import { estimateMemory, type MemoryEstimate, type RunShape } from "./estimate.ts";
import { defaultQuant } from "./quantize-tensor.ts";

export interface PaperRow {
  name: string;
  hiddenSize: number;
  intermediateSize: number;
  layerCount: number;
  headCount: number;
  /** Millions of bytes, as Figure 6 labels them. */
  paper: { base: number; adapter: number; optimizer: number; total: number };
}

const row = (name: string, shape: readonly [number, number, number, number], paper: readonly number[]): PaperRow => {
  const [hiddenSize, intermediateSize, layerCount, headCount] = shape;
  const [base = 0, adapter = 0, optimizer = 0, total = 0] = paper;
  return { name, hiddenSize, intermediateSize, layerCount, headCount, paper: { base, adapter, optimizer, total } };
};

export const paperRows: readonly PaperRow[] = [
  row("LLaMA 7B", [4096, 11_008, 32, 32], [5046, 288, 1152, 6900]),
  row("LLaMA 13B", [5120, 13_824, 40, 40], [8476, 450, 1800, 11_300]),
  row("LLaMA 33B", [6656, 17_920, 60, 52], [19_302, 877.5, 3510, 24_700]),
  row("LLaMA 65B", [8192, 22_016, 80, 64], [37_074, 1440, 5760, 45_000]),
];

export function configOfPaper({ hiddenSize, intermediateSize, layerCount, headCount }: PaperRow): RunShape["config"] {
  return {
    ...{
      architecture: "LlamaForCausalLM",
      hiddenSize,
      intermediateSize,
      layerCount,
      headCount,
      kvHeadCount: headCount,
    },
    ...{ headDim: hiddenSize / headCount, vocabSize: 32_000, rmsNormEps: 1e-6, tieWordEmbeddings: false },
    ...{ attentionBias: false, mlpBias: false, maxPositionEmbeddings: 2048, hiddenAct: "silu", dtype: "bfloat16" },
    ...{ bosTokenId: 1, eosTokenIds: [2], padTokenId: null, quantization: null },
    rope: { theta: 10_000, scaling: { type: "default" } },
  };
}

/**
 * What the engine would take of a card for a row's setting: NF4 with double quantization, activations and adapters in bfloat16, paged
 * 32-bit AdamW, whose state (and the adapter in float32) is on the host between steps.
 */
export function estimateOfPaper(row: PaperRow): MemoryEstimate {
  const lora: RunShape["lora"] = {
    ...{ rank: 64, alpha: 16, dropout: 0, useRslora: false, targetModules: "all-linear" },
    ...{ rankPattern: {}, alphaPattern: {}, baseModelNameOrPath: "" },
  };
  const tokens = new Int32Array(512);
  return estimateMemory({
    device: "cuda",
    config: configOfPaper(row),
    stored: { dtype: "bfloat16", quant: defaultQuant },
    quant: null,
    lora,
    adapterDtype: "bfloat16",
    recipe: { optimizer: "paged_adamw_32bit", dtype: "bfloat16", gradientCheckpointing: "full" },
    trained: [[{ inputIds: tokens, labels: tokens }]],
    evaluated: [],
  });
}
