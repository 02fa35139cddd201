// A repository's files into the shared cache: the revision is pinned to a commit first, then everything is asked for by
// that commit, several files at a time. Through @huggingface/hub where its functions serve; its own download neither
// resumes nor checks, so the bytes are fetched here.
import { existsSync } from "node:fs";
import { statfs } from "node:fs/promises";
import { dirname, matchesGlob } from "node:path";
import { NibbleError } from "#packages/errors";
import { type RemoteFile, RepoCache, type RepoType } from "./cache.ts";
import { downloadBlob, downloadSmall, smallBytesMax, type WriteBytes } from "./download.ts";
import type { HubCall, RetryLimits } from "./hub-fetch.ts";
import { isPickle, isSha, listRepo } from "./listing.ts";
import { withLock } from "./lock.ts";
import { chooseHub } from "./own-hub.ts";
import { defaultRevision } from "./repo-name.ts";
import { type HubSettings, hubSettings } from "./settings.ts";

const op = "pull";
const parallelDefault = 8;

export interface PullProgress {
  bytesDone: number;
  bytesTotal: number;
}

export interface PullOptions extends RetryLimits {
  /** Default: "main". */
  revision?: string;
  /** Default: "model". */
  type?: RepoType;
  /** Globs; only files that match one. Default: all. */
  include?: readonly string[];
  exclude?: readonly string[];
  /** Of the paths that are left, those that are wanted; it may throw. Default: all. */
  select?: (paths: readonly string[]) => readonly string[];
  /** Files at a time. Default: 8. */
  parallel?: number;
  /** Default: from the environment. */
  settings?: HubSettings;
  signal?: AbortSignal;
  onProgress?: (progress: PullProgress) => void;
  /** For tests that play a full disk. */
  write?: WriteBytes;
}

export interface PulledRepo {
  /** The snapshot's folder: the files by name. */
  folder: string;
  /** The commit. */
  sha: string;
  /** The Hub that was asked; null: none. */
  endpoint: string | null;
  files: string[];
  bytesTotal: number;
  /** Of these, how many came over the network. */
  bytesFetched: number;
  /** Pickles, which are never fetched. */
  skipped: string[];
}

interface Pull {
  id: string;
  revision: string;
  type: RepoType;
  options: PullOptions;
  settings: HubSettings;
  cache: RepoCache;
}

/**
 * Makes sure that the files of a revision are in the cache and whole, and returns the folder that holds them by name.
 * @throws NOT_FOUND, PERMISSION_DENIED (gated), UNAUTHENTICATED, UNAVAILABLE, DATA_LOSS, RESOURCE_EXHAUSTED (full disk),
 * INVALID_ARGUMENT (a listing with paths that leave their folder), FAILED_PRECONDITION (weights only as pickles).
 */
export async function pullRepo(id: string, options: PullOptions = {}): Promise<PulledRepo> {
  const { revision = defaultRevision, type = "model", settings = hubSettings() } = options;
  const cache = new RepoCache(settings.cacheDir, type, id);
  const pull: Pull = { id, revision, type, options, settings, cache };
  try {
    if (settings.isOffline) return fromCache(pull);
    pull.settings = await chooseHub(settings, { op, id, type, mustExist: true, signal: options.signal });
    return await fromHub(pull);
  } catch (thrown) {
    options.signal?.throwIfAborted();
    throw withHint(NibbleError.from(thrown, op), pull);
  }
}

/**
 * Nobody answers, and the cache has something: what an earlier pull brought is not taken without being told. And where
 * else it was looked for.
 */
function withHint(error: NibbleError, { cache, revision, settings }: Pull): NibbleError {
  const { code, details, message } = error;
  const hinted = (hint: string) => new NibbleError(`${message}; ${hint}`, { code, op, details, cause: error });
  if (details["lost"] === "connection" && (isSha(revision) || cache.refOf(revision) !== undefined)) {
    return hinted("HF_HUB_OFFLINE=1 takes what the cache has of it");
  }
  const isElsewhere = settings.own !== null && (code === "NOT_FOUND" || details["lost"] === "connection");
  return isElsewhere
    ? hinted(`the registry of this machine, ${settings.own?.endpoint}, does not have it either`)
    : error;
}

function callOf({ settings, options }: Pull, what: string, signal = options.signal): HubCall {
  const { attemptsMax, waitMsFirst, waitMsMax, idleMsMax } = options;
  const limits = { attemptsMax, waitMsFirst, waitMsMax, idleMsMax };
  const given = Object.fromEntries(Object.entries(limits).filter(([, value]) => value !== undefined));
  return { ...given, settings, op, what, signal };
}

async function fromHub(pull: Pull): Promise<PulledRepo> {
  const { id, type } = pull;
  const call = callOf(pull, `${id}@${pull.revision}`);
  const { sha, files: all } = await listRepo({ id, type, revision: pull.revision, call });
  const { files, skipped } = chosen(pull, all);
  const { cache, revision } = pull;
  cache.prepare();
  const bytesFetched = await fetchAll(pull, sha, files);
  cache.sync();
  for (const file of files) cache.link(sha, file);
  cache.setTree(sha, all);
  // Last: a ref never leads to a snapshot that is not whole.
  cache.setRef(revision, sha);
  return resultOf(pull, sha, { files, skipped, bytesFetched });
}

