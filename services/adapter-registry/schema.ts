// The registry's tables, in types that SQLite and PostgreSQL both have.
import type { Kysely } from "kysely";
import type { Migrations } from "#packages/sql";
import { createHubTables, type HubTables } from "./hub/schema.ts";

export interface Tables extends HubTables {
  adapters: AdapterRow;
  versions: VersionRow;
  files: FileRow;
  aliases: AliasRow;
}

export interface AdapterRow {
  id: string;
  create_ms: number;
  update_ms: number;
  latest_version: number;
  revision: number;
}

export interface VersionRow {
  adapter_id: string;
  number: number;
  create_ms: number;
  base_digest: string;
  base_model: string;
  /** JSON of a QuantizationRecord, or "null". */
  base_quantization: string;
  /** JSON of an object of strings. */
  metadata: string;
  digest: string;
  request_id: string | null;
  request_digest: string | null;
  revision: number;
}

export interface FileRow {
  adapter_id: string;
  version: number;
  /** Place in the header's list. */
  position: number;
  path: string;
  size_bytes: number;
  sha256: string;
}

export interface AliasRow {
  adapter_id: string;
  id: string;
  version: number;
  update_ms: number;
  revision: number;
}

async function createTables(db: Kysely<unknown>): Promise<void> {
  await db.schema
    .createTable("adapters")
    .addColumn("id", "text", (column) => column.primaryKey())
    .addColumn("create_ms", "bigint", (column) => column.notNull())
    .addColumn("update_ms", "bigint", (column) => column.notNull())
    .addColumn("latest_version", "bigint", (column) => column.notNull())
    .addColumn("revision", "bigint", (column) => column.notNull())
    .execute();
  await db.schema
    .createTable("versions")
    .addColumn("adapter_id", "text", (column) => column.notNull().references("adapters.id"))
    .addColumn("number", "bigint", (column) => column.notNull())
    .addColumn("create_ms", "bigint", (column) => column.notNull())
    .addColumn("base_digest", "text", (column) => column.notNull())
    .addColumn("base_model", "text", (column) => column.notNull())
    .addColumn("base_quantization", "text", (column) => column.notNull())
    .addColumn("metadata", "text", (column) => column.notNull())
    .addColumn("digest", "text", (column) => column.notNull())
    .addColumn("request_id", "text", (column) => column.unique())
    .addColumn("request_digest", "text")
    .addColumn("revision", "bigint", (column) => column.notNull())
    .addPrimaryKeyConstraint("versions_key", ["adapter_id", "number"])
    .execute();
  await db.schema
    .createTable("files")
    .addColumn("adapter_id", "text", (column) => column.notNull())
    .addColumn("version", "bigint", (column) => column.notNull())
    .addColumn("position", "integer", (column) => column.notNull())
    .addColumn("path", "text", (column) => column.notNull())
    .addColumn("size_bytes", "bigint", (column) => column.notNull())
    .addColumn("sha256", "text", (column) => column.notNull())
    .addPrimaryKeyConstraint("files_key", ["adapter_id", "version", "position"])
    .addForeignKeyConstraint("files_version", ["adapter_id", "version"], "versions", ["adapter_id", "number"])
    .execute();
  await db.schema.createIndex("files_sha256").on("files").column("sha256").execute();
  await db.schema
    .createTable("aliases")
    .addColumn("adapter_id", "text", (column) => column.notNull())
    .addColumn("id", "text", (column) => column.notNull())
    .addColumn("version", "bigint", (column) => column.notNull())
    .addColumn("update_ms", "bigint", (column) => column.notNull())
    .addColumn("revision", "bigint", (column) => column.notNull())
    .addPrimaryKeyConstraint("aliases_key", ["adapter_id", "id"])
    // An alias can never point at nothing, whatever the code above this does.
    .addForeignKeyConstraint("aliases_version", ["adapter_id", "version"], "versions", ["adapter_id", "number"])
    .execute();
}

export const migrations: Migrations = {
  "0001-tables": { up: createTables },
  "0002-hub": { up: createHubTables },
};
