// The model that is served, if any, and its adapters. It knows no transport.
import type { Logger } from "pino";
import { NibbleError } from "#packages/errors";
import { Turns } from "#packages/jobs";
import type { AdapterFetcher } from "./adapter-source.ts";
import { Adapters, type ServedAdapter } from "./adapters.ts";
import { LoadedModel, type ModelSettings, type ServingLimits } from "./model.ts";
import { RequestCounts } from "./stats.ts";

export interface Served {
  model: LoadedModel;
  adapters: Adapters;
  requests: RequestCounts;
}

export interface ServingParts {
  now: () => number;
  logger: Logger;
  fetcher: AdapterFetcher;
  limits: ServingLimits;
  /** Bytes of adapters in memory; 0: as many as there are. */
  adapterBytesMax: number;
}

export class Serving {
  readonly #parts: ServingParts;
  #served: Served | undefined;
  #broken: LoadedModel | undefined;
  #watchers: (() => void)[] = [];
  /** Loads and unloads take turns. */
  readonly #turns = new Turns();

  constructor(parts: ServingParts) {
    this.#parts = parts;
  }

  /**
   * Loads a model; one that is loaded with the same settings is returned as it is.
   * @throws FAILED_PRECONDITION when another is loaded or the digest differs.
   */
  load(settings: ModelSettings, expectedDigest: string, signal?: AbortSignal): Promise<Served> {
    return this.#turns.take(async () => {
      signal?.throwIfAborted();
      const served = this.#served ?? (await this.#open(settings, signal));
      const { model } = served;
      if (!model.isLike(settings)) {
        const { id, modelDir } = model.settings;
        const message = `models/${settings.id}: expected no other model, got models/${id} from ${modelDir}, which is loaded, or other settings; unload it first`;
        throw new NibbleError(message, { code: "FAILED_PRECONDITION", op: "load_model" });
      }
      const { digest } = model;
      if (expectedDigest !== "" && expectedDigest !== digest) {
        if (this.#served === undefined) await model.close();
        const message = `expected_digest: expected ${expectedDigest}, got ${digest} for ${settings.modelDir}`;
        const details = { expected: expectedDigest, got: digest };
        throw new NibbleError(message, { code: "FAILED_PRECONDITION", op: "load_model", details });
      }
      this.#served = served;
      this.#tell();
      return served;
    });
  }

  async #open(settings: ModelSettings, signal: AbortSignal | undefined): Promise<Served> {
    const { now, fetcher, limits, logger, adapterBytesMax: bytesMax } = this.#parts;
    const model = await LoadedModel.open(settings, limits, { now, ...(signal ? { signal } : {}) });
    const { digest, engineModel } = model;
    const { bitsPerParameter } = engineModel.info;
    logger.info({ modelDir: settings.modelDir, digest, bitsPerParameter }, "model loaded");
    void model.broken.then((error) => {
      logger.fatal({ err: error }, "the engine is broken: not serving");
      this.#broken = model;
      this.#tell();
    });
    const adapters = new Adapters({ now, fetcher, model, bytesMax, waitingMax: limits.waitingMax });
    return { model, adapters, requests: new RequestCounts() };
  }

  /** Whether a model is loaded, and answers. */
  get isReady(): boolean {
    return this.#served !== undefined && !this.isBroken;
  }

  /** Whether the model's engine has ended by itself: it answers nothing until it is unloaded and loaded again. */
  get isBroken(): boolean {
    return this.#served !== undefined && this.#served.model === this.#broken;
  }

  /** Calls when one of these may have changed. */
  watch(watcher: () => void): void {
    this.#watchers.push(watcher);
  }

  #tell(): void {
    for (const watcher of this.#watchers) watcher();
  }

  /** @throws FAILED_PRECONDITION when no model is loaded. */
  get served(): Served {
    if (this.#served) return this.#served;
    throw new NibbleError("model: expected one to be loaded, got none", {
      code: "FAILED_PRECONDITION",
      op: "inference",
    });
  }

  /** The model of a name, or the one that is loaded for "". @throws NOT_FOUND. */
  named(id: string): Served {
    if (this.#served && (id === "" || id === this.#served.model.settings.id)) return this.#served;
    const what = id === "" ? "model: expected one to be loaded" : `models/${id}: expected a loaded model`;
    throw new NibbleError(`${what}, got none`, { code: "NOT_FOUND", op: "model" });
  }

  /** By id; none without a model. */
  adapters(): ServedAdapter[] {
    return this.#served?.adapters.list() ?? [];
  }

  /** Bytes freed, after the requests that run have ended. */
  unload(id: string): Promise<number> {
    return this.#turns.take(async () => {
      const { model } = this.named(id);
      try {
        return await model.unload();
      } finally {
        this.#served = undefined;
        this.#tell();
      }
    });
  }

  async close(): Promise<void> {
    await this.#served?.model.close();
    this.#served = undefined;
  }
}
