// A lock between processes that the kernel frees when its holder ends, however it ends. Node has no flock; SQLite's
// exclusive lock on an empty file is such a lock, and nothing is ever written to the file.
import { mkdirSync } from "node:fs";
import { dirname } from "node:path";
import type { DatabaseSync } from "node:sqlite";
import { setTimeout as sleep } from "node:timers/promises";

const busy = 5;
const pollMs = 100;

type Sqlite = typeof import("node:sqlite");

function tryLock({ DatabaseSync }: Sqlite, path: string): DatabaseSync | undefined {
  const database = new DatabaseSync(path);
  try {
    database.exec("BEGIN EXCLUSIVE");
    return database;
  } catch (thrown) {
    database.close();
    if ((thrown as { errcode?: number }).errcode === busy) return undefined;
    throw thrown;
  }
}

/** Does the work while nobody else does work under the same lock. */
export async function withLock<T>(path: string, signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T> {
  mkdirSync(dirname(path), { recursive: true });
  // Loaded when needed: it costs every other command its time and a warning.
  const sqlite = await import("node:sqlite");
  let lock = tryLock(sqlite, path);
  while (!lock) {
    await sleep(pollMs, undefined, signal ? { signal } : {});
    lock = tryLock(sqlite, path);
  }
  try {
    return await work();
  } finally {
    lock.close();
  }
}
