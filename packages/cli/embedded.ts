// The backend in this process: an engine in a worker thread, folders on this machine. It knows no network; whoever makes
// it says where the folder is that a text stands for.
import {
  loadAdapterTokenizer,
  loadTokenizer,
  StreamDecoder,
  type TextTokenizer,
  type TrainRecipe,
  withFolders,
} from "#packages/data";
import { defaultQuant, Engine, type EngineModel, type TrainEvent } from "#packages/engine";
import { NibbleError } from "#packages/errors";
import { describingFiles, openModelFolder } from "#packages/hub";
import {
  type Answer,
  type Answerer,
  type AnswerRequest,
  type Backend,
  maxNewTokensDefault,
  type OpenOptions,
  type PreviewJob,
  type PreviewSummary,
  type QuantizeJob,
  type QuantizeProgress,
  type QuantizeSummary,
  type QuoteJob,
  type QuoteSummary,
  type TrainingJob,
  type TrainProgress,
  type TrainSummary,
} from "./backend.ts";

/** Tokens that a step computes at most: a longer prompt is computed in parts. */
const stepTokensMax = 512;
const adapterId = "adapter";

function progressOf(event: TrainEvent): TrainProgress {
  if (event.kind !== "step") return event;
  const { kind, step, steps, loss, gradNorm, lr, tokensPerSecond, seconds, memory } = event;
  return { kind, step, steps, loss, gradNorm, lr, tokensPerSecond, seconds, memoryBytes: memory.peakTotal };
}

type FolderOf = (text: string, options?: { include?: readonly string[] }) => Promise<string>;

export class EmbeddedBackend implements Backend {
  private readonly folderOf: FolderOf;
  private engine: Engine | null = null;

  /** `folderOf` is asked for every model and adapter: a folder is itself, a name of the Hub is pulled. */
  constructor(folderOf: FolderOf) {
    this.folderOf = folderOf;
  }

  private start(threads: number | null): Engine {
    this.engine ??= new Engine(threads === null ? {} : { threads });
    return this.engine;
  }

  async quantize(
    { modelDir, outDir, quant, threads }: QuantizeJob,
    { signal, onProgress }: { signal: AbortSignal; onProgress: (p: QuantizeProgress) => void },
  ): Promise<QuantizeSummary> {
    const engine = this.start(threads);
    const { peakBytes: bytesPeak, ...report } = await engine.quantize(
      { modelDir: await this.folderOf(modelDir), outDir, quant },
      { signal, onEvent: onProgress },
    );
    return { ...report, bytesPeak };
  }

  async train(
    job: TrainingJob,
    { signal, onEvent }: { signal: AbortSignal; onEvent: (event: TrainProgress) => void },
  ): Promise<TrainSummary> {
    const engine = this.start(job.recipe.threads);
    const call = { signal, onEvent: (event: TrainEvent) => onEvent(progressOf(event)) };
    const recipe = await withFolders(job.recipe, (text) => this.folderOf(text));
    const { memory, estimate: _, ...report } = await engine.train({ ...job, recipe }, call);
    return { ...report, memoryPeakBytes: memory.peakTotal };
  }

  async quote(job: QuoteJob, signal: AbortSignal): Promise<QuoteSummary> {
    const recipe = await this.described(job.recipe);
    const { memory, available, ...facts } = await this.start(recipe.threads).quote({ ...job, recipe }, { signal });
    return {
      ...facts,
      trainedParameters: memory.trainedParameters,
      memoryBytes: memory.atPeak,
      memoryPeakBytes: memory.peakTotal,
      pagedBytes: memory.paged,
      availableBytes: available?.bytes ?? null,
      limitedBy: available?.by ?? null,
    };
  }

  async preview(job: PreviewJob, signal: AbortSignal): Promise<PreviewSummary> {
    return this.start(null).preview({ ...job, recipe: await this.described(job.recipe) }, { signal });
  }

  /** For what reads no weights. */
  private described(recipe: TrainRecipe): Promise<TrainRecipe> {
    return withFolders(recipe, (text, what) =>
      this.folderOf(text, what === "model" ? { include: describingFiles } : {}),
    );
  }

  async open(options: OpenOptions, signal: AbortSignal): Promise<Answerer> {
    if (options.modelDir === null) {
      throw new NibbleError("model: expected a folder, got none", { code: "INVALID_ARGUMENT", op: "generate" });
    }
    const modelDir = await this.folderOf(options.modelDir);
    const adapter = options.adapter === null ? null : await this.folderOf(options.adapter);
    const model = new EmbeddedModel(this.start(options.threads), modelDir, { ...options, adapter });
    if (options.contextTokens !== null) await model.open(options.contextTokens, signal);
    return model;
  }

