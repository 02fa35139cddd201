// The store over kysely. Rows become records here; numbers pass through Number because PostgreSQL's driver hands out
// 64-bit integers as text.
import type { Kysely, Transaction } from "kysely";
import { NibbleError } from "#packages/errors";
import type { AliasRow, Tables, VersionRow } from "./schema.ts";
import type { AdapterRecord, AliasRecord, Change, FileRecord, Store, VersionDraft, VersionRecord } from "./store.ts";
import { checkEtag, checkSameRequest } from "./store.ts";

type Database = Kysely<Tables> | Transaction<Tables>;

export class SqlStore implements Store {
  readonly #db: Kysely<Tables>;

  constructor(db: Kysely<Tables>) {
    this.#db = db;
  }

  async adapters(query: Parameters<Store["adapters"]>[0]): Promise<AdapterRecord[]> {
    return adaptersOf(this.#db, query);
  }

  async versions(query: Parameters<Store["versions"]>[0]): Promise<VersionRecord[]> {
    return versionsOf(this.#db, query);
  }

  async addVersion(draft: VersionDraft, { etag, nowMs }: Change): Promise<VersionRecord> {
    const op = "create_version";
    return this.#db.transaction().execute(async (db) => {
      if (draft.request) {
        const [made] = await versionsOf(db, { requestId: draft.request.id });
        if (made) {
          checkSameRequest(op, made, draft.request);
          return made;
        }
      }
      const [adapter] = await adaptersOf(db, { id: draft.adapterId });
      checkEtag(op, `adapters/${draft.adapterId}`, etag, adapter);
      const number = (adapter?.latestVersion ?? 0) + 1;
      const revision = await bump(db, draft.adapterId, adapter, { nowMs, latestVersion: number });
      await db
        .insertInto("versions")
        .values(versionRow(draft, number, nowMs, revision))
        .execute();
      await db.insertInto("files").values(fileRows(draft, number)).execute();
      return { ...draft, number, createMs: nowMs, aliases: [], revision };
    });
  }

  async removeVersion(number: number, { adapterId, etag, nowMs }: Change): Promise<VersionRecord> {
    const op = "delete_version";
    return this.#db.transaction().execute(async (db) => {
      const version = await versionOf(db, adapterId, number, op);
      const name = `adapters/${adapterId}/versions/${number}`;
      checkEtag(op, name, etag, version);
      if (version.aliases.length > 0) {
        const aliases = version.aliases.join(", ");
        const message = `${name}: expected no alias to point at it, got ${aliases}; move or delete these first`;
        throw new NibbleError(message, { code: "FAILED_PRECONDITION", op, details: { name, aliases } });
      }
      const [adapter] = await adaptersOf(db, { id: adapterId });
      await bump(db, adapterId, adapter, { nowMs });
      await db.deleteFrom("files").where("adapter_id", "=", adapterId).where("version", "=", number).execute();
      await db.deleteFrom("versions").where("adapter_id", "=", adapterId).where("number", "=", number).execute();
      return version;
    });
  }

  async putAlias({ id, version }: { id: string; version: number }, change: Change): Promise<AliasRecord> {
    const { adapterId, etag, nowMs } = change;
    const op = "set_alias";
    return this.#db.transaction().execute(async (db) => {
      const { baseDigest } = await versionOf(db, adapterId, version, op);
      const [adapter] = await adaptersOf(db, { id: adapterId });
      const before = adapter?.aliases.find((alias) => alias.id === id);
      checkEtag(op, `adapters/${adapterId}/aliases/${id}`, etag, before);
      if (before?.version === version) return before;
      const revision = await bump(db, adapterId, adapter, { nowMs });
      const row = { adapter_id: adapterId, id, version, update_ms: nowMs, revision };
      await db
        .insertInto("aliases")
        .values(row)
        .onConflict((conflict) => conflict.columns(["adapter_id", "id"]).doUpdateSet(row))
        .execute();
      await touchVersions(db, adapterId, before ? [before.version, version] : [version], revision);
      return aliasRecord({ ...row, base_digest: baseDigest });
    });
  }

  async removeAlias(id: string, { adapterId, etag, nowMs }: Change): Promise<void> {
    const op = "delete_alias";
    await this.#db.transaction().execute(async (db) => {
      const [adapter] = await adaptersOf(db, { id: adapterId });
      const alias = adapter?.aliases.find((one) => one.id === id);
      const name = `adapters/${adapterId}/aliases/${id}`;
      if (!alias) throw new NibbleError(`${name}: not found`, { code: "NOT_FOUND", op, details: { name } });
      checkEtag(op, name, etag, alias);
      const revision = await bump(db, adapterId, adapter, { nowMs });
      await db.deleteFrom("aliases").where("adapter_id", "=", adapterId).where("id", "=", id).execute();
      await touchVersions(db, adapterId, [alias.version], revision);
    });
  }

  async blobsInUse(among?: readonly string[]): Promise<Map<string, number>> {
    const uses = (table: "files" | "hub_files" | "hub_objects") => {
      const all = this.#db.selectFrom(table).select(["sha256", "size_bytes"]);
      return among ? all.where("sha256", "in", [...among]) : all;
    };
    const rows = await uses("files").union(uses("hub_files")).union(uses("hub_objects")).execute();
    return new Map(rows.map((row) => [row.sha256, Number(row.size_bytes)]));
  }
}

