// File helpers: whole reads and writes, and replacing a file so that a crash or a full disk leaves the
// old version. Calls are synchronous: the engine's worker and the command line use them, never an
// event loop that answers health checks.
import { randomUUID } from "node:crypto";
import * as fs from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { NibbleError } from "#packages/errors";

/** One read or write system call moves at most this much (Linux stops a little below 2 GiB). */
const callBytesMax = 1 << 30;

/** The write call, replaceable by a test that plays a full disk. */
export type WriteCall = (fd: number, bytes: Uint8Array, offset: number, length: number, position: number) => number;

export const writeCall: WriteCall = (fd, bytes, offset, length, position) =>
  fs.writeSync(fd, bytes, offset, length, position);

/** Fills `target` from `position`; an end of file before that is a truncated file. */
export function readFully(fd: number, target: Uint8Array, position: number, op: string, what: string): void {
  let done = 0;
  while (done < target.length) {
    const count = fs.readSync(fd, target, done, Math.min(target.length - done, callBytesMax), position + done);
    if (count === 0) {
      const message = `${what}: expected ${target.length} bytes at ${position}, got ${done}; the file is truncated`;
      throw new NibbleError(message, { code: "DATA_LOSS", op });
    }
    done += count;
  }
}

export function writeFully(fd: number, bytes: Uint8Array, position: number, write: WriteCall = writeCall): void {
  let done = 0;
  while (done < bytes.length) {
    done += write(fd, bytes, done, Math.min(bytes.length - done, callBytesMax), position + done);
  }
}

/** What was thrown while `path` was written, with its name: Node says it of open and rename, and not of write. */
export function writeError(thrown: unknown, op: string, path: string): NibbleError {
  const error = NibbleError.from(thrown, op);
  if (thrown instanceof NibbleError || error.message.includes(path)) return error;
  return new NibbleError(`${path}: ${error.reason}`, { code: error.code, op, cause: thrown });
}

/** A name beside `path` that no other writer uses: "<path>.partial-<id>". */
export function partialName(path: string): string {
  return `${path}.partial-${randomUUID().slice(0, 8)}`;
}

/** Makes renames in `folder` durable. */
export function syncFolder(folder: string): void {
  const fd = fs.openSync(folder, "r");
  try {
    fs.fsyncSync(fd);
  } finally {
    fs.closeSync(fd);
  }
}

/** Writes `path` whole or not at all. */
export function replaceFile(path: string, content: string | Uint8Array): void {
  const temporary = partialName(path);
  try {
    fs.writeFileSync(temporary, content, { flag: "wx", flush: true });
    fs.renameSync(temporary, path);
  } catch (thrown) {
    fs.rmSync(temporary, { force: true });
    throw NibbleError.from(thrown, "replace_file");
  }
  syncFolder(dirname(path));
}

/** The text of a file, or undefined where there is none: a file where its folder should be has none either. */
export function readTextIfPresent(path: string): string | undefined {
  try {
    return fs.readFileSync(path, "utf8");
  } catch (thrown) {
    if (["ENOENT", "ENOTDIR"].includes((thrown as NodeJS.ErrnoException).code ?? "")) return undefined;
    throw NibbleError.from(thrown, "read_file");
  }
}

/**
 * Puts the finished folder `staging` where `target` is. The old folder is moved aside first and removed
 * last; if the second rename fails it is moved back, so one complete version is there at any time but
 * the moment between two renames. Only a folder made of files that `isOurs` knows is replaced: an
 * output path that points at somebody's documents must not cost them.
 */
export function publishFolder(staging: string, target: string, isOurs: (name: string) => boolean): void {
  checkReplaceable(target, isOurs);
  syncFolder(staging);
  const parent = dirname(target);
  if (!fs.existsSync(target)) {
    fs.renameSync(staging, target);
    syncFolder(parent);
    return;
  }
  const aside = join(parent, `${basename(target)}.old-${randomUUID().slice(0, 8)}`);
  fs.renameSync(target, aside);
  try {
    fs.renameSync(staging, target);
  } catch (thrown) {
    fs.renameSync(aside, target);
    throw NibbleError.from(thrown, "publish_folder");
  }
  syncFolder(parent);
  fs.rmSync(aside, { recursive: true, force: true });
}

/** Refuses a target that is not a folder and cannot become one, as a file is on the way; called before hours of work. */
export function checkFolderTarget(target: string): void {
  if (!fs.existsSync(target)) {
    const parent = dirname(target);
    if (parent !== target) checkFolderTarget(parent);
  } else if (!fs.statSync(target).isDirectory()) {
    throw new NibbleError(`${target}: expected a folder, got a file`, { code: "FAILED_PRECONDITION", op: "output" });
  }
}

/** The folders on the way to `target` that are not there, `target` itself first. */
function absentFolders(target: string): string[] {
  return fs.existsSync(target) ? [] : [target, ...absentFolders(dirname(target))];
}

/** What `work` gives. Where it throws, folders on the way to `targets` that it made and left empty are removed. */
export async function withoutEmptyFolders<T>(targets: readonly string[], work: () => Promise<T>): Promise<T> {
  const absent = targets.flatMap((target) => absentFolders(resolve(target)));
  try {
    return await work();
  } catch (thrown) {
    for (const folder of absent) removeIfEmpty(folder);
    throw thrown;
  }
}

function removeIfEmpty(folder: string): void {
  try {
    fs.rmdirSync(folder);
  } catch {
    // It is not there, or somebody's: what was thrown before says more.
  }
}

/** Refuses a target that is a folder, or whose folder cannot be one. */
export function checkFileTarget(target: string): void {
  checkFolderTarget(dirname(target));
  if (!fs.existsSync(target) || fs.statSync(target).isFile()) return;
  throw new NibbleError(`${target}: expected a file, got a folder`, { code: "FAILED_PRECONDITION", op: "output" });
}

/** Refuses a target that holds files of others; called before hours of work as well as after them. */
export function checkReplaceable(target: string, isOurs: (name: string) => boolean): void {
  checkFolderTarget(target);
  if (!fs.existsSync(target)) return;
  const foreign = fs.readdirSync(target).filter((name) => !isOurs(name));
  if (foreign.length === 0) return;
  const message = `${target}: expected no folder, an empty one or one of this kind to replace; it also holds ${foreign.slice(0, 3).join(", ")}`;
  throw new NibbleError(message, { code: "FAILED_PRECONDITION", op: "output" });
}
