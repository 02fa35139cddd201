// runService in a process of its own: it listens, drains on SIGTERM, and exits with a code that means something.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import type { TestContext } from "node:test";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { RegistryService } from "#gen/nibble/registry/v1/registry_pb.ts";
import { createClient } from "#packages/rpc";
import { startRegistry } from "./support.ts";

const fixture = fileURLToPath(new URL("fixture-service.ts", import.meta.url));

type Line = Record<string, unknown>;

function start(t: TestContext, args: string[] = []) {
  const child = spawn(process.execPath, [fixture, ...args], { stdio: ["ignore", "pipe", "inherit"] });
  t.after(() => child.kill("SIGKILL"));
  const exit = once(child, "exit").then(([code]) => code as number | null);
  const lines: Line[] = [];
  const waiting = new Set<() => void>();
  createInterface({ input: child.stdout }).on("line", (line) => {
    lines.push(JSON.parse(line));
    for (const wake of waiting) wake();
  });
  /** The first line with this text. */
  const line = async (text: string): Promise<Line> => {
    for (;;) {
      const found = lines.find(({ msg }) => msg === text);
      if (found) return found;
      await new Promise<void>((resolve) => waiting.add(resolve));
    }
  };
  return { child, exit, line, lines };
}

test("SIGTERM lets the call in flight finish and exits 0", async (t) => {
  const { child, exit, line } = start(t);
  const { address } = await line("listening");
  const client = createClient(RegistryService, String(address));
  t.after(() => client.close());
  const call = client.getAdapter({ name: "adapters/a" });
  await line("entered");
  child.kill("SIGTERM");
  assert.equal((await call).adapter?.name, "adapters/done");
  assert.equal(await exit, 0);
  assert.equal((await line("stopped"))["allFinished"], true);
});

test("a port in use exits 78 and says so", async (t) => {
  const { server } = await startRegistry(t, {});
  const { exit, lines } = start(t, [String(server.port)]);
  assert.equal(await exit, 78);
  assert.match(String(lines.at(-1)?.["msg"]), /expected a free port/);
});