/** Counts a change of the adapter, making it with its first version; returns the count. */
async function bump(
  db: Database,
  id: string,
  adapter: AdapterRecord | undefined,
  change: { nowMs: number; latestVersion?: number },
): Promise<number> {
  const revision = (adapter?.revision ?? 0) + 1;
  const row = {
    update_ms: change.nowMs,
    latest_version: change.latestVersion ?? adapter?.latestVersion ?? 0,
    revision,
  };
  if (adapter) await db.updateTable("adapters").set(row).where("id", "=", id).execute();
  else
    await db
      .insertInto("adapters")
      .values({ id, create_ms: change.nowMs, ...row })
      .execute();
  return revision;
}

async function touchVersions(db: Database, adapterId: string, numbers: number[], revision: number): Promise<void> {
  await db
    .updateTable("versions")
    .set({ revision })
    .where("adapter_id", "=", adapterId)
    .where("number", "in", numbers)
    .execute();
}

async function adaptersOf(db: Database, query: Parameters<Store["adapters"]>[0]): Promise<AdapterRecord[]> {
  const all = db.selectFrom("adapters").selectAll().orderBy("id");
  const rows = await ("id" in query
    ? all.where("id", "=", query.id)
    : all.where("id", ">", query.afterId).limit(query.limit)
  ).execute();
  const ids = rows.map(({ id }) => id);
  if (ids.length === 0) return [];
  const aliases = await db
    .selectFrom("aliases")
    .innerJoin("versions", (join) =>
      join.onRef("versions.adapter_id", "=", "aliases.adapter_id").onRef("versions.number", "=", "aliases.version"),
    )
    .selectAll("aliases")
    .select("versions.base_digest")
    .where("aliases.adapter_id", "in", ids)
    .orderBy("aliases.id")
    .execute();
  const newest = await db
    .selectFrom("versions")
    .select(["adapter_id", "base_digest"])
    .where("adapter_id", "in", ids)
    .where("number", "=", ({ selectFrom }) =>
      selectFrom("versions as other")
        .select(({ fn }) => fn.max("other.number").as("newest"))
        .whereRef("other.adapter_id", "=", "versions.adapter_id"),
    )
    .execute();
  const newestBases = new Map(newest.map((row) => [row.adapter_id, row.base_digest]));
  return rows.map((row) => ({
    id: row.id,
    createMs: Number(row.create_ms),
    updateMs: Number(row.update_ms),
    latestVersion: Number(row.latest_version),
    newestBaseDigest: newestBases.get(row.id) ?? "",
    aliases: aliases.filter((alias) => alias.adapter_id === row.id).map(aliasRecord),
    revision: Number(row.revision),
  }));
}

