// What is changed at the hub: repositories, refs, large files, commits. Handlers decode, call the domain and answer.
import { randomUUID } from "node:crypto";
import type { Access } from "./access.ts";
import { type Commits, regularBytesMax } from "./commits.ts";
import {
  type Answer,
  badRequest,
  lengthOf,
  linesOf,
  objectOf,
  type Request,
  type Route,
  route,
  sizeField,
  textField,
} from "./http.ts";
import type { LargeFile, Objects } from "./objects.ts";
import { keyOf } from "./read-api.ts";
import type { Repos } from "./repos.ts";
import { type RefRecord, type RepoKey, type RepoSettings, repoTypes } from "./store.ts";
import { cardProblem, contentIdOf } from "./views.ts";

export interface WriteDomain {
  access: Access;
  repos: Repos;
  commits: Commits;
  objects: Objects;
}

/** Who pushes; repositories without an owner are made under this name. */
const userName = "nibble";
/** Files up to this size that hold no zero byte are kept as git keeps text; the Hub's own rule is by name. */
const smallBytesMax = 1 << 20;
const objectsPath = "/hub/objects";
const dayMs = 24 * 3600_000;

export class WriteApi {
  readonly #now: () => number;
  readonly #access: Access;
  readonly #repos: Repos;
  readonly #commits: Commits;
  readonly #objects: Objects;

  constructor(now: () => number, { access, repos, commits, objects }: WriteDomain) {
    this.#now = now;
    this.#access = access;
    this.#repos = repos;
    this.#commits = commits;
    this.#objects = objects;
  }

