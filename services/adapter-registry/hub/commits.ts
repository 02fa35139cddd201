// Commits: a stream of operations on a branch's files becomes the branch's next commit, whole or not at all. Small files
// come with it, large ones must be here. It knows no HTTP.
import { NibbleError } from "#packages/errors";
import { checkInnerPaths } from "#packages/hub";
import type { Turns } from "#packages/jobs";
import { type BlobFolder, type Staging, together } from "../blobs.ts";
import type { FileRecord } from "../store.ts";
import { blobId, commitId, lfsPointer, treeIds } from "./git.ts";
import { badRequest, sizeField, textField } from "./http.ts";
import { entryNotFound, headOf, type Repo } from "./repo.ts";
import type { CommitRecord, HubStore, TreeFile } from "./store.ts";

/** A line of the body: what is done, and to what. */
type Line = Record<string, unknown>;

/** Files that come with the commit may have at most this many bytes; the Hub allows as much. */
export const regularBytesMax = 10 << 20;

/** Small files that are written beside each other: each waits for the disk several times. */
const filesAtATime = 16;

const unknownSize = -1;

interface Header {
  title: string;
  message: string;
  /** The commit that the caller saw; "": whatever it is. */
  parent: string;
}

interface Added extends Omit<TreeFile, "lastCommit"> {
  /** Name in the staging folder; "": a large file. */
  staged: string;
}

type Change = { add: Added } | { remove: string } | { removeFolder: string };

export interface NewCommitRequest {
  repo: Repo;
  branch: string;
  lines: AsyncIterable<Line>;
}

export class Commits {
  readonly #now: () => number;
  readonly #blobs: BlobFolder;
  readonly #store: HubStore;
  readonly #turns: Turns;

  constructor(now: () => number, blobs: BlobFolder, store: HubStore, turns: Turns) {
    this.#now = now;
    this.#blobs = blobs;
    this.#store = store;
    this.#turns = turns;
  }

  /** The new commit, or the branch's present one where nothing changes: a request may be made again. */
  async create({ repo, branch, lines }: NewCommitRequest): Promise<CommitRecord> {
    const staging = await this.#blobs.stage();
    try {
      const { header, changes } = await readLines(lines, staging);
      await this.#checkLargeFiles(changes);
      return await this.#turns.take(() => this.#apply({ repo, branch, header, changes, staging }));
    } finally {
      await staging.discard();
    }
  }

  async #checkLargeFiles(changes: readonly Change[]): Promise<void> {
    const large = addedOf(changes).filter(({ isLfs }) => isLfs);
    const sizes = await this.#store.objects(large.map(({ sha256 }) => sha256));
    for (const file of large) {
      const size = sizes.get(file.sha256);
      if (size === undefined || (file.sizeBytes !== unknownSize && file.sizeBytes !== size)) {
        const got = size === undefined ? "none" : `${size} bytes`;
        throw badRequest(`${file.path}: expected the bytes of sha256 ${file.sha256} to be uploaded before, got ${got}`);
      }
      file.sizeBytes = size;
      file.gitId = blobId(lfsPointer(file.sha256, size));
    }
  }

  async #apply(work: { repo: Repo; branch: string; header: Header; changes: readonly Change[]; staging: Staging }) {
    const { repo, branch, header, changes, staging } = work;
    const head = await headOf(repo, branch);
    checkParent(repo, branch, header.parent || head.sha, head);
    const files = new Map((await repo.files(head.sha)).map((file) => [file.path, file]));
    const before = new Map(files);
    for (const change of changes) applyTo(files, change, repo, head);
    const all = [...files.values()].sort((a, b) => (a.path < b.path ? -1 : 1));
    checkInnerPaths(
      all.map(({ path }) => path),
      "commit",
    );
    const isSame = files.size === before.size && all.every((file) => before.get(file.path)?.gitId === file.gitId);
    if (isSame) return head;
    const { title, message } = header;
    const [timeMs, parent] = [this.#now(), head.sha];
    const sha = commitId({ tree: treeIds(all).get("") ?? "", parent, timeMs, title, message });
    const commit = { sha, parent, title, message, createMs: timeMs };
    await this.#blobs.publish(staging, stagedOf(changes));
    await this.#store.addCommit({
      repo: repo.record,
      branch,
      commit,
      files: all.map((file) => ({ ...file, lastCommit: file.lastCommit || sha })),
    });
    return commit;
  }
}

