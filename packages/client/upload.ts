// Registers an adapter folder as a new version. A connection that breaks costs time, not a second version: every
// attempt carries the same request id.
import { randomUUID } from "node:crypto";
import { createReadStream, existsSync } from "node:fs";
import { join } from "node:path";
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { QuantizationSchema } from "#gen/nibble/common/v1/common_pb.ts";
import type { FileSchema, Version, VersionHeaderSchema } from "#gen/nibble/registry/v1/registry_pb.ts";
import { NibbleError } from "#packages/errors";
import { adapterConfigFileName, adapterWeightsFileName, openAdapterFolder, tokenizerFiles } from "#packages/hub";
import type { RegistryClient } from "./connect.ts";
import { chunkBytes, sha256OfFile } from "./files.ts";
import { callOptions, Retries, type RetryOptions } from "./retry.ts";

const op = "upload_adapter";

export interface TransferProgress {
  bytesDone: number;
  bytesTotal: number;
}

export interface UploadOptions extends RetryOptions {
  /** The adapter's id; the adapter is made if need be. */
  adapterId: string;
  /** Digest of the base. Default: the one that the trainer wrote into the adapter's weights file. */
  baseDigest?: string;
  /** What people call the base. Default: base_model_name_or_path of adapter_config.json. */
  baseModel?: string;
  baseQuantization?: MessageInitShape<typeof QuantizationSchema>;
  /** Anything worth keeping: data set, losses, recipe. */
  metadata?: Record<string, string>;
  /** Files to send besides adapter_config.json, adapter_model.safetensors and README.md. */
  extraFiles?: readonly string[];
  /** Aliases to point at the new version. */
  aliases?: readonly string[];
  /** Give the same one to call again later for the same version. Default: a fresh one. */
  requestId?: string;
  /** The adapter's etag as last read; ABORTED if somebody changed it since. */
  etag?: string;
  onProgress?: (progress: TransferProgress) => void;
}

type FileInit = MessageInitShape<typeof FileSchema> & { path: string };
type Header = MessageInitShape<typeof VersionHeaderSchema>;

/** Checks the folder, uploads it and sets the aliases; returns the version. */
export async function uploadAdapter(registry: RegistryClient, dir: string, options: UploadOptions): Promise<Version> {
  const { header, bytesTotal } = await describe(dir, options);
  const retries = new Retries(options);
  for (;;) {
    try {
      const sent = parts(dir, header, bytesTotal, options.onProgress);
      const { version } = await registry.createVersion(sent, callOptions(options.signal));
      if (!version) throw new NibbleError("the registry: expected a version, got none", { code: "INTERNAL", op });
      return await setAliases(registry, version, options);
    } catch (thrown) {
      await retries.again(thrown);
    }
  }
}

async function describe(dir: string, options: UploadOptions): Promise<{ header: Header; bytesTotal: number }> {
  const adapter = openAdapterFolder(dir);
  const { baseDigest: digestInFile, config, hasTokens } = adapter;
  adapter.close();
  const baseDigest = options.baseDigest ?? digestInFile;
  if (baseDigest === null) {
    const message = `${dir}: expected baseDigest, since the adapter does not name the digest of its base`;
    throw new NibbleError(message, { code: "INVALID_ARGUMENT", op, details: { dir } });
  }
  const usual = [adapterConfigFileName, adapterWeightsFileName, "README.md", ...(hasTokens ? tokenizerFiles : [])];
  const paths = [...usual.filter((path) => existsSync(join(dir, path))), ...(options.extraFiles ?? [])];
  const files: FileInit[] = [];
  let bytesTotal = 0;
  for (const path of new Set(paths)) {
    const { sha256, size } = await sha256OfFile(join(dir, path));
    files.push({ path, sizeBytes: BigInt(size), sha256 });
    bytesTotal += size;
  }
  const header: Header = {
    requestId: options.requestId ?? randomUUID(),
    adapterId: options.adapterId,
    baseDigest,
    baseModel: options.baseModel ?? config.baseModelNameOrPath,
    metadata: options.metadata ?? {},
    files,
    etag: options.etag ?? "",
    ...(options.baseQuantization ? { baseQuantization: options.baseQuantization } : {}),
  };
  return { header, bytesTotal };
}

async function* parts(dir: string, header: Header, bytesTotal: number, onProgress: UploadOptions["onProgress"]) {
  yield { part: { case: "header" as const, value: header } };
  let bytesDone = 0;
  for (const { path } of (header.files ?? []) as FileInit[]) {
    for await (const data of createReadStream(join(dir, path), { highWaterMark: chunkBytes })) {
      yield { part: { case: "chunk" as const, value: { path, data: data as Uint8Array } } };
      bytesDone += data.length;
      onProgress?.({ bytesDone, bytesTotal });
    }
  }
}

async function setAliases(registry: RegistryClient, version: Version, options: UploadOptions): Promise<Version> {
  const { aliases = [], signal } = options;
  if (aliases.length === 0) return version;
  for (const alias of aliases) {
    const name = `adapters/${options.adapterId}/aliases/${alias}`;
    await registry.setAlias({ name, version: version.name }, callOptions(signal));
  }
  return (await registry.getVersion({ name: version.name }, callOptions(signal))).version ?? version;
}
