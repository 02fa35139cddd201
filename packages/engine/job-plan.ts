// A run's rows laid out over its steps before it begins: how many steps and tokens there are, and which micro-batches
// may need most memory.
import { BatchCursor, stepsOf, type TrainRecipe } from "#packages/data";
import type { Example } from "./batch.ts";
import type { TokenCounts } from "./flops.ts";

export interface JobPlan {
  steps: number;
  warmupSteps: number;
  /** Of all steps together. */
  counts: TokenCounts;
  /** The micro-batch with most tokens and the one with most trained tokens. */
  trained: (readonly Example[])[];
  /** The same of the evaluation; empty without one. */
  evaluated: (readonly Example[])[];
}

/** Micro-batches that are looked at one by one; beyond them the rest of a run is taken to be like these. */
const microBatchesMax = 200_000;

const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);
const tokensOf = (batch: readonly Example[]): number => sum(batch.map((e) => e.inputIds.length));
const trainedOf = (batch: readonly Example[]): number =>
  sum(batch.map(({ labels }) => labels?.reduce((n, label, i) => n + (i > 0 && label >= 0 ? 1 : 0), 0) ?? 0));

/** Keeps the largest by two measures. */
class Largest {
  private tokens = -1;
  private trained = -1;
  private byTokens: readonly Example[] = [];
  private byTrained: readonly Example[] = [];

  see(batch: readonly Example[], tokens: number, trained: number): void {
    if (tokens > this.tokens) [this.tokens, this.byTokens] = [tokens, batch];
    if (trained > this.trained) [this.trained, this.byTrained] = [trained, batch];
  }

  get batches(): (readonly Example[])[] {
    return this.tokens < 0 ? [] : [...new Set([this.byTokens, this.byTrained])];
  }
}

type PlannedRecipe = Pick<TrainRecipe, "steps" | "epochs" | "warmup" | "batchSize" | "gradAccum" | "seed" | "shuffle">;

export function planJob(recipe: PlannedRecipe, train: readonly Example[], evaluation: readonly Example[]): JobPlan {
  const { batchSize, gradAccum, seed, shuffle } = recipe;
  const { steps, warmupSteps } = stepsOf(recipe, Math.ceil(train.length / (batchSize * gradAccum)));
  const lengths = train.map((e) => e.inputIds.length);
  const trainedCounts = train.map((e) => trainedOf([e]));
  const at = (values: readonly number[], rows: readonly number[]) => sum(rows.map((row) => values[row] ?? 0));
  const cursor = new BatchCursor({ rowCount: train.length, batchSize, gradAccum, seed, shuffle });
  const largest = new Largest();
  const counts = { tokens: 0, trainedTokens: 0, squares: 0 };
  const looked = Math.min(steps, Math.ceil(microBatchesMax / gradAccum));
  for (let step = 0; step < looked; step++) {
    for (const rows of cursor.next().microBatches) {
      const [tokens, trained] = [at(lengths, rows), at(trainedCounts, rows)];
      counts.tokens += tokens;
      counts.trainedTokens += trained;
      counts.squares += sum(rows.map((row) => (lengths[row] ?? 0) ** 2));
      largest.see(
        rows.flatMap((row) => train[row] ?? []),
        tokens,
        trained,
      );
    }
  }
  const scale = steps / looked;
  const [tokens, trainedTokens, squares] = [counts.tokens, counts.trainedTokens, counts.squares].map((n) => n * scale);
  const evaluated = new Largest();
  for (let i = 0; i < evaluation.length; i += batchSize) {
    const batch = evaluation.slice(i, i + batchSize);
    evaluated.see(batch, tokensOf(batch), trainedOf(batch));
  }
  return {
    steps,
    warmupSteps,
    counts: { tokens: tokens ?? 0, trainedTokens: trainedTokens ?? 0, squares: squares ?? 0 },
    trained: largest.batches,
    evaluated: evaluated.batches,
  };
}