  routes(): Route[] {
    const repo = "/api/:types/:owner/:name";
    const owned = (handler: (request: Request) => Promise<Answer>) => async (request: Request) => {
      this.#access.checkOwner(request);
      return handler(request);
    };
    const batch = owned((request) => this.#batch(request));
    return [
      route(
        "GET",
        "/api/whoami-v2",
        owned(async () => ({ json: whoami })),
      ),
      route("POST", "/api/validate-yaml", (request) => validateCard(request)),
      route(
        "POST",
        "/api/repos/create",
        owned((request) => this.#create(request)),
      ),
      route(
        "DELETE",
        "/api/repos/delete",
        owned((request) => this.#delete(request)),
      ),
      route(
        "PUT",
        `${repo}/settings`,
        owned((request) => this.#settings(request)),
      ),
      route(
        "POST",
        `${repo}/preupload/:revision`,
        owned((request) => this.#preupload(request)),
      ),
      route(
        "POST",
        `${repo}/commit/:revision`,
        owned((request) => this.#commit(request)),
      ),
      route(
        "POST DELETE",
        `${repo}/branch/*ref`,
        owned((request) => this.#branch(request)),
      ),
      route(
        "POST DELETE",
        `${repo}/tag/*ref`,
        owned((request) => this.#tag(request)),
      ),
      route("POST", "/:owner/:name.git/info/lfs/objects/batch", batch),
      route("POST", "/:types/:owner/:name.git/info/lfs/objects/batch", batch),
      route(
        "POST",
        "/hub/verify",
        owned((request) => this.#verify(request)),
      ),
      // Clients send large files without their token: the addresses are signed.
      route("PUT", `${objectsPath}/:oid`, (request) => this.#put(request)),
      route("PUT", `${objectsPath}/:oid/parts/:number`, (request) => this.#putPart(request)),
      route("POST", `${objectsPath}/:oid/complete`, (request) => this.#complete(request)),
    ].flat();
  }

  async #create(request: Request): Promise<Answer> {
    const body = await objectOf(request);
    const key = namedKey(body);
    const isPrivate = body["private"] === true || body["visibility"] === "private";
    const url = `${request.origin}/${key.type === "model" ? "" : `${key.type}s/`}${key.id}`;
    const facts = { url, id: key.id, name: key.id };
    if (await this.#repos.create(key, { isPrivate, gated: false })) return { json: facts };
    // Clients that may find it there take this for success.
    return { status: 409, json: { ...facts, error: `You already created this ${key.type} repo: ${key.id}` } };
  }

  async #delete(request: Request): Promise<Answer> {
    await this.#repos.remove(namedKey(await objectOf(request)));
    return { json: {} };
  }

  async #settings(request: Request): Promise<Answer> {
    const { gated, visibility, private: isPrivate } = await objectOf(request);
    const settings: Partial<RepoSettings> = {};
    if (gated === false || gated === "auto" || gated === "manual") settings.gated = gated;
    else if (gated !== undefined) throw badRequest('gated: expected false, "auto" or "manual"');
    if (visibility !== undefined) settings.isPrivate = visibility === "private";
    if (typeof isPrivate === "boolean") settings.isPrivate = isPrivate;
    await this.#repos.update(keyOf(request), settings);
    return { json: { gated: settings.gated, private: settings.isPrivate } };
  }

  async #preupload(request: Request): Promise<Answer> {
    const repo = await this.#repos.openToWrite(keyOf(request));
    const { files } = await objectOf(request);
    if (!Array.isArray(files)) throw badRequest("files: expected a list");
    const head = (await repo.refs()).find(({ name }) => name === request.params["revision"]);
    const known = new Map((head ? await repo.files(head.sha) : []).map((file) => [file.path, file]));
    const answers = (files as Record<string, unknown>[]).map((file) => {
      const path = textField(file, "path");
      const before = known.get(path);
      const uploadMode = isLarge(sizeField(file, "size"), textField(file, "sample", "")) ? "lfs" : "regular";
      return { path, uploadMode, shouldIgnore: false, ...(before ? { oid: contentIdOf(before) } : {}) };
    });
    return { json: { files: answers } };
  }

  async #batch(request: Request): Promise<Answer> {
    await this.#repos.openToWrite(keyOf(request));
    await this.#objects.sweep(this.#now() - dayMs);
    const { operation, objects, transfers } = await objectOf(request);
    if (operation !== "upload") throw badRequest("operation: expected upload; files are read at their resolve address");
    if (!Array.isArray(objects)) throw badRequest("objects: expected a list");
    const files = (objects as Record<string, unknown>[]).map((one) =>
      largeFile(textField(one, "oid"), sizeField(one, "size")),
    );
    const present = await this.#objects.present(files);
    const canPart = Array.isArray(transfers) && transfers.includes("multipart");
    const answers = files.map((file) => {
      const { sha256: oid, sizeBytes: size } = file;
      if (present.has(oid)) return { oid, size, authenticated: true };
      return { oid, size, authenticated: true, actions: this.#actions(file, request.origin, canPart) };
    });
    const headers = { "Content-Type": "application/vnd.git-lfs+json" };
    return { json: { transfer: canPart ? "multipart" : "basic", objects: answers, hash_algo: "sha256" }, headers };
  }

  #actions(file: LargeFile, origin: string, canPart: boolean) {
    const { sha256, sizeBytes } = file;
    const address = (path: string, fields: Record<string, string> = {}) =>
      origin + this.#access.sign(`${objectsPath}/${sha256}${path}`, { size: String(sizeBytes), ...fields });
    const verify = { href: `${origin}/hub/verify` };
    const { partBytes, parts } = this.#objects.plan(file);
    if (partBytes === null || !canPart) return { upload: { href: address("") }, verify };
    const upload = randomUUID();
    const part = (number: number) => {
      const bytes = Math.min(partBytes, sizeBytes - (number - 1) * partBytes);
      return [String(number).padStart(5, "0"), address(`/parts/${number}`, { upload, bytes: String(bytes) })];
    };
    const addresses = Object.fromEntries(Array.from({ length: parts }, (_, index) => part(index + 1)));
    const header = { chunk_size: String(partBytes), ...addresses };
    return { upload: { href: address("/complete", { upload }), header }, verify };
  }

  async #put(request: Request): Promise<Answer> {
    await this.#objects.put(this.#signedFile(request), request.body);
    return { json: {} };
  }

  async #putPart(request: Request): Promise<Answer> {
    this.#signedFile(request);
    const { searchParams } = request.url;
    const number = Number(request.params["number"]);
    await this.#objects.putPart(
      searchParams.get("upload") ?? "",
      number,
      Number(searchParams.get("bytes")),
      request.body,
    );
    return { json: {}, headers: { ETag: `"${number}"` } };
  }

  async #complete(request: Request): Promise<Answer> {
    await this.#objects.complete(request.url.searchParams.get("upload") ?? "", this.#signedFile(request));
    return { json: {} };
  }

  /** The file that a signed address is for. */
  #signedFile({ url, params }: Request): LargeFile {
    this.#access.checkSigned(url);
    return largeFile(params["oid"] ?? "", Number(url.searchParams.get("size")));
  }

  async #verify(request: Request): Promise<Answer> {
    const body = await objectOf(request);
    const file = largeFile(textField(body, "oid"), sizeField(body, "size"));
    if ((await this.#objects.present([file])).has(file.sha256)) return { json: {} };
    throw badRequest(`${file.sha256}: expected it to be uploaded`);
  }

  async #commit(request: Request): Promise<Answer> {
    if (request.url.searchParams.get("create_pr") === "1") {
      throw badRequest("create_pr: expected 0: there are no pull requests here, commit to a branch");
    }
    const key = keyOf(request);
    const { revision: branch = "" } = request.params;
    const repo = await this.#repos.openToWrite(key);
    const lines = linesOf(request.body);
    const commit = await this.#objects.uploading(lengthOf(request), () =>
      this.#commits.create({ repo, branch: branch.replace(/^refs\/heads\//, ""), lines }),
    );
    const commitUrl = `${request.origin}/${key.type === "model" ? "" : `${key.type}s/`}${key.id}/commit/${commit.sha}`;
    return { json: { success: true, commitOid: commit.sha, commitUrl, hookOutput: "" } };
  }

  async #branch(request: Request): Promise<Answer> {
    const { ref = "" } = request.params;
    if (request.method === "DELETE") return this.#removeRef(request, "branch", ref);
    const body = await objectOf(request);
    await this.#repos.createRef(keyOf(request), "branch", ref, textField(body, "startingPoint", "HEAD"));
    return { json: {} };
  }

  /** The path names the revision when a tag is made, and the tag when it is removed. */
  async #tag(request: Request): Promise<Answer> {
    const { ref = "" } = request.params;
    if (request.method === "DELETE") return this.#removeRef(request, "tag", ref);
    await this.#repos.createRef(keyOf(request), "tag", textField(await objectOf(request), "tag"), ref);
    return { json: {} };
  }