  async close(): Promise<void> {
    await this.engine?.close();
  }
}

class EmbeddedModel implements Answerer {
  private readonly engine: Engine;
  private readonly options: OpenOptions;
  private readonly modelDir: string;
  private readonly maxPositions: number;
  private readonly isQuantized: boolean;
  private readonly tokenizer: TextTokenizer | null;
  private opened: EngineModel | null = null;

  constructor(engine: Engine, modelDir: string, options: OpenOptions) {
    this.engine = engine;
    this.options = options;
    this.modelDir = modelDir;
    using folder = openModelFolder(modelDir);
    this.maxPositions = folder.config.maxPositionEmbeddings;
    this.isQuantized = folder.isQuantized;
    const own = options.adapter === null ? null : loadAdapterTokenizer(options.adapter, modelDir);
    this.tokenizer = own ?? tokenizerOf(modelDir, folder.config.vocabSize);
  }

  async open(tokens: number, signal: AbortSignal): Promise<EngineModel> {
    if (this.opened) return this.opened;
    const { bits, dtype, adapter, device } = this.options;
    const model = await this.engine.openModel(
      {
        modelDir: this.modelDir,
        device,
        dtype,
        quant: this.isQuantized || bits === 4 ? defaultQuant : null,
        sequencesMax: 1,
        stepTokensMax,
        cacheTokensMax: Math.min(tokens, this.maxPositions),
        waitingMax: 1,
      },
      { signal },
    );
    if (adapter !== null) await model.loadAdapter(adapterId, adapter);
    this.opened = model;
    return model;
  }

  async answer(
    request: AnswerRequest,
    { signal, onText }: { signal: AbortSignal; onText?: (text: string) => void },
  ): Promise<Answer> {
    const inputIds = this.idsOf(request.input);
    const room = Math.max(1, this.maxPositions - inputIds.length);
    const maxNewTokens = request.maxNewTokens ?? Math.min(maxNewTokensDefault, room);
    const model = await this.open(inputIds.length + maxNewTokens, signal);
    const decoder = this.tokenizer === null ? null : new StreamDecoder(this.tokenizer);
    const tokenIds: number[] = [];
    let text = "";
    let logits: Float32Array | null = null;
    const give = (piece: string) => {
      if (piece === "") return;
      text += piece;
      onText?.(piece);
    };
    const { sampling, ignoreEos, wantLogits } = request;
    const adapter = this.options.adapter === null ? null : adapterId;
    const { reason, timing } = await model.generate(
      { inputIds, maxNewTokens, sampling, ignoreEos, wantLogits, wantLogprobs: false, adapterId: adapter },
      {
        signal,
        onEvent: (token) => {
          tokenIds.push(token.id);
          logits = token.logits ?? logits;
          give(decoder?.push(token.id) ?? "");
        },
      },
    );
    signal.throwIfAborted();
    give(decoder?.finish() ?? "");
    const { promptTokens, newTokens, prefillSeconds, decodeSeconds } = timing;
    return {
      tokenIds,
      text,
      finishReason: reason,
      promptTokens,
      prefillTokensPerSecond: rate(promptTokens, prefillSeconds),
      decodeTokensPerSecond: rate(newTokens - 1, decodeSeconds),
      logits: logits === null ? null : Array.from<number>(logits),
    };
  }

  private idsOf(input: AnswerRequest["input"]): number[] {
    if ("inputIds" in input) return input.inputIds;
    const tokenizer = this.tokenizer ?? loadTokenizer(this.modelDir);
    if ("prompt" in input) return tokenizer.encode(input.prompt);
    if (tokenizer.chatTemplate === null) {
      const message = `${this.modelDir}: expected a chat template, got none; use generate`;
      throw new NibbleError(message, { code: "FAILED_PRECONDITION", op: "chat" });
    }
    const text = tokenizer.chatTemplate.render(input.messages, { addGenerationPrompt: true });
    return tokenizer.encode(text, { addSpecialTokens: false });
  }

  async close(): Promise<void> {
    await this.opened?.close();
  }
}

function rate(tokens: number, seconds: number): number {
  return tokens > 0 && seconds > 0 ? tokens / seconds : 0;
}

/** Null where the folder has none: token ids can be continued all the same. */
function tokenizerOf(modelDir: string, vocabSize: number): TextTokenizer | null {
  try {
    return loadTokenizer(modelDir, { vocabSize });
  } catch (thrown) {
    if (thrown instanceof NibbleError && thrown.code === "NOT_FOUND") return null;
    throw thrown;
  }
}
