// The hub's tables, in types that SQLite and PostgreSQL both have.
import type { Kysely } from "kysely";

export interface HubTables {
  hub_repos: HubRepoRow;
  hub_commits: HubCommitRow;
  hub_files: HubFileRow;
  hub_refs: HubRefRow;
  hub_objects: HubObjectRow;
}

interface RepoColumns {
  repo_type: string;
  repo_id: string;
}

export interface HubRepoRow extends RepoColumns {
  /** 0 or 1. */
  is_private: number;
  /** "auto", "manual" or "". */
  gated: string;
  create_ms: number;
  update_ms: number;
}

export interface HubCommitRow extends RepoColumns {
  sha: string;
  parent: string | null;
  title: string;
  message: string;
  create_ms: number;
}

/** A file of a commit; each commit has rows for all of its files. */
export interface HubFileRow extends RepoColumns {
  sha: string;
  path: string;
  size_bytes: number;
  sha256: string;
  git_id: string;
  /** 0 or 1. */
  is_lfs: number;
  last_commit: string;
}

export interface HubRefRow extends RepoColumns {
  kind: string;
  name: string;
  sha: string;
}

export interface HubObjectRow {
  sha256: string;
  size_bytes: number;
  create_ms: number;
}

export async function createHubTables(db: Kysely<unknown>): Promise<void> {
  const table = (name: string) =>
    db.schema
      .createTable(name)
      .addColumn("repo_type", "text", (column) => column.notNull())
      .addColumn("repo_id", "text", (column) => column.notNull());
  await table("hub_repos")
    .addColumn("is_private", "integer", (column) => column.notNull())
    .addColumn("gated", "text", (column) => column.notNull())
    .addColumn("create_ms", "bigint", (column) => column.notNull())
    .addColumn("update_ms", "bigint", (column) => column.notNull())
    .addPrimaryKeyConstraint("hub_repos_key", ["repo_type", "repo_id"])
    .execute();
  await table("hub_commits")
    .addColumn("sha", "text", (column) => column.notNull())
    .addColumn("parent", "text")
    .addColumn("title", "text", (column) => column.notNull())
    .addColumn("message", "text", (column) => column.notNull())
    .addColumn("create_ms", "bigint", (column) => column.notNull())
    .addPrimaryKeyConstraint("hub_commits_key", ["repo_type", "repo_id", "sha"])
    .addForeignKeyConstraint("hub_commits_repo", ["repo_type", "repo_id"], "hub_repos", ["repo_type", "repo_id"])
    .execute();
  const commitKey = ["repo_type", "repo_id", "sha"] as const;
  await table("hub_files")
    .addColumn("sha", "text", (column) => column.notNull())
    .addColumn("path", "text", (column) => column.notNull())
    .addColumn("size_bytes", "bigint", (column) => column.notNull())
    .addColumn("sha256", "text", (column) => column.notNull())
    .addColumn("git_id", "text", (column) => column.notNull())
    .addColumn("is_lfs", "integer", (column) => column.notNull())
    .addColumn("last_commit", "text", (column) => column.notNull())
    .addPrimaryKeyConstraint("hub_files_key", [...commitKey, "path"])
    .addForeignKeyConstraint("hub_files_commit", [...commitKey], "hub_commits", [...commitKey])
    .execute();
  await db.schema.createIndex("hub_files_sha256").on("hub_files").column("sha256").execute();
  await table("hub_refs")
    .addColumn("kind", "text", (column) => column.notNull())
    .addColumn("name", "text", (column) => column.notNull())
    .addColumn("sha", "text", (column) => column.notNull())
    .addPrimaryKeyConstraint("hub_refs_key", ["repo_type", "repo_id", "kind", "name"])
    // A ref can never point at nothing.
    .addForeignKeyConstraint("hub_refs_commit", [...commitKey], "hub_commits", [...commitKey])
    .execute();
  await db.schema
    .createTable("hub_objects")
    .addColumn("sha256", "text", (column) => column.primaryKey())
    .addColumn("size_bytes", "bigint", (column) => column.notNull())
    .addColumn("create_ms", "bigint", (column) => column.notNull())
    .execute();
}
