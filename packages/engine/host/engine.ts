// The engine as the main thread sees it: promises and streams over a worker thread.
import { Worker } from "node:worker_threads";
import type { Device, MemoryReport } from "#native";
import { NibbleError } from "#packages/errors";
import type { ExportGgufOptions, ExportGgufReport } from "../export-gguf.ts";
import type { SchedulerStats } from "../generation/scheduler.ts";
import type { GeneratedToken } from "../generation/sequence.ts";
import type { MergeOptions, MergeReport, TensorProgress } from "../merge.ts";
import type { NewModelOptions } from "../new-model.ts";
import type { DataPreview, PreviewJob } from "../preview.ts";
import type { QuantizeModelOptions, QuantizeProgress, QuantizeReport } from "../quantize-model.ts";
import type { Quote, QuoteJob } from "../quote.ts";
import type {
  AdapterInfo,
  GenerateInput,
  GenerateResult,
  ModelInfo,
  ScoreInput,
  ScoreResult,
  ServeOptions,
} from "../served-model.ts";
import type { TrainJob, TrainReport } from "../train-job.ts";
import type { TrainEvent } from "../train-run.ts";
import type { FromWorker, ToWorker } from "./protocol.ts";

interface Pending {
  onEvent(event: unknown): void;
  resolve(result: unknown): void;
  reject(error: NibbleError): void;
}

export interface CallOptions<Event = never> {
  signal?: AbortSignal;
  onEvent?: (event: Event) => void;
}

/**
 * MiB of the thread's new objects. V8 would let them grow to several times as much, and keep the longer what is garbage:
 * with semi-spaces of 4 MiB (a third of this) reading rows takes as much memory for a file of any size (docs/data.md).
 */
export const youngGenerationMb = 12;

export class Engine {
  private readonly worker: Worker;
  private readonly pending = new Map<number, Pending>();
  private nextId = 1;
  private stopped: NibbleError | null = null;
  private isClosing = false;
  private readonly failure = Promise.withResolvers<NibbleError>();

  constructor(options: { threads?: number } = {}) {
    this.worker = new Worker(new URL("./worker.ts", import.meta.url), {
      execArgv: ["--disable-warning=ExperimentalWarning"],
      resourceLimits: { maxYoungGenerationSizeMb: youngGenerationMb },
    });
    this.worker.on("message", (messages: FromWorker[]) => {
      for (const message of messages) this.receive(message);
    });
    this.worker.on("error", (error) => this.fail(NibbleError.from(error, "engine")));
    this.worker.on("exit", (code) =>
      this.fail(new NibbleError(`the engine's thread ended with code ${code}`, { code: "UNAVAILABLE", op: "engine" })),
    );
    if (options.threads !== undefined) void this.call("setThreads", options.threads).catch(() => {});
  }

  quantize(
    options: Omit<QuantizeModelOptions, "signal" | "onProgress">,
    call: CallOptions<QuantizeProgress> = {},
  ): Promise<QuantizeReport> {
    return this.call("quantize", options, call);
  }

  /** An adapter merged into its base, and how far the logits moved. */
  merge(
    options: Omit<MergeOptions, "signal" | "onProgress">,
    call: CallOptions<TensorProgress> = {},
  ): Promise<MergeReport> {
    return this.call("merge", options, call);
  }

  /** A GGUF file for llama.cpp. */
  exportGguf(
    options: Omit<ExportGgufOptions, "signal" | "onProgress">,
    call: CallOptions<TensorProgress> = {},
  ): Promise<ExportGgufReport> {
    return this.call("exportGguf", options, call);
  }

  /** A folder of random weights, for training all parameters from nothing. */
  writeNewModel(options: NewModelOptions): Promise<void> {
    return this.call("writeNewModel", options);
  }

  train(job: TrainJob, call: CallOptions<TrainEvent> = {}): Promise<TrainReport> {
    return this.call("train", job, call);
  }

  /** What a run would take; nothing is trained and no weights are read. */
  quote(job: QuoteJob, call: CallOptions = {}): Promise<Quote> {
    return this.call("quote", job, call);
  }

  /** What a run would train on; no weights are read. */
  preview(job: PreviewJob, call: CallOptions = {}): Promise<DataPreview> {
    return this.call("preview", job, call);
  }

