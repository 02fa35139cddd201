// The adapters over a loaded base: in memory or on disk, by id. Loading, giving up memory for others, unloading and
// replacing while requests run. What a request holds stays until it has ended. It knows no transport.
import type { TextTokenizer } from "#packages/data";
import type { AdapterInfo } from "#packages/engine";
import { NibbleError } from "#packages/errors";
import { Turns } from "#packages/jobs";
import { orAborted } from "#packages/rpc";
import { type AdapterFetcher, type AdapterSource, type LocalAdapter, refuseOtherBase } from "./adapter-source.ts";
import type { LoadedModel } from "./model.ts";

const op = "load_adapter";

export interface ServedAdapter {
  id: string;
  /** Its id in the engine; null while it is on disk. Two that have one id after another are two there. */
  engineId: string | null;
  source: LocalAdapter;
  info: AdapterInfo;
  pinned: boolean;
  /** Requests that hold it. */
  users: number;
  /** Called when the last of them has ended. */
  onIdle: (() => void) | null;
  loadMs: number;
  lastUseMs: number | null;
  /** Being unloaded: its requests run to the end, new ones are refused. */
  isLeaving: boolean;
}

export interface LoadAdapterOptions {
  id: string;
  source: AdapterSource;
  /** Digest that the adapter must name; "": whatever it names must be the loaded base's. */
  expectedBaseDigest: string;
  /** Takes the place of one with other content. */
  replace: boolean;
  pinned: boolean;
}

/** An adapter that a request uses until `release`. */
export interface HeldAdapter {
  /** Null: the base's. */
  tokenizer: TextTokenizer | null;
  engineId: string;
  release(): void;
}

export interface AdapterParts {
  now: () => number;
  fetcher: AdapterFetcher;
  model: LoadedModel;
  /** Of all adapters in memory; 0: as many as there are. */
  bytesMax: number;
}

export class Adapters {
  readonly #parts: AdapterParts;
  readonly #known = new Map<string, ServedAdapter>();
  /** What comes into memory and what leaves it takes turns, so that the budget is one sum. */
  readonly #turns = new Turns();
  #loads = 0;

  constructor(parts: AdapterParts) {
    this.#parts = parts;
  }

  get bytesMax(): number {
    return this.#parts.bytesMax;
  }

  get bytesResident(): number {
    return this.#resident().reduce((sum, { info }) => sum + info.bytes, 0);
  }

  #resident(): ServedAdapter[] {
    return [...this.#known.values()].filter(({ engineId }) => engineId !== null);
  }

  /** An id that stands for the same content is returned as it is. */
  async load(options: LoadAdapterOptions, signal: AbortSignal): Promise<ServedAdapter> {
    const { source, expectedBaseDigest } = options;
    const { fetcher, model } = this.#parts;
    if (expectedBaseDigest !== "" && expectedBaseDigest !== model.digest) {
      refuseOtherBase("expected_base_digest", expectedBaseDigest, model.digest);
    }
    const found = await fetcher.fetch(source, model.digest, signal);
    if (expectedBaseDigest !== "" && found.baseDigest !== expectedBaseDigest) {
      refuseOtherBase(found.dir, expectedBaseDigest, found.baseDigest ?? "an adapter that names no base");
    }
    return this.#turns.take(() => this.#place(options, found, signal));
  }

