// What a request's `model` stands for: the base, a version of an adapter in the registry, or one that somebody loaded
// from a folder. It asks the registry which version a name means, and the inference service to load what it lacks.
import { createHash } from "node:crypto";
import type { Model } from "#gen/nibble/inference/v1/inference_pb.ts";
import { type InferenceClient, pagesOf, type RegistryClient } from "#packages/client";
import { NibbleError } from "#packages/errors";
import { isId, parseName } from "#packages/rpc";
import { modelNotFound } from "./errors.ts";

export interface ModelsParts {
  /** Milliseconds since 1970. */
  now: () => number;
  inference: InferenceClient;
  registry: RegistryClient;
  /** Time for which an alias is taken to stand for the same version, in milliseconds. */
  aliasMs: number;
}

export interface Target {
  /** As answers name it: the base's id, or `adapter@version`. */
  name: string;
  base: Model;
  /** `loadedAdapters/{adapter}`; "": the base alone. */
  adapter: string;
  /** `adapters/{adapter}/versions/{version}`, from where it can be loaded; "" for one that a folder gave. */
  version: string;
}

/** An entry of the list of models. */
export interface ModelEntry {
  id: string;
  createdMs: number;
  /** The base's id; null for the base. */
  parent: string | null;
}

/** What a name says: `bot`, `bot@3`, `bot:live`; `bot@live` as the command line writes it. */
export interface AdapterRef {
  adapter: string;
  version: string | null;
  alias: string | null;
}

const loadMsMax = 600_000;
/** The base changes only when somebody loads another one. */
const baseMs = 1000;
/** For so long it is taken as it was while it is asked for anew: no request waits for the answer. */
const baseStaleMs = 60_000;
const namesKeptMax = 10_000;
const pageSize = 1000;

export const idOf = (name: string): string => name.slice(name.lastIndexOf("/") + 1);

export function parseModelName(name: string): AdapterRef | null {
  const [, adapter = "", mark, rest = ""] = /^([^@:]*)(?:([@:])(.*))?$/s.exec(name) ?? [];
  if (!isId(adapter)) return null;
  if (mark === undefined) return { adapter, version: null, alias: null };
  if (!isId(rest)) return null;
  const isVersion = mark === "@" && /^[1-9]\d{0,14}$/.test(rest);
  return { adapter, version: isVersion ? rest : null, alias: isVersion ? null : rest };
}

/** The adapter whose versions are a fine-tuning job's checkpoints. Without a suffix the job's id is that of its result. */
export const checkpointsId = (jobId: string): string => `${jobId}-ckpt`;

const isCheckpoints = (adapter: string): boolean => /^ftjob-[0-9a-f]{24}-ckpt$/.test(adapter);

/** `adapters/bot/versions/3` as `bot@3`. */
export function versionName(version: string): string {
  const parts = parseName("adapters/{adapter}/versions/{version}", version, "model");
  return `${parts.adapter}@${parts.version}`;
}

const idCharsMax = 63;

/** The id under which the inference service gets a version: the same in every gateway, another for each version. */
export function loadedId(version: string): string {
  const parts = parseName("adapters/{adapter}/versions/{version}", version, "model");
  const id = `${parts.adapter}-v${parts.version}`;
  if (id.length <= idCharsMax) return id;
  const hash = createHash("sha256").update(parts.adapter).digest("hex").slice(0, 16);
  return `${parts.adapter.slice(0, 24)}-${hash}-v${parts.version}`;
}

const isGone = ({ code }: NibbleError): boolean => code === "UNAVAILABLE" || code === "DEADLINE_EXCEEDED";

/** Remembers what was found for a while, and for longer where it cannot be found out now. */
class Remembered<T> {
  readonly #now: () => number;
  readonly #ms: number;
  readonly #staleMs: number;
  readonly #found = new Map<string, { value: T; atMs: number }>();
  readonly #refreshing = new Set<string>();

  /** @param staleMs age up to which what is known is good enough while it is found anew. */
  constructor(now: () => number, ms: number, staleMs = ms) {
    this.#now = now;
    this.#ms = ms;
    this.#staleMs = staleMs;
  }