  async openModel(options: ServeOptions, call: CallOptions = {}): Promise<EngineModel> {
    const { id, info } = await this.call<{ id: number; info: ModelInfo }>("openModel", options, call);
    return new EngineModel(this, id, info);
  }

  /** Of the host's tensors, or a device's. */
  memory(device: Device = "cpu"): Promise<MemoryReport> {
    return this.call("memory", device);
  }

  /** Resolves when the engine's thread ends though nobody closed it: it will not answer again. */
  get broken(): Promise<NibbleError> {
    return this.failure.promise;
  }

  /** Frees everything; calls under way end with UNAVAILABLE. */
  async close(): Promise<void> {
    this.isClosing = true;
    await this.worker.terminate();
  }

  async call<Result, Event = never>(method: string, args: unknown, options: CallOptions<Event> = {}): Promise<Result> {
    const { signal, onEvent } = options;
    if (this.stopped) throw this.stopped;
    signal?.throwIfAborted();
    const id = this.nextId++;
    const cancel = () => this.send({ kind: "cancel", id });
    signal?.addEventListener("abort", cancel, { once: true });
    try {
      return await new Promise<Result>((resolve, reject) => {
        this.pending.set(id, {
          onEvent: (event) => onEvent?.(event as Event),
          resolve: (result) => resolve(result as Result),
          reject,
        });
        this.send({ kind: "call", id, method, args });
      });
    } finally {
      signal?.removeEventListener("abort", cancel);
      this.pending.delete(id);
    }
  }

  private send(message: ToWorker): void {
    this.worker.postMessage(message);
  }

  private receive(message: FromWorker): void {
    const call = this.pending.get(message.id);
    if (message.kind === "event") this.deliver(message.id, message.event);
    else if (message.kind === "result") call?.resolve(message.result);
    else call?.reject(new NibbleError(message.error.message, message.error));
  }

  /** A listener that throws ends its own call, not the process. */
  private deliver(id: number, event: unknown): void {
    const call = this.pending.get(id);
    try {
      call?.onEvent(event);
    } catch (thrown) {
      this.send({ kind: "cancel", id });
      call?.reject(NibbleError.from(thrown, "engine"));
    }
  }

  private fail(error: NibbleError): void {
    this.stopped ??= error;
    if (!this.isClosing) this.failure.resolve(this.stopped);
    for (const call of this.pending.values()) call.reject(this.stopped);
  }
}

export class EngineModel {
  readonly info: ModelInfo;
  private readonly engine: Engine;
  private readonly modelId: number;

  constructor(engine: Engine, modelId: number, info: ModelInfo) {
    this.engine = engine;
    this.modelId = modelId;
    this.info = info;
  }

  loadAdapter(id: string, dir: string, call: CallOptions = {}): Promise<AdapterInfo> {
    return this.engine.call("loadAdapter", { modelId: this.modelId, id, dir }, call);
  }

  unloadAdapter(id: string, call: CallOptions = {}): Promise<{ bytesFreed: number }> {
    return this.engine.call("unloadAdapter", { modelId: this.modelId, id }, call);
  }

  /** "sha256:…" over the weights; the first call reads them all, unless they were quantized on loading. */
  digest(): Promise<string> {
    return this.engine.call("digest", this.modelId);
  }

  listAdapters(): Promise<AdapterInfo[]> {
    return this.engine.call("listAdapters", this.modelId);
  }

  stats(): Promise<SchedulerStats> {
    return this.engine.call("stats", this.modelId);
  }

  /** Tokens come through `onEvent`; the promise resolves at the end. Aborting stops the work within a step. */
  generate(input: GenerateInput, call: CallOptions<GeneratedToken> = {}): Promise<GenerateResult> {
    return this.engine.call("generate", { modelId: this.modelId, input }, call);
  }

  /** How likely given tokens are, each after all before it. */
  score(input: ScoreInput, call: CallOptions = {}): Promise<ScoreResult> {
    return this.engine.call("score", { modelId: this.modelId, input }, call);
  }

  close(): Promise<void> {
    return this.engine.call("closeModel", this.modelId);
  }
}
