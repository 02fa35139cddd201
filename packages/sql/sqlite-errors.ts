// Errors of node:sqlite as NibbleErrors, by SQLite's result codes (https://sqlite.org/rescode.html).
import { type ErrorCode, NibbleError } from "#packages/errors";

const codeOfResult: Record<number, ErrorCode> = {
  5: "ABORTED", // SQLITE_BUSY
  6: "ABORTED", // SQLITE_LOCKED
  8: "PERMISSION_DENIED", // SQLITE_READONLY
  11: "DATA_LOSS", // SQLITE_CORRUPT
  13: "RESOURCE_EXHAUSTED", // SQLITE_FULL
  14: "NOT_FOUND", // SQLITE_CANTOPEN
  19: "ALREADY_EXISTS", // SQLITE_CONSTRAINT
  26: "DATA_LOSS", // SQLITE_NOTADB
};

/** SQLite's primary result code; undefined for errors that are not SQLite's. */
export function sqliteResult(thrown: unknown): number | undefined {
  const result = (thrown as { errcode?: unknown } | null)?.errcode;
  return typeof result === "number" ? result & 0xff : undefined;
}

export function fromSqliteError(thrown: unknown, path: string): NibbleError {
  const result = sqliteResult(thrown);
  if (result === undefined) return NibbleError.from(thrown, "sqlite");
  const message = `${path}: ${thrown instanceof Error ? thrown.message : String(thrown)}`;
  const details = { path, sqlite_result: String(result) };
  return new NibbleError(message, { code: codeOfResult[result] ?? "INTERNAL", op: "sqlite", details, cause: thrown });
}
