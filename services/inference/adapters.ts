// The adapters over a loaded base: loading, unloading while requests run, looking up. It knows no transport.
import type { AdapterInfo } from "#packages/engine";
import { NibbleError } from "#packages/errors";
import { Once } from "#packages/jobs";
import { type AdapterFetcher, type AdapterSource, type LocalAdapter, refuseOtherBase } from "./adapter-source.ts";
import type { LoadedModel } from "./model.ts";

const op = "load_adapter";

export interface ServedAdapter {
  id: string;
  source: LocalAdapter;
  info: AdapterInfo;
  loadMs: number;
}

export interface LoadAdapterOptions {
  id: string;
  source: AdapterSource;
  /** Digest that the adapter must name; "": whatever it names must be the loaded base's. */
  expectedBaseDigest: string;
}

export class Adapters {
  readonly #now: () => number;
  readonly #fetcher: AdapterFetcher;
  readonly #model: LoadedModel;
  readonly #loaded = new Map<string, ServedAdapter>();
  /** Being unloaded: their requests run to the end, new ones are refused. */
  readonly #draining = new Set<string>();
  readonly #loading = new Once<ServedAdapter>();

  constructor(now: () => number, fetcher: AdapterFetcher, model: LoadedModel) {
    this.#now = now;
    this.#fetcher = fetcher;
    this.#model = model;
  }

  /** An id that is loaded from the same content is returned as it is. */
  async load({ id, source, expectedBaseDigest }: LoadAdapterOptions, signal: AbortSignal): Promise<ServedAdapter> {
    const { digest } = this.#model;
    if (expectedBaseDigest !== "" && expectedBaseDigest !== digest) {
      refuseOtherBase("expected_base_digest", expectedBaseDigest, digest);
    }
    const found = await this.#fetcher.fetch(source, digest, signal);
    if (expectedBaseDigest !== "" && found.baseDigest !== expectedBaseDigest) {
      refuseOtherBase(found.dir, expectedBaseDigest, found.baseDigest ?? "an adapter that names no base");
    }
    const served = this.#loaded.get(id) ?? (await this.#loading.run(id, () => this.#load(id, found)));
    if (served.source.content === found.content && !this.#draining.has(id)) return served;
    const message = this.#draining.has(id)
      ? `loadedAdapters/${id}: is being unloaded`
      : `adapter_id: ${id} is taken by an adapter with other content`;
    throw new NibbleError(message, { code: "ALREADY_EXISTS", op, details: { field: "adapter_id" } });
  }

  async #load(id: string, source: LocalAdapter): Promise<ServedAdapter> {
    const info = await this.#model.engineModel.loadAdapter(id, source.dir);
    const served = { id, source, info, loadMs: this.#now() };
    this.#loaded.set(id, served);
    return served;
  }

  /** Resolves when its requests have ended and its bytes are free. */
  async unload(id: string, signal: AbortSignal): Promise<number> {
    this.get(id);
    this.#draining.add(id);
    try {
      const { bytesFreed } = await this.#model.engineModel.unloadAdapter(id, { signal });
      this.#loaded.delete(id);
      return bytesFreed;
    } finally {
      this.#draining.delete(id);
    }
  }

  /** @throws NOT_FOUND for one that is not loaded or is being unloaded. */
  get(id: string): ServedAdapter {
    const found = this.#loaded.get(id);
    if (found && !this.#draining.has(id)) return found;
    const names = this.list().map((adapter) => adapter.id);
    const message = `loadedAdapters/${id}: expected a loaded adapter, got none; loaded: ${names.join(", ") || "none"}`;
    throw new NibbleError(message, { code: "NOT_FOUND", op: "adapter" });
  }

  /** By id. */
  list(): ServedAdapter[] {
    const all = [...this.#loaded.values()].filter(({ id }) => !this.#draining.has(id));
    return all.sort((a, b) => (a.id < b.id ? -1 : 1));
  }
}
