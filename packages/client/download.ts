// Fetches a version into a folder that appears whole and verified. What had arrived when a download broke off stays
// beside the target, under a name that holds the version's digest, and is resumed by the next one. Two downloads of
// the same content may share those files: both write the same bytes at the same places.
import { createHash } from "node:crypto";
import { constants, statSync } from "node:fs";
import { type FileHandle, mkdir, open, rm } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import type { File, Version } from "#gen/nibble/registry/v1/registry_pb.ts";
import { NibbleError } from "#packages/errors";
import { adapterConfigFileName, adapterWeightsFileName, checkInnerPaths, publishFolder } from "#packages/hub";
import type { RegistryClient } from "./connect.ts";
import { sha256OfFile } from "./files.ts";
import { pagesOf } from "./pages.ts";
import { callOptions, Retries, type RetryOptions } from "./retry.ts";
import type { TransferProgress } from "./upload.ts";

const op = "download_adapter";
/** Downloads into one place at a time that get in each other's way, after which it is given up. */
const attemptsMax = 5;

export interface DownloadOptions extends RetryOptions {
  onProgress?: (progress: TransferProgress) => void;
}

/** The version of an adapter that has a digest. */
async function versionOfDigest(registry: RegistryClient, name: string, signal?: AbortSignal): Promise<Version> {
  const [parent = "", digest = ""] = name.split("/versions/");
  const read = (pageToken: string) => registry.listVersions({ parent, pageSize: 1000, pageToken }, callOptions(signal));
  for await (const { versions } of pagesOf(read)) {
    const found = versions.find((version) => version.digest === digest);
    if (found) return found;
  }
  throw new NibbleError(`${name}: expected a version with this digest, got none`, { code: "NOT_FOUND", op });
}

/** The version that a name of a version (by number or by digest) or of an alias means now. */
export async function resolveVersion(registry: RegistryClient, name: string, signal?: AbortSignal): Promise<Version> {
  if (name.includes("/versions/sha256:")) return versionOfDigest(registry, name, signal);
  const isAlias = name.split("/")[2] === "aliases";
  const answer = isAlias
    ? await registry.resolveAlias({ name }, callOptions(signal))
    : await registry.getVersion({ name }, callOptions(signal));
  if (answer.version) return answer.version;
  throw new NibbleError(`${name}: expected a version, got none`, { code: "INTERNAL", op });
}

/**
 * Downloads a version, by its name or an alias's, and returns it. A target that already holds it is left as it is; an
 * adapter folder in its place is replaced; a folder with other things in it is refused.
 */
export async function downloadAdapter(
  registry: RegistryClient,
  name: string,
  intoDir: string,
  options: DownloadOptions = {},
): Promise<Version> {
  const version = await resolveVersion(registry, name, options.signal);
  checkInnerPaths(
    version.files.map(({ path }) => path),
    op,
  );
  const target = resolve(intoDir);
  const digest = createHash("sha256").update(version.digest).digest("hex").slice(0, 16);
  const staging = join(dirname(target), `.${basename(target)}.download-${digest}`);
  return inTurn(staging, () => download(registry, version, { target, staging }, options));
}

/** Downloads of this process into one place wait for one another: the next finds the folder there. */
const underWay = new Map<string, Promise<unknown>>();

async function inTurn<T>(key: string, work: () => Promise<T>): Promise<T> {
  const before = underWay.get(key) ?? Promise.resolve();
  const mine = before.then(work, work);
  underWay.set(key, mine);
  try {
    return await mine;
  } finally {
    if (underWay.get(key) === mine) underWay.delete(key);
  }
}

async function download(
  registry: RegistryClient,
  version: Version,
  { target, staging }: { target: string; staging: string },
  options: DownloadOptions,
): Promise<Version> {
  try {
    for (let attempt = 0; attempt < attemptsMax; attempt++) {
      if (await holds(target, version)) return await cleared(staging, version);
      if (await fetchAndPublish(registry, version, staging, target, options)) return version;
    }
  } catch (thrown) {
    throw NibbleError.from(thrown, op);
  }
  const message = `${target}: expected to be the only download into it, others keep replacing it`;
  throw new NibbleError(message, { code: "ABORTED", op, details: { target } });
}

/** Removes what is left of a download that another one overtook. */
async function cleared(staging: string, version: Version): Promise<Version> {
  await rm(staging, { recursive: true, force: true });
  return version;
}