  async #removeRef(request: Request, kind: RefRecord["kind"], name: string): Promise<Answer> {
    await this.#repos.removeRef(keyOf(request), kind, name);
    return { json: {} };
  }
}

const whoami = {
  type: "user",
  id: userName,
  name: userName,
  fullname: userName,
  email: null,
  emailVerified: true,
  isPro: false,
  canPay: false,
  orgs: [],
  auth: { type: "access_token", accessToken: { displayName: userName, role: "write" } },
};

function namedKey(body: Record<string, unknown>): RepoKey {
  const type = repoTypes.find((one) => one === (body["type"] ?? "model"));
  if (!type) throw badRequest(`type: expected ${repoTypes.join(" or ")}, got ${String(body["type"]).slice(0, 40)}`);
  const owner = body["organization"] ?? userName;
  return { type, id: `${owner}/${textField(body, "name")}` };
}

function isLarge(size: number, sample: string): boolean {
  if (size === 0) return false;
  return size > Math.min(smallBytesMax, regularBytesMax) || Buffer.from(sample, "base64").includes(0);
}

function largeFile(sha256: string, sizeBytes: number): LargeFile {
  if (/^[0-9a-f]{64}$/.test(sha256)) return { sha256, sizeBytes };
  throw badRequest(`oid: expected a sha256 of 64 lower-case hex digits, got ${sha256.slice(0, 80)}`);
}

async function validateCard(request: Request): Promise<Answer> {
  const problem = cardProblem(textField(await objectOf(request), "content"));
  if (problem === undefined) return { json: { errors: [], warnings: [] } };
  return { status: 400, json: { error: problem, errors: [{ message: problem }], warnings: [] } };
}