async function versionOf(db: Database, adapterId: string, number: number, op: string): Promise<VersionRecord> {
  const [version] = await versionsOf(db, { adapterId, number });
  if (version) return version;
  const name = `adapters/${adapterId}/versions/${number}`;
  throw new NibbleError(`${name}: not found`, { code: "NOT_FOUND", op, details: { name } });
}

async function versionsOf(db: Database, query: Parameters<Store["versions"]>[0]): Promise<VersionRecord[]> {
  let select = db.selectFrom("versions").selectAll().orderBy("number", "desc");
  if ("requestId" in query) select = select.where("request_id", "=", query.requestId);
  else select = select.where("adapter_id", "=", query.adapterId);
  if ("number" in query) select = select.where("number", "=", query.number);
  if ("limit" in query) select = select.where("number", "<", query.beforeNumber).limit(query.limit);
  const rows = await select.execute();
  const [first] = rows;
  if (!first) return [];
  // Every query is about one adapter.
  const numbers = rows.map(({ number }) => number);
  const files = await db
    .selectFrom("files")
    .selectAll()
    .where("adapter_id", "=", first.adapter_id)
    .where("version", "in", numbers)
    .orderBy("position")
    .execute();
  const aliases = await db
    .selectFrom("aliases")
    .select(["id", "version"])
    .where("adapter_id", "=", first.adapter_id)
    .where("version", "in", numbers)
    .orderBy("id")
    .execute();
  const filesOf = Map.groupBy(files, ({ version }) => Number(version));
  const aliasesOf = Map.groupBy(aliases, ({ version }) => Number(version));
  return rows.map((row) =>
    versionRecord(
      row,
      (filesOf.get(Number(row.number)) ?? []).map(
        (file): FileRecord => ({ path: file.path, sizeBytes: Number(file.size_bytes), sha256: file.sha256 }),
      ),
      (aliasesOf.get(Number(row.number)) ?? []).map(({ id }) => id),
    ),
  );
}

function versionRecord(row: VersionRow, files: FileRecord[], aliases: string[]): VersionRecord {
  const request = row.request_id === null ? null : { id: row.request_id, digest: row.request_digest ?? "" };
  return {
    adapterId: row.adapter_id,
    number: Number(row.number),
    createMs: Number(row.create_ms),
    baseDigest: row.base_digest,
    baseModel: row.base_model,
    baseQuantization: JSON.parse(row.base_quantization),
    metadata: JSON.parse(row.metadata),
    files,
    digest: row.digest,
    request,
    aliases,
    revision: Number(row.revision),
  };
}

function versionRow(draft: VersionDraft, number: number, createMs: number, revision: number): VersionRow {
  return {
    adapter_id: draft.adapterId,
    number,
    create_ms: createMs,
    base_digest: draft.baseDigest,
    base_model: draft.baseModel,
    base_quantization: JSON.stringify(draft.baseQuantization),
    metadata: JSON.stringify(draft.metadata),
    digest: draft.digest,
    request_id: draft.request?.id ?? null,
    request_digest: draft.request?.digest ?? null,
    revision,
  };
}

function fileRows(draft: VersionDraft, version: number) {
  return draft.files.map((file, position) => ({
    adapter_id: draft.adapterId,
    version,
    position,
    path: file.path,
    size_bytes: file.sizeBytes,
    sha256: file.sha256,
  }));
}

function aliasRecord(row: AliasRow & Pick<VersionRow, "base_digest">): AliasRecord {
  return {
    adapterId: row.adapter_id,
    id: row.id,
    version: Number(row.version),
    baseDigest: row.base_digest,
    updateMs: Number(row.update_ms),
    revision: Number(row.revision),
  };
}
