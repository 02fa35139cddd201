// One file of a repository into the cache's blobs: in pieces that survive a broken connection and a killed process, and
// under its name only once its bytes have the id by which the Hub lists them.
import { createHash, type Hash } from "node:crypto";
import { type FileHandle, open, rename, rm, writeFile } from "node:fs/promises";
import { NibbleError } from "#packages/errors";
import { partialName } from "../files.ts";
import { contentIdOf, type RemoteFile, type RepoCache } from "./cache.ts";
import { backOffOf, type HubCall, hubFetch, isConnectionLoss } from "./hub-fetch.ts";

const idleMsDefault = 30_000;
const readBytes = 1 << 20;

/** The write call, replaceable by a test that plays a full disk. */
export type WriteBytes = (handle: FileHandle, bytes: Uint8Array, position: number) => Promise<number>;

const writeBytes: WriteBytes = async (handle, bytes, position) =>
  (await handle.write(bytes, 0, bytes.length, position)).bytesWritten;

export interface DownloadOptions extends HubCall {
  url: string;
  /** The commit that is asked for. */
  sha: string;
  /** Bytes that came, or were there already. */
  onBytes?: (count: number) => void;
  write?: WriteBytes | undefined;
}

/** What is there of the file, and the hash over it. */
interface Partial {
  handle: FileHandle;
  size: number;
  hash: Hash;
}

function fail(
  code: "DATA_LOSS" | "RESOURCE_EXHAUSTED" | "UNAVAILABLE",
  message: string,
  { op, what }: HubCall,
  cause?: unknown,
): never {
  const details: Record<string, string> = code === "UNAVAILABLE" ? { lost: "connection" } : {};
  throw new NibbleError(`${what}: ${message}`, { code, op, details, cause });
}

/** Git's id takes the size first; a large file's is the sha256 of its bytes alone. */
export function hasherOf({ sha256, sizeBytes }: Pick<RemoteFile, "sha256" | "sizeBytes">): Hash {
  return sha256 === null ? createHash("sha1").update(`blob ${sizeBytes}\0`) : createHash("sha256");
}

/** A file up to this size is fetched at once: to resume it is not worth a lock. */
export const smallBytesMax = 1 << 20;

/** Fetches a small file unless its blob is there. It needs no lock: whoever else fetches it renames the same bytes. */
export async function downloadSmall(cache: RepoCache, file: RemoteFile, options: DownloadOptions): Promise<void> {
  const bytes = await smallBytes(file, options);
  const path = partialName(cache.blobPath(file));
  try {
    await writeFile(path, bytes, { flag: "wx", flush: true });
    await rename(path, cache.blobPath(file));
  } catch (thrown) {
    await rm(path, { force: true });
    throw describeFull(thrown, file, options);
  }
  options.onBytes?.(bytes.length);
}

async function smallBytes(file: RemoteFile, options: DownloadOptions): Promise<Buffer> {
  if (file.sizeBytes === 0) return Buffer.alloc(0);
  for (let attempt = 1; ; attempt++) {
    const answer = await hubFetch(options)(options.url, { headers: { "accept-encoding": "identity" } });
    checkCommit(answer, options);
    const bytes = Buffer.from(await answer.arrayBuffer());
    if (hasherOf(file).update(bytes).digest("hex") === contentIdOf(file)) return bytes;
    if (attempt === 2) failHash(file, options);
  }
}

function failHash(file: RemoteFile, options: DownloadOptions): never {
  return fail("DATA_LOSS", `expected content of id ${contentIdOf(file)}, got other bytes, twice`, options);
}

/**
 * Fetches the file unless its blob is there. Call it under the file's lock.
 * @throws DATA_LOSS if what came has another hash, RESOURCE_EXHAUSTED for a full disk (what came is kept for the next
 * attempt), UNAVAILABLE if the connection cannot be kept up.
 */
export async function downloadBlob(cache: RepoCache, file: RemoteFile, options: DownloadOptions): Promise<void> {
  if (cache.hasBlob(file)) return options.onBytes?.(file.sizeBytes);
  const path = `${cache.blobPath(file)}.nibble.incomplete`;
  // What an earlier attempt left may be damaged: then it is fetched once more, from the beginning.
  const isFresh = !(await fetchInto(path, file, options));
  if (isFresh) {
    options.onBytes?.(-file.sizeBytes);
    const got = await fetchInto(path, file, options);
    if (!got) failHash(file, options);
  }
  await rename(path, cache.blobPath(file));
}

/** False if all bytes are there and have another hash; they are gone then. */
async function fetchInto(path: string, file: RemoteFile, options: DownloadOptions): Promise<boolean> {
  const partial = await openPartial(path, file);
  try {
    options.onBytes?.(partial.size);
    await complete(partial, file, options);
    await partial.handle.sync();
  } finally {
    await partial.handle.close();
  }
  if (partial.hash.digest("hex") === contentIdOf(file)) return true;
  await rm(path, { force: true });
  return false;
}

