// Where the golden files are, and folders that a test may change and that go when it ends.
import { cpSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { fileURLToPath } from "node:url";

export function goldenPath(...parts: string[]): string {
  return join(fileURLToPath(new URL("../golden", import.meta.url)), ...parts);
}

export function temporaryFolder(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), "nibble-test-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** A copy of a golden folder that the test may break. */
export function copyOfGolden(t: TestContext, name: string): string {
  const folder = join(temporaryFolder(t), "copy");
  cpSync(goldenPath(name), folder, { recursive: true });
  return folder;
}
