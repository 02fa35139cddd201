// Object ids as git computes them (gitformat-pack(5), git-lfs pointer spec): the Hub names revisions, folders and
// small files by them, and clients check what they have against them. It stores nothing.
import { createHash } from "node:crypto";
import type { TreeFile } from "./store.ts";

function objectId(kind: "blob" | "tree" | "commit", content: Buffer): string {
  return createHash("sha1").update(`${kind} ${content.length}\0`).update(content).digest("hex");
}

/** The sha1 under which git keeps a file of these bytes. */
export function blobId(content: Buffer): string {
  return objectId("blob", content);
}

/** What git keeps in place of a large file. */
export function lfsPointer(sha256: string, size: number): Buffer {
  return Buffer.from(`version https://git-lfs.github.com/spec/v1\noid sha256:${sha256}\nsize ${size}\n`);
}

type Folder = Map<string, Folder | string>;

/** Ids of all folders by path, "" being the root. */
export function treeIds(files: readonly Pick<TreeFile, "path" | "gitId">[]): Map<string, string> {
  const root: Folder = new Map();
  for (const { path, gitId } of files) {
    const parts = path.split("/");
    const name = parts.pop() ?? "";
    let folder = root;
    for (const part of parts) {
      const inner = folder.get(part) ?? new Map();
      folder.set(part, inner);
      folder = inner as Folder;
    }
    folder.set(name, gitId);
  }
  const ids = new Map<string, string>();
  addTreeId(root, "", ids);
  return ids;
}

function addTreeId(folder: Folder, path: string, ids: Map<string, string>): string {
  const entries = [...folder].map(([name, entry]) => {
    const isFolder = typeof entry !== "string";
    const id = isFolder ? addTreeId(entry, path === "" ? name : `${path}/${name}`, ids) : entry;
    // git orders a folder as if its name ended with a slash.
    return { key: Buffer.from(isFolder ? `${name}/` : name), head: `${isFolder ? "40000" : "100644"} ${name}\0`, id };
  });
  entries.sort((a, b) => Buffer.compare(a.key, b.key));
  const content = Buffer.concat(entries.flatMap(({ head, id }) => [Buffer.from(head), Buffer.from(id, "hex")]));
  const id = objectId("tree", content);
  ids.set(path, id);
  return id;
}

export interface CommitFacts {
  /** Id of the root folder. */
  tree: string;
  parent: string | null;
  /** Milliseconds since 1970. */
  timeMs: number;
  title: string;
  message: string;
}

export function commitId({ tree, parent, timeMs, title, message }: CommitFacts): string {
  const who = `nibble <nibble@localhost> ${Math.floor(timeMs / 1000)} +0000`;
  const text = message === "" ? title : `${title}\n\n${message}`;
  const parentLine = parent === null ? "" : `parent ${parent}\n`;
  return objectId("commit", Buffer.from(`tree ${tree}\n${parentLine}author ${who}\ncommitter ${who}\n\n${text}\n`));
}