async function openPartial(path: string, file: RemoteFile): Promise<Partial> {
  const handle = await open(path, "a+").then(async (made) => {
    await made.close();
    return open(path, "r+");
  });
  const partial = { handle, size: 0, hash: hasherOf(file) };
  const { size } = await handle.stat();
  if (size > file.sizeBytes) {
    await handle.truncate(0);
    return partial;
  }
  const buffer = Buffer.allocUnsafe(readBytes);
  while (partial.size < size) {
    const { bytesRead } = await handle.read(buffer, 0, buffer.length, partial.size);
    if (bytesRead === 0) break;
    partial.hash.update(buffer.subarray(0, bytesRead));
    partial.size += bytesRead;
  }
  return partial;
}

async function complete(partial: Partial, file: RemoteFile, options: DownloadOptions): Promise<void> {
  const attempts = backOffOf(options);
  while (partial.size < file.sizeBytes) {
    const before = partial.size;
    try {
      await fetchRest(partial, file, options);
    } catch (thrown) {
      options.signal?.throwIfAborted();
      if (!isConnectionLoss(thrown)) throw describeFull(thrown, file, options);
      if (partial.size > before) attempts.progress();
      if (!(await attempts.again())) {
        fail(
          "UNAVAILABLE",
          `the connection broke off at ${partial.size} of ${file.sizeBytes} bytes, again and again`,
          options,
          thrown,
        );
      }
    }
  }
}

function describeFull(thrown: unknown, file: RemoteFile, options: DownloadOptions): unknown {
  const code = (thrown as NodeJS.ErrnoException).code;
  if (code !== "ENOSPC" && code !== "EDQUOT") return thrown;
  const message = `the disk is full: expected room for ${file.sizeBytes} bytes in the cache; what came is kept, make room and try again`;
  const text = `${options.what}: ${message}`;
  return new NibbleError(text, { code: "RESOURCE_EXHAUSTED", op: options.op, cause: thrown });
}

/** Asks for what is missing and appends what comes. */
async function fetchRest(partial: Partial, file: RemoteFile, options: DownloadOptions): Promise<void> {
  const silence = new Silence(options.idleMsMax ?? idleMsDefault);
  try {
    const answer = await hubFetch({ ...options, isStream: true })(options.url, {
      headers: { "accept-encoding": "identity", ...(partial.size > 0 ? { range: `bytes=${partial.size}-` } : {}) },
      signal: silence.signal,
    });
    checkCommit(answer, options);
    // Waiting for an answer is hubFetch's matter; from here on bytes have to come.
    silence.ends();
    if (partial.size > 0 && !continues(answer, partial.size)) await restart(partial, file, options);
    for await (const piece of answer.body ?? []) {
      silence.ends();
      if (partial.size + piece.length > file.sizeBytes) {
        fail("DATA_LOSS", `expected ${file.sizeBytes} bytes, the Hub sends more`, options);
      }
      await append(partial, piece, options);
    }
  } catch (thrown) {
    if (silence.signal.aborted && !options.signal?.aborted)
      fail("UNAVAILABLE", "the connection went silent", options, thrown);
    throw thrown;
  } finally {
    silence.ends(null);
  }
}

/** Aborts when nothing came for a while. */
class Silence {
  readonly #abort = new AbortController();
  readonly #ms: number;
  #timer: NodeJS.Timeout | undefined;

  constructor(ms: number) {
    this.#ms = ms;
  }

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  /** Something came; null: nothing more is waited for. */
  ends(next: "wait" | null = "wait"): void {
    clearTimeout(this.#timer);
    if (next !== null) this.#timer = setTimeout(() => this.#abort.abort(), this.#ms);
  }
}

/** A branch may move while its files are fetched: all of them must come from the commit that was listed. */
function checkCommit(answer: Response, options: DownloadOptions): void {
  const got = answer.headers.get("x-repo-commit");
  if (got === null || got === options.sha) return;
  fail("DATA_LOSS", `expected it from commit ${options.sha}, got it from ${got}`, options);
}

/** Whether the answer begins where the partial file ends; a server may ignore the range and send everything. */
function continues(answer: Response, size: number): boolean {
  return answer.status === 206 && (answer.headers.get("content-range") ?? "").startsWith(`bytes ${size}-`);
}

async function restart(partial: Partial, file: RemoteFile, options: DownloadOptions): Promise<void> {
  options.onBytes?.(-partial.size);
  await partial.handle.truncate(0);
  partial.size = 0;
  partial.hash = hasherOf(file);
}

async function append(
  partial: Partial,
  bytes: Uint8Array,
  { write = writeBytes, onBytes }: DownloadOptions,
): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const count = await write(partial.handle, bytes.subarray(done), partial.size);
    partial.hash.update(bytes.subarray(done, done + count));
    partial.size += count;
    done += count;
    onBytes?.(count);
  }
}
