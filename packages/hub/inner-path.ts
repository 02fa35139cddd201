// Paths of files inside a folder that arrive from elsewhere: joined with the folder, they must stay in it.
import { NibbleError } from "#packages/errors";

const bytesMax = 255;

/** Whether the path names a file below a folder: parts separated by "/", none empty, "." or "..". */
export function isInnerPath(path: string): boolean {
  if (Buffer.byteLength(path) > bytesMax || path.includes("\\") || path.includes("\0")) return false;
  return path.split("/").every((part) => part !== "" && part !== "." && part !== "..");
}

/** INVALID_ARGUMENT unless every path is an inner one, none comes twice and none is the folder of another. */
export function checkInnerPaths(paths: readonly string[], op: string): void {
  const fail = (path: string, expected: string): never => {
    const message = `file ${JSON.stringify(path.slice(0, bytesMax))}: expected ${expected}`;
    throw new NibbleError(message, { code: "INVALID_ARGUMENT", op, details: { path } });
  };
  const seen = new Set<string>();
  for (const path of paths) {
    if (!isInnerPath(path)) fail(path, "a relative path without '.', '..' or backslashes");
    if (seen.has(path)) fail(path, "to be listed once, it is there twice");
    seen.add(path);
  }
  for (const path of paths) {
    for (let at = path.indexOf("/"); at >= 0; at = path.indexOf("/", at + 1)) {
      if (seen.has(path.slice(0, at))) fail(path, `not to lie in ${path.slice(0, at)}, which is a file as well`);
    }
  }
}