function checkParent({ record }: Repo, branch: string, parent: string, head: CommitRecord): void {
  if (parent === head.sha) return;
  const message = `${record.id}: ${branch}: expected it to be at ${parent}, got ${head.sha}: a commit has happened since; read it again`;
  throw new NibbleError(message, { code: "ABORTED", op: "commit" });
}

function addedOf(changes: readonly Change[]): Added[] {
  return changes.flatMap((change) => ("add" in change ? [change.add] : []));
}

/** One entry for each content: a blob is moved into place once. */
function stagedOf(changes: readonly Change[]): FileRecord[] {
  const staged = addedOf(changes).filter((file) => file.staged !== "");
  return staged.map(({ staged: path, sha256, sizeBytes }) => ({ path, sha256, sizeBytes }));
}

function applyTo(files: Map<string, TreeFile>, change: Change, repo: Repo, head: CommitRecord): void {
  if ("add" in change) {
    const { staged: _, ...file } = change.add;
    const isSame = files.get(file.path)?.gitId === file.gitId;
    // Changed files get the new commit's id once it is known.
    if (!isSame) files.set(file.path, { ...file, lastCommit: "" });
  } else if ("remove" in change) {
    if (!files.delete(change.remove)) throw entryNotFound(repo, change.remove, head);
  } else {
    const prefix = `${change.removeFolder.replace(/\/+$/, "")}/`;
    const inner = [...files.keys()].filter((path) => path.startsWith(prefix));
    if (inner.length === 0) throw entryNotFound(repo, change.removeFolder, head);
    for (const path of inner) files.delete(path);
  }
}

async function readLines(lines: AsyncIterable<Line>, staging: Staging) {
  let header: Header | undefined;
  const changes: Change[] = [];
  const waiting: (() => Promise<Change>)[] = [];
  const take = async () => void changes.push(...(await together(waiting.splice(0))));
  for await (const line of lines) {
    const value = line["value"];
    if (typeof value !== "object" || value === null) throw badRequest("a line of the commit: expected a value");
    const fields = value as Line;
    if (line["key"] === "header") {
      header = {
        title: textField(fields, "summary"),
        message: textField(fields, "description", ""),
        parent: textField(fields, "parentCommit", ""),
      };
      continue;
    }
    const index = changes.length + waiting.length;
    waiting.push(() => changeOf(String(line["key"]), fields, staging, index));
    if (waiting.length === filesAtATime) await take();
  }
  await take();
  if (!header) throw badRequest('the commit: expected a line of key "header", got none');
  return { header, changes };
}

async function changeOf(key: string, fields: Line, staging: Staging, index: number): Promise<Change> {
  const path = textField(fields, "path");
  switch (key) {
    case "file":
      return { add: await regularFile(path, fields, staging, index) };
    case "lfsFile":
      return { add: largeFile(path, fields) };
    case "deletedFile":
      return { remove: path };
    case "deletedFolder":
      return { removeFolder: path };
    default:
      throw badRequest(`key: expected header, file, lfsFile, deletedFile or deletedFolder, got ${key.slice(0, 40)}`);
  }
}

async function regularFile(path: string, fields: Line, staging: Staging, index: number): Promise<Added> {
  const encoding = textField(fields, "encoding", "utf-8");
  const content = Buffer.from(textField(fields, "content"), encoding === "base64" ? "base64" : "utf8");
  if (content.length > regularBytesMax) {
    throw badRequest(
      `${path}: expected at most ${regularBytesMax} bytes in the commit, got ${content.length}; upload it as a large file`,
    );
  }
  const file = await staging.create(String(index));
  await file.append(content);
  const sha256 = await file.finish();
  return { path, sizeBytes: content.length, sha256, gitId: blobId(content), isLfs: false, staged: file.name };
}

function largeFile(path: string, fields: Line): Added {
  const sha256 = textField(fields, "oid");
  if (!/^[0-9a-f]{64}$/.test(sha256))
    throw badRequest(`${path}: oid: expected a sha256 of 64 hex digits, got ${sha256.slice(0, 80)}`);
  // Copies come without a size: it is that of the file that is here.
  const sizeBytes = fields["size"] === undefined ? unknownSize : sizeField(fields, "size");
  return { path, sizeBytes, sha256, gitId: "", isLfs: true, staged: "" };
}
