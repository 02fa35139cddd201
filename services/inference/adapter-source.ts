// Where adapters come from: a folder, or the registry by way of a cache folder. It knows no engine.
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { join } from "node:path";
import { connect, downloadAdapter, resolveVersion } from "#packages/client";
import { loadAdapterTokenizer, type TextTokenizer } from "#packages/data";
import { servedAdapterBytes } from "#packages/engine";
import { NibbleError } from "#packages/errors";
import {
  adapterConfigFileName,
  adapterWeightsFileName,
  localFolder,
  openAdapterFolder,
  readModelConfig,
} from "#packages/hub";

const op = "load_adapter";
/** Failed calls in a row before the registry counts as gone: about a second. */
const registryRetriesMax = 4;

export type AdapterSource = { case: "adapterDir"; value: string } | { case: "registryName"; value: string };

/** An adapter on this machine. */
export interface LocalAdapter {
  dir: string;
  /** `adapters/{adapter}/versions/{version}`; "" for one that came from a folder. */
  version: string;
  base: AdapterBase;
  /** sha256 over its two files, in hex: tells whether two loads mean the same adapter. */
  content: string;
  /** Null where the adapter does not say. */
  baseDigest: string | null;
  /** That it takes in memory. */
  bytes: number;
  /** Of one that has embeddings of its own, with the texts of tokens that were added; null: the base's. */
  tokenizer: TextTokenizer | null;
}

/** The loaded model; an adapter may add to the tokenizer of its folder, and is computed in its dtype. */
export interface AdapterBase {
  digest: string;
  modelDir: string;
  dtype: "float32" | "bfloat16";
}

export interface AdapterFetcher {
  /**
   * Brings an adapter here, for the loaded model: a version of another base is not downloaded.
   * @throws NOT_FOUND, UNAVAILABLE, DATA_LOSS, FAILED_PRECONDITION.
   */
  fetch(source: AdapterSource, base: AdapterBase, signal: AbortSignal): Promise<LocalAdapter>;
  /** What is in the folder of one that was fetched, now. */
  again(adapter: LocalAdapter): Promise<LocalAdapter>;
}

export function refuseOtherBase(what: string, expected: string, got: string): never {
  const message = `${what}: the adapter was made for another base: expected ${expected}, got ${got}`;
  throw new NibbleError(message, { code: "FAILED_PRECONDITION", op, details: { expected, got } });
}

async function local(dir: string, version: string, base: AdapterBase): Promise<LocalAdapter> {
  using folder = openAdapterFolder(dir);
  const { baseDigest } = folder;
  const hash = createHash("sha256");
  for (const name of [adapterConfigFileName, adapterWeightsFileName]) {
    for await (const bytes of createReadStream(join(dir, name))) hash.update(bytes);
  }
  return {
    dir,
    version,
    base,
    content: hash.digest("hex"),
    baseDigest,
    bytes: servedAdapterBytes(folder, readModelConfig(base.modelDir).config, base.dtype),
    tokenizer: loadAdapterTokenizer(dir, base.modelDir),
  };
}

/** `cacheDir` holds what came from the registry, a folder a version's digest. */
export function adapterFetcher({ registry, cacheDir }: { registry: string; cacheDir: string }): AdapterFetcher {
  return {
    fetch: async (source, base, signal) => {
      if (source.case === "adapterDir") return local(await localFolder(source.value, { signal }), "", base);
      using connection = connect({ endpoint: registry });
      const version = await resolveVersion(connection.registry, source.value, signal);
      if (version.baseDigest !== base.digest) refuseOtherBase(version.name, version.baseDigest, base.digest);
      const dir = join(cacheDir, version.digest.replace("sha256:", ""));
      await downloadAdapter(connection.registry, version.name, dir, { signal, retriesMax: registryRetriesMax });
      return local(dir, version.name, base);
    },
    again: ({ dir, version, base }) => local(dir, version, base),
  };
}