/** False if another download of the same version moved the files away meanwhile. */
async function fetchAndPublish(
  registry: RegistryClient,
  version: Version,
  staging: string,
  target: string,
  options: DownloadOptions,
): Promise<boolean> {
  try {
    await fetchAll(registry, version, staging, options);
    if (!hasSizes(staging, version) || (await holds(target, version))) return false;
    publishFolder(staging, target, isAdapterFile(version));
    return true;
  } catch (thrown) {
    if (isMissingFile(thrown)) return false;
    throw thrown;
  }
}

function isMissingFile(thrown: unknown): boolean {
  if (!(thrown instanceof Error)) return false;
  return (thrown as NodeJS.ErrnoException).code === "ENOENT" || isMissingFile(thrown.cause);
}

function isAdapterFile(version: Version): (name: string) => boolean {
  const names = version.files.map(({ path }) => path.split("/")[0]);
  const known = new Set([adapterConfigFileName, adapterWeightsFileName, "README.md", ...names]);
  return (name) => known.has(name);
}

function hasSizes(folder: string, version: Version): boolean {
  return version.files.every(({ path, sizeBytes }) => {
    const found = statSync(join(folder, path), { throwIfNoEntry: false });
    return found !== undefined && BigInt(found.size) === sizeBytes;
  });
}

async function holds(folder: string, version: Version): Promise<boolean> {
  if (!hasSizes(folder, version)) return false;
  for (const file of version.files) {
    if ((await sha256OfFile(join(folder, file.path))).sha256 !== file.sha256) return false;
  }
  return version.files.length > 0;
}

async function fetchAll(registry: RegistryClient, version: Version, staging: string, options: DownloadOptions) {
  const bytesTotal = Number(version.bytesTotal);
  let bytesBefore = 0;
  for (const file of version.files) {
    const path = join(staging, file.path);
    await mkdir(dirname(path), { recursive: true });
    const advance = (offset: number) => options.onProgress?.({ bytesDone: bytesBefore + offset, bytesTotal });
    const isRight = async () => {
      await fetchFile(registry, version.name, file, path, advance, options);
      return (await sha256OfFile(path)).sha256 === file.sha256;
    };
    // What an earlier download left may be damaged; only bytes that all came now prove the registry wrong.
    if (!(await isRight())) {
      await rm(path);
      if (!(await isRight())) await refuse(version.name, file, path);
    }
    bytesBefore += Number(file.sizeBytes);
  }
}

async function refuse(name: string, file: File, path: string): Promise<never> {
  const { sha256 } = await sha256OfFile(path);
  await rm(path);
  const message = `${name}: ${file.path}: sha256: expected ${file.sha256}, got ${sha256}`;
  const details = { path: file.path, expected: file.sha256, got: sha256 };
  throw new NibbleError(message, { code: "DATA_LOSS", op, details });
}

/** Brings the file at `path` to its full size, from whatever size it has. */
async function fetchFile(
  registry: RegistryClient,
  name: string,
  file: File,
  path: string,
  advance: (offset: number) => void,
  options: DownloadOptions,
): Promise<void> {
  const size = Number(file.sizeBytes);
  const handle = await open(path, constants.O_RDWR | constants.O_CREAT, 0o644);
  try {
    let offset = (await handle.stat()).size;
    if (offset > size) {
      await handle.truncate(0);
      offset = 0;
    }
    advance(offset);
    const retries = new Retries(options);
    while (offset < size) {
      try {
        const chunks = registry.downloadFile(
          { name, path: file.path, offset: BigInt(offset) },
          callOptions(options.signal),
        );
        for await (const { offset: at, data } of chunks) {
          if (Number(at) !== offset || offset + data.length > size)
            throw unexpected(name, file, at, data.length, offset);
          await writeAll(handle, data, offset);
          offset += data.length;
          retries.progress();
          advance(offset);
        }
        if (offset < size) throw unexpected(name, file, BigInt(offset), 0, offset);
      } catch (thrown) {
        await retries.again(thrown);
      }
    }
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function writeAll(handle: FileHandle, data: Uint8Array, position: number): Promise<void> {
  let done = 0;
  while (done < data.length) {
    done += (await handle.write(data, done, data.length - done, position + done)).bytesWritten;
  }
}

function unexpected(name: string, file: File, at: bigint, length: number, offset: number): NibbleError {
  const message = `${name}: ${file.path}: expected ${file.sizeBytes} bytes in order, got ${length} at ${at} after ${offset}`;
  return new NibbleError(message, { code: "DATA_LOSS", op, details: { path: file.path } });
}
