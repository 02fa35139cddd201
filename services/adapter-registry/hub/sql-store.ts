// The hub's store over kysely. Numbers pass through Number because PostgreSQL's driver hands out 64-bit integers as text.
import type { Kysely, Transaction } from "kysely";
import { NibbleError } from "#packages/errors";
import type { Tables } from "../schema.ts";
import type { HubCommitRow, HubFileRow, HubRepoRow } from "./schema.ts";
import type {
  CommitRecord,
  HubStore,
  NewCommit,
  RefRecord,
  RepoKey,
  RepoRecord,
  RepoSettings,
  RepoType,
  TreeFile,
} from "./store.ts";

type Database = Kysely<Tables> | Transaction<Tables>;

/** SQLite takes 32,766 values a statement; a row of files has 9. */
const rowsPerInsert = 1000;
/** A query for objects has each name three times. */
const namesPerQuery = 10_000;

const keyColumns = ({ type, id }: RepoKey) => ({ repo_type: type, repo_id: id });

export class SqlHubStore implements HubStore {
  readonly #db: Kysely<Tables>;

  constructor(db: Kysely<Tables>) {
    this.#db = db;
  }

  async repos({ type, afterId, limit }: { type: RepoType; afterId: string; limit: number }): Promise<RepoRecord[]> {
    const rows = await this.#db
      .selectFrom("hub_repos")
      .selectAll()
      .where("repo_type", "=", type)
      .where("repo_id", ">", afterId)
      .orderBy("repo_id")
      .limit(limit)
      .execute();
    return rows.map(repoRecord);
  }

  async repo(key: RepoKey): Promise<RepoRecord | undefined> {
    const row = await this.#db
      .selectFrom("hub_repos")
      .selectAll()
      .where((is) => is.and(keyColumns(key)))
      .executeTakeFirst();
    return row && repoRecord(row);
  }

