// Data sets of the Hub that lie in the cache that Hugging Face's tools share: <cache>/datasets--org--name/snapshots/<sha>.
// It reads; it does not download.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join, relative } from "node:path";
import { NibbleError } from "#packages/errors";
import { op } from "../place.ts";

export interface DatasetRef {
  /** "org/name". */
  repo: string;
  /** A branch, a tag or a commit. */
  revision: string;
}

/** Where a data set's files are on this machine; `select` picks those that are wanted from the repository's paths. */
export type FetchDataset = (ref: DatasetRef, select: (paths: readonly string[]) => string[]) => Promise<string[]>;

function cacheFolder(env: NodeJS.ProcessEnv): string {
  const home = env["HF_HOME"] ?? join(env["XDG_CACHE_HOME"] ?? join(homedir(), ".cache"), "huggingface");
  return env["HF_HUB_CACHE"] ?? join(home, "hub");
}

function snapshotOf(cache: string, { repo, revision }: DatasetRef): string {
  const folder = join(cache, `datasets--${repo.replaceAll("/", "--")}`);
  const ref = join(folder, "refs", revision);
  const commit = existsSync(ref) ? readFileSync(ref, "utf8").trim() : revision;
  const snapshot = join(folder, "snapshots", commit);
  if (existsSync(snapshot)) return snapshot;
  const message = `${repo}: expected a file, a folder or a data set in the Hub cache ${cache}, got none of revision ${revision}`;
  throw new NibbleError(message, { code: "NOT_FOUND", op, details: { repo, revision } });
}

export const fetchFromCache: FetchDataset = async (ref, select) => {
  const snapshot = snapshotOf(cacheFolder(process.env), ref);
  const entries = readdirSync(snapshot, { recursive: true, withFileTypes: true }).filter(
    (entry) => !entry.isDirectory(),
  );
  const paths = entries.map(({ parentPath, name }) => relative(snapshot, join(parentPath, name)).replaceAll("\\", "/"));
  return select(paths).map((path) => join(snapshot, path));
};
