// The adapters over a loaded base: in memory or on disk, by id. Loading, giving up memory for others, unloading and
// replacing while requests run. What a request holds stays until it has ended. It knows no transport.
import type { TextTokenizer } from "#packages/data";
import type { AdapterInfo } from "#packages/engine";
import { NibbleError } from "#packages/errors";
import { Slots, Turns } from "#packages/jobs";
import { orAborted } from "#packages/rpc";
import { AdapterRoom, type Resident } from "./adapter-room.ts";
import { type AdapterFetcher, type AdapterSource, type LocalAdapter, refuseOtherBase } from "./adapter-source.ts";
import type { LoadedModel } from "./model.ts";

const op = "load_adapter";
/** From disk at a time. A step of those that run waits for two milliseconds of each (engine/served-model.ts). */
const comingMax = 4;

export interface ServedAdapter extends Resident {
  id: string;
  source: LocalAdapter;
  info: AdapterInfo;
  /** Called when the last of those that hold it has ended. */
  onIdle: (() => void) | null;
  /** Resolves when it is in memory, for which it has its room; null where it does not come. */
  coming: Promise<void> | null;
  loadMs: number;
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
  /** Loads and requests that may wait until an adapter comes into memory. */
  waitingMax: number;
}

export class Adapters {
  readonly #parts: AdapterParts;
  readonly #known = new Map<string, ServedAdapter>();
  readonly #room: AdapterRoom;
  /** What comes into memory takes turns: who came first gets the room that becomes free first. */
  readonly #turns = new Turns();
  /** What has its room is read beside others. */
  readonly #reads = new Slots(comingMax);
  /** Loads and requests that wait for a turn or for what comes. */
  #waits = 0;
  #loads = 0;

  constructor(parts: AdapterParts) {
    this.#parts = parts;
    this.#room = new AdapterRoom(parts.bytesMax, (engineId) => this.#free(engineId));
  }

  get bytesMax(): number {
    return this.#parts.bytesMax;
  }

  /** Also of those that were replaced or are unloaded, while requests hold them. */
  get bytesResident(): number {
    return this.#room.bytes;
  }

