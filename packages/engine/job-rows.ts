// The rows of a job: read, tokenized, split and packed, and what is worth saying about them.
import {
  type DataReport,
  type DataRequest,
  ExampleStore,
  findingText,
  type Keep,
  prepareData,
  splitRows,
  type TextTokenizer,
  TrainingSet,
  type TrainRecipe,
  tokenizerOver,
} from "#packages/data";
import { NibbleError } from "#packages/errors";
import type { LlamaConfig } from "#packages/hub";
import { openAdapterToTrain } from "./lora.ts";
import type { RunContext, TrainEvent } from "./train-run.ts";

export interface JobRows {
  train: TrainingSet;
  evaluation: TrainingSet;
  /** Of the training data, the part that is held out included. */
  report: DataReport;
  close(): void;
}

export interface JobRowsOptions extends RunContext {
  recipe: TrainRecipe;
  /** Held-out rows; null: recipe.evalFraction of the training rows. */
  evalFile: string | null;
  config: LlamaConfig;
  keep: Keep;
}

const op = "train";

/** @throws what reading throws, and INVALID_ARGUMENT where rows are held out twice. */
export async function readJobRows({
  recipe,
  evalFile,
  config,
  keep,
  signal,
  onEvent,
}: JobRowsOptions): Promise<JobRows> {
  const { evalFraction, seed } = recipe;
  if (evalFile !== null && evalFraction > 0) {
    const message = "eval_fraction: expected 0 with evaluation data of its own, got both";
    throw new NibbleError(message, { code: "INVALID_ARGUMENT", op, details: { field: "eval_fraction" } });
  }
  const texts = textsOf(recipe, config);
  const prepare = (data: string) => {
    const onProgress = (rows: number) => onEvent(info(`${data}: ${rows} rows so far`));
    return prepareData(dataRequest(data, recipe, texts), { keep, signal, onProgress });
  };
  const { store, report } = await prepare(recipe.data);
  try {
    const held = evalFile === null ? null : (await prepare(evalFile)).store;
    const split = splitRows(store.count, evalFraction, seed);
    const train = new TrainingSet(store, split.train, recipe.packing ? maxLengthOf(recipe, config) : null);
    const evaluation = held ? TrainingSet.whole(held) : new TrainingSet(store, split.evaluation);
    const close = () => {
      store.close();
      held?.close();
    };
    return { train, evaluation, report, close };
  } catch (thrown) {
    store.close();
    throw thrown;
  }
}

/** What a recipe's rows are tokenized with. */
interface Texts {
  config: LlamaConfig;
  tokenizer: TextTokenizer;
  /** Ids that the model has; an adapter to start from may have added some. */
  vocabSize: number;
}

export function textsOf({ model, initAdapter }: TrainRecipe, config: LlamaConfig): Texts {
  const tokenizer = tokenizerOver(model, initAdapter, config);
  if (initAdapter === null) return { config, tokenizer, vocabSize: config.vocabSize };
  using adapter = openAdapterToTrain(initAdapter, { config });
  return { config, tokenizer, vocabSize: adapter.vocabSizeOver(config.vocabSize) };
}

/** How `data` is read for a recipe. */
export function dataRequest(data: string, recipe: TrainRecipe, { config, tokenizer, vocabSize }: Texts): DataRequest {
  const { eosTokenIds } = config;
  const { datasetFormat: format, trainOnSource, trainTurns } = recipe;
  const maxLength = maxLengthOf(recipe, config);
  return { data, format, tokenizer, examples: { maxLength, trainOnSource, trainTurns, eosTokenIds, vocabSize } };
}

export function maxLengthOf(recipe: TrainRecipe, config: LlamaConfig): number {
  return Math.min(recipe.maxLength, config.maxPositionEmbeddings);
}

const info = (text: string): TrainEvent => ({ kind: "log", severity: "info", text });

/** Where rows were left out, cut or packed, that is said. */
export function logRows(
  { data }: TrainRecipe,
  { train, evaluation, report }: JobRows,
  onEvent: RunContext["onEvent"],
): void {
  const { store, plan } = train;
  const { format, unusedColumns, findings } = report;
  const counts = `${store.count} rows, ${store.tokens} tokens, ${store.trainedTokens} of them trained`;
  onEvent(info(`${data}: ${counts}; format ${format}`));
  if (unusedColumns.length > 0) onEvent(info(`${data}: columns not used: ${unusedColumns.join(", ")}`));
  if (evaluation.store === store && evaluation.count > 0) onEvent(info(`${evaluation.count} rows are held out`));
  if (plan) {
    const filled = ((100 * tokensOf(train)) / (plan.capacity * train.count)).toFixed(1);
    const text = `${train.rowCount} rows packed into ${train.count} sequences of ${plan.capacity} tokens, ${filled} % full; plan ${plan.digest}`;
    onEvent(info(text));
  }
  for (const finding of findings) onEvent({ kind: "log", severity: "warning", text: findingText(finding) });
}

function tokensOf(set: TrainingSet): number {
  let tokens = 0;
  for (let i = 0; i < set.count; i++) for (const row of set.rowsOf(i)) tokens += set.store.lengthOf(row);
  return tokens;
}

/** A set of one shape of row, for runs whose rows are not there. */
export function sameRows(count: number, length: number): TrainingSet {
  const row = { inputIds: new Int32Array(length), labels: new Int32Array(length), weight: 1 };
  return TrainingSet.whole(ExampleStore.of(Array.from({ length: count }, () => row)));
}
