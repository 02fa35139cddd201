// The arithmetic of a training run, counted: what an estimate of its time stands on.
import { type LlamaConfig, type LoraConfig, llamaModules, loraModules } from "#packages/hub";
import type { GradientCheckpointing } from "./forward.ts";

export interface TokenCounts {
  /** All of them. */
  tokens: number;
  /** Those with a label: only they reach the output layer. */
  trainedTokens: number;
  /** Sum over the rows of the square of their length. */
  squares: number;
}

export interface Work {
  lora: LoraConfig | null;
  gradientCheckpointing: GradientCheckpointing;
}

const isRecomputed = ({ gradientCheckpointing: mode }: Work): boolean => mode === "full" || mode === "offload";

/** Floating-point operations of forward and backward passes over `counts`; a multiplication and an addition are two. */
export function trainingFlops(config: LlamaConfig, counts: TokenCounts, work: Work): number {
  const { tokens, trainedTokens, squares } = counts;
  const linear = [...llamaModules(config).values()].reduce((sum, [out, inFeatures]) => sum + out * inFeatures, 0);
  const head = config.vocabSize * config.hiddenSize;
  const adapter =
    work.lora === null
      ? 0
      : [...loraModules(work.lora, config).values()].reduce(
          (sum, { rank, inFeatures, outFeatures }) => sum + rank * (inFeatures + outFeatures),
          0,
        );
  // Scores and values, over half of the square: a row sees what came before it.
  const attention = (2 * config.layerCount * config.headCount * config.headDim * squares * 2) / 2;
  const full = work.lora === null;
  const forward = 2 * tokens * (linear + adapter) + attention;
  // A frozen weight needs no gradient of its own; the backward pass of attention makes the scores again.
  const backward = 2 * tokens * (linear * (full ? 2 : 1) + adapter * 2) + 2.5 * attention;
  const output = 2 * trainedTokens * head * (full ? 3 : 2);
  return forward * (isRecomputed(work) ? 2 : 1) + backward + output;
}
