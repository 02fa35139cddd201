// The backend in this process: an engine in a worker thread, folders on this machine. It knows no network; whoever makes
// it says where the folder is that a text stands for.
import { type TrainRecipe, withFolders } from "#packages/data";
import { Engine, type TrainEvent } from "#packages/engine";
import { NibbleError } from "#packages/errors";
import { describingFiles } from "#packages/hub";
import type {
  Answerer,
  Backend,
  OpenOptions,
  PreviewJob,
  PreviewSummary,
  QuantizeJob,
  QuantizeProgress,
  QuantizeSummary,
  QuoteJob,
  QuoteSummary,
  TrainingJob,
  TrainProgress,
  TrainSummary,
} from "./backend.ts";
import { EmbeddedModel } from "./embedded-model.ts";

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
    if (options.contextTokens !== null) await model.open(options.contextTokens, 1, signal);
    return model;
  }

  async close(): Promise<void> {
    await this.engine?.close();
  }
}
