// Which reader a file needs: by its name, and by its first bytes where the name does not say. Data files of a folder, by
// the split that their names tell, as the Hub reads dataset repositories.
import { readdirSync } from "node:fs";
import { join, relative } from "node:path";
import { NibbleError } from "#packages/errors";
import { fileError, op } from "../place.ts";
import { headOf } from "./bytes.ts";
import { readCsv } from "./csv.ts";
import { readJson } from "./json.ts";
import { readParquet } from "./parquet.ts";
import type { FileRecord } from "./record.ts";

const dataFile = /\.(json|jsonl|ndjson|csv|tsv|parquet)(\.(gz|gzip|zst|zstd))?$/i;
/** JSON files that describe data instead of being data. */
const describing = new Set(["dataset_info.json", "dataset_infos.json", "state.json"]);

export function isDataFile(path: string): boolean {
  const name = path.split("/").at(-1) ?? "";
  return dataFile.test(name) && !name.startsWith(".") && !describing.has(name);
}

/** The rows of one file. @throws INVALID_ARGUMENT with file and line for what cannot be read. */
export async function* readRecords(file: string): AsyncGenerator<FileRecord> {
  const kind = dataFile.exec(file)?.[1]?.toLowerCase();
  const head = await headOf(file, 4);
  if (head.length === 0) throw fileError(file, "expected rows, got an empty file");
  if (kind === "parquet" || head.toString("latin1") === "PAR1") yield* readParquet(file);
  else if (kind === "csv" || kind === "tsv") yield* readCsv(file, kind === "csv" ? "," : "\t");
  else yield* readJson(file);
}

/** Words that name a split in a path; the first is the name to ask for. */
const splitWords: Record<string, readonly string[]> = {
  train: ["train", "training"],
  validation: ["validation", "valid", "val", "dev"],
  test: ["test", "testing", "eval", "evaluation"],
};

function namesSplit(path: string, split: string): boolean {
  const words = Object.values(splitWords).find((all) => all.includes(split)) ?? [split];
  return path
    .toLowerCase()
    .split(/[^a-z]+/)
    .some((word) => words.includes(word));
}

/**
 * Of paths, those of a split; "train" means all where no name tells a split.
 * @param where what the paths are of, for the message.
 */
export function filesOfSplit(paths: readonly string[], split: string, where: string): string[] {
  const data = paths.filter(isDataFile).sort();
  const chosen = data.filter((path) => namesSplit(path, split));
  const known = Object.keys(splitWords).filter((name) => data.some((path) => namesSplit(path, name)));
  const all = split === "train" && known.length === 0 ? data : chosen;
  if (all.length > 0) return all;
  const got = data.length === 0 ? "no data file" : `files of ${known.join(", ") || "no split"}`;
  const message = `${where}: expected data files (JSON, JSONL, CSV, Parquet) of split ${split}, got ${got}`;
  throw new NibbleError(message, { code: "NOT_FOUND", op, details: { split } });
}

/** Of all files in a folder and the folders in it. */
export function pathsOf(folder: string): string[] {
  const entries = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => !entry.isDirectory());
  return entries.map(({ parentPath, name }) => relative(folder, join(parentPath, name)).replaceAll("\\", "/"));
}

export function filesOfFolder(folder: string, split: string): string[] {
  return filesOfSplit(pathsOf(folder), split, folder).map((path) => join(folder, path));
}
