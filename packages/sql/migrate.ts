// Opens a database and brings its tables up to date.
import type { Dialect } from "kysely";
import { Kysely } from "kysely";
import type { Migration } from "kysely/migration";
import { Migrator } from "kysely/migration";
import { NibbleError } from "#packages/errors";

/** By name, in alphabetical order; one that has run is never changed. */
export type Migrations = Record<string, Migration>;

export async function openDatabase<Tables>(dialect: Dialect, migrations: Migrations): Promise<Kysely<Tables>> {
  const database = new Kysely<Tables>({ dialect });
  const migrator = new Migrator({
    db: database as Kysely<unknown>,
    provider: { getMigrations: async () => migrations },
  });
  const { error } = await migrator.migrateToLatest();
  if (error === undefined) return database;
  await database.destroy();
  throw NibbleError.from(error, "migrate");
}
