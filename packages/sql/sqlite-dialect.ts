// Kysely's dialect for node:sqlite: one connection that transactions take turns on. Queries are synchronous calls of
// a few microseconds on the caller's thread; it is meant for metadata, not for bulk.
import type { SQLInputValue } from "node:sqlite";
import { DatabaseSync } from "node:sqlite";
import type { CompiledQuery, DatabaseConnection, Dialect, Driver, QueryCompiler, QueryResult } from "kysely";
import {
  CompiledQuery as Compiled,
  createQueryId,
  IdentifierNode,
  RawNode,
  SqliteAdapter,
  SqliteIntrospector,
  SqliteQueryCompiler,
} from "kysely";
import { NibbleError } from "#packages/errors";
import { fromSqliteError, sqliteResult } from "./sqlite-errors.ts";

export interface SqliteOptions {
  /** The file, or ":memory:". Its folder must be there. */
  path: string;
  /**
   * Hold the file's lock until it is closed, so that no second process can open it. The kernel frees the lock of a
   * process that dies. Default: false.
   */
  exclusive?: boolean;
  /** Time to wait for another process's lock, in milliseconds; the event loop stands still meanwhile. Default: 250. */
  busyMs?: number;
}

export function sqliteDialect(options: SqliteOptions): Dialect {
  return {
    createAdapter: () => new SqliteAdapter(),
    createDriver: () => new NodeSqliteDriver(options),
    createIntrospector: (db) => new SqliteIntrospector(db),
    createQueryCompiler: () => new SqliteQueryCompiler(),
  };
}

function open({ path, exclusive = false, busyMs = 250 }: SqliteOptions): DatabaseSync {
  let database: DatabaseSync | undefined;
  try {
    database = new DatabaseSync(path, { timeout: busyMs, enableForeignKeyConstraints: true });
    // A lock that is taken before the write-ahead log is opened needs no shared memory for it.
    if (exclusive) database.exec("pragma locking_mode = exclusive");
    database.exec("pragma journal_mode = wal; pragma synchronous = full; begin immediate; commit");
    return database;
  } catch (thrown) {
    database?.close();
    if (sqliteResult(thrown) !== 5) throw fromSqliteError(thrown, path);
    const message = `${path}: expected to be the only process that uses it, another one has it open`;
    throw new NibbleError(message, { code: "FAILED_PRECONDITION", op: "sqlite", details: { path }, cause: thrown });
  }
}

class NodeSqliteDriver implements Driver {
  readonly #options: SqliteOptions;
  #connection: NodeSqliteConnection | undefined;
  /** Settles when the connection is free for whoever comes next. */
  #turn: Promise<void> = Promise.resolve();
  #endTurn = () => {};

  constructor(options: SqliteOptions) {
    this.#options = options;
  }

  async init(): Promise<void> {
    this.#connection = new NodeSqliteConnection(open(this.#options), this.#options.path);
  }

  async acquireConnection(): Promise<DatabaseConnection> {
    const before = this.#turn;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#turn = promise;
    await before;
    this.#endTurn = resolve;
    if (this.#connection) return this.#connection;
    resolve();
    throw new NibbleError(`${this.#options.path}: is closed`, { code: "UNAVAILABLE", op: "sqlite" });
  }

  async releaseConnection(): Promise<void> {
    this.#endTurn();
  }

  async beginTransaction(connection: DatabaseConnection): Promise<void> {
    // Immediate: a transaction that reads first and writes later cannot find the lock gone in between.
    await connection.executeQuery(Compiled.raw("begin immediate"));
  }

  async commitTransaction(connection: DatabaseConnection): Promise<void> {
    await connection.executeQuery(Compiled.raw("commit"));
  }

  async rollbackTransaction(connection: DatabaseConnection): Promise<void> {
    // A full disk has already rolled back, and a second rollback would hide that error behind its own.
    if (this.#connection?.isInTransaction) await connection.executeQuery(Compiled.raw("rollback"));
  }

  savepoint(connection: DatabaseConnection, name: string, compile: QueryCompiler["compileQuery"]): Promise<void> {
    return run(connection, "savepoint", name, compile);
  }

  rollbackToSavepoint(connection: DatabaseConnection, name: string, compile: QueryCompiler["compileQuery"]) {
    return run(connection, "rollback to", name, compile);
  }

  releaseSavepoint(connection: DatabaseConnection, name: string, compile: QueryCompiler["compileQuery"]) {
    return run(connection, "release", name, compile);
  }

  async destroy(): Promise<void> {
    await this.#turn;
    this.#connection?.close();
    this.#connection = undefined;
  }
}

async function run(
  connection: DatabaseConnection,
  command: string,
  name: string,
  compile: QueryCompiler["compileQuery"],
): Promise<void> {
  const node = RawNode.createWithChildren([RawNode.createWithSql(`${command} `), IdentifierNode.create(name)]);
  await connection.executeQuery(compile(node, createQueryId()));
}

class NodeSqliteConnection implements DatabaseConnection {
  readonly #database: DatabaseSync;
  readonly #path: string;

  constructor(database: DatabaseSync, path: string) {
    this.#database = database;
    this.#path = path;
  }

  get isInTransaction(): boolean {
    return this.#database.isTransaction;
  }

  async executeQuery<R>({ sql, parameters }: CompiledQuery): Promise<QueryResult<R>> {
    try {
      const statement = this.#database.prepare(sql);
      const values = parameters as readonly SQLInputValue[];
      if (statement.columns().length > 0) return { rows: statement.all(...values) as R[] };
      const { changes, lastInsertRowid } = statement.run(...values);
      return { rows: [], numAffectedRows: BigInt(changes), insertId: BigInt(lastInsertRowid) };
    } catch (thrown) {
      throw fromSqliteError(thrown, this.#path);
    }
  }

  async *streamQuery<R>({ sql, parameters }: CompiledQuery): AsyncGenerator<QueryResult<R>> {
    try {
      const values = parameters as readonly SQLInputValue[];
      for (const row of this.#database.prepare(sql).iterate(...values)) yield { rows: [row as R] };
    } catch (thrown) {
      throw fromSqliteError(thrown, this.#path);
    }
  }

  close(): void {
    this.#database.close();
  }
}
