// What is read from the hub: facts, trees, files, commits, refs. Handlers decode, ask the domain and show the answer.
import type { FileHandle } from "node:fs/promises";
import { basename } from "node:path";
import { Readable } from "node:stream";
import type { BlobFolder } from "../blobs.ts";
import { damaged, readBlob } from "../read-blob.ts";
import type { Access } from "./access.ts";
import {
  type Answer,
  badRequest,
  nextLink,
  objectOf,
  pageOf,
  type Request,
  type Route,
  rangeOf,
  route,
} from "./http.ts";
import { entryNotFound, findRevision, historyOf, type Repo } from "./repo.ts";
import type { Repos } from "./repos.ts";
import { type CommitRecord, type RepoKey, type RepoType, repoTypes, type TreeFile } from "./store.ts";
import { cardOf, commitView, contentIdOf, fileView, folderViews, refsView, repoView } from "./views.ts";

export interface ReadDomain {
  access: Access;
  repos: Repos;
  blobs: BlobFolder;
}

const readmeBytesMax = 1 << 20;

export function keyOf({ params }: Request): RepoKey {
  const { types = "models", owner = "", name = "" } = params;
  const type = repoTypes.find((one) => `${one}s` === types);
  if (type) return { type, id: `${owner}/${name}` };
  throw badRequest(`${types}: expected ${repoTypes.map((one) => `${one}s`).join(" or ")}`);
}

export class ReadApi {
  readonly #access: Access;
  readonly #repos: Repos;
  readonly #blobs: BlobFolder;

  constructor({ access, repos, blobs }: ReadDomain) {
    this.#access = access;
    this.#repos = repos;
    this.#blobs = blobs;
  }

