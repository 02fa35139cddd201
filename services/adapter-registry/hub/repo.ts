// A repository as it is read, wherever it is kept: refs, commits, files, and finding one by the name that a client gives.
import type { NibbleError } from "#packages/errors";
import { hubError } from "./errors.ts";
import type { CommitRecord, RefRecord, RepoRecord, TreeFile } from "./store.ts";

export const mainBranch = "main";

/** What can be read of a repository, wherever it is kept. */
export interface Repo {
  readonly record: RepoRecord;
  refs(): Promise<RefRecord[]>;
  commit(sha: string): Promise<CommitRecord | undefined>;
  /** By path. */
  files(sha: string): Promise<TreeFile[]>;
  /** One of them: a snapshot of many files asks for each. */
  file(sha: string, path: string): Promise<TreeFile | undefined>;
}

export function revisionNotFound({ record }: Repo, revision: string): NibbleError {
  return hubError("NOT_FOUND", "RevisionNotFound", `${record.id}: Invalid rev id: ${revision}`);
}

/** The commit of a branch, a tag or a whole sha. */
export async function findRevision(repo: Repo, revision: string): Promise<CommitRecord> {
  const name = revision === "HEAD" ? mainBranch : revision.replace(/^refs\/(heads|tags)\//, "");
  const refs = await repo.refs();
  const named = (kind: RefRecord["kind"]) => refs.find((ref) => ref.kind === kind && ref.name === name)?.sha;
  const sha = named("branch") ?? named("tag") ?? (/^[0-9a-f]{40}$/.test(name) ? name : undefined);
  const commit = sha === undefined ? undefined : await repo.commit(sha);
  if (commit) return commit;
  throw revisionNotFound(repo, revision);
}

export async function headOf(repo: Repo, branch: string): Promise<CommitRecord> {
  const head = (await repo.refs()).find(({ kind, name }) => kind === "branch" && name === branch);
  const commit = head && (await repo.commit(head.sha));
  if (commit) return commit;
  throw revisionNotFound(repo, branch);
}

/** From a commit back to the first one. */
export async function* historyOf(repo: Repo, from: CommitRecord): AsyncGenerator<CommitRecord> {
  for (let commit: CommitRecord | undefined = from; commit; ) {
    yield commit;
    commit = commit.parent === null ? undefined : await repo.commit(commit.parent);
  }
}

export function entryNotFound(repo: Repo, path: string, { sha }: CommitRecord): NibbleError {
  return hubError("NOT_FOUND", "EntryNotFound", `${repo.record.id}: ${path}: Entry not found`, { sha });
}
