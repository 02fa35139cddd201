// The engine's thread: it runs the calls of the main thread, whose event loop stays free for gRPC. Long
// calls give way between steps, so that cancellations and other calls get their turn.
import { parentPort } from "node:worker_threads";
import { type Device, type MemoryReport, memory, setThreadCount } from "#native";
import { NibbleError } from "#packages/errors";
import { type ExportGgufOptions, exportGguf } from "../export-gguf.ts";
import type { GeneratedToken } from "../generation/sequence.ts";
import { type MergeOptions, mergeAdapter } from "../merge.ts";
import { writeNewModel } from "../new-model.ts";
import { type PreviewJob, previewData } from "../preview.ts";
import { type QuantizeModelOptions, quantizeModel } from "../quantize-model.ts";
import { type QuoteJob, quoteTrainJob } from "../quote.ts";
import { type GenerateInput, type ScoreInput, ServedModel, type ServeOptions } from "../served-model.ts";
import { runTrainJob, type TrainJob } from "../train-job.ts";
import type { FromWorker, ToWorker } from "./protocol.ts";

interface CallContext {
  signal: AbortSignal;
  emit(event: unknown): void;
}

const models = new Map<number, ServedModel>();
let nextModel = 1;

function model(id: number): ServedModel {
  const found = models.get(id);
  if (found) return found;
  throw new NibbleError(`model ${id} is not open`, { code: "NOT_FOUND", op: "engine" });
}

/** Names and argument types as host/engine.ts sends them. */
const methods = {
  setThreads: (threads: number) => setThreadCount(threads),
  memory: (device: Device): MemoryReport => memory.report(device),
  quantize: (options: QuantizeModelOptions, { signal, emit }: CallContext) =>
    quantizeModel({ ...options, signal, onProgress: emit }),
  merge: (options: MergeOptions, { signal, emit }: CallContext) =>
    mergeAdapter({ ...options, signal, onProgress: emit }),
  exportGguf: (options: ExportGgufOptions, { signal, emit }: CallContext) =>
    exportGguf({ ...options, signal, onProgress: emit }),
  writeNewModel,
  train: (job: TrainJob, { signal, emit }: CallContext) => runTrainJob(job, { signal, onEvent: emit }),
  quote: (job: QuoteJob, { signal }: CallContext) => quoteTrainJob(job, signal),
  preview: (job: PreviewJob, { signal }: CallContext) => previewData(job, signal),
  openModel: (options: ServeOptions, { signal }: CallContext) => {
    const opened = ServedModel.open(options, signal);
    models.set(nextModel, opened);
    return { id: nextModel++, info: opened.info };
  },
  closeModel: (id: number) => {
    model(id).free();
    models.delete(id);
  },
  loadAdapter: ({ modelId, id, dir }: { modelId: number; id: string; dir: string }, { signal }: CallContext) =>
    model(modelId).loadAdapter(id, dir, signal),
  unloadAdapter: ({ modelId, id }: { modelId: number; id: string }, { signal }: CallContext) =>
    model(modelId).unloadAdapter(id, signal),
  digest: (modelId: number) => model(modelId).digest(),
  listAdapters: (modelId: number) => model(modelId).listAdapters(),
  stats: (modelId: number) => model(modelId).stats,
  generate: ({ modelId, input }: { modelId: number; input: GenerateInput }, { signal, emit }: CallContext) =>
    model(modelId).generate(input, (token: GeneratedToken) => emit(token), signal),
  score: ({ modelId, input }: { modelId: number; input: ScoreInput }, { signal }: CallContext) =>
    model(modelId).score(input, signal),
};

const controllers = new Map<number, AbortController>();

/** What is said in one turn goes as one message: a step has a token for each of many calls. */
let outbox: FromWorker[] = [];

function post(message: FromWorker): void {
  if (outbox.length === 0) queueMicrotask(flush);
  outbox.push(message);
}

function flush(): void {
  const messages = outbox;
  outbox = [];
  parentPort?.postMessage(messages);
}

async function run(id: number, name: string, args: unknown): Promise<void> {
  const controller = new AbortController();
  controllers.set(id, controller);
  try {
    const method = methods[name as keyof typeof methods] as (args: unknown, context: CallContext) => unknown;
    const result = await method(args, {
      signal: controller.signal,
      emit: (event) => post({ kind: "event", id, event }),
    });
    post({ kind: "result", id, result });
  } catch (thrown) {
    const { code, op, message, details } = NibbleError.from(thrown, "engine");
    post({ kind: "error", id, error: { code, op, message, details } });
  } finally {
    controllers.delete(id);
  }
}

parentPort?.on("message", (message: ToWorker) => {
  if (message.kind === "cancel") controllers.get(message.id)?.abort();
  else void run(message.id, message.method, message.args);
});