function chosen({ id, revision, type, options }: Pull, all: readonly RemoteFile[]) {
  const { include = [], exclude = [], select } = options;
  const matches = (globs: readonly string[], path: string) => globs.some((glob) => matchesGlob(path, glob));
  const left = all.filter(({ path }) => (include.length === 0 || matches(include, path)) && !matches(exclude, path));
  const picked = select && new Set(select(left.map(({ path }) => path)));
  const wanted = picked ? left.filter(({ path }) => picked.has(path)) : left;
  const files = wanted.filter(({ path }) => !isPickle(path));
  const skipped = wanted.filter(({ path }) => isPickle(path)).map(({ path }) => path);
  // A model needs weights, a data set anything that can be read.
  const isEnough = files.some(({ path }) => type === "dataset" || /\.(safetensors|gguf)$/.test(path));
  if (skipped.length === 0 || isEnough) return { files, skipped };
  const message =
    `${id}@${revision}: expected weights in safetensors, got ${skipped.slice(0, 3).join(", ")}: a pickle can run any code when it ` +
    "is loaded, so none is fetched; look for a revision with safetensors (the Hub's conversions are at refs/pr/…), or " +
    "convert it where you trust it: AutoModel.from_pretrained(…).save_pretrained(…) in transformers writes safetensors";
  throw new NibbleError(message, { code: "FAILED_PRECONDITION", op });
}

/** Returns the bytes that came over the network. */
async function fetchAll(pull: Pull, sha: string, files: readonly RemoteFile[]): Promise<number> {
  const { cache, options } = pull;
  const missing = files.filter((file) => !cache.hasBlob(file));
  await checkRoom(pull, missing);
  const total = files.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  let done = total - missing.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  let fetched = 0;
  const show = () => options.onProgress?.({ bytesDone: done, bytesTotal: total });
  show();
  // One that fails stops the others; what they have stays for the next attempt.
  const stop = new AbortController();
  const signal = AbortSignal.any([stop.signal, ...(options.signal ? [options.signal] : [])]);
  const fetchOne = async (file: RemoteFile): Promise<void> => {
    const download = {
      ...callOf(pull, `${pull.id}: ${file.path}`, signal),
      url: addressOf(pull, sha, file),
      sha,
      write: options.write,
      onBytes: (count: number) => {
        done += count;
        fetched += count;
        show();
      },
    };
    if (file.sizeBytes <= smallBytesMax) return downloadSmall(cache, file, download);
    return withLock(cache.lockPath(file), signal, () => downloadBlob(cache, file, download));
  };
  await inParallel(missing, options.parallel ?? parallelDefault, fetchOne, stop);
  return fetched;
}

async function checkRoom({ id, cache }: Pull, missing: readonly RemoteFile[]): Promise<void> {
  const bytes = missing.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  const { bavail, bsize } = await statfs(cache.folder);
  if (bytes <= bavail * bsize) return;
  const message = `${id}: the cache's disk is too full: expected ${bytes} free bytes in ${dirname(cache.folder)}, got ${bavail * bsize}; HF_HUB_CACHE names another place`;
  throw new NibbleError(message, { code: "RESOURCE_EXHAUSTED", op });
}

function addressOf({ settings, type, id }: Pull, sha: string, { path }: RemoteFile): string {
  const inner = path.split("/").map(encodeURIComponent).join("/");
  return `${settings.endpoint}/${type === "model" ? "" : `${type}s/`}${id}/resolve/${sha}/${inner}`;
}

async function inParallel<T>(
  items: readonly T[],
  count: number,
  work: (item: T) => Promise<void>,
  stop: AbortController,
): Promise<void> {
  const queue = [...items];
  let failed: { error: unknown } | undefined;
  const worker = async () => {
    for (let item = queue.shift(); item !== undefined && !failed; item = queue.shift()) {
      await work(item).catch((error: unknown) => {
        failed ??= { error };
        stop.abort(error);
      });
    }
  };
  await Promise.all(Array.from({ length: Math.min(count, items.length) }, worker));
  if (failed) throw failed.error;
}

/** What the cache has of the revision, without a word to the network. */
function fromCache(pull: Pull): PulledRepo {
  const { id, revision, cache } = pull;
  const sha = isSha(revision) ? revision : cache.refOf(revision);
  const missing = (what: string): never => {
    const message = `${id}@${revision}: expected ${what} in ${dirname(cache.folder)}, as HF_HUB_OFFLINE forbids to ask; pull it once without`;
    throw new NibbleError(message, { code: "NOT_FOUND", op });
  };
  if (sha === undefined || !existsSync(cache.snapshotPath(sha))) return missing("it");
  const all = cache.treeOf(sha);
  // An older tool noted no listing: then the folder is all that is known.
  if (all === undefined) return { ...emptyResult, folder: cache.snapshotPath(sha), sha, endpoint: null };
  const { files, skipped } = chosen(pull, all);
  const lost = files.filter((file) => !cache.hasBlob(file));
  if (lost.length > 0) return missing(`${lost.length} more files (${lost[0]?.path}, …)`);
  for (const file of files) cache.link(sha, file);
  return resultOf(pull, sha, { files, skipped, bytesFetched: 0 });
}

const emptyResult = { files: [], bytesTotal: 0, bytesFetched: 0, skipped: [] };

function resultOf(
  { cache, settings }: Pull,
  sha: string,
  facts: { files: readonly RemoteFile[]; skipped: string[]; bytesFetched: number },
) {
  const { files, skipped, bytesFetched } = facts;
  return {
    folder: cache.snapshotPath(sha),
    sha,
    endpoint: settings.isOffline ? null : settings.endpoint,
    files: files.map(({ path }) => path),
    bytesTotal: files.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
    bytesFetched,
    skipped,
  };
}
