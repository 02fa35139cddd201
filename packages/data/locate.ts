// What the `data` setting names: a file, a folder, one of the paper's sets, or a data set of the Hub; each may end with
// ":split", and a Hub name may have "@revision" before it.
import { statSync } from "node:fs";
import { NibbleError } from "#packages/errors";
import { paperSets } from "./paper-sets.ts";
import { op } from "./place.ts";
import { filesOfFolder, filesOfSplit, isDataFile } from "./sources/files.ts";
import type { FetchDataset } from "./sources/hub-cache.ts";

export interface DataSource {
  /** As it was asked for. */
  name: string;
  /** In the order in which they are read. */
  files: string[];
  /** Name of the format that the set is known to have; null: told by the columns. */
  format: string | null;
}

const splitAtEnd = /^(.+):([A-Za-z_]+)$/;
const hubName = /^([\w.-]+\/[\w.-]+)(?:@([\w./-]+))?$/;

/** Whether `name` is, where no such path is here, a name of a set and not a path. */
export function namesSet(name: string): boolean {
  if (statSync(name, { throwIfNoEntry: false })) return false;
  const base = splitAtEnd.exec(name)?.[1] ?? name;
  return Object.hasOwn(paperSets, base) || (hubName.test(base) && !isDataFile(base) && !base.startsWith("."));
}

function local(path: string, split: string): string[] | null {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (!stat) return null;
  return stat.isDirectory() ? filesOfFolder(path, split) : [path];
}

/** @throws NOT_FOUND where nothing has that name. */
export async function locateData(name: string, fetch: FetchDataset): Promise<DataSource> {
  const whole = local(name, "train");
  if (whole) return { name, files: whole, format: null };
  const [, base = name, split = "train"] = splitAtEnd.exec(name) ?? [];
  const part = local(base, split);
  if (part) return { name, files: part, format: null };
  const set = Object.hasOwn(paperSets, base) ? paperSets[base] : undefined;
  if (set) {
    const { repo, files, format } = set;
    const chosen = (paths: readonly string[]) => (files ? paths.filter((path) => files.test(path)) : paths);
    const wanted = split === "train" ? set.split : split;
    return { name, files: await fetch(set, (paths) => filesOfSplit(chosen(paths), wanted, repo)), format };
  }
  const [, repo, revision = "main"] = hubName.exec(base) ?? [];
  if (repo === undefined || isDataFile(base)) throw nothing(name);
  return { name, files: await fetch({ repo, revision }, (paths) => filesOfSplit(paths, split, repo)), format: null };
}

function nothing(name: string): NibbleError {
  const sets = Object.keys(paperSets).join(", ");
  const message = `${name}: expected a file, a folder, one of ${sets}, or a Hub data set org/name[@revision][:split]`;
  return new NibbleError(message, { code: "NOT_FOUND", op, details: { file: name } });
}
