// A base model with its adapters, ready to answer: loading and unloading while requests run, and the
// loop that turns the scheduler. It knows no transport; text is its callers' business.
import { type Device, type DType, freeOnThrow } from "#native";
import { hasOwnTokenizer } from "#packages/data";
import { NibbleError } from "#packages/errors";
import {
  type AdapterFolder,
  elementsOf,
  type LlamaConfig,
  llamaWeights,
  type ModelFolder,
  ModelHasher,
  openAdapterFolder,
  openModelFolder,
} from "#packages/hub";
import { type DeviceChoice, usableDevice } from "./device.ts";
import type { ConstraintForm } from "./generation/constraint.ts";
import { ConstraintHosts } from "./generation/constraint-hosts.ts";
import type { Vocabulary } from "./generation/constraint-worker.ts";
import type { HeadScreening } from "./generation/head.ts";
import { Scheduler, type SchedulerStats } from "./generation/scheduler.ts";
import type {
  FinishReason,
  GeneratedToken,
  GenerationRequest,
  SequenceListener,
  SequenceTiming,
  TokenConstraint,
  TokenScore,
} from "./generation/sequence.ts";
import { freeServed, loadServedAdapter, type ServedAdapter, servedBytes } from "./generation/served-adapter.ts";
import { type RequestTrace, RequestTracer } from "./generation/step-trace.ts";
import { ModelDigest } from "./model-digest.ts";
import { freeModel, linearFootprint, loadModel } from "./model-load.ts";
import { type LlamaModel, linearsOf } from "./models/llama.ts";
import { driftMax, driftOf } from "./probes.ts";
import type { QuantOptions } from "./quantize-tensor.ts";
import { storedIn } from "./run-shape.ts";
import { admitServing } from "./serving-memory.ts";

const op = "serve";

/** Milliseconds of work on an adapter between two steps of the others: little beside a step of most models. */
const turnMs = 2;

/** A score draws nothing. */
const unsampled = {
  maxNewTokens: 0,
  sampling: { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 },
  stopIds: [],
  wantLogits: false,
};

export interface ServeOptions {
  modelDir: string;
  device: DeviceChoice | Device;
  dtype: DType;
  /** For a 16-bit folder; null serves it in 16 bits. */
  quant: QuantOptions | null;
  sequencesMax: number;
  stepTokensMax: number;
  cacheTokensMax: number;
  waitingMax: number;
  /** Heads kept in 8 bits as well, for tokens whose log-probabilities nobody wants. Default: "large". */
  headScreening?: HeadScreening;
  /** Whether requests with the same beginning share its keys and values. Default: false, each is computed whole. */
  prefixCache?: boolean;
}

/** With the device that was found for it. */
type PlacedOptions = ServeOptions & { device: Device };

export interface ModelInfo {
  /** Where it is: what was found for "auto". */
  device: Device;
  /** As config.json names it. */
  architecture: string;
  parameters: number;
  /** How the linear layers are stored; null in 16 bits. */
  quant: QuantOptions | null;
  vocabSize: number;
  maxPositions: number;
  eosTokenIds: readonly number[];
  linearParameters: number;
  bitsPerParameter: number;
}

export interface AdapterInfo {
  id: string;
  rank: number;
  /** Of modules without a pattern of their own. */
  scaling: number;
  /** Last name parts, in the order of the file. */
  targetModules: readonly string[];
  bytes: number;
  baseDigest: string | null;
}

type GivenByCallers = Omit<GenerationRequest, "adapter" | "stopIds" | "constraint" | "cacheKey" | "score" | "tracer">;

export type GenerateInput = GivenByCallers & {
  adapterId: string | null;
  ignoreEos: boolean;
  /** What the answer's text must look like; it then ends with its end, whatever `ignoreEos` says. Default: anything. */
  constraint?: ConstraintForm | null;
  /** Follow the request through the steps, under this name. Default: null, do not. */
  traceAs?: string | null;
};

export interface ScoreInput {
  adapterId: string | null;
  /** Context and continuation. */
  inputIds: readonly number[];
  /** Index of the continuation's first token, 1 or more. */
  from: number;
  topLogprobs: number;
  caller: string;
  /** As of GenerateInput. */
  traceAs?: string | null;
}

