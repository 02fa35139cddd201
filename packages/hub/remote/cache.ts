// The cache that Hugging Face's tools share (huggingface_hub's layout): models--org--name/blobs holds files by their
// content's id, snapshots/{sha} links to them by name, refs/{branch} says which commit a branch was at, trees/{sha}.json
// which files a commit has. What Python pulled is found here, and what is pulled here is found by Python.
import { existsSync, lstatSync, mkdirSync, readlinkSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { readTextIfPresent, replaceFile, syncFolder } from "../files.ts";

export type RepoType = "model" | "dataset";

export interface RemoteFile {
  path: string;
  sizeBytes: number;
  /** git's id of the file, or of the pointer that stands for a large one. */
  gitId: string;
  /** Null for a small file. */
  sha256: string | null;
}

/** The name of a file's blob, by which its bytes can be checked. */
export function contentIdOf({ sha256, gitId }: RemoteFile): string {
  return sha256 ?? gitId;
}

const treeVersion = 1;
const cacheTag = "Signature: 8a477f597d28d172789f06886806bc55\n# This folder holds what can be downloaded again.\n";

interface TreeEntry {
  size: number;
  blob_id: string;
  lfs_sha256?: string;
  lfs_size?: number;
}

export class RepoCache {
  readonly folder: string;
  readonly #locks: string;
  readonly #root: string;

  constructor(root: string, type: RepoType, id: string) {
    const name = [`${type}s`, ...id.split("/")].join("--");
    this.#root = root;
    this.folder = join(root, name);
    this.#locks = join(root, ".locks", name);
  }

  blobPath(file: RemoteFile): string {
    return join(this.folder, "blobs", contentIdOf(file));
  }

  lockPath(file: RemoteFile): string {
    return join(this.#locks, `${contentIdOf(file)}.lock`);
  }

  snapshotPath(sha: string): string {
    return join(this.folder, "snapshots", sha);
  }

  prepare(): void {
    mkdirSync(join(this.folder, "blobs"), { recursive: true });
    const tag = join(this.#root, "CACHEDIR.TAG");
    try {
      if (!existsSync(tag)) writeFileSync(tag, cacheTag);
    } catch {
      // Only a hint for backups: a cache that may not be written to is as good where nothing is missing.
    }
  }

  /** Makes the names of blobs durable: once for all of a pull. */
  sync(): void {
    syncFolder(join(this.folder, "blobs"));
  }

  /** Whether the blob is there with its size; a cut one is not taken for whole. */
  hasBlob(file: RemoteFile): boolean {
    return statSync(this.blobPath(file), { throwIfNoEntry: false })?.size === file.sizeBytes;
  }

  /** Makes the file's name in the snapshot lead to its blob, by a relative link: the cache may be moved. */
  link(sha: string, file: RemoteFile): void {
    const path = join(this.snapshotPath(sha), ...file.path.split("/"));
    const target = relative(dirname(path), this.blobPath(file));
    if (lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink() && readlinkSync(path) === target) return;
    mkdirSync(dirname(path), { recursive: true });
    rmSync(path, { force: true });
    try {
      symlinkSync(target, path);
    } catch (thrown) {
      // Another process was faster; it links to the same content.
      if ((thrown as NodeJS.ErrnoException).code !== "EEXIST") throw thrown;
    }
  }

  /** The commit that a branch or tag was at when it was last looked at. */
  refOf(revision: string): string | undefined {
    return readTextIfPresent(join(this.folder, "refs", revision))?.trim();
  }

  setRef(revision: string, sha: string): void {
    if (revision === sha || this.refOf(revision) === sha) return;
    const path = join(this.folder, "refs", revision);
    mkdirSync(dirname(path), { recursive: true });
    replaceFile(path, sha);
  }

  /** The files of a commit as they were listed; undefined where no tool noted them. */
  treeOf(sha: string): RemoteFile[] | undefined {
    const text = readTextIfPresent(this.#treePath(sha));
    if (text === undefined) return undefined;
    try {
      const { format_version, files } = JSON.parse(text) as {
        format_version: number;
        files: Record<string, TreeEntry>;
      };
      if (format_version !== treeVersion) return undefined;
      return Object.entries(files).map(([path, entry]) => ({
        path,
        sizeBytes: entry.lfs_size ?? entry.size,
        gitId: entry.blob_id,
        sha256: entry.lfs_sha256 ?? null,
      }));
    } catch {
      return undefined;
    }
  }

  setTree(sha: string, files: readonly RemoteFile[]): void {
    if (existsSync(this.#treePath(sha))) return;
    const entries = files.map(({ path, sizeBytes, gitId, sha256 }): [string, TreeEntry] => {
      const lfs = sha256 === null ? {} : { lfs_sha256: sha256, lfs_size: sizeBytes };
      return [path, { size: sizeBytes, blob_id: gitId, ...lfs }];
    });
    mkdirSync(dirname(this.#treePath(sha)), { recursive: true });
    const tree = { format_version: treeVersion, files: Object.fromEntries(entries.sort()) };
    replaceFile(this.#treePath(sha), JSON.stringify(tree, null, 1));
  }

  #treePath(sha: string): string {
    return join(this.folder, "trees", `${sha}.json`);
  }
}