  async get(key: string, find: () => Promise<T>): Promise<T> {
    const known = this.#found.get(key);
    const age = known ? this.#now() - known.atMs : Number.POSITIVE_INFINITY;
    if (known && age < this.#ms) return known.value;
    if (!known || age >= this.#staleMs) return this.#find(key, find);
    if (!this.#refreshing.has(key)) {
      this.#refreshing.add(key);
      this.#find(key, find)
        .catch(() => {})
        .finally(() => this.#refreshing.delete(key));
    }
    return known.value;
  }

  async #find(key: string, find: () => Promise<T>): Promise<T> {
    const known = this.#found.get(key);
    try {
      const value = await find();
      this.#found.delete(key);
      this.#found.set(key, { value, atMs: this.#now() });
      if (this.#found.size > namesKeptMax) this.#found.delete(this.#found.keys().next().value ?? "");
      return value;
    } catch (thrown) {
      if (known && isGone(NibbleError.from(thrown))) return known.value;
      this.#found.delete(key);
      throw thrown;
    }
  }
}

export class Models {
  readonly #inference: InferenceClient;
  readonly #registry: RegistryClient;
  readonly #bases: Remembered<Model>;
  readonly #versions: Remembered<string>;

  constructor({ now, inference, registry, aliasMs }: ModelsParts) {
    this.#inference = inference;
    this.#registry = registry;
    this.#bases = new Remembered(now, baseMs, baseStaleMs);
    this.#versions = new Remembered(now, aliasMs);
  }

  /** @throws UNAVAILABLE while none is loaded. */
  async base(): Promise<Model> {
    try {
      return await this.#bases.get("", async () => {
        const { model } = await this.#inference.getModel({ name: "" });
        if (model) return model;
        throw new NibbleError("model: expected one, got none", { code: "NOT_FOUND", op: "model" });
      });
    } catch (thrown) {
      if (NibbleError.from(thrown).code !== "NOT_FOUND") throw thrown;
      const message = "model: expected the inference service to have one loaded, got none";
      throw new NibbleError(message, { code: "UNAVAILABLE", op: "model", details: { param: "model" } });
    }
  }

  /** @throws NOT_FOUND for a name that nothing stands behind, as far as that is known before it is loaded. */
  async resolve(name: string, signal: AbortSignal): Promise<Target> {
    const base = await this.base();
    const baseId = idOf(base.name);
    if (name === baseId) return { name, base, adapter: "", version: "" };
    const ref = parseModelName(name);
    if (!ref) throw modelNotFound(name, `a name is ${baseId}, adapter, adapter@version or adapter:alias`);
    const version = await this.#version(name, ref, signal);
    if (version === "") return { name, base, adapter: `loadedAdapters/${ref.adapter}`, version };
    return { name: versionName(version), base, adapter: `loadedAdapters/${loadedId(version)}`, version };
  }

  /** "" where the registry knows no such adapter, but the inference service may. */
  #version(name: string, { adapter, version, alias }: AdapterRef, signal: AbortSignal): Promise<string> {
    const parent = `adapters/${adapter}`;
    if (version !== null) return Promise.resolve(`${parent}/versions/${version}`);
    return this.#versions.get(name, async () => {
      try {
        if (alias !== null) {
          const found = await this.#registry.resolveAlias({ name: `${parent}/aliases/${alias}` }, { signal });
          return found.version?.name ?? "";
        }
        const { versions } = await this.#registry.listVersions({ parent, pageSize: 1 }, { signal });
        return versions[0]?.name ?? "";
      } catch (thrown) {
        const error = NibbleError.from(thrown);
        if (error.code !== "NOT_FOUND") throw error;
        if (alias !== null) throw modelNotFound(name, error.message);
        return "";
      }
    });
  }

  /**
   * Work with a target's adapter. One that is not loaded is loaded, and the work done again: nothing is remembered of
   * what is loaded, so that a gateway neither minds an inference service that started anew nor one that made room.
   */
  async use<T>(target: Target, work: () => Promise<T>, signal: AbortSignal): Promise<T> {
    try {
      return await work();
    } catch (thrown) {
      const error = NibbleError.from(thrown);
      if (error.code !== "NOT_FOUND") throw error;
      if (target.version === "") throw modelNotFound(target.name, "see /v1/models");
    }
    await this.#load(target, signal);
    return work();
  }

  async #load({ name, version, adapter, base }: Target, signal: AbortSignal): Promise<void> {
    const source = { case: "registryName", value: version } as const;
    const request = { adapterId: idOf(adapter), source, expectedBaseDigest: base.digest };
    try {
      await this.#inference.loadAdapter(request, { signal, deadlineMs: loadMsMax });
    } catch (thrown) {
      const error = NibbleError.from(thrown);
      throw error.code === "NOT_FOUND" ? modelNotFound(name, error.message) : error;
    }
  }

  /**
   * The base, what somebody loaded from folders, and the registry's adapters and aliases that stand for versions over this
   * base. Checkpoints are left out: their jobs list them.
   */
  async list(signal: AbortSignal): Promise<ModelEntry[]> {
    const base = await this.base();
    const parent = idOf(base.name);
    const entries: ModelEntry[] = [{ id: parent, createdMs: msOf(base.loadTime), parent: null }];
    for await (const { name, adapterVersion, loadTime } of this.#loaded(signal)) {
      if (adapterVersion === "") entries.push({ id: idOf(name), createdMs: msOf(loadTime), parent });
    }
    for await (const { name, createTime, aliases, newestBaseDigest } of this.#registered(signal)) {
      const id = idOf(name);
      if (isCheckpoints(id)) continue;
      if (newestBaseDigest === base.digest) entries.push({ id, createdMs: msOf(createTime), parent });
      for (const alias of aliases) {
        if (alias.baseDigest !== base.digest) continue;
        entries.push({ id: `${id}:${idOf(alias.name)}`, createdMs: msOf(alias.updateTime), parent });
      }
    }
    return entries;
  }

  /** An entry of the list by its name, or a version, of which the list has none. */
  async find(name: string, signal: AbortSignal): Promise<ModelEntry | undefined> {
    const { base, adapter, version } = await this.resolve(name, signal);
    const parent = idOf(base.name);
    if (adapter === "") return { id: name, createdMs: msOf(base.loadTime), parent: null };
    if (version === "") return (await this.list(signal)).find(({ id }) => id === name);
    try {
      const found = await this.#registry.getVersion({ name: version }, { signal });
      return { id: name, createdMs: msOf(found.version?.createTime), parent };
    } catch (thrown) {
      if (NibbleError.from(thrown).code === "NOT_FOUND") return undefined;
      throw thrown;
    }
  }

  async *#loaded(signal: AbortSignal) {
    const read = (pageToken: string) => this.#inference.listAdapters({ pageSize, pageToken }, { signal });
    for await (const { adapters } of pagesOf(read)) yield* adapters;
  }

  async *#registered(signal: AbortSignal) {
    const read = (pageToken: string) => this.#registry.listAdapters({ pageSize, pageToken }, { signal });
    for await (const { adapters } of pagesOf(read)) yield* adapters;
  }
}

function msOf(time: { seconds: bigint } | undefined): number {
  return Number(time?.seconds ?? 0n) * 1000;
}
