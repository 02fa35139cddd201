// Databases behind kysely's query builder. Today SQLite through Node's own module; another database comes as another
// dialect, and callers keep their queries. It knows no tables.
export type { Migrations } from "./migrate.ts";
export { openDatabase } from "./migrate.ts";
export type { SqliteOptions } from "./sqlite-dialect.ts";
export { sqliteDialect } from "./sqlite-dialect.ts";
