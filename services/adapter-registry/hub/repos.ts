// Repositories: found, listed, made, their refs. Those that were pushed are in the store; each registered adapter is one
// as well, "adapters/{id}", that can be read but not pushed to. It knows no HTTP.
import { NibbleError } from "#packages/errors";
import type { Versions } from "../versions.ts";
import { repoNotFound } from "./access.ts";
import { AdapterRepo, adapterRepoId, adaptersOwner } from "./adapter-repo.ts";
import { commitId, treeIds } from "./git.ts";
import { badRequest } from "./http.ts";
import { findRevision, mainBranch, type Repo, revisionNotFound } from "./repo.ts";
import type {
  CommitRecord,
  HubStore,
  RefRecord,
  RepoKey,
  RepoRecord,
  RepoSettings,
  RepoType,
  TreeFile,
} from "./store.ts";

class StoredRepo implements Repo {
  readonly record: RepoRecord;
  readonly #store: HubStore;

  constructor(record: RepoRecord, store: HubStore) {
    this.record = record;
    this.#store = store;
  }

  refs(): Promise<RefRecord[]> {
    return this.#store.refs(this.record);
  }

  commit(sha: string): Promise<CommitRecord | undefined> {
    return this.#store.commit(this.record, sha);
  }

  files(sha: string): Promise<TreeFile[]> {
    return this.#store.files(this.record, sha);
  }

  file(sha: string, path: string): Promise<TreeFile | undefined> {
    return this.#store.file(this.record, sha, path);
  }
}

export class Repos {
  readonly #now: () => number;
  readonly #store: HubStore;
  readonly #versions: Versions;

  constructor(now: () => number, store: HubStore, versions: Versions) {
    this.#now = now;
    this.#store = store;
    this.#versions = versions;
  }

  async open(key: RepoKey): Promise<Repo> {
    if (isAdapter(key)) return AdapterRepo.open(key.id, this.#versions);
    const record = await this.#store.repo(key);
    if (!record) throw repoNotFound(key.id);
    return new StoredRepo(record, this.#store);
  }

  /** A page by id, both kinds together. */
  async list(type: RepoType, afterId: string, limit: number): Promise<Repo[]> {
    const stored = await this.#store.repos({ type, afterId, limit });
    const repos: Repo[] = stored.map((record) => new StoredRepo(record, this.#store));
    const first = adapterRepoId("");
    if (type === "model" && (afterId < first || afterId.startsWith(first))) {
      repos.push(...(await AdapterRepo.page(afterId.slice(first.length), limit, this.#versions)));
    }
    const id = ({ record }: Repo) => record.id;
    return repos.sort((a, b) => (id(a) < id(b) ? -1 : 1)).slice(0, limit);
  }

  /** False if it is there already. */
  async create(key: RepoKey, settings: RepoSettings): Promise<boolean> {
    checkRepoId(key.id);
    refuseAdapter(key);
    const nowMs = this.#now();
    const tree = treeIds([]).get("") ?? "";
    const facts = { parent: null, title: "initial commit", message: "" };
    const first = { ...facts, createMs: nowMs, sha: commitId({ ...facts, tree, timeMs: nowMs }) };
    return this.#store.addRepo({ ...key, ...settings, createMs: nowMs, updateMs: nowMs }, first);
  }

  async update(key: RepoKey, settings: Partial<RepoSettings>): Promise<void> {
    await this.openToWrite(key);
    await this.#store.updateRepo(key, settings, this.#now());
  }

  async remove(key: RepoKey): Promise<void> {
    await this.openToWrite(key);
    await this.#store.removeRepo(key);
  }

  async createRef(key: RepoKey, kind: RefRecord["kind"], name: string, from: string): Promise<void> {
    const repo = await this.openToWrite(key);
    checkRefName(name);
    const { sha } = await findRevision(repo, from);
    await this.#store.putRef(key, { kind, name, sha }, false);
  }

  async removeRef(key: RepoKey, kind: RefRecord["kind"], name: string): Promise<void> {
    const repo = await this.openToWrite(key);
    if (kind === "branch" && name === mainBranch) throw badRequest(`branch ${name}: expected another, it has to stay`);
    if (!(await this.#store.removeRef(key, { kind, name }))) throw revisionNotFound(repo, name);
  }

  /** @throws PERMISSION_DENIED for one that shows an adapter. */
  async openToWrite(key: RepoKey): Promise<Repo> {
    refuseAdapter(key);
    return this.open(key);
  }
}

function isAdapter({ type, id }: RepoKey): boolean {
  return type === "model" && id.startsWith(`${adaptersOwner}/`);
}

function refuseAdapter(key: RepoKey): void {
  if (!isAdapter(key)) return;
  const message = `${key.id}: expected another owner: ${adaptersOwner}/… shows what is registered (nibble adapters push)`;
  throw new NibbleError(message, { code: "PERMISSION_DENIED", op: "hub" });
}

/** The Hub's rule: what a cache folder or an address could take for something else is refused. */
function checkRepoId(id: string): void {
  const parts = id.split("/");
  const isGood = (part: string) =>
    /^[A-Za-z0-9_][\w.-]{0,94}$/.test(part) && !/--|\.\.|[.-]$|\.git$/.test(part) && part !== "api";
  if (parts.length === 2 && parts.every(isGood)) return;
  throw badRequest(
    `${id}: expected owner/name, each of 1 to 95 letters, digits, "_", "-" and "." without "--" or ".."`,
  );
}

function checkRefName(name: string): void {
  if (/^[A-Za-z0-9_][\w./-]{0,200}$/.test(name) && !/\.\.|\/\/|[/.]$|\.lock$/.test(name)) return;
  throw badRequest(`${name.slice(0, 200)}: expected a name of letters, digits, "_", "-", "." and "/"`);
}
