// What the hub remembers: repositories, their commits and refs, and large files that arrived before a commit names
// them. Each operation is atomic. It knows no HTTP and no bytes of files.

export const repoTypes = ["model", "dataset"] as const;
export type RepoType = (typeof repoTypes)[number];

export interface RepoKey {
  type: RepoType;
  /** "organization/name". */
  id: string;
}

export interface RepoSettings {
  /** Nobody sees it without the registry's token. */
  isPrivate: boolean;
  /** Everybody sees it, nobody reads its files without the token. */
  gated: "auto" | "manual" | false;
}

export interface RepoRecord extends RepoKey, RepoSettings {
  createMs: number;
  updateMs: number;
}

export interface CommitRecord {
  /** git's id. */
  sha: string;
  parent: string | null;
  title: string;
  message: string;
  createMs: number;
}

export interface TreeFile {
  path: string;
  sizeBytes: number;
  /** Of its bytes; also the blob's name. */
  sha256: string;
  /** git's id of the file, or of the pointer that stands for a large one. */
  gitId: string;
  isLfs: boolean;
  /** The commit that last changed it. */
  lastCommit: string;
}

export interface RefRecord {
  kind: "branch" | "tag";
  name: string;
  sha: string;
}

export interface NewCommit {
  repo: RepoKey;
  branch: string;
  /** ABORTED unless the branch is at its parent. */
  commit: CommitRecord;
  files: readonly TreeFile[];
}

export interface HubStore {
  /** By id. */
  repos(query: { type: RepoType; afterId: string; limit: number }): Promise<RepoRecord[]>;
  repo(key: RepoKey): Promise<RepoRecord | undefined>;
  /** Makes a repository with one commit on "main"; false if there is one of that name. */
  addRepo(repo: RepoRecord, first: CommitRecord): Promise<boolean>;
  updateRepo(key: RepoKey, settings: Partial<RepoSettings>, nowMs: number): Promise<void>;
  /** Removes it with its commits and refs; blobs are left to the caller. */
  removeRepo(key: RepoKey): Promise<void>;
  /** By name. */
  refs(key: RepoKey): Promise<RefRecord[]>;
  /** ALREADY_EXISTS for one of the same kind and name that points elsewhere, unless `isMove`. */
  putRef(key: RepoKey, ref: RefRecord, isMove: boolean): Promise<void>;
  removeRef(key: RepoKey, ref: Pick<RefRecord, "kind" | "name">): Promise<boolean>;
  commit(key: RepoKey, sha: string): Promise<CommitRecord | undefined>;
  /** By path. */
  files(key: RepoKey, sha: string): Promise<TreeFile[]>;
  file(key: RepoKey, sha: string, path: string): Promise<TreeFile | undefined>;
  addCommit(commit: NewCommit): Promise<void>;
  /** Remembers a large file whose blob is in place. */
  addObject(object: { sha256: string; sizeBytes: number }, nowMs: number): Promise<void>;
  /** Sizes of those blobs that a commit may name, by sha256. */
  objects(sha256s: readonly string[]): Promise<Map<string, number>>;
  /** Forgets large files that came before `beforeMs`; commits that name them keep them. */
  dropObjects(beforeMs: number): Promise<void>;
}