  routes(): Route[] {
    const repo = "/api/:types/:owner/:name";
    return [
      route("GET", "/api/:types", (request) => this.#list(request)),
      route("GET", repo, (request) => this.#info(request)),
      route("GET", `${repo}/revision/:revision`, (request) => this.#info(request)),
      route("GET", `${repo}/tree/:revision/*path`, (request) => this.#tree(request)),
      route("POST", `${repo}/paths-info/:revision`, (request) => this.#pathsInfo(request)),
      route("GET", `${repo}/commits/:revision`, (request) => this.#commits(request)),
      route("GET", `${repo}/refs`, (request) => this.#refs(request)),
      route("GET HEAD", "/:types/:owner/:name/resolve/:revision/*path", (request) => this.#file(request)),
      route("GET HEAD", "/:owner/:name/resolve/:revision/*path", (request) => this.#file(request)),
    ].flat();
  }

  /** The repository, if the caller may see it. */
  async #open(request: Request): Promise<Repo> {
    const repo = await this.#repos.open(keyOf(request));
    this.#access.checkVisible(request, repo.record);
    return repo;
  }

  async #openAt(request: Request): Promise<{ repo: Repo; commit: CommitRecord }> {
    const repo = await this.#open(request);
    return { repo, commit: await findRevision(repo, request.params["revision"] ?? "HEAD") };
  }

  async #list(request: Request): Promise<Answer> {
    const { type } = keyOf(request);
    const { after, limit } = pageOf(request.url, 100);
    const search = request.url.searchParams.get("search")?.toLowerCase() ?? "";
    const author = request.url.searchParams.get("author");
    const tags = request.url.searchParams.getAll("filter");
    const isShown = ({ record }: Repo) =>
      record.id.toLowerCase().includes(search) &&
      (author === null || record.id.startsWith(`${author}/`)) &&
      (!record.isPrivate || this.#access.isOwner(request));
    const page = await this.#repos.list(type as RepoType, after, limit);
    const shown = await Promise.all(page.filter(isShown).map((repo) => this.#facts(repo, "HEAD", false)));
    const last = page.at(-1);
    const isMore = page.length === limit && last !== undefined;
    const found = shown.filter((one) => one !== null && tags.every((tag) => one.tags.includes(tag)));
    return { json: found, headers: isMore ? nextLink(request, last.record.id) : {} };
  }

  async #info(request: Request): Promise<Answer> {
    const { repo, commit } = await this.#openAt(request);
    const isTrue = ["1", "true", "True"].includes(request.url.searchParams.get("blobs") ?? "");
    return { json: await this.#facts(repo, commit.sha, isTrue), headers: { "X-Repo-Commit": commit.sha } };
  }

  /** Null for a repository that has nothing any more: an adapter without versions. */
  async #facts(repo: Repo, revision: string, hasBlobs: boolean) {
    if ((await repo.refs()).length === 0) return null;
    const commit = await findRevision(repo, revision);
    const files = await repo.files(commit.sha);
    const readme = files.find(({ path }) => path === "README.md");
    const card = readme && readme.sizeBytes <= readmeBytesMax ? cardOf(await this.#textOf(readme)) : undefined;
    return repoView({ record: repo.record, commit, files, card, hasBlobs });
  }

  async #textOf(file: TreeFile): Promise<string> {
    const handle = await this.#handleOf(file);
    try {
      return await handle.readFile("utf8");
    } finally {
      await handle.close();
    }
  }

  async #handleOf(file: TreeFile): Promise<FileHandle> {
    const handle = await this.#blobs.open(file.sha256);
    if (handle) return handle;
    throw damaged(file, "its bytes are missing", "hub");
  }

  async #tree(request: Request): Promise<Answer> {
    const { repo, commit } = await this.#openAt(request);
    const { searchParams } = request.url;
    const isTrue = (name: string) => /^(1|true)$/i.test(searchParams.get(name) ?? "");
    const folder = (request.params["path"] ?? "").replace(/\/+$/, "");
    const prefix = folder === "" ? "" : `${folder}/`;
    const files = await repo.files(commit.sha);
    const isInside = ({ path }: { path: string }) =>
      path.startsWith(prefix) && (isTrue("recursive") || !path.slice(prefix.length).includes("/"));
    if (folder !== "" && !files.some(({ path }) => path.startsWith(prefix))) throw entryNotFound(repo, folder, commit);
    const last = isTrue("expand") ? await this.#commitsOf(repo, files) : undefined;
    const entries = [...folderViews(files), ...files.map((file) => fileView(file, last))].filter(isInside);
    entries.sort((a, b) => (a.path < b.path ? -1 : 1));
    const { after, limit } = pageOf(request.url, isTrue("expand") ? 50 : 1000);
    const rest = after === "" ? entries : entries.filter(({ path }) => path > after);
    const page = rest.slice(0, limit);
    const headers = { "X-Repo-Commit": commit.sha };
    if (rest.length === page.length) return { json: page, headers };
    return { json: page, headers: { ...headers, ...nextLink(request, page.at(-1)?.path ?? "") } };
  }

  async #commitsOf(repo: Repo, files: readonly TreeFile[]): Promise<Map<string, CommitRecord>> {
    const found = new Map<string, CommitRecord>();
    for (const sha of new Set(files.map(({ lastCommit }) => lastCommit))) {
      const commit = await repo.commit(sha);
      if (commit) found.set(sha, commit);
    }
    return found;
  }

  async #pathsInfo(request: Request): Promise<Answer> {
    const { repo, commit } = await this.#openAt(request);
    const { paths, expand } = await objectOf(request);
    const asked = new Set([paths].flat().map(String));
    const files = await repo.files(commit.sha);
    const last = /^true$/i.test(String([expand].flat()[0])) ? await this.#commitsOf(repo, files) : undefined;
    const entries = [...files.map((file) => fileView(file, last)), ...folderViews(files)];
    return { json: entries.filter(({ path }) => asked.has(path)), headers: { "X-Repo-Commit": commit.sha } };
  }

  async #commits(request: Request): Promise<Answer> {
    const { repo, commit } = await this.#openAt(request);
    const { after, limit } = pageOf(request.url, 100);
    const all: CommitRecord[] = [];
    for await (const one of historyOf(repo, commit)) all.push(one);
    const rest = all.slice(after === "" ? 0 : all.findIndex(({ sha }) => sha === after) + 1);
    const page = rest.slice(0, limit);
    const more = rest.length > page.length ? nextLink(request, page.at(-1)?.sha ?? "") : {};
    return { json: page.map(commitView), headers: { "X-Total-Count": String(all.length), ...more } };
  }

  async #refs(request: Request): Promise<Answer> {
    return { json: refsView(await (await this.#open(request)).refs()) };
  }

  async #file(request: Request): Promise<Answer> {
    const { repo, commit } = await this.#openAt(request);
    this.#access.checkReadable(request, repo.record);
    const { path = "" } = request.params;
    const file = await repo.file(commit.sha, path);
    if (!file) throw entryNotFound(repo, path, commit);
    const headers = headersOf(file, commit);
    if (request.headers["if-none-match"] === headers.ETag) return { status: 304, headers };
    // No range lies within an empty file: it is sent whole, with the size where @huggingface/hub looks for it.
    const isEmpty = file.sizeBytes === 0 && request.headers.range !== undefined;
    const range = isEmpty ? undefined : rangeOf(request.headers.range, file.sizeBytes);
    const { start, end } = range ?? { start: 0, end: file.sizeBytes };
    const span: Record<string, string> = range
      ? { "Content-Range": `bytes ${start}-${end - 1}/${file.sizeBytes}`, "Content-Length": String(end - start) }
      : { "Content-Length": String(file.sizeBytes), ...(isEmpty ? { "Content-Range": "bytes */0" } : {}) };
    const answer = { status: range ? 206 : 200, headers: { ...headers, ...span } };
    if (request.method === "HEAD") return answer;
    const handle = await this.#handleOf(file);
    return { ...answer, stream: () => Readable.from(closing(handle, readBlob(handle, file, { start, end }, "hub"))) };
  }
}

async function* closing(handle: FileHandle, pieces: AsyncGenerator<Buffer>): AsyncGenerator<Buffer> {
  try {
    yield* pieces;
  } finally {
    await handle.close();
  }
}

function headersOf(file: TreeFile, { sha }: CommitRecord) {
  const etag = `"${contentIdOf(file)}"`;
  const linked = { "X-Linked-Etag": etag, "X-Linked-Size": String(file.sizeBytes) };
  return {
    ETag: etag,
    "X-Repo-Commit": sha,
    "Accept-Ranges": "bytes",
    "Content-Type": "application/octet-stream",
    "Content-Disposition": `inline; filename*=UTF-8''${encodeURIComponent(basename(file.path))}`,
    ...(file.isLfs ? linked : {}),
  };
}