  async #place(options: LoadAdapterOptions, found: LocalAdapter, signal: AbortSignal): Promise<ServedAdapter> {
    const { id, replace, pinned } = options;
    const before = this.#known.get(id);
    if (before?.source.content === found.content && !before.isLeaving) {
      before.pinned ||= pinned;
      if (before.engineId === null) await this.#bring(before, signal);
      return before;
    }
    if (before?.isLeaving) this.#taken(`loadedAdapters/${id}: is being unloaded`);
    if (before && !replace) this.#taken(`adapter_id: ${id} is taken by an adapter with other content`);
    const served = await this.#read(id, found, signal);
    served.pinned = pinned;
    this.#known.set(id, served);
    // Requests that run end with the one they began with; its bytes are freed then.
    if (before) void this.#leave(before).catch(() => {});
    return served;
  }

  #taken(message: string): never {
    throw new NibbleError(message, { code: "ALREADY_EXISTS", op, details: { field: "adapter_id" } });
  }

  async #read(id: string, source: LocalAdapter, signal: AbortSignal): Promise<ServedAdapter> {
    const { now, model } = this.#parts;
    await this.#makeRoom(source.bytes);
    const engineId = `${id} ${this.#loads++}`;
    const info = await model.engineModel.loadAdapter(engineId, source.dir, { signal });
    const unused = { pinned: false, users: 0, onIdle: null, lastUseMs: null, isLeaving: false };
    return { id, engineId, source, info, loadMs: now(), ...unused };
  }

  /** From disk into memory. @throws FAILED_PRECONDITION where the folder has other content by now. */
  async #bring(served: ServedAdapter, signal: AbortSignal): Promise<void> {
    const { fetcher } = this.#parts;
    const { content } = await fetcher.again(served.source);
    if (content !== served.source.content) {
      const message = `loadedAdapters/${served.id}: expected ${served.source.dir} as it was loaded, got other content`;
      throw new NibbleError(message, { code: "FAILED_PRECONDITION", op });
    }
    const { engineId, info, loadMs } = await this.#read(served.id, served.source, signal);
    Object.assign(served, { engineId, info, loadMs });
  }

  /** Those used longest ago go to disk until there is room. @throws RESOURCE_EXHAUSTED. */
  async #makeRoom(bytes: number): Promise<void> {
    const { bytesMax } = this.#parts;
    if (bytesMax === 0) return;
    const idle = this.#resident()
      .filter(({ pinned, users, isLeaving }) => !pinned && users === 0 && !isLeaving)
      .sort((a, b) => (a.lastUseMs ?? a.loadMs) - (b.lastUseMs ?? b.loadMs));
    const freed = idle.reduce((sum, { info }) => sum + info.bytes, 0);
    if (this.bytesResident - freed + bytes > bytesMax) {
      const held = this.bytesResident - freed;
      const message = `adapter: expected at most ${bytesMax} bytes of adapters in memory, got ${bytes} more than the ${held} that are pinned or in use`;
      const details = { quota: "bytes of adapters", limit: String(bytesMax) };
      throw new NibbleError(message, { code: "RESOURCE_EXHAUSTED", op, details });
    }
    for (const served of idle) {
      if (this.bytesResident + bytes <= bytesMax) return;
      // A request may have come for it meanwhile.
      const { engineId, users } = served;
      if (engineId === null || users > 0) continue;
      served.engineId = null;
      await this.#free(engineId);
    }
  }

  async #free(engineId: string, signal?: AbortSignal): Promise<number> {
    const { bytesFreed } = await this.#parts.model.engineModel.unloadAdapter(engineId, signal ? { signal } : {});
    return bytesFreed;
  }

  /** Frees one that nobody can hold any more, after those that hold it; bytes freed. */
  async #leave(served: ServedAdapter, signal?: AbortSignal): Promise<number> {
    if (served.users > 0) {
      const idle = Promise.withResolvers<void>();
      served.onIdle = idle.resolve;
      await (signal ? orAborted(idle.promise, signal) : idle.promise);
    }
    return served.engineId === null ? 0 : this.#free(served.engineId, signal);
  }

  /** For a request; one on disk comes back first. @throws NOT_FOUND, RESOURCE_EXHAUSTED. */
  async hold(id: string, signal: AbortSignal): Promise<HeldAdapter> {
    const served = this.get(id);
    served.lastUseMs = this.#parts.now();
    served.users++;
    const release = () => {
      served.users--;
      if (served.users === 0) served.onIdle?.();
    };
    try {
      if (served.engineId === null) {
        await this.#turns.take(async () => {
          if (served.engineId === null) await this.#bring(served, signal);
        });
      }
      return { engineId: served.engineId!, tokenizer: served.source.tokenizer, release };
    } catch (thrown) {
      release();
      throw thrown;
    }
  }

  /** Resolves when its requests have ended and its bytes are free. */
  async unload(id: string, signal: AbortSignal): Promise<number> {
    const served = this.get(id);
    served.isLeaving = true;
    try {
      const bytes = await this.#leave(served, signal);
      this.#known.delete(id);
      return bytes;
    } finally {
      served.isLeaving = false;
    }
  }

  /** @throws NOT_FOUND for one that is not known or is being unloaded. */
  get(id: string): ServedAdapter {
    const found = this.#known.get(id);
    if (found && !found.isLeaving) return found;
    const names = this.list().map((adapter) => adapter.id);
    const message = `loadedAdapters/${id}: expected a loaded adapter, got none; loaded: ${names.join(", ") || "none"}`;
    throw new NibbleError(message, { code: "NOT_FOUND", op: "adapter" });
  }

  /** By id, in memory or on disk. */
  list(): ServedAdapter[] {
    const all = [...this.#known.values()].filter(({ isLeaving }) => !isLeaving);
    return all.sort((a, b) => (a.id < b.id ? -1 : 1));
  }
}