export interface GenerateResult {
  reason: FinishReason;
  timing: SequenceTiming;
  /** Null unless it was asked for. */
  trace: RequestTrace | null;
}

export interface ScoreResult extends GenerateResult {
  /** Of the continuation's tokens, in order. */
  scores: TokenScore[];
}

interface LoadedAdapter {
  info: AdapterInfo;
  /** Tells it from others, also from one of this id that was loaded before: keys and values in the cache are its own. */
  cacheKey: string;
  /** Its folder, where that has a tokenizer of its own. */
  tokenizerDir: string | null;
  adapter: ServedAdapter;
  /** Being unloaded: no new requests. */
  draining: boolean;
}

export class ServedModel {
  readonly info: ModelInfo;
  private readonly model: LlamaModel;
  private readonly modelDigest: ModelDigest;
  private readonly scheduler: Scheduler;
  private readonly adapters = new Map<string, LoadedAdapter>();
  private readonly loading = new Set<string>();
  private readonly dtype: "float32" | "bfloat16";
  private turning = false;
  private loads = 0;
  private readonly sharesPrefixes: boolean;
  private readonly modelDir: string;
  private readonly constraints = new ConstraintHosts();

  private constructor(model: LlamaModel, digest: ModelDigest, options: PlacedOptions) {
    this.model = model;
    this.modelDigest = digest;
    this.scheduler = new Scheduler(model, options);
    this.sharesPrefixes = options.prefixCache ?? false;
    this.modelDir = options.modelDir;
    this.dtype = options.dtype === "bfloat16" ? "bfloat16" : "float32";
    const { parameters, bitsPerParameter } = linearFootprint(model);
    const { architecture, vocabSize, maxPositionEmbeddings, eosTokenIds } = model.config;
    this.info = {
      device: options.device,
      architecture,
      parameters: parameterCount(model.config),
      quant: quantOf(model),
      vocabSize,
      maxPositions: maxPositionEmbeddings,
      eosTokenIds,
      linearParameters: parameters,
      bitsPerParameter,
    };
  }

  /** @throws FAILED_PRECONDITION when the device is not there; RESOURCE_EXHAUSTED when the model does not fit. */
  static open(wanted: ServeOptions, signal?: AbortSignal): ServedModel {
    const options: PlacedOptions = { ...wanted, device: usableDevice(wanted.device) };
    const folder = openModelFolder(options.modelDir);
    try {
      return freeOnThrow(() => {
        const { device, quant, dtype } = options;
        if (device === "cpu" || device === "cuda") {
          admitServing({ config: folder.config, stored: storedIn(folder), quant, dtype, limits: options }, device);
        }
        const { model, digest } = load(folder, options, signal);
        return new ServedModel(model, digest, options);
      });
    } catch (thrown) {
      folder.close();
      throw thrown;
    }
  }

  /** Adapters are pinned to it. The first call reads the whole model, unless it was quantized on loading. */
  digest(): string {
    return this.modelDigest.value;
  }

  /**
   * Loads an adapter some modules at a time, between steps of the others, and asks it the probes of its training. Its matrices
   * get the dtype of activations: training over bfloat16 rounds them the same way (ops/linear.h).
   * @throws ALREADY_EXISTS; FAILED_PRECONDITION for an adapter of another base, or one that answers otherwise here.
   */
  async loadAdapter(id: string, dir: string, signal = new AbortController().signal): Promise<AdapterInfo> {
    if (this.adapters.has(id) || this.loading.has(id)) {
      throw new NibbleError(`adapter ${id} is loaded already`, { code: "ALREADY_EXISTS", op });
    }
    this.loading.add(id);
    try {
      using folder = openAdapterFolder(dir, { config: this.model.config, digest: this.digest() });
      const adapter = await this.inTurns(loadServedAdapter(folder, this.model, this.dtype), signal);
      const tokenizerDir = hasOwnTokenizer(folder) ? dir : null;
      const loaded = { adapter, tokenizerDir, cacheKey: `${id} ${this.loads++}`, draining: false };
      try {
        await this.checkProbes(folder, loaded, signal);
      } catch (thrown) {
        this.scheduler.forget(adapter);
        freeServed(adapter);
        throw thrown;
      }
      const info = { ...describe(folder), id, bytes: servedBytes(adapter) };
      this.adapters.set(id, { ...loaded, info });
      return info;
    } finally {
      this.loading.delete(id);
    }
  }

