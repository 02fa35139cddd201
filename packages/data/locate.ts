// What the `data` setting names: a file, a folder, one of the paper's sets, or a data set of the Hub; each may end with
// ":split", and a Hub name may have "@revision" before it.
import { existsSync, statSync } from "node:fs";
import { NibbleError } from "#packages/errors";
import { type RepoName, repoInPlaceOf } from "#packages/hub";
import { paperSets } from "./paper-sets.ts";
import { op } from "./place.ts";
import { filesOfFolder, filesOfSplit, isDataFile } from "./sources/files.ts";
import type { FetchDataset } from "./sources/hub.ts";

export interface DataSource {
  /** As it was asked for. */
  name: string;
  /** In the order in which they are read. */
  files: string[];
  /** Name of the format that the set is known to have; null: told by the columns. */
  format: string | null;
}

const splitAtEnd = /^(.+):([A-Za-z_]+)$/;

/** "rows/x" is a path where there is a folder "rows", as for models. */
function hubName(text: string): RepoName | undefined {
  return isDataFile(text) ? undefined : repoInPlaceOf(text);
}

/** Whether `name` is, where no such path is here, a name of a set and not a path. */
export function namesSet(name: string): boolean {
  if (existsSync(name)) return false;
  const base = splitAtEnd.exec(name)?.[1] ?? name;
  return Object.hasOwn(paperSets, base) || hubName(base) !== undefined;
}

function local(path: string, split: string): string[] | null {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (!stat) return null;
  return stat.isDirectory() ? filesOfFolder(path, split) : [path];
}

/** @throws NOT_FOUND where nothing has that name. */
export async function locateData(name: string, fetch: FetchDataset, signal: AbortSignal): Promise<DataSource> {
  const whole = local(name, "train");
  if (whole) return { name, files: whole, format: null };
  const [, base = name, split = "train"] = splitAtEnd.exec(name) ?? [];
  const part = local(base, split);
  if (part) return { name, files: part, format: null };
  const set = Object.hasOwn(paperSets, base) ? paperSets[base] : undefined;
  if (set) {
    const { repo: id, revision, files, format } = set;
    const chosen = (paths: readonly string[]) => (files ? paths.filter((path) => files.test(path)) : paths);
    const select = (paths: readonly string[]) => filesOfSplit(chosen(paths), split, id);
    return { name, files: await fetch({ id, revision }, select, signal), format };
  }
  const repo = hubName(base);
  if (!repo) throw nothing(name);
  const select = (paths: readonly string[]) => filesOfSplit(paths, split, repo.id);
  return { name, files: await fetch(repo, select, signal), format: null };
}

function nothing(name: string): NibbleError {
  const sets = Object.keys(paperSets).join(", ");
  const message = `${name}: expected a file, a folder, one of ${sets}, or a Hub data set org/name[@revision][:split]`;
  return new NibbleError(message, { code: "NOT_FOUND", op, details: { file: name } });
}
