// A run's rows laid out over its steps before it begins: how many steps and tokens there are, and which micro-batches
// may need most memory.
import { BatchCursor, stepsOf, type TrainingSet, type TrainRecipe } from "#packages/data";
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

/** Keeps the micro-batches that are largest by two measures. */
class Largest {
  private readonly set: TrainingSet;
  private tokens = -1;
  private trained = -1;
  private byTokens: readonly number[] = [];
  private byTrained: readonly number[] = [];

  constructor(set: TrainingSet) {
    this.set = set;
  }

  see(sequences: readonly number[], { tokens, trainedTokens }: TokenCounts): void {
    if (tokens > this.tokens) [this.tokens, this.byTokens] = [tokens, sequences];
    if (trainedTokens > this.trained) [this.trained, this.byTrained] = [trainedTokens, sequences];
  }

  get batches(): (readonly Example[])[] {
    if (this.tokens < 0) return [];
    return [...new Set([this.byTokens, this.byTrained])].map((sequences) => this.set.examplesOf(sequences));
  }
}

/** Counts of a micro-batch. */
function countsOf(set: TrainingSet, sequences: readonly number[]): TokenCounts {
  const counts = { tokens: 0, trainedTokens: 0, squares: 0 };
  for (const sequence of sequences) {
    for (const row of set.rowsOf(sequence)) {
      const length = set.store.lengthOf(row);
      counts.tokens += length;
      counts.trainedTokens += set.store.trainedOf(row);
      counts.squares += length ** 2;
    }
  }
  return counts;
}

type PlannedRecipe = Pick<TrainRecipe, "steps" | "epochs" | "warmup" | "batchSize" | "gradAccum" | "seed" | "shuffle">;

export function planJob(recipe: PlannedRecipe, train: TrainingSet, evaluation: TrainingSet): JobPlan {
  const { batchSize, gradAccum, seed, shuffle } = recipe;
  const { steps, warmupSteps } = stepsOf(recipe, Math.ceil(train.count / (batchSize * gradAccum)));
  const cursor = new BatchCursor({ rowCount: train.count, batchSize, gradAccum, seed, shuffle });
  const largest = new Largest(train);
  const all: TokenCounts[] = [];
  const looked = Math.min(steps, Math.ceil(microBatchesMax / gradAccum));
  for (let step = 0; step < looked; step++) {
    for (const sequences of cursor.next().microBatches) {
      const counts = countsOf(train, sequences);
      all.push(counts);
      largest.see(sequences, counts);
    }
  }
  const evaluated = new Largest(evaluation);
  for (const sequences of inOrder(evaluation.count, batchSize))
    evaluated.see(sequences, countsOf(evaluation, sequences));
  const total = (key: keyof TokenCounts) => (sum(all.map((counts) => counts[key])) * steps) / looked;
  return {
    steps,
    warmupSteps,
    counts: { tokens: total("tokens"), trainedTokens: total("trainedTokens"), squares: total("squares") },
    trained: largest.batches,
    evaluated: evaluated.batches,
  };
}

/** Numbers below `count`, `size` at a time. */
export function* inOrder(count: number, size: number): Generator<number[]> {
  for (let i = 0; i < count; i += size) yield Array.from({ length: Math.min(size, count - i) }, (_, k) => i + k);
}