  private async inTurns<T>(pieces: Generator<undefined, T>, signal: AbortSignal): Promise<T> {
    try {
      for (let until = performance.now() + turnMs; ; ) {
        const { done, value } = pieces.next();
        if (done) return value;
        if (performance.now() < until) continue;
        await nextTurn();
        signal.throwIfAborted();
        until = performance.now() + turnMs;
      }
    } finally {
      // Frees what is there, if it was left half-way.
      pieces.return(undefined as T);
    }
  }

  private async checkProbes(
    { path, probes }: AdapterFolder,
    { adapter, cacheKey }: Pick<LoadedAdapter, "adapter" | "cacheKey">,
    signal: AbortSignal,
  ): Promise<void> {
    const most = driftMax[this.dtype];
    const over = { adapter, cacheKey: this.sharesPrefixes ? cacheKey : null, ...unsampled };
    for (const probe of probes) {
      let drift = Number.POSITIVE_INFINITY;
      const onToken = ({ logits }: GeneratedToken) => {
        drift = logits ? driftOf(probe, logits) : drift;
      };
      const request = { ...over, inputIds: probe.ids, maxNewTokens: 1, wantLogits: true };
      const { reason } = await this.run(request, { onToken }, signal);
      if (reason === "cancelled") signal.throwIfAborted();
      if (drift <= most) continue;
      const message = `${path}: expected log-probabilities within ${most} of those at its training, got one ${drift.toFixed(3)} away: base, quantization or weights are not the same`;
      const details = { expected: String(most), got: String(drift) };
      throw new NibbleError(message, { code: "FAILED_PRECONDITION", op, details });
    }
  }

  /** Waits for the requests that use it, then frees it; bytes given back. */
  async unloadAdapter(id: string, signal?: AbortSignal): Promise<{ bytesFreed: number }> {
    const loaded = this.adapter(id);
    loaded.draining = true;
    try {
      while (this.scheduler.uses(loaded.adapter)) {
        signal?.throwIfAborted();
        await nextTurn();
      }
    } catch (thrown) {
      loaded.draining = false;
      throw thrown;
    }
    this.adapters.delete(id);
    this.scheduler.forget(loaded.adapter);
    this.constraints.drop(loaded.cacheKey);
    return { bytesFreed: freeServed(loaded.adapter) };
  }

  listAdapters(): AdapterInfo[] {
    return [...this.adapters.values()].map((a) => a.info);
  }

  private adapter(id: string): LoadedAdapter {
    const found = this.adapters.get(id);
    if (found && !found.draining) return found;
    const loaded = [...this.adapters.keys()].join(", ") || "none";
    throw new NibbleError(`adapter ${id} is not loaded; loaded: ${loaded}`, { code: "NOT_FOUND", op });
  }

  /** Resolves at the end of the answer; a cancelled one stops within a step. */
  generate(
    input: GenerateInput,
    onToken: (token: GeneratedToken) => void,
    signal: AbortSignal,
  ): Promise<GenerateResult> {
    const { adapterId, ignoreEos, constraint: form = null, traceAs = null, ...rest } = input;
    const tracer = tracerOf(traceAs);
    const stopIds = ignoreEos && form === null ? [] : this.info.eosTokenIds;
    const start = (constraint: TokenConstraint | null) =>
      this.run({ ...rest, ...this.overAdapter(adapterId), stopIds, constraint, tracer }, { onToken }, signal);
    return form === null ? start(null) : this.constrained(adapterId, form, signal, start);
  }

  private async constrained(
    adapterId: string | null,
    form: ConstraintForm,
    signal: AbortSignal,
    start: (constraint: TokenConstraint) => Promise<GenerateResult>,
  ): Promise<GenerateResult> {
    const constraint = await this.constraints.compile(this.vocabularyOf(adapterId), form, signal);
    try {
      return await start(constraint);
    } finally {
      constraint.free();
    }
  }