  /** Work that waits until an adapter is in memory. @throws RESOURCE_EXHAUSTED where too many wait. */
  async #waiting<T>(work: () => Promise<T>): Promise<T> {
    const { waitingMax } = this.#parts;
    if (this.#waits > waitingMax) {
      const message = `adapter: expected at most ${waitingMax} that wait for one to come into memory, got one more`;
      const details = { quota: "requests that wait for an adapter", limit: String(waitingMax) };
      throw new NibbleError(message, { code: "RESOURCE_EXHAUSTED", op, details });
    }
    this.#waits++;
    try {
      return await work();
    } finally {
      this.#waits--;
    }
  }

  /** Whoever gives up is heard at once and waits no more; what comes for them after all is undone. */
  async #inTurn<T>(signal: AbortSignal, work: () => Promise<T>, undo: (value: T) => void = () => {}): Promise<T> {
    const turn = this.#turns.take(() => {
      signal.throwIfAborted();
      return work();
    });
    try {
      return await orAborted(turn, signal);
    } catch (thrown) {
      turn.then(undo).catch(() => {});
      throw thrown;
    }
  }

  /** An id that stands for the same content is returned as it is. */
  async load(options: LoadAdapterOptions, signal: AbortSignal): Promise<ServedAdapter> {
    const { source, expectedBaseDigest } = options;
    const { fetcher, model } = this.#parts;
    if (expectedBaseDigest !== "" && expectedBaseDigest !== model.digest) {
      refuseOtherBase("expected_base_digest", expectedBaseDigest, model.digest);
    }
    const { modelDir, dtype } = model.settings;
    const found = await fetcher.fetch(source, { digest: model.digest, modelDir, dtype }, signal);
    if (expectedBaseDigest !== "" && found.baseDigest !== expectedBaseDigest) {
      refuseOtherBase(found.dir, expectedBaseDigest, found.baseDigest ?? "an adapter that names no base");
    }
    return this.#waiting(() => this.#inTurn(signal, () => this.#place(options, found, signal)));
  }

  async #place(options: LoadAdapterOptions, found: LocalAdapter, signal: AbortSignal): Promise<ServedAdapter> {
    const { id, replace, pinned } = options;
    const before = this.#known.get(id);
    if (before?.source.content === found.content && !before.isLeaving) {
      before.pinned ||= pinned;
      const { coming } = await this.#begin(before, signal);
      await coming;
      return before;
    }
    if (before?.isLeaving) this.#taken(`loadedAdapters/${id}: is being unloaded`);
    if (before && !replace) this.#taken(`adapter_id: ${id} is taken by an adapter with other content`);
    await this.#room.make(found.bytes, signal);
    const read = await this.#read(id, found, signal);
    const unused = { users: 0, onIdle: null, coming: null, lastUseMs: null, isLeaving: false, makesWay: false };
    const served = { id, source: found, pinned, ...read, ...unused };
    this.#room.add(served);
    this.#known.set(id, served);
    // Requests that run end with the one they began with; its bytes are freed then.
    if (before) void this.#leave(before).catch(() => {});
    return served;
  }

  #taken(message: string): never {
    throw new NibbleError(message, { code: "ALREADY_EXISTS", op, details: { field: "adapter_id" } });
  }

  async #read(id: string, source: LocalAdapter, signal?: AbortSignal) {
    const { now, model } = this.#parts;
    const engineId = `${id} ${this.#loads++}`;
    const info = await model.engineModel.loadAdapter(engineId, source.dir, signal ? { signal } : {});
    return { engineId, info, bytes: info.bytes, loadMs: now() };
  }

  /**
   * Makes room for one that is on disk, in its turn, and lets it come. From there on it comes whoever gives up: others may
   * wait for it too.
   */
  async #begin(served: ServedAdapter, signal: AbortSignal): Promise<Pick<ServedAdapter, "coming">> {
    if (served.engineId !== null || served.coming) return { coming: served.coming };
    // Whoever unloads it meanwhile waits for it.
    const release = this.#use(served);
    try {
      await this.#room.make(served.source.bytes, signal);
    } catch (thrown) {
      release();
      throw thrown;
    }
    served.lastUseMs = this.#parts.now();
    this.#room.add(served);
    const ended = () => {
      served.coming = null;
      release();
    };
    const coming = this.#reads.take(() => this.#bring(served)).finally(ended);
    coming.catch(() => {});
    served.coming = coming;
    return { coming };
  }

  /** From disk into its room. @throws FAILED_PRECONDITION where the folder has other content by now. */
  async #bring(served: ServedAdapter): Promise<void> {
    try {
      const { content } = await this.#parts.fetcher.again(served.source);
      if (content !== served.source.content) {
        const message = `loadedAdapters/${served.id}: expected ${served.source.dir} as it was loaded, got other content`;
        throw new NibbleError(message, { code: "FAILED_PRECONDITION", op });
      }
      Object.assign(served, await this.#read(served.id, served.source));
    } catch (thrown) {
      this.#room.remove(served);
      throw thrown;
    }
  }

  async #free(engineId: string): Promise<number> {
    return (await this.#parts.model.engineModel.unloadAdapter(engineId)).bytesFreed;
  }

  /** Frees one that nobody can get any more, after those that hold it; bytes freed. */
  async #leave(served: ServedAdapter, signal?: AbortSignal): Promise<number> {
    served.isLeaving = true;
    this.#room.tell();
    if (served.users > 0) {
      const idle = Promise.withResolvers<void>();
      served.onIdle = idle.resolve;
      await (signal ? orAborted(idle.promise, signal) : idle.promise);
    }
    return this.#room.drop(served);
  }

  /** Counts a request that holds it until what is returned is called. */
  #use(served: ServedAdapter): () => void {
    served.users++;
    return () => {
      served.users--;
      if (served.users > 0) return;
      served.onIdle?.();
      this.#room.tell();
    };
  }

  #held(served: ServedAdapter, release = this.#use(served)): HeldAdapter {
    served.lastUseMs = this.#parts.now();
    return { engineId: served.engineId!, tokenizer: served.source.tokenizer, release };
  }

  /**
   * For a request; one on disk comes back first, and waits for room where all that is in memory is in use.
   * @throws NOT_FOUND; RESOURCE_EXHAUSTED where it does not fit at all, or too many wait.
   */
  async hold(id: string, signal: AbortSignal): Promise<HeldAdapter> {
    const known = this.get(id);
    if (known.engineId !== null && !known.makesWay) return this.#held(known);
    const take = async () => {
      // It may have been replaced or unloaded meanwhile.
      const served = this.get(id);
      const release = this.#use(served);
      try {
        return { served, release, ...(await this.#begin(served, signal)) };
      } catch (thrown) {
        release();
        throw thrown;
      }
    };
    return this.#waiting(async () => {
      const { served, release, coming } = await this.#inTurn(signal, take, (taken) => taken.release());
      try {
        if (coming) await orAborted(coming, signal);
      } catch (thrown) {
        release();
        throw thrown;
      }
      return this.#held(served, release);
    });
  }

  /** Resolves when its requests have ended and its bytes are free. */
  async unload(id: string, signal: AbortSignal): Promise<number> {
    const served = this.get(id);
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
