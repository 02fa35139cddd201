// What the API says about repositories, files and commits, in the fields that huggingface_hub and @huggingface/hub read.
import { parse } from "yaml";
import { lfsPointer, treeIds } from "./git.ts";
import type { CommitRecord, RefRecord, RepoRecord, TreeFile } from "./store.ts";

const isoOf = (ms: number) => new Date(ms).toISOString();

/** The front matter of a model card; undefined where there is none or it is no YAML mapping. */
export function cardOf(readme: string): Record<string, unknown> | undefined {
  const [, text] = /^---\r?\n(.*?)\r?\n---/s.exec(readme) ?? [];
  if (text === undefined) return undefined;
  try {
    const card: unknown = parse(text);
    return typeof card === "object" && card !== null && !Array.isArray(card) ? (card as never) : undefined;
  } catch {
    return undefined;
  }
}

/** Why a card cannot be read; undefined if it can. */
export function cardProblem(readme: string): string | undefined {
  const [, text] = /^---\r?\n(.*?)\r?\n---/s.exec(readme) ?? [];
  try {
    const card: unknown = text === undefined ? {} : parse(text);
    return typeof card === "object" && !Array.isArray(card) ? undefined : "expected a mapping";
  } catch (thrown) {
    return (thrown as Error).message;
  }
}

export interface RepoFacts {
  record: RepoRecord;
  commit: CommitRecord;
  files: readonly TreeFile[];
  card: Record<string, unknown> | undefined;
  /** Sizes and hashes of the files as well. */
  hasBlobs: boolean;
}

function listOf(value: unknown): string[] {
  if (typeof value === "string") return [value];
  return Array.isArray(value) ? value.filter((one) => typeof one === "string") : [];
}

function tagsOf(card: Record<string, unknown>): string[] {
  const prefixed = (prefix: string, key: string) => listOf(card[key]).map((value) => `${prefix}:${value}`);
  return [
    ...listOf(card["library_name"]),
    ...listOf(card["tags"]),
    ...prefixed("base_model", "base_model"),
    ...prefixed("dataset", "datasets"),
    ...prefixed("license", "license"),
  ];
}

export function repoView({ record, commit, files, card = {}, hasBlobs }: RepoFacts) {
  const { id, createMs, updateMs, isPrivate, gated, type } = record;
  const [author] = id.split("/");
  return {
    _id: id,
    id,
    ...(type === "model" ? { modelId: id } : {}),
    author,
    sha: commit.sha,
    lastModified: isoOf(updateMs),
    createdAt: isoOf(createMs),
    private: isPrivate,
    gated,
    disabled: false,
    downloads: 0,
    likes: 0,
    tags: tagsOf(card),
    ...pick(card, "pipeline_tag"),
    ...pick(card, "library_name"),
    cardData: card,
    siblings: files.map((file) => (hasBlobs ? siblingView(file) : { rfilename: file.path })),
    usedStorage: files.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
  };
}

function pick(card: Record<string, unknown>, key: string) {
  return typeof card[key] === "string" ? { [key]: card[key] } : {};
}

function siblingView(file: TreeFile) {
  const { path, sizeBytes, gitId, sha256, isLfs } = file;
  const lfs = { sha256, size: sizeBytes, pointerSize: lfsPointer(sha256, sizeBytes).length };
  return { rfilename: path, size: sizeBytes, blobId: gitId, ...(isLfs ? { lfs } : {}) };
}

/** The name of a file's content: what clients call its blob and compare with what they have. */
export function contentIdOf({ isLfs, sha256, gitId }: TreeFile): string {
  return isLfs ? sha256 : gitId;
}

export function fileView(file: TreeFile, commits?: ReadonlyMap<string, CommitRecord>) {
  const { path, sizeBytes, gitId, sha256, isLfs } = file;
  const lfs = { oid: sha256, size: sizeBytes, pointerSize: lfsPointer(sha256, sizeBytes).length };
  const last = commits?.get(file.lastCommit);
  return {
    type: "file",
    oid: gitId,
    size: sizeBytes,
    path,
    ...(isLfs ? { lfs } : {}),
    ...(last ? { lastCommit: { id: last.sha, title: last.title, date: isoOf(last.createMs) } } : {}),
  };
}

/** All folders, by path, with git's ids. */
export function folderViews(files: readonly TreeFile[]) {
  const folders = [...treeIds(files)].filter(([path]) => path !== "");
  return folders.map(([path, oid]) => ({ type: "directory", oid, size: 0, path }));
}

export function commitView({ sha, title, message, createMs }: CommitRecord) {
  return { id: sha, title, message, authors: [{ user: "nibble", avatar: "" }], date: isoOf(createMs) };
}

export function refsView(refs: readonly RefRecord[]) {
  const view = (kind: RefRecord["kind"], folder: string) =>
    refs
      .filter((ref) => ref.kind === kind)
      .map(({ name, sha }) => ({ name, ref: `refs/${folder}/${name}`, targetCommit: sha }));
  return { branches: view("branch", "heads"), tags: view("tag", "tags"), converts: [], pullRequests: [] };
}
