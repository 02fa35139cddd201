// A base model in memory: an engine of its own, the tokenizer, and what uses it now. It knows no adapters' sources and
// no transport.
import { resolve } from "node:path";
import { loadTokenizer, type TextTokenizer } from "#packages/data";
import { type DeviceChoice, Engine, type EngineModel, type MemoryReport, type QuantOptions } from "#packages/engine";
import { NibbleError } from "#packages/errors";
import { readModelConfig } from "#packages/hub";
import type { Config } from "./config.ts";

const op = "load_model";

export interface ModelSettings {
  id: string;
  modelDir: string;
  /** Undefined: as the folder has them. */
  bits: 4 | 16 | undefined;
  /** For a 16-bit folder with bits 4. */
  quant: QuantOptions;
  dtype: "float32" | "bfloat16";
  threads: number;
  device: DeviceChoice;
}

export type ServingLimits = Pick<
  Config,
  "sequencesMax" | "stepTokensMax" | "cacheTokensMax" | "waitingMax" | "unreadMax" | "prefixCache"
>;

export class LoadedModel {
  readonly settings: ModelSettings;
  readonly engineModel: EngineModel;
  /** Of the weights: adapters name it. */
  readonly digest: string;
  /** Null for a folder without one: it takes token ids only. */
  readonly tokenizer: TextTokenizer | null;
  /** Prompt and answer together, in tokens. */
  readonly contextLength: number;
  /** Tokens of an answer that wait for its reader. */
  readonly unreadMax: number;
  readonly loadMs: number;
  readonly #engine: Engine;
  #users = 0;
  #isClosing = false;
  #idle = Promise.withResolvers<void>();

  private constructor(
    settings: ModelSettings,
    parts: { engine: Engine; engineModel: EngineModel; digest: string; tokenizer: TextTokenizer | null },
    { contextLength, unreadMax, loadMs }: { contextLength: number; unreadMax: number; loadMs: number },
  ) {
    this.settings = settings;
    this.#engine = parts.engine;
    this.engineModel = parts.engineModel;
    this.digest = parts.digest;
    this.tokenizer = parts.tokenizer;
    this.contextLength = contextLength;
    this.unreadMax = unreadMax;
    this.loadMs = loadMs;
  }

  /** @throws what the folder or its tokenizer is refused for; nothing stays in memory then. */
  static async open(
    settings: ModelSettings,
    limits: ServingLimits,
    { now, signal }: { now: () => number; signal?: AbortSignal },
  ): Promise<LoadedModel> {
    const { modelDir, bits, quant, dtype, threads, device } = settings;
    const engine = new Engine({ threads });
    try {
      const { unreadMax, ...engineLimits } = limits;
      const options = { modelDir, device, dtype, quant: bits === 4 ? quant : null, ...engineLimits };
      // The tokenizer is read while the engine's thread starts.
      const [engineModel, tokenizer] = await Promise.all([
        engine.openModel(options, signal ? { signal } : {}),
        tokenizerOf(modelDir),
      ]);
      const { info } = engineModel;
      if (bits === 16 && info.quant !== null) {
        const message = `bits: expected 4 for ${modelDir}, which is quantized, got 16`;
        throw new NibbleError(message, { code: "INVALID_ARGUMENT", op, details: { field: "bits" } });
      }
      const contextLength = Math.min(info.maxPositions, limits.cacheTokensMax);
      const digest = await engineModel.digest();
      const facts = { contextLength, unreadMax, loadMs: now() };
      return new LoadedModel(settings, { engine, engineModel, digest, tokenizer }, facts);
    } catch (thrown) {
      await engine.close();
      throw thrown;
    }
  }

  isLike(other: ModelSettings): boolean {
    const { modelDir, ...rest } = this.settings;
    const { modelDir: otherDir, ...otherRest } = other;
    return resolve(modelDir) === resolve(otherDir) && JSON.stringify(rest) === JSON.stringify(otherRest);
  }

  /**
   * Runs work that needs the model to stay.
   * @throws FAILED_PRECONDITION while the model is being unloaded.
   */
  async use<T>(work: () => Promise<T>): Promise<T> {
    const release = this.hold();
    try {
      return await work();
    } finally {
      release();
    }
  }

  /** As `use`, for work that is no promise: call what it returns when it has ended. */
  hold(): () => void {
    if (this.#isClosing) {
      const message = `models/${this.settings.id}: is being unloaded`;
      throw new NibbleError(message, { code: "FAILED_PRECONDITION", op });
    }
    this.#users++;
    return () => {
      this.#users--;
      if (this.#users === 0) this.#idle.resolve();
    };
  }

  /** Resolves when its engine has ended though nobody closed it. */
  get broken(): Promise<NibbleError> {
    return this.#engine.broken;
  }

  /** Of the device that it is on. */
  memory(): Promise<MemoryReport> {
    return this.#engine.memory(this.engineModel.info.device);
  }

  /** Waits until nothing uses it, then frees it; bytes freed. New uses are refused meanwhile. */
  async unload(): Promise<number> {
    this.#isClosing = true;
    while (this.#users > 0) {
      this.#idle = Promise.withResolvers();
      await this.#idle.promise;
    }
    try {
      const before = await this.#bytes();
      await this.engineModel.close();
      return before - (await this.#bytes());
    } finally {
      await this.#engine.close();
    }
  }

  async #bytes(): Promise<number> {
    const { current } = await this.memory();
    return Object.values(current).reduce((sum, bytes) => sum + bytes, 0);
  }

  /** Drops it at once; answers under way end with UNAVAILABLE. */
  async close(): Promise<void> {
    this.#isClosing = true;
    await this.#engine.close();
  }
}

/** Never throws where it is called. */
async function tokenizerOf(modelDir: string): Promise<TextTokenizer | null> {
  const { vocabSize } = readModelConfig(modelDir).config;
  try {
    return loadTokenizer(modelDir, { vocabSize });
  } catch (thrown) {
    if (NibbleError.from(thrown).code === "NOT_FOUND") return null;
    throw thrown;
  }
}
