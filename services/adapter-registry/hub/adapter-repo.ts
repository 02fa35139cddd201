// A registered adapter as a repository: "adapters/{id}". Each version is a commit of its own, tagged v1, v2, …; "main"
// is the latest one and each alias a branch, so PEFT loads an adapter by its registered name, pinned or by alias. All
// files count as large ones: git's id of their pointers follows from the record, without reading them.
import { NibbleError } from "#packages/errors";
import type { AdapterRecord, VersionRecord } from "../store.ts";
import type { Versions } from "../versions.ts";
import { repoNotFound } from "./access.ts";
import { blobId, commitId, lfsPointer, treeIds } from "./git.ts";
import { mainBranch, type Repo } from "./repo.ts";
import type { CommitRecord, RefRecord, RepoRecord, TreeFile } from "./store.ts";

export const adaptersOwner = "adapters";

export function adapterRepoId(id: string): string {
  return `${adaptersOwner}/${id}`;
}

const versionsMax = 1000;

export class AdapterRepo implements Repo {
  readonly record: RepoRecord;
  readonly #adapter: AdapterRecord;
  readonly #versions: Versions;
  #commits: Promise<Map<string, { commit: CommitRecord; version: VersionRecord }>> | undefined;

  constructor(adapter: AdapterRecord, versions: Versions) {
    this.#adapter = adapter;
    this.#versions = versions;
    this.record = {
      type: "model",
      id: adapterRepoId(adapter.id),
      isPrivate: false,
      gated: false,
      createMs: adapter.createMs,
      updateMs: adapter.updateMs,
    };
  }

  static async open(repoId: string, versions: Versions): Promise<AdapterRepo> {
    try {
      return new AdapterRepo(await versions.adapter(repoId.slice(adaptersOwner.length + 1)), versions);
    } catch (thrown) {
      throw NibbleError.from(thrown).code === "NOT_FOUND" ? repoNotFound(repoId) : thrown;
    }
  }

  static async page(afterId: string, limit: number, versions: Versions): Promise<AdapterRepo[]> {
    const adapters = await versions.adaptersAfter(afterId, limit);
    return adapters.map((adapter) => new AdapterRepo(adapter, versions));
  }

  async refs(): Promise<RefRecord[]> {
    const versions = [...(await this.#all())].map(([sha, { version }]) => ({ sha, number: version.number }));
    const [latest] = versions;
    if (!latest) return [];
    const branches = this.#adapter.aliases.flatMap(({ id, version }) => {
      const found = versions.find(({ number }) => number === version);
      return found && id !== mainBranch ? [{ kind: "branch" as const, name: id, sha: found.sha }] : [];
    });
    const tags = versions.map(({ sha, number }) => ({ kind: "tag" as const, name: `v${number}`, sha }));
    return [{ kind: "branch", name: mainBranch, sha: latest.sha }, ...branches, ...tags];
  }

  async commit(sha: string): Promise<CommitRecord | undefined> {
    return (await this.#all()).get(sha)?.commit;
  }

  async files(sha: string): Promise<TreeFile[]> {
    const version = (await this.#all()).get(sha)?.version;
    return version ? filesOf(version).map((file) => ({ ...file, lastCommit: sha })) : [];
  }

  async file(sha: string, path: string): Promise<TreeFile | undefined> {
    return (await this.files(sha)).find((file) => file.path === path);
  }

  #all() {
    this.#commits ??= this.#read();
    return this.#commits;
  }

  /** Newest first. */
  async #read() {
    const { items } = await this.#versions.list(this.#adapter.id, { pageSize: versionsMax, pageToken: "" });
    return new Map(
      items.map((version) => {
        const commit = commitOf(version);
        return [commit.sha, { commit, version }] as const;
      }),
    );
  }
}

function filesOf({ files }: VersionRecord): Omit<TreeFile, "lastCommit">[] {
  return files
    .map((file) => ({ ...file, gitId: blobId(lfsPointer(file.sha256, file.sizeBytes)), isLfs: true }))
    .sort((a, b) => (a.path < b.path ? -1 : 1));
}

/** Without a parent: removing a version leaves the ids of the others as they are. */
function commitOf(version: VersionRecord): CommitRecord {
  const tree = treeIds(filesOf(version)).get("") ?? "";
  const title = `version ${version.number}`;
  const message = `base: ${version.baseModel}\nbase digest: ${version.baseDigest}`;
  const sha = commitId({ tree, parent: null, timeMs: version.createMs, title, message });
  return { sha, parent: null, title, message, createMs: version.createMs };
}
