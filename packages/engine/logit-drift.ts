// How far two models' answers are apart, in logits at the same positions.
import type { Device, Tensor } from "#native";
import { freeBatch, packExamples, uploadBatch } from "./batch.ts";
import { allLogits } from "./forward.ts";
import type { LlamaModel } from "./models/llama.ts";

export interface LogitDrift {
  /** Positions compared. */
  positions: number;
  /** Largest difference of a logit, and the largest logit beside it. */
  maxDifference: number;
  maxLogit: number;
  /** Kullback–Leibler divergence of the second from the first, mean over positions, in nats. */
  meanDivergence: number;
  /** Share of the positions at which both have the same most likely token. */
  sameTop: number;
}

const rows = 4;
const tokensMax = 64;

/** Prompts that need no tokenizer: ids by a fixed linear congruence. */
function probeIds(model: LlamaModel): Int32Array[] {
  const { vocabSize, maxPositionEmbeddings } = model.config;
  const length = Math.min(tokensMax, maxPositionEmbeddings);
  let state = 1;
  const next = () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * vocabSize);
  };
  return Array.from({ length: rows }, () => Int32Array.from({ length }, next));
}

/** Logits [positions, vocabulary] of the probe, activations in float32. */
export function probeLogits(model: LlamaModel): Float32Array {
  const device: Device = model.embed.device;
  const examples = probeIds(model).map((inputIds) => ({ inputIds, labels: null }));
  const batch = uploadBatch(packExamples(examples), device);
  let logits: Tensor | null = null;
  try {
    const pass = { device, dtype: "float32", gradientCheckpointing: "none", dropoutSeed: null } as const;
    logits = allLogits(model, batch, pass);
    return logits.toFloat32();
  } finally {
    logits?.free();
    freeBatch(batch);
  }
}

function logSumExp(row: Float32Array, top: number): number {
  return top + Math.log(row.reduce((sum, x) => sum + Math.exp(x - top), 0));
}

function indexOfMax(row: Float32Array): number {
  let best = 0;
  for (let i = 1; i < row.length; i++) if (row[i]! > row[best]!) best = i;
  return best;
}

/** @param vocabSize columns of both. */
export function logitDrift(first: Float32Array, second: Float32Array, vocabSize: number): LogitDrift {
  const positions = first.length / vocabSize;
  let [maxDifference, maxLogit, divergence, same] = [0, 0, 0, 0];
  for (let p = 0; p < positions; p++) {
    const a = first.subarray(p * vocabSize, (p + 1) * vocabSize);
    const b = second.subarray(p * vocabSize, (p + 1) * vocabSize);
    const [topA, topB] = [indexOfMax(a), indexOfMax(b)];
    const [sumA, sumB] = [logSumExp(a, a[topA]!), logSumExp(b, b[topB]!)];
    for (let i = 0; i < vocabSize; i++) {
      const [x, y] = [a[i]!, b[i]!];
      maxDifference = Math.max(maxDifference, Math.abs(x - y));
      maxLogit = Math.max(maxLogit, Math.abs(x));
      divergence += Math.exp(x - sumA) * (x - sumA - (y - sumB));
    }
    same += Number(topA === topB);
  }
  return { positions, maxDifference, maxLogit, meanDivergence: divergence / positions, sameTop: same / positions };
}
