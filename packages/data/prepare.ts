// A data set made ready: every row read, tokenized, looked at and put into a store. It knows no model beyond its
// tokenizer and no training.
import { NibbleError } from "#packages/errors";
import { RowReader } from "./dataset.ts";
import { ExampleStore, type Keep } from "./example-store.ts";
import { type Example, ExampleBuilder, type ExampleOptions } from "./examples.ts";
import { type Finding, findingText, Lint } from "./lint.ts";
import { locateData } from "./locate.ts";
import { op } from "./place.ts";
import { type FetchDataset, fetchFromHub } from "./sources/hub.ts";
import type { TextTokenizer } from "./tokenizer.ts";

export interface DataRequest {
  /** See locateData. */
  data: string;
  /** One of datasetFormats. */
  format: string;
  tokenizer: TextTokenizer;
  examples: ExampleOptions;
  fetch?: FetchDataset;
}

export interface PrepareOptions {
  keep: Keep;
  signal: AbortSignal;
  /** Rows that are wrong are findings and not errors. Default false. */
  toleratesBad?: boolean;
  /** Sees each example as it comes, those that are left out as well. */
  onExample?: (example: Example) => void;
  onProgress?: (rows: number) => void;
}

/** What is known of a data set once it was read. */
export interface DataReport {
  files: string[];
  format: string;
  /** Columns that are not looked at. */
  unusedColumns: string[];
  findings: Finding[];
}

/** Rows between two looks at the signal. */
const rowsAtATime = 256;
const progressRows = 100_000;

/**
 * @throws the first row's error that cannot be read, NOT_FOUND where there is no such data, INVALID_ARGUMENT where no
 *   row can be trained on. The store is closed then.
 */
export async function prepareData(
  request: DataRequest,
  options: PrepareOptions,
): Promise<{ store: ExampleStore; report: DataReport }> {
  const source = await locateData(request.data, request.fetch ?? fetchFromHub, options.signal);
  const reader = new RowReader(source, request.format);
  const store = new ExampleStore(options.keep);
  try {
    const findings = await fill(store, reader, request, options);
    const { formatName: format, unused } = reader;
    return { store, report: { files: source.files, format, unusedColumns: [...unused], findings } };
  } catch (thrown) {
    store.close();
    throw NibbleError.from(thrown, op);
  }
}

async function fill(
  store: ExampleStore,
  reader: RowReader,
  { data, tokenizer, examples }: DataRequest,
  { signal, toleratesBad = false, onExample, onProgress }: PrepareOptions,
): Promise<Finding[]> {
  const builder = new ExampleBuilder(tokenizer, examples);
  const lint = new Lint();
  const onBad = (error: NibbleError) => {
    const { file = data, line = "0", column } = error.details;
    const text = error.reason.replace(`${file}:${line}${column ? `:${column}` : ""}: `, "");
    lint.add("bad", { file, line: Number(line) }, column ? `column ${column}: ${text}` : text);
  };
  const build = (row: Parameters<ExampleBuilder["build"]>[0]): Example[] => {
    try {
      return builder.build(row);
    } catch (thrown) {
      const error = NibbleError.from(thrown, op);
      if (!toleratesBad || error.code !== "INVALID_ARGUMENT") throw error;
      onBad(error);
      return [];
    }
  };
  let rows = 0;
  for await (const row of reader.rows(toleratesBad ? onBad : undefined)) {
    if (++rows % rowsAtATime === 0) await new Promise((resolve) => setImmediate(resolve));
    signal.throwIfAborted();
    if (rows % progressRows === 0) onProgress?.(rows);
    for (const example of build(row)) {
      onExample?.(example);
      if (lint.see(example)) store.add(example);
    }
  }
  const findings = lint.report();
  if (store.count === 0 && !toleratesBad) throw nothingToTrain(data, findings);
  return findings;
}

function nothingToTrain(data: string, findings: readonly Finding[]): NibbleError {
  const untrained = findings.find(({ problem }) => problem === "untrained");
  const why = untrained ? `: ${findingText(untrained)}` : "";
  const first = untrained?.first[0];
  const details = first ? { file: first.file, line: String(first.line) } : { file: data };
  return new NibbleError(`${data}: expected a row to train on, got none${why}`, {
    code: "INVALID_ARGUMENT",
    op,
    details,
  });
}
