import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import type { Kysely } from "kysely";
import { temporaryFolder } from "../../test/support/folders.ts";
import { type Migrations, openDatabase, sqliteDialect } from "./index.ts";

interface Tables {
  notes: { id: number; text: string };
}

const first: Migrations = {
  "0001-notes": {
    up: (db) =>
      db.schema
        .createTable("notes")
        .addColumn("id", "integer", (column) => column.primaryKey())
        .addColumn("text", "text", (column) => column.notNull())
        .execute(),
  },
};

const insert = (db: Kysely<Tables>, id: number, text = "") => db.insertInto("notes").values({ id, text }).execute();
const ids = async (db: Kysely<Tables>) =>
  (await db.selectFrom("notes").select("id").orderBy("id").execute()).map(({ id }) => id);

test("rows outlive the process's handle, and migrations run once", async (t) => {
  const path = join(temporaryFolder(t), "a.db");
  const db = await openDatabase<Tables>(sqliteDialect({ path }), first);
  await insert(db, 1, "ünïcode");
  const { numDeletedRows } = await db.deleteFrom("notes").where("id", "=", 7).executeTakeFirst();
  assert.equal(numDeletedRows, 0n);
  await db.destroy();
  const again = await openDatabase<Tables>(sqliteDialect({ path }), first);
  assert.deepEqual(
    (await again.selectFrom("notes").selectAll().execute()).map((row) => ({ ...row })),
    [{ id: 1, text: "ünïcode" }],
  );
  const returned = await again.insertInto("notes").values({ id: 2, text: "" }).returning("id").executeTakeFirst();
  assert.equal(returned?.id, 2);
  const streamed: number[] = [];
  for await (const { id } of again.selectFrom("notes").select("id").stream()) streamed.push(id);
  assert.deepEqual(streamed, [1, 2]);
  await again.destroy();
});

test("a transaction that fails leaves nothing, and transactions do not mix", async () => {
  const db = await openDatabase<Tables>(sqliteDialect({ path: ":memory:" }), first);
  const half = db.transaction().execute(async (transaction) => {
    await insert(transaction, 1);
    await new Promise((resolve) => setImmediate(resolve));
    throw new Error("no");
  });
  const other = db.transaction().execute((transaction) => insert(transaction, 2));
  const alone = insert(db, 3);
  await assert.rejects(half, /^Error: no$/);
  await Promise.all([other, alone]);
  assert.deepEqual(await ids(db), [2, 3]);
  await db.transaction().execute(async (transaction) => {
    await insert(transaction, 4);
    await assert.rejects(insert(transaction, 4), { code: "ALREADY_EXISTS", op: "sqlite" });
  });
  assert.deepEqual(await ids(db), [2, 3, 4]);
  await db.destroy();
  await assert.rejects(ids(db));
});

test("savepoints roll back alone", async () => {
  const db = await openDatabase<Tables>(sqliteDialect({ path: ":memory:" }), first);
  const transaction = await db.startTransaction().execute();
  await insert(transaction, 1);
  const inner = await transaction.savepoint("inner").execute();
  await insert(inner, 2);
  await inner.rollbackToSavepoint("inner").execute();
  await inner.releaseSavepoint("inner").execute();
  await transaction.commit().execute();
  assert.deepEqual(await ids(db), [1]);
  await db.destroy();
});

test("an exclusive database refuses a second opener and is free after close", async (t) => {
  const path = join(temporaryFolder(t), "a.db");
  const options = { path, exclusive: true, busyMs: 10 };
  const db = await openDatabase<Tables>(sqliteDialect(options), first);
  const refusal = { code: "FAILED_PRECONDITION", message: /the only process that uses it, another one has it open/ };
  await assert.rejects(openDatabase<Tables>(sqliteDialect(options), first), refusal);
  await assert.rejects(openDatabase<Tables>(sqliteDialect({ path, busyMs: 10 }), first), refusal);
  await db.destroy();
  await (await openDatabase<Tables>(sqliteDialect(options), first)).destroy();
});

test("a file that is no database is DATA_LOSS, a missing folder NOT_FOUND", async (t) => {
  const folder = temporaryFolder(t);
  const path = join(folder, "a.db");
  writeFileSync(path, "x".repeat(4096));
  await assert.rejects(openDatabase(sqliteDialect({ path }), first), {
    code: "DATA_LOSS",
    details: { path, sqlite_result: "26" },
  });
  await assert.rejects(openDatabase(sqliteDialect({ path: join(folder, "no", "a.db") }), first), { code: "NOT_FOUND" });
});