  /** The base's, or an adapter's that added tokens. */
  private vocabularyOf(adapterId: string | null): Vocabulary {
    const { modelDir, info } = this;
    const base = { key: "", modelDir, adapterDir: null, vocabSize: info.vocabSize, stopIds: info.eosTokenIds };
    const { tokenizerDir = null, cacheKey = "", adapter } = adapterId === null ? {} : this.adapter(adapterId);
    if (tokenizerDir === null) return base;
    return { ...base, key: cacheKey, adapterDir: tokenizerDir, vocabSize: adapter?.head?.shape[0] ?? base.vocabSize };
  }

  /** How likely the tokens from `from` on are, each after all before it. */
  async score({ adapterId, from, traceAs = null, ...rest }: ScoreInput, signal: AbortSignal): Promise<ScoreResult> {
    const scores: TokenScore[] = [];
    const over = { ...this.overAdapter(adapterId), tracer: tracerOf(traceAs) };
    const request = { ...rest, ...over, ...unsampled, score: { from } };
    const result = await this.run(request, { onToken() {}, onScore: (score) => scores.push(score) }, signal);
    return { ...result, scores };
  }

  private overAdapter(id: string | null): Pick<GenerationRequest, "adapter" | "cacheKey"> {
    if (id === null) return { adapter: null, cacheKey: this.sharesPrefixes ? "" : null };
    const { adapter, cacheKey } = this.adapter(id);
    return { adapter, cacheKey: this.sharesPrefixes ? cacheKey : null };
  }

  private run(
    request: GenerationRequest,
    listener: Pick<SequenceListener, "onToken" | "onScore">,
    signal: AbortSignal,
  ): Promise<GenerateResult> {
    return new Promise((resolve, reject) => {
      const trace = request.tracer?.trace ?? null;
      const onFinish = (reason: FinishReason, timing: SequenceTiming) => resolve({ reason, timing, trace });
      const ticket = this.scheduler.submit(request, { ...listener, onFinish, onError: reject });
      if (signal.aborted) ticket.cancel();
      signal.addEventListener("abort", () => ticket.cancel(), { once: true });
      void this.turn();
    });
  }

  /** Steps while there is work; messages get their turn between steps. */
  private async turn(): Promise<void> {
    if (this.turning) return;
    this.turning = true;
    while (this.scheduler.hasWork) {
      try {
        await this.scheduler.ready();
        this.scheduler.step();
      } catch (error) {
        this.scheduler.fail(error);
      }
      await nextTurn();
    }
    this.turning = false;
  }

  get stats(): SchedulerStats {
    return this.scheduler.stats;
  }

  free(): void {
    for (const { adapter } of this.adapters.values()) freeServed(adapter);
    this.scheduler.free();
    this.constraints.close();
    freeModel(this.model);
    this.modelDigest.close();
  }
}

const tracerOf = (name: string | null) => (name === null ? null : new RequestTracer(name));

/** Weights that are made here, by quantizing, have no folder to take a digest of later. */
function load(folder: ModelFolder, { device, quant }: PlacedOptions, signal?: AbortSignal) {
  const aborts = signal ? { signal } : {};
  if (quant === null || folder.isQuantized) {
    return { model: loadModel(folder, { device, quant, ...aborts }), digest: ModelDigest.of(folder) };
  }
  const hasher = new ModelHasher();
  const model = loadModel(folder, { device, quant, hasher, ...aborts });
  folder.close();
  return { model, digest: ModelDigest.known(hasher.digest(model.config)) };
}

function parameterCount(config: LlamaConfig): number {
  return [...llamaWeights(config).values()].map(elementsOf).reduce((sum, n) => sum + n, 0);
}

function quantOf(model: LlamaModel): QuantOptions | null {
  const quant = model.blocks
    .flatMap(linearsOf)
    .map(({ weight }) => weight.quant)
    .find((q) => q !== null);
  return quant ? { type: quant.type, blockSize: quant.blockSize, doubleQuant: quant.nested !== null } : null;
}

function describe({ config, modules, baseDigest }: AdapterFolder): Omit<AdapterInfo, "id" | "bytes"> {
  const targetModules = [...new Set([...modules.keys()].map((module) => module.slice(module.lastIndexOf(".") + 1)))];
  const scaling = config.alpha / (config.useRslora ? Math.sqrt(config.rank) : config.rank);
  return { rank: config.rank, scaling, targetModules, baseDigest };
}

function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