  async addRepo(repo: RepoRecord, first: CommitRecord): Promise<boolean> {
    return this.#db.transaction().execute(async (db) => {
      const { numInsertedOrUpdatedRows } = await db
        .insertInto("hub_repos")
        .values({
          ...keyColumns(repo),
          is_private: Number(repo.isPrivate),
          gated: repo.gated || "",
          create_ms: repo.createMs,
          update_ms: repo.updateMs,
        })
        .onConflict((conflict) => conflict.doNothing())
        .executeTakeFirstOrThrow();
      if (!numInsertedOrUpdatedRows) return false;
      await db
        .insertInto("hub_commits")
        .values({ ...keyColumns(repo), ...commitRow(first) })
        .execute();
      await setRef(db, repo, { kind: "branch", name: "main", sha: first.sha });
      return true;
    });
  }

  async updateRepo(key: RepoKey, { isPrivate, gated }: Partial<RepoSettings>, nowMs: number): Promise<void> {
    await this.#db
      .updateTable("hub_repos")
      .set({
        update_ms: nowMs,
        ...(isPrivate === undefined ? {} : { is_private: Number(isPrivate) }),
        ...(gated === undefined ? {} : { gated: gated || "" }),
      })
      .where((is) => is.and(keyColumns(key)))
      .execute();
  }

  async removeRepo(key: RepoKey): Promise<void> {
    await this.#db.transaction().execute(async (db) => {
      for (const table of ["hub_refs", "hub_files", "hub_commits", "hub_repos"] as const) {
        await db
          .deleteFrom(table)
          .where((is) => is.and(keyColumns(key)))
          .execute();
      }
    });
  }

  async refs(key: RepoKey): Promise<RefRecord[]> {
    const rows = await this.#db
      .selectFrom("hub_refs")
      .select(["kind", "name", "sha"])
      .where((is) => is.and(keyColumns(key)))
      .orderBy("name")
      .execute();
    return rows.map(({ kind, name, sha }) => ({ kind: kind as RefRecord["kind"], name, sha }));
  }

  async putRef(key: RepoKey, ref: RefRecord, isMove: boolean): Promise<void> {
    await this.#db.transaction().execute(async (db) => {
      const before = await refOf(db, key, ref);
      if (before !== undefined && before !== ref.sha && !isMove) {
        const message = `${key.id}: ${ref.kind} ${ref.name}: expected a new name, got one that points at ${before}`;
        throw new NibbleError(message, { code: "ALREADY_EXISTS", op: "create_ref" });
      }
      await setRef(db, key, ref);
    });
  }

  async removeRef(key: RepoKey, { kind, name }: Pick<RefRecord, "kind" | "name">): Promise<boolean> {
    const { numDeletedRows } = await this.#db
      .deleteFrom("hub_refs")
      .where((is) => is.and({ ...keyColumns(key), kind, name }))
      .executeTakeFirstOrThrow();
    return numDeletedRows > 0n;
  }

  async commit(key: RepoKey, sha: string): Promise<CommitRecord | undefined> {
    const row = await this.#db
      .selectFrom("hub_commits")
      .selectAll()
      .where((is) => is.and({ ...keyColumns(key), sha }))
      .executeTakeFirst();
    return row && commitRecord(row);
  }

  async files(key: RepoKey, sha: string): Promise<TreeFile[]> {
    const rows = await this.#db
      .selectFrom("hub_files")
      .selectAll()
      .where((is) => is.and({ ...keyColumns(key), sha }))
      .orderBy("path")
      .execute();
    return rows.map(treeFile);
  }

  async file(key: RepoKey, sha: string, path: string): Promise<TreeFile | undefined> {
    const row = await this.#db
      .selectFrom("hub_files")
      .selectAll()
      .where((is) => is.and({ ...keyColumns(key), sha, path }))
      .executeTakeFirst();
    return row && treeFile(row);
  }

  async addCommit({ repo, branch, commit, files }: NewCommit): Promise<void> {
    await this.#db.transaction().execute(async (db) => {
      if ((await refOf(db, repo, { kind: "branch", name: branch })) !== commit.parent) {
        throw new NibbleError(`${repo.id}: ${branch}: it has moved`, { code: "ABORTED", op: "commit" });
      }
      const key = keyColumns(repo);
      await db
        .insertInto("hub_commits")
        .values({ ...key, ...commitRow(commit) })
        .execute();
      const rows = files.map((file): HubFileRow => ({ ...key, sha: commit.sha, ...fileRow(file) }));
      for (let at = 0; at < rows.length; at += rowsPerInsert) {
        await db
          .insertInto("hub_files")
          .values(rows.slice(at, at + rowsPerInsert))
          .execute();
      }
      await setRef(db, repo, { kind: "branch", name: branch, sha: commit.sha });
      await db
        .updateTable("hub_repos")
        .set({ update_ms: commit.createMs })
        .where((is) => is.and(key))
        .execute();
    });
  }

  async addObject({ sha256, sizeBytes }: { sha256: string; sizeBytes: number }, nowMs: number): Promise<void> {
    const row = { sha256, size_bytes: sizeBytes, create_ms: nowMs };
    await this.#db
      .insertInto("hub_objects")
      .values(row)
      .onConflict((conflict) => conflict.column("sha256").doUpdateSet(row))
      .execute();
  }

  async objects(sha256s: readonly string[]): Promise<Map<string, number>> {
    const found = new Map<string, number>();
    for (let at = 0; at < sha256s.length; at += namesPerQuery) {
      for (const [name, size] of await this.#objectsAmong(sha256s.slice(at, at + namesPerQuery))) found.set(name, size);
    }
    return found;
  }

  async #objectsAmong(among: string[]): Promise<[string, number][]> {
    const rows = await this.#db
      .selectFrom("hub_objects")
      .select(["sha256", "size_bytes"])
      .where("sha256", "in", among)
      .union(this.#db.selectFrom("hub_files").select(["sha256", "size_bytes"]).where("sha256", "in", among))
      .union(this.#db.selectFrom("files").select(["sha256", "size_bytes"]).where("sha256", "in", among))
      .execute();
    return rows.map(({ sha256, size_bytes }) => [sha256, Number(size_bytes)]);
  }

  async dropObjects(beforeMs: number): Promise<void> {
    await this.#db.deleteFrom("hub_objects").where("create_ms", "<", beforeMs).execute();
  }
}

async function refOf(
  db: Database,
  key: RepoKey,
  { kind, name }: Pick<RefRecord, "kind" | "name">,
): Promise<string | undefined> {
  const row = await db
    .selectFrom("hub_refs")
    .select("sha")
    .where((is) => is.and({ ...keyColumns(key), kind, name }))
    .executeTakeFirst();
  return row?.sha;
}

async function setRef(db: Database, key: RepoKey, ref: RefRecord): Promise<void> {
  await db
    .insertInto("hub_refs")
    .values({ ...keyColumns(key), ...ref })
    .onConflict((conflict) => conflict.columns(["repo_type", "repo_id", "kind", "name"]).doUpdateSet({ sha: ref.sha }))
    .execute();
}

function repoRecord(row: HubRepoRow): RepoRecord {
  return {
    type: row.repo_type as RepoType,
    id: row.repo_id,
    isPrivate: row.is_private !== 0,
    gated: (row.gated || false) as RepoSettings["gated"],
    createMs: Number(row.create_ms),
    updateMs: Number(row.update_ms),
  };
}

function commitRecord({ sha, parent, title, message, create_ms }: HubCommitRow): CommitRecord {
  return { sha, parent, title, message, createMs: Number(create_ms) };
}

function commitRow({ sha, parent, title, message, createMs }: CommitRecord) {
  return { sha, parent, title, message, create_ms: createMs };
}

function treeFile(row: HubFileRow): TreeFile {
  return {
    path: row.path,
    sizeBytes: Number(row.size_bytes),
    sha256: row.sha256,
    gitId: row.git_id,
    isLfs: row.is_lfs !== 0,
    lastCommit: row.last_commit,
  };
}

function fileRow(file: TreeFile) {
  return {
    path: file.path,
    size_bytes: file.sizeBytes,
    sha256: file.sha256,
    git_id: file.gitId,
    is_lfs: Number(file.isLfs),
    last_commit: file.lastCommit,
  };
}
