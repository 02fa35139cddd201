// What JavaScript and the addon agree on is written in C++ twice: binding/ reads the arguments in an order, ops/*.h say what
// they are. An addon of other sources would take one number for another and say nothing, so it is not used.
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

const folders: readonly (readonly [string, RegExp])[] = [
  ["binding", /\.(cpp|h)$/],
  ["ops", /\.h$/],
];

/** What is left without comments and white space: what of a text changes what it says. A URL's end goes as a comment does. */
const bare = (text: string): string => text.replaceAll(/\/\/[^\n]*/g, "").replaceAll(/[ \t\r\n]+/g, "");

/** Of the sources in `folder`, as native/CMakeLists.txt makes it; null where there are none. */
export function boundaryDigest(folder: string): string | null {
  if (folders.some(([name]) => !existsSync(join(folder, name)))) return null;
  const files = folders.flatMap(([name, pattern]) =>
    readdirSync(join(folder, name))
      .filter((file) => pattern.test(file))
      .map((file) => `${name}/${file}`),
  );
  const digest = (data: string) => createHash("sha256").update(data).digest("hex");
  const lines = files.sort().map((file) => `${file} ${digest(bare(readFileSync(join(folder, file), "utf8")))}\n`);
  return digest(lines.join(""));
}

/** @throws FAILED_PRECONDITION for an addon that was built from other sources than those beside this file. */
export function checkBoundary(addon: { boundary?: unknown }, path: string, folder = import.meta.dirname): void {
  const expected = boundaryDigest(folder);
  if (expected === null || addon.boundary === expected) return;
  const got = typeof addon.boundary === "string" ? addon.boundary.slice(0, 12) : "none";
  const message =
    `[native] addon: expected one built from native/ as it is here (${expected.slice(0, 12)}), got one of other ` +
    `sources (${got}): ${path}; npm test or any other npm script builds it anew, NIBBLE_ADDON must name a new one`;
  throw Object.assign(new Error(message), { code: "FAILED_PRECONDITION", op: "native" });
}
